"""What an agent speaks, hears and thinks with: chosen by the settings, loaded once a process."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger
from pipecat.services.llm_service import LLMService

from bot.agent import Agent
from bot.settings import OPENAI_MODEL, Settings, SettingsError
from services import catalog, detectors
from services.errors import EngineError, UnavailableError
from services.llm.ollama import find_ollama, ollama_base_url
from services.llm.openai import openai_client, openai_llm
from services.llm.responder import ResponderLLMService
from services.stt.engine import HearingEngine
from services.stt.local import EngineSTTService
from services.tts import voices
from services.tts.engine import SpeechEngine, VoiceInfo
from services.tts.local import EngineTTSService, EngineTTSSettings
from services.tts.voices import Progress

VOICE_RATE = 24000
"""Samples a second that a caller is given: Opus carries all of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One row of what is printed at start.

    Attributes:
        role: speaks, hears or thinks.
        engine: The engine's name in the catalog.
        model: The voice or model.
        source: Where it came from.
        better: How to get a better one; empty for the best.
    """

    role: str
    engine: str
    model: str
    source: str
    better: str = ""


@dataclass(frozen=True, slots=True)
class Mind:
    """What thinks.

    Attributes:
        service: Makes one call's LLM service.
        close: Lets go of what the calls' services share.
    """

    service: Callable[[Agent], LLMService[Any]]
    close: Callable[[], Awaitable[None]]


class Engines:
    """The engines of a process, shared by its calls."""

    def __init__(
        self,
        settings: Settings,
        speech: tuple[SpeechEngine, Part],
        hearing: tuple[HearingEngine, Part],
        mind: tuple[Mind, Part],
    ) -> None:
        """Hold engines that are loaded.

        Args:
            settings: The settings in force.
            speech: What speaks.
            hearing: What hears.
            mind: What thinks.
        """
        self._settings = settings
        self.speech, speaks = speech
        self._hearing, hears = hearing
        self._mind, thinks = mind
        self.parts = (speaks, hears, thinks)

    def tts(self, voice: str | None = None) -> EngineTTSService:
        """A call's voice.

        Args:
            voice: One of `voices`; None for the first of them.
        """
        voice = voice or self.voices()[0].name
        return EngineTTSService(
            engine=self.speech,
            settings=EngineTTSSettings(voice=voice, speed=self._settings.tts_speed),
            first_clause_words=self._settings.tts_first_clause_words,
        )

    def stt(self, agent: Agent) -> EngineSTTService:
        """A call's ear, for the agent's language."""
        return EngineSTTService(
            self._hearing,
            language=_language(self._settings, agent),
            limit=self._settings.stt_timeout,
        )

    def llm(self, agent: Agent) -> LLMService[Any]:
        """A call's mind."""
        return self._mind.service(agent)

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that a call may have without a download, the settings' own first."""
        return self.speech.voices()

    def has_voice(self, name: str) -> bool:
        """Whether a call may have the voice `name`."""
        return any(voice.name == name for voice in self.voices())

    def about(self) -> dict[str, Any]:
        """What a client may know: engine and model of each part, and the voices."""
        speaks, hears, thinks = self.parts
        return {
            "tts": {
                "engine": speaks.engine,
                "voice": speaks.model,
                "voices": [
                    {"name": v.name, "label": v.label, "language": v.language}
                    for v in self.voices()
                ],
            },
            "stt": {"engine": hears.engine, "model": hears.model},
            "llm": {"engine": thinks.engine, "model": thinks.model},
        }

    async def close(self) -> None:
        """Let go of processes and connections."""
        await asyncio.to_thread(self._hearing.close)
        await self._mind.close()


def load_engines(settings: Settings, agent: Agent, progress: Progress) -> Engines:
    """Find, fetch and warm everything that a call needs. Blocks; call it in a thread.

    Args:
        settings: What to take.
        agent: Who answers: may name a voice.
        progress: Told of what is fetched.

    Raises:
        SettingsError: A setting names what is not there.
        EngineError: An engine cannot be used.
    """
    # The ear first: pocketsphinx starts a process, which costs least before models are loaded.
    hearing = _hearing(settings, agent)
    try:
        detectors.preload()
        return Engines(settings, _speech(settings, agent, progress), hearing, _mind(settings))
    except BaseException:
        hearing[0].close()
        raise


def _language(settings: Settings, agent: Agent) -> str:
    """The language that is spoken, as an ISO 639-1 code."""
    return (agent.language or settings.language).partition("-")[0].lower()


def _hearing(settings: Settings, agent: Agent) -> tuple[HearingEngine, Part]:
    asked = settings.stt
    reason = "whisper is not installed"
    if asked != "pocketsphinx":
        row = catalog.choice(catalog.STT, "whisper")
        if asked == "whisper":
            row.require("--stt whisper")
        if row.installed:
            try:
                return _whisper(settings, agent)
            except UnavailableError as error:
                if asked == "whisper":
                    raise
                reason = str(error)
    catalog.choice(catalog.STT, "pocketsphinx").require(f"--stt {asked}")
    from services.stt.pocketsphinx import PocketsphinxEngine

    if asked == catalog.AUTO:
        logger.info("hearing with pocketsphinx: {}", reason)
    if (language := _language(settings, agent)) != "en":
        raise SettingsError(
            f"--language {language}: pocketsphinx hears English alone; use --stt whisper"
        )
    engine = PocketsphinxEngine(timeout=settings.stt_timeout)
    engine.warm()
    better = "" if asked != catalog.AUTO else "Whisper, once its model is here: --whisper-model DIR"
    return engine, Part("hears", "pocketsphinx", "en-us", "its own package", better)


def _whisper(settings: Settings, agent: Agent) -> tuple[HearingEngine, Part]:
    from services.stt.whisper import WhisperEngine, choose_device

    with _blame("--whisper-device"):
        choose_device(settings.whisper_device, "auto")
    with _blame("--whisper-compute-type"):
        choose_device(settings.whisper_device, settings.whisper_compute_type)
    with _blame("--whisper-model"):
        engine = WhisperEngine(
            settings.whisper_model,
            cache=settings.cache / "whisper",
            device=settings.whisper_device,
            compute_type=settings.whisper_compute_type,
            offline=settings.offline,
        )
        engine.warm(_language(settings, agent))
    source = "fetched just now" if engine.fetched else str(engine.path)
    model = f"{Path(settings.whisper_model).name} ({engine.device}, {engine.compute_type})"
    return engine, Part("hears", "whisper", model, source)


@contextmanager
def _blame(setting: str) -> Iterator[None]:
    """Put the setting before what an engine, which knows no settings, says of its value."""
    try:
        yield
    except UnavailableError:
        raise
    except EngineError as error:
        raise SettingsError(f"{setting}: {error}") from None
    except Exception as error:
        # Libraries raise what they like for a name or a file that they cannot use.
        raise SettingsError(f"{setting}: cannot be used: {' '.join(str(error).split())}") from None


def _speech(settings: Settings, agent: Agent, progress: Progress) -> tuple[SpeechEngine, Part]:
    catalog.choice(catalog.TTS, settings.tts).require(f"--tts {settings.tts}")
    from services.tts.piper import PiperEngine

    asked = settings.tts_voice or agent.voice or voices.DEFAULT_VOICE
    better = ""
    with _blame("--tts-voice"):
        try:
            name, source = asked, _find_voice(settings, asked, progress)
        except UnavailableError as error:
            logger.info("speaking with the embedded voice: {}", error)
            name, source = voices.embedded_name(VOICE_RATE), "embedded"
            better = f"--tts-voice {asked}, where the hub can be reached"
    engine = PiperEngine(
        settings.cache / "piper",
        default_voice=name,
        speaker=settings.piper_speaker,
        noise_scale=settings.piper_noise,
        noise_w_scale=settings.piper_noise_w,
        volume=settings.tts_volume,
        sentence_silence=settings.piper_sentence_silence,
        threads=settings.tts_threads,
        hub=settings.piper_hub,
        progress=progress,
    )
    with _blame("--piper-speaker" if settings.piper_speaker else "--tts-voice"):
        engine.load()
    return engine, Part("speaks", "piper", engine.voices()[0].name, source, better)


def _find_voice(settings: Settings, name: str, progress: Progress) -> str:
    """Where a voice is, for a person to read; fetched if need be.

    Raises:
        UnavailableError: It is not here, and cannot be fetched.
        UnknownVoiceError: There is no such voice.
    """
    if name.endswith(".onnx"):
        return str(voices.local_voice(Path(name)).resolve())
    cache = settings.cache / "piper"
    here = voices.find_voice(name, cache)
    if here is not None:
        return "embedded" if name in voices.EMBEDDED else str(here)
    if settings.offline:
        raise UnavailableError(f"voice {name} is not here, and --offline forbids to fetch it")
    voices.resolve(name, cache, settings.piper_hub, progress)
    return "fetched just now"


def _mind(settings: Settings) -> tuple[Mind, Part]:
    key = settings.openai_api_key
    asked = settings.llm
    if asked == "openai" or (asked == catalog.AUTO and (key or settings.openai_base_url)):
        if not key and not settings.openai_base_url:
            raise SettingsError(
                "--llm openai: set OPENAI_API_KEY, or OPENAI_BASE_URL where no key is wanted"
            )
        if settings.openai_base_url and not settings.llm_model:
            raise SettingsError(f"--llm-model: name a model that {settings.openai_base_url} has")
        model = settings.llm_model or OPENAI_MODEL
        base_url, secret = settings.openai_base_url, key.get_secret_value() if key else None
        part = Part("thinks", "openai", model, base_url or "OpenAI")
        return _openai(settings, secret, base_url, model), part
    if asked == "ollama" or (asked == catalog.AUTO and not settings.offline):
        found = find_ollama(settings.ollama_url, settings.llm_model)
        if found:
            part = Part("thinks", "ollama", found, settings.ollama_url)
            return _openai(settings, None, ollama_base_url(settings.ollama_url), found), part
        if asked == "ollama":
            raise SettingsError(
                f"--llm ollama: no Ollama with a model answers at {settings.ollama_url}; "
                "start it, or set --ollama-url"
            )
    better = "a language model: set OPENAI_API_KEY, or start Ollama"
    part = Part("thinks", "builtin", "a few rules", "built in", better)
    return Mind(lambda agent: ResponderLLMService(name=agent.name), _nothing), part


async def _nothing() -> None:
    """Close what needs no closing."""


def _openai(settings: Settings, key: str | None, base_url: str | None, model: str) -> Mind:
    with _blame("OPENAI_BASE_URL, or a proxy in the environment"):
        client = openai_client(key, base_url)

    def service(agent: Agent) -> LLMService[Any]:
        return openai_llm(
            client,
            model=model,
            system_instruction=agent.prompt,
            temperature=settings.llm_temperature,
            silence_secs=settings.llm_timeout,
        )

    return Mind(service, client.close)
