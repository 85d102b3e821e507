"""Every setting of the agent, once: its flag, environment variable, default and meaning.

A setting `tts_voice` is spelled `--tts-voice` on the command line and `PARLEY_TTS_VOICE` in the
environment or in a `.env` file. A flag beats the environment, and the environment beats `.env`.
"""

import argparse
import difflib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.tts.engine import SPEED_LIMITS
from services.tts.voices import HUB

ENV_PREFIX = "PARLEY_"

OPENAI_MODEL = "gpt-4.1-mini"
"""What OpenAI is asked for when no model is named."""


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names the setting and the cure."""


def _cache_dir() -> Path:
    """Where fetched voices and models are kept, after the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "parley"
    except RuntimeError:  # A user without a home, as containers have them.
        return Path(tempfile.gettempdir()) / "parley"


def _setting(group: str, default: Any, description: str, **kwargs: Any) -> Any:
    """A field under a heading of `--help`; a default that can be called makes the default."""
    kwargs["default_factory" if callable(default) else "default"] = default
    if isinstance(default, float):
        kwargs["allow_inf_nan"] = False
    return Field(description=description, json_schema_extra={"group": group}, **kwargs)


class Settings(BaseSettings):
    """The settings in force, validated together."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    # Server
    host: str = _setting("Server", "127.0.0.1", "address to listen on")
    port: int = _setting("Server", 7860, "port to listen on; 0 takes a free one", ge=0, le=65535)
    max_calls: int = _setting("Server", 8, "calls at once; the next one is told to wait", ge=1)
    max_call_seconds: float = _setting(
        "Server", 3600.0, "longest call; the agent says so and hangs up", gt=0
    )
    connect_seconds: float = _setting(
        "Server", 15.0, "how long a caller's media may take to connect", gt=0
    )
    drain_seconds: float = _setting(
        "Server", 30.0, "how long calls may go on after SIGTERM or Ctrl-C", ge=0
    )
    stun_servers: Annotated[list[str], NoDecode] = _setting(
        "Server", list, "stun:host:port, comma-separated, for callers behind other networks"
    )
    allowed_origins: Annotated[list[str], NoDecode] = _setting(
        "Server", list, "web origins besides our own that may start calls, comma-separated"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Server", "info", "how much is logged"
    )

    # Who answers
    agent: Path | None = _setting(
        "Who answers", None, "YAML file that says who answers (see bot/agent.example.yaml)"
    )

    # Voice
    tts: str = _setting("Voice", "piper", "what the agent speaks with")
    tts_voice: str | None = _setting(
        "Voice", None, "a Piper voice by name, or the path of an .onnx file"
    )
    tts_speed: float = _setting(
        "Voice", 1.0, "pace; 2.0 is twice as fast", ge=SPEED_LIMITS[0], le=SPEED_LIMITS[1]
    )
    tts_volume: float = _setting("Voice", 1.0, "loudness; 1.0 is the voice's own", gt=0, le=4.0)
    tts_threads: int = _setting("Voice", 2, "CPU threads for one utterance", ge=1, le=64)
    tts_first_clause_words: int = _setting(
        "Voice", 4, "words a reply's first clause needs to be spoken early; 0 waits", ge=0
    )
    piper_speaker: str | None = _setting("Voice", None, "speaker of a voice that has several")
    piper_noise: float | None = _setting("Voice", None, "variation of sound", ge=0, le=2)
    piper_noise_w: float | None = _setting("Voice", None, "variation of rhythm", ge=0, le=2)
    piper_sentence_silence: float = _setting(
        "Voice", 0.0, "seconds of silence added after each sentence", ge=0, le=5
    )
    piper_hub: str = _setting("Voice", HUB, "where Piper voices are fetched from")

    # Ear
    stt: str = _setting(
        "Ear", "auto", "what the agent hears with; auto takes Whisper where its model can be had"
    )
    language: str = _setting("Ear", "en", "language that is spoken, as an ISO 639-1 code")
    whisper_model: str = _setting("Ear", "base.en", "Whisper size (tiny … large-v3) or directory")
    whisper_device: Literal["auto", "cpu", "cuda"] = _setting("Ear", "auto", "where Whisper runs")
    whisper_compute_type: str = _setting("Ear", "auto", "CTranslate2 type: int8, float16, …")
    stt_timeout: float = _setting("Ear", 15.0, "seconds that recognising one turn may take", gt=0)

    # Mind
    llm: str = _setting(
        "Mind",
        "auto",
        "what the agent thinks with; auto takes OPENAI_API_KEY or OPENAI_BASE_URL, "
        "else a local Ollama, else the built-in responder",
    )
    openai_api_key: SecretStr | None = _setting(
        "Mind",
        None,
        "key of an OpenAI-compatible endpoint (environment only)",
        validation_alias="OPENAI_API_KEY",
    )
    openai_base_url: str | None = _setting(
        "Mind",
        None,
        "address of an OpenAI-compatible endpoint",
        validation_alias="OPENAI_BASE_URL",
    )
    llm_model: str | None = _setting(
        "Mind", None, f"model to ask for (default: {OPENAI_MODEL} at OpenAI, Ollama's latest)"
    )
    llm_temperature: float | None = _setting("Mind", None, "0 is the most sober", ge=0, le=2)
    llm_timeout: float = _setting("Mind", 8.0, "seconds that the model may stay silent", gt=0)
    ollama_url: str = _setting("Mind", "http://127.0.0.1:11434", "where a local Ollama answers")

    # Turns
    vad_confidence: float = _setting("Turns", 0.7, "how sure Silero must be of speech", ge=0, le=1)
    vad_start_seconds: float = _setting(
        "Turns",
        0.12,
        "speech that counts as the caller speaking; less interrupts sooner",
        gt=0,
        le=5,
    )
    vad_stop_seconds: float = _setting("Turns", 0.2, "silence that counts as a pause", gt=0, le=5)
    vad_min_volume: float = _setting(
        "Turns", 0.0, "loudness below which speech is ignored, 0 to 1", ge=0, le=1
    )
    turn_end: Literal["smart", "timeout"] = _setting(
        "Turns", "smart", "what ends the caller's turn: the smart-turn model, or silence alone"
    )
    turn_stop_seconds: float = _setting(
        "Turns", 2.0, "silence that ends a turn which smart-turn believes unfinished", gt=0, le=60
    )
    turn_timeout_seconds: float = _setting(
        "Turns", 0.6, "silence that ends a turn with --turn-end timeout", gt=0, le=60
    )
    idle_seconds: float = _setting(
        "Turns", 20.0, "silence after which the agent asks if anyone is there; 0 never", ge=0
    )
    idle_prompts: int = _setting("Turns", 2, "times it asks before it hangs up", ge=0)

    # Models
    cache: Path = _setting("Models", _cache_dir, "directory of fetched voices and models")
    offline: bool = _setting("Models", False, "fetch nothing, look nowhere")

    @field_validator("stun_servers", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("openai_api_key", mode="before")
    @classmethod
    def _is_a_key(cls, value: object) -> object:
        """Without the line's end that a file with a secret in it has."""
        if not isinstance(value, str):
            return value
        if not (key := value.strip()).isascii() or " " in key:
            raise ValueError("that is no key: it has characters that no header may have")
        return key

    @field_validator("openai_base_url", "ollama_url", "piper_hub")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address is like https://host:port/path")
        return value

    @field_validator("stun_servers")
    @classmethod
    def _are_stun(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not re.fullmatch(r"stun:[^\s:/]+(:\d+)?", url):
                raise ValueError(f"{url!r} is not like stun:stun.example.org:3478")
        return urls


_ENVIRONMENT_ONLY = {"openai_api_key"}
"""Settings without a flag: a secret on a command line can be read by every process."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str, field: FieldInfo) -> str:
    return str(field.validation_alias or ENV_PREFIX + name.upper())


def _placeholder(name: str, field: FieldInfo, choices: dict[str, Sequence[str]]) -> str:
    if name in choices:
        return "{" + ",".join(choices[name]) + "}"
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "{" + ",".join(map(str, get_args(annotation))) + "}"
    if get_origin(annotation) is list:
        return "LIST"
    types = get_args(annotation) or (annotation,)
    names = {int: "N", float: "X", Path: "PATH", str: "NAME"}
    return next(names[t] for t in types if t in names)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(message)


def parser(choices: dict[str, Sequence[str]]) -> argparse.ArgumentParser:
    """The command line, one flag for each setting.

    Args:
        choices: The values that a setting may take, for settings whose choice grows with the
            catalog: `{"tts": ["piper"], …}`.
    """
    parser = _Parser(
        prog="python bot/main.py",
        usage="python bot/main.py [settings]",
        description="A voice agent that you can talk to: open the address it prints.",
        epilog="Each setting is also an environment variable or a line in .env: --tts-voice is "
        f"{ENV_PREFIX}TTS_VOICE, but the mind's key and address are OPENAI_API_KEY and "
        "OPENAI_BASE_URL.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=38, width=100),
    )
    groups: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name in _ENVIRONMENT_ONLY:
            continue
        assert isinstance(field.json_schema_extra, dict)
        title = str(field.json_schema_extra["group"])
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        default = field.get_default(call_default_factory=True)
        silent = default is None or default is False or default == []
        shown = "" if silent else f" (default: {default})"
        text = f"{field.description}{shown}".replace("%", "%%")
        if field.annotation is bool:
            group.add_argument(_flag(name), dest=name, action="store_true", help=text)
        else:
            group.add_argument(
                _flag(name), dest=name, metavar=_placeholder(name, field, choices), help=text
            )
    return parser


def load(argv: Sequence[str], choices: dict[str, Sequence[str]] | None = None) -> Settings:
    """The settings that the command line, the environment and `.env` make.

    Args:
        argv: The arguments after the program's name.
        choices: As for `parser`.

    Raises:
        SettingsError: A flag is unknown or a value is wrong.
        SystemExit: `--help` was asked for and printed.
    """
    choices = choices or {}
    flags, rest = parser(choices).parse_known_args(argv)
    if rest:
        known = [_flag(name) for name in Settings.model_fields if name not in _ENVIRONMENT_ONLY]
        near = difflib.get_close_matches(rest[0].split("=")[0], known, n=1)
        cure = f"did you mean {near[0]}?" if near else "see --help"
        raise SettingsError(f"{rest[0]}: there is no such flag; {cure}")
    given = vars(flags)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_one_line(error, given)) from None
    except UnicodeDecodeError:
        raise SettingsError(".env: it is not UTF-8 text; save it as such") from None
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            raise SettingsError(
                f"{_spelling(name, given)}: {value!r} is not one of {', '.join(allowed)}"
            )
    return settings


def _spelling(name: str, given: dict[str, Any]) -> str:
    """How the person spelled the setting: the flag, or the variable."""
    return _flag(name) if name in given else _variable(name, Settings.model_fields[name])


def _one_line(error: ValidationError, given: dict[str, Any]) -> str:
    first = error.errors()[0]
    location = str(first["loc"][0])
    by_alias = {_variable(n, f): n for n, f in Settings.model_fields.items()}
    name = by_alias.get(location, location)
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = "" if name in _ENVIRONMENT_ONLY else f" (it is {first['input']!r})"
    return f"{_spelling(name, given)}: {message}{shown}"
