"""Every choice of voice, ear and mind: its name, what it needs, and the module that makes it.

An engine is a row here and a module with a function `build`, which makes the engine and loads what
it starts with:

    build(settings, voice, progress)     -> Loaded[SpeechEngine]     voice: str | None
    build(settings, language, progress)  -> Loaded[HearingEngine]    language: an ISO 639-1 code

`build` raises SettingsError for a setting that is wrong, UnavailableError for a model that is not
here and cannot be fetched, EngineError for what else goes wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from loguru import logger

from services.errors import EngineError, MissingExtraError, UnavailableError
from services.llm.ollama import find_ollama
from services.settings import EngineSettings, SettingsError
from services.stt.engine import HearingEngine
from services.tts.engine import SpeechEngine
from services.tts.voices import Progress

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[E]):
    """An engine that is ready.

    Attributes:
        engine: The engine, its first model loaded.
        model: The voice or model that it starts with, for a person to read.
        source: Where that came from.
        better: How to get a better one; empty for the best.
    """

    engine: E
    model: str
    source: str
    better: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One engine or service that a setting can name.

    Attributes:
        name: What the setting calls it.
        packages: The modules that it needs.
        extra: The extra of ours that installs the packages.
        module: The module whose `build` makes the engine; imported when the engine is.
        check: Given the settings in force, raises the SettingsError or UnavailableError that says
            what else it lacks, with the cure. Takes a second at most, and loads no model.
    """

    name: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    module: str = ""
    check: Callable[[Any], None] = lambda settings: None

    def lacks(self, settings: Any) -> str:
        """What keeps it from running here, with the cure, in one line; empty where nothing does."""
        try:
            self.require("", settings)
        except (SettingsError, EngineError) as error:
            return str(error)
        return ""

    def require(self, asked: str, settings: Any) -> None:
        """Make sure that it can run here, as far as one can tell without trying.

        Args:
            asked: How the choice was spelled, for messages: `--tts piper`.
            settings: The settings in force.

        Raises:
            MissingExtraError: A package is not installed.
            SettingsError: A setting is missing or wrong.
            UnavailableError: A model is not here and may not be fetched.
        """
        blamed = f"{asked}: " if asked else ""
        for package in self.packages:
            if not _installed(package):
                raise MissingExtraError(
                    f"{blamed}{package} is not installed; pip install 'parley[{self.extra}]'"
                )
        try:
            self.check(settings)
        except SettingsError as error:
            raise SettingsError(f"{blamed}{error}") from None

    def build(
        self, settings: EngineSettings, asked: str, what: str | None, progress: Progress
    ) -> Loaded[Any]:
        """Make its engine. Blocks while models are fetched and loaded.

        Args:
            settings: The settings in force.
            asked: How the choice was spelled, for messages.
            what: The voice or the language to start with.
            progress: Told of what is fetched.

        Raises:
            MissingExtraError: A package is not installed.
            SettingsError: A setting names what is not there.
            UnavailableError: A model is not here and cannot be fetched.
            EngineError: The engine cannot be used.
        """
        self.require(asked, settings)
        loaded: Loaded[Any] = import_module(self.module).build(settings, what, progress)
        return loaded


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # It is imported, from no file.
        return True


AUTO = "auto"
"""The choice that takes the best of what can be had."""


def _cosyvoice(settings: EngineSettings) -> None:
    repo = settings.cosyvoice_repo
    if repo is None:
        raise SettingsError(
            "CosyVoice is no package: clone its repository with its submodules, and set "
            "--cosyvoice-repo"
        )
    if not (repo / "cosyvoice" / "cli" / "cosyvoice.py").is_file():
        raise SettingsError(f"--cosyvoice-repo: {repo} holds no checkout of CosyVoice")


def _openai_voice(settings: EngineSettings) -> None:
    if not (settings.tts_base_url or settings.tts_api_key or settings.openai_api_key):
        raise SettingsError(
            "set PARLEY_TTS_API_KEY or OPENAI_API_KEY, or --tts-base-url where no key is wanted"
        )
    if not settings.tts_model:
        raise SettingsError("--tts-model: name the model that is to speak")


def _whisper(settings: EngineSettings) -> None:
    device, compute_type = settings.whisper_device, settings.whisper_compute_type
    if settings.offline or (device, compute_type) != ("auto", "auto"):
        # Only then: its libraries take their time to import.
        from services.stt.whisper import check

        check(settings)


def _openai_ear(settings: EngineSettings) -> None:
    if not (settings.stt_base_url or settings.stt_api_key or settings.openai_api_key):
        raise SettingsError(
            "set PARLEY_STT_API_KEY or OPENAI_API_KEY, or --stt-base-url where no key is wanted"
        )
    if not settings.stt_model:
        raise SettingsError("--stt-model: name the model that is to hear")


def _openai_mind(settings: Any) -> None:
    if not settings.openai_api_key and not settings.openai_base_url:
        raise SettingsError("set OPENAI_API_KEY, or OPENAI_BASE_URL where no key is wanted")


def _ollama(settings: Any) -> None:
    if not find_ollama(settings.ollama_url, settings.llm_model):
        raise SettingsError(
            f"no Ollama with a model answers at {settings.ollama_url}; start it, or "
            "set --ollama-url"
        )


TTS = (
    Choice("piper", ("piper", "onnx"), "piper", "services.tts.piper"),
    Choice("cosyvoice", ("torch",), "cosyvoice", "services.tts.cosyvoice", _cosyvoice),
    Choice("xtts", ("torch", "TTS"), "xtts", "services.tts.xtts"),
    Choice("sesame", ("torch", "transformers"), "sesame", "services.tts.sesame"),
    Choice("openai", module="services.tts.openai", check=_openai_voice),
    Choice("pocket", ("pocket_tts",), "pocket", "services.tts.pocket"),
)

STT = (
    Choice("whisper", ("faster_whisper",), "whisper", "services.stt.whisper", _whisper),
    Choice("pocketsphinx", ("pocketsphinx",), "pocketsphinx", "services.stt.pocketsphinx"),
    Choice("openai", module="services.stt.openai", check=_openai_ear),
)

LLM = (
    Choice("openai", check=_openai_mind),
    Choice("ollama", check=_ollama),
    Choice("builtin"),
)


def choices() -> dict[str, Sequence[str]]:
    """The values that the settings `tts`, `tts_fallback`, `stt` and `llm` may take."""
    voices = [row.name for row in TTS]
    return {
        "tts": voices,
        "tts_fallback": voices,
        "stt": [AUTO, *(row.name for row in STT)],
        "llm": [AUTO, *(row.name for row in LLM)],
    }


def choice(kind: Sequence[Choice], name: str) -> Choice:
    """The row of that name.

    Raises:
        KeyError: There is none.
    """
    for row in kind:
        if row.name == name:
            return row
    raise KeyError(name)


def load_voice(
    settings: EngineSettings, name: str, voice: str | None, progress: Progress, flag: str = "--tts"
) -> Loaded[SpeechEngine]:
    """An engine that speaks, with the loudness and the filters of the settings. Blocks.

    Args:
        settings: The settings in force.
        name: A row of `TTS`.
        voice: The voice to start with; None for the engine's own choice.
        progress: Told of what is fetched.
        flag: The setting that named the engine, for messages.

    Raises:
        SettingsError, EngineError: See `Choice.build`.
    """
    from services.tts.levels import Levelled

    loaded: Loaded[SpeechEngine] = choice(TTS, name).build(
        settings, f"{flag} {name}", voice, progress
    )
    engine = Levelled(
        loaded.engine,
        lufs=settings.tts_loudness,
        highpass_hz=settings.tts_highpass,
        compress=settings.tts_compress,
        volume=settings.tts_volume,
    )
    try:
        engine.load()
    except BaseException:
        engine.close()
        raise
    return replace(loaded, engine=engine)


def load_ear(
    settings: EngineSettings, name: str, language: str, progress: Progress
) -> Loaded[HearingEngine]:
    """An engine that hears. Blocks.

    Args:
        settings: The settings in force.
        name: A row of `STT`, or `AUTO`: Whisper where its model can be had, else PocketSphinx.
        language: What will be spoken, as an ISO 639-1 code.
        progress: Told of what is fetched.

    Raises:
        SettingsError, EngineError: See `Choice.build`.
    """
    asked = f"--stt {name}"
    if name != AUTO:
        return choice(STT, name).build(settings, asked, language, progress)
    whisper, fallback = choice(STT, "whisper"), choice(STT, "pocketsphinx")
    try:
        return whisper.build(settings, asked, language, progress)
    except (MissingExtraError, UnavailableError) as error:
        reason = error
    loaded: Loaded[HearingEngine] = fallback.build(settings, asked, language, progress)
    logger.info("hearing with pocketsphinx: {}", reason)
    return replace(loaded, better="Whisper, once its model is here: --whisper-model DIR")
