"""Settings: a flag, an environment variable and a line in `.env` are three spellings of one.

A setting `tts_voice` is spelled `--tts-voice` on the command line and `PARLEY_TTS_VOICE` in the
environment or in a `.env` file. A flag beats the environment, and the environment beats `.env`.
Here are the settings that engines need, whichever process hosts them, and what fields are made
with; `command_line` makes a command line of any such class.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.errors import EngineError, UnavailableError, one_line
from services.tts.engine import LUFS
from services.tts.voices import HUB


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names the setting and the cure."""


@contextmanager
def blame(flag: str) -> Iterator[None]:
    """Put the setting before what an engine, which knows no settings, says of its value.

    Args:
        flag: The setting as a person spells it: `--tts-voice`.

    Raises:
        SettingsError: The value cannot be used.
        UnavailableError: As raised within: nothing is wrong with the setting.
    """
    try:
        yield
    except (SettingsError, UnavailableError):
        raise
    except EngineError as error:
        raise SettingsError(f"{flag}: {error}") from None
    except Exception as error:
        # Libraries raise what they like for a name or a file that they cannot use.
        raise SettingsError(f"{flag}: cannot be used: {one_line(error)}") from None


def setting(group: str, default: Any, description: str, **kwargs: Any) -> Any:
    """A field that has a flag.

    Args:
        group: Its heading in `--help`.
        default: Its value where nobody sets it; what can be called makes it.
        description: What it means, in a line of `--help`.
        kwargs: Anything else that pydantic's `Field` takes: limits, another variable's name.
    """
    kwargs["default_factory" if callable(default) else "default"] = default
    if isinstance(default, float):
        kwargs["allow_inf_nan"] = False
    return Field(description=description, json_schema_extra={"group": group}, **kwargs)


def secret(description: str, **kwargs: Any) -> Any:
    """A field, of type `Key | None`, without a flag: every process can read a command line.

    Args:
        description: What it is for.
        kwargs: Anything else that pydantic's `Field` takes.
    """
    return Field(default=None, description=description, **kwargs)


def revealed(key: SecretStr | None) -> str:
    """A secret as it is; empty where there is none."""
    return key.get_secret_value() if key else ""


def masked(text: str) -> str:
    """A text that may hold addresses, without the passwords that these may hold."""
    # To the last @, as addresses are read: one may be in the password.
    return re.sub(r"//[^/\s]*@", "//***@", text)


def secrets_of(settings: BaseSettings) -> list[str]:
    """The secrets in force, each of those that are several: what no log may show."""
    values = (getattr(settings, name) for name in type(settings).model_fields)
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    return [part for secret in secrets for part in secret.split(",") if part]


def has_flag(field: FieldInfo) -> bool:
    """Whether a field was made with `setting`."""
    return isinstance(field.json_schema_extra, dict)


def _key(value: object) -> object:
    """Without the line's end that a file with a secret in it has."""
    if not isinstance(value, str):
        return value
    if not (key := value.strip()).isascii() or " " in key:
        raise ValueError("that is no key: it has characters that no header may have")
    return key


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ValueError("an address is like https://host:port/path")
    return value.rstrip("/")


def _has_port(address: SplitResult) -> bool:
    """Whether an address has a port that can be, or none."""
    try:
        return address.port is None or address.port > 0
    except ValueError:
        return False


def _workers(value: str) -> str:
    """What names an engine, or where workers are: their addresses, or one of Redis."""
    if "://" not in value:
        return value
    urls = [url.strip() for url in value.split(",")]
    parts = [urlsplit(url) for url in urls]
    if all(part.hostname and _has_port(part) for part in parts):
        schemes = {part.scheme for part in parts}
        if schemes <= {"ws", "wss"} or (schemes <= {"redis", "rediss"} and len(urls) == 1):
            return ",".join(urls)
    raise ValueError("workers are like ws://a:7001,ws://b:7001 or redis://host:6379")


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _off(value: object) -> object:
    return None if value == "off" else value


Key = Annotated[SecretStr, BeforeValidator(_key)]
"""A secret that a server asks for; see `secret`."""

URL = AfterValidator(_address)

Address = Annotated[str, URL]
"""The `http` or `https` address of a server, without a slash at its end."""

PLACE = AfterValidator(_workers)

Place = Annotated[str, PLACE]
"""An engine's name in the catalog, `ws://` addresses of workers, or one `redis://` address."""

CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""Words, which a person separates by commas."""


def _cache_dir() -> Path:
    """Where fetched voices and models are kept, after the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "parley"
    except RuntimeError:  # A user without a home, as containers have them.
        return Path(tempfile.gettempdir()) / "parley"


class EngineSettings(BaseSettings):
    """What engines are made with: the same in the agent's process and in a worker's."""

    model_config = SettingsConfigDict(
        env_prefix="PARLEY_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    # Voice
    tts_voice: str | None = setting(
        "Voice", None, "a voice by its name, or the path of a Piper voice's .onnx file"
    )
    tts_loudness: Annotated[float | None, BeforeValidator(_off)] = setting(
        "Voice",
        LUFS,
        "LUFS that every voice is brought to; off leaves each as loud as it is",
        ge=-40,
        le=-5,
    )
    tts_volume: float = setting(
        "Voice", 1.0, "factor on that loudness; 2.0 is 6 dB more", gt=0, le=4.0
    )
    tts_highpass: float = setting(
        "Voice", 0.0, "Hz below which sound is taken away, 80 for hum; 0 takes none", ge=0, le=1000
    )
    tts_compress: bool = setting(
        "Voice", False, "bring soft and loud syllables nearer to each other"
    )
    tts_references: Path | None = setting(
        "Voice",
        None,
        "folder of voices to clone: clips NAME.wav, and what is said in them, NAME.txt",
    )
    tts_device: Literal["auto", "cpu", "cuda"] = setting(
        "Voice", "auto", "where CosyVoice, XTTS and Sesame run"
    )
    tts_threads: int = setting("Voice", 2, "CPU threads for one utterance", ge=1, le=64)

    # Voice engines
    tts_base_url: Address | None = setting(
        "Voice engines",
        None,
        "address of an OpenAI-compatible endpoint that speaks (default: OpenAI)",
    )
    tts_model: str | None = setting("Voice engines", None, "model to ask that endpoint for")
    tts_api_key: Key | None = secret("key of the endpoint that speaks")
    piper_speaker: str | None = setting(
        "Voice engines", None, "speaker of a voice that has several"
    )
    piper_noise: float | None = setting("Voice engines", None, "variation of sound", ge=0, le=2)
    piper_noise_w: float | None = setting("Voice engines", None, "variation of rhythm", ge=0, le=2)
    piper_sentence_silence: float = setting(
        "Voice engines", 0.0, "seconds of silence added after each sentence", ge=0, le=5
    )
    piper_hub: Address = setting("Voice engines", HUB, "where Piper voices are fetched from")
    cosyvoice_repo: Path | None = setting(
        "Voice engines", None, "a checkout of CosyVoice's repository, submodules included"
    )
    cosyvoice_model: str = setting(
        "Voice engines",
        "FunAudioLLM/Fun-CosyVoice3-0.5B-2512",
        "CosyVoice model: a directory, or a name on the hub",
    )
    cosyvoice_instruct: str | None = setting(
        "Voice engines", None, "how CosyVoice is to speak, in words"
    )
    cosyvoice_fp16: bool = setting("Voice engines", False, "half precision, on a GPU")
    xtts_model: str = setting(
        "Voice engines",
        "tts_models/multilingual/multi-dataset/xtts_v2",
        "XTTS model: a directory, or a name that coqui-tts knows",
    )
    sesame_model: str = setting(
        "Voice engines", "sesame/csm-1b", "CSM model: a directory, or a name on the hub"
    )
    pocket_model: str | None = setting(
        "Voice engines", None, "Pocket model by its name (default: the language's)"
    )

    # Ear
    language: str = setting("Ear", "en", "language that is spoken, as an ISO 639-1 code")
    whisper_model: str = setting("Ear", "base.en", "Whisper size (tiny … large-v3) or directory")
    whisper_device: Literal["auto", "cpu", "cuda"] = setting("Ear", "auto", "where Whisper runs")
    whisper_compute_type: str = setting("Ear", "auto", "CTranslate2 type: int8, float16, …")
    stt_base_url: Address | None = setting(
        "Ear", None, "address of an OpenAI-compatible endpoint that hears (default: OpenAI)"
    )
    stt_model: str | None = setting("Ear", None, "model to ask that endpoint for")
    stt_api_key: Key | None = secret("key of the endpoint that hears")
    stt_timeout: float = setting("Ear", 15.0, "seconds that recognising one turn may take", gt=0)

    # Models
    openai_api_key: Key | None = secret(
        "key of OpenAI, or of the endpoint that thinks", validation_alias="OPENAI_API_KEY"
    )
    cache: Path = setting("Models", _cache_dir, "directory of fetched voices and models")
    offline: bool = setting("Models", False, "fetch nothing, look nowhere")
