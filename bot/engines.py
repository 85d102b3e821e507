"""What an agent speaks, hears and thinks with: chosen by the settings, loaded once a process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger
from pipecat.services.llm_service import LLMService

from bot.agent import Agent
from bot.settings import OPENAI_MODEL, Settings, SettingsError
from services import catalog, detectors
from services.llm.ollama import find_ollama, ollama_base_url
from services.llm.openai import openai_llm
from services.llm.responder import ResponderLLMService
from services.models import models
from services.openai_endpoint import openai_client
from services.settings import blame, masked, revealed
from services.stt.hearing import Hearing
from services.stt.local import LocalHearing
from services.stt.remote import RemoteHearing
from services.stt.service import HearingSTTService
from services.tts.engine import VoiceInfo
from services.tts.local import LocalSpeech
from services.tts.remote import RemoteSpeech
from services.tts.service import SpeechTTSService, SpeechTTSSettings
from services.tts.speech import Speech
from services.tts.voices import Progress
from services.worker.leases import workers_at
from services.worker.pool import WorkerPool

if TYPE_CHECKING:
    from services.wake import WakeWordListener

WORKER_SECONDS = 5.0
"""How long the start waits for workers."""

LOOK_SECONDS = 60.0
"""How often the workers' voices are looked at without news of a worker."""

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
        judges: Whether it can be asked what something heard means; a few rules cannot.
    """

    service: Callable[[Agent], LLMService[Any]]
    close: Callable[[], Awaitable[None]]
    judges: bool = True


class Engines:
    """The engines of a process, shared by its calls.

    Attributes:
        speech: What speaks.
        hearing: What hears.
        listen: Begins to listen for the wake word; None where none is needed.
        parts: What is printed of what speaks, hears and thinks.
    """

    def __init__(
        self,
        settings: Settings,
        speech: tuple[Speech, Part],
        hearing: tuple[Hearing, Part],
        mind: tuple[Mind, Part],
        *,
        voice: str = "",
        speakers: WorkerPool | None = None,
        hearers: WorkerPool | None = None,
        listen: "Callable[[], WakeWordListener] | None" = None,
    ) -> None:
        """Hold engines that are loaded.

        Args:
            settings: The settings in force.
            speech: What speaks; closed with this, as the others are.
            hearing: What hears.
            mind: What thinks.
            voice: The voice that calls begin with; empty, or one that is not there, for the first.
            speakers: The workers that `speech` speaks through, closed by it.
            hearers: The workers that `hearing` hears through, closed by it.
            listen: Begins to listen for the wake word; None where none is needed.
        """
        self._settings = settings
        self._voice = voice
        self._speakers = speakers
        self._hearers = hearers
        self.listen = listen
        self._pools = {pool for pool in (speakers, hearers) if pool is not None}
        self.speech, speaks = speech
        self.hearing, hears = hearing
        self._mind, thinks = mind
        self.parts = (speaks, hears, thinks)

    async def open(self) -> None:
        """Connect to workers, and wait a while for one of each kind to be there.

        Without them calls are taken all the same: `ready` tells whether that makes sense.
        """
        for pool in self._pools:
            pool.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORKER_SECONDS):
                while not self.ready:
                    for pool in self._pools:
                        await pool.wait_for_change(0.1)
        if not self.ready:
            logger.warning("no worker speaks or none hears: calls will be mute or deaf until then")

    @property
    def ready(self) -> bool:
        """Whether somebody speaks and somebody hears: only workers can be away."""
        return bool(self.voices()) and (self._hearers is None or self._hearers.has("transcribe"))

    def tts(self, voice: str) -> SpeechTTSService:
        """A call's voice.

        Args:
            voice: One of `voices`; empty for the default one.
        """
        return SpeechTTSService(
            speech=self.speech,
            settings=SpeechTTSSettings(voice=voice, speed=self._settings.tts_speed),
            first_clause_words=self._settings.tts_first_clause_words,
        )

    def stt(self, agent: Agent) -> HearingSTTService:
        """A call's ear, for the agent's language."""
        return HearingSTTService(
            hearing=self.hearing,
            language=_language(self._settings, agent),
            limit=self._settings.stt_timeout,
        )

    def llm(self, agent: Agent) -> LLMService[Any]:
        """A call's mind."""
        return self._mind.service(agent)

    @property
    def judges(self) -> bool:
        """Whether a call's mind can be asked what something heard means."""
        return self._mind.judges

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that a call may have without a download, the settings' own first."""
        return self.speech.voices()

    def wanted_voice(self) -> str:
        """The voice that a call is to have, which a worker may yet bring; empty for any."""
        return self._voice if self._speakers else self.first_voice()

    def first_voice(self) -> str:
        """The voice that a call begins with; empty while nobody speaks."""
        default = next((voice.name for voice in self.voices()), "")
        return self.find_voice(self._voice) or default

    def find_voice(self, wanted: str) -> str:
        """The name of a voice that is asked for as `ENGINE/NAME`, or `NAME`; empty without one."""
        names = (voice.name for voice in self.voices())
        return next((name for name in names if wanted in (name, name.rpartition("/")[2])), "")

    def has_voice(self, name: str) -> bool:
        """Whether a call may have the voice `name`."""
        return any(voice.name == name for voice in self.voices())

    def closest_voice(self, name: str) -> str:
        """The voice that comes closest to `name`; empty while nobody speaks."""
        client = self._speakers.choose("speak", name) if self._speakers else None
        if self._speakers is None or client is None or client.lease is None:
            return self.first_voice()
        lease = client.lease
        default = next((voice.name for voice in lease.voices), "")
        close = f"{lease.engine}/{self._speakers.voice_at(client, name) or default}"
        return close if self.has_voice(close) else self.first_voice()

    async def voice_changes(self) -> AsyncIterator[None]:
        """Yield whenever the voices are others than before.

        Ends at once where no worker speaks: the voices then stay as they are.
        """
        if self._speakers is None:
            return
        known = self.voices()
        while True:
            await self._speakers.wait_for_change(LOOK_SECONDS)
            # Most of the news is of how busy a worker is.
            while (now := self.voices()) != known:
                known = now
                yield

    def about(self) -> dict[str, Any]:
        """What a client may know: engine and model of each part, and the voices."""
        speaks, hears, thinks = self.parts
        return {
            "tts": {
                "engine": speaks.engine,
                "voice": self.first_voice(),
                "voices": [asdict(voice) for voice in self.voices()],
            },
            "stt": {"engine": hears.engine, "model": hears.model},
            "llm": {"engine": thinks.engine, "model": thinks.model},
        }

    async def close(self) -> None:
        """Let go of threads, processes and connections."""
        async with AsyncExitStack() as stack:
            for part in (self.speech, self.hearing, self._mind):
                stack.push_async_callback(part.close)


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
    speakers = _pool(settings, settings.tts)
    hearers = speakers if settings.stt == settings.tts else _pool(settings, settings.stt)
    with ExitStack() as undo:
        # A word that there is not is told at once.
        listen = listen_for(settings)
        # The ear next: pocketsphinx starts a process, which costs least before models are loaded.
        hearing = _hearing(settings, agent, progress, hearers)
        undo.callback(lambda: asyncio.run(hearing[0].close()))
        detectors.preload()
        speech = _speech(settings, agent, progress, speakers)
        undo.callback(lambda: asyncio.run(speech[0].close()))
        engines = Engines(
            settings,
            speech,
            hearing,
            _mind(settings),
            voice=settings.tts_voice or agent.voice or "",
            speakers=speakers,
            hearers=hearers,
            listen=listen,
        )
        undo.pop_all()
    return engines


def listen_for(settings: Settings) -> "Callable[[], WakeWordListener] | None":
    """What begins to listen for the wake word, if there is to be one. Blocks while loading.

    Raises:
        SettingsError: There is no such word, or the extra is missing.
    """
    if not settings.wake_word:
        return None
    with blame("--wake-word"):
        from services.wake import WakeWords

        words = models.get("wake words", WakeWords)
        return partial(words.listen, words.check([settings.wake_word.lower().replace(" ", "_")]))


def _language(settings: Settings, agent: Agent) -> str:
    """The language that is spoken, as an ISO 639-1 code."""
    return (agent.language or settings.language).partition("-")[0].lower()


def _hearing(
    settings: Settings, agent: Agent, progress: Progress, hearers: WorkerPool | None
) -> tuple[Hearing, Part]:
    if hearers:
        return RemoteHearing(hearers), Part("hears", "workers", "theirs", masked(settings.stt))
    loaded = catalog.load_ear(settings, settings.stt, _language(settings, agent), progress)
    name = loaded.engine.name
    part = Part("hears", name, loaded.model, loaded.source, loaded.better)
    return LocalHearing(loaded.engine), part


def _speech(
    settings: Settings, agent: Agent, progress: Progress, speakers: WorkerPool | None
) -> tuple[Speech, Part]:
    spare = settings.tts_fallback
    if not speakers:
        if spare:
            raise SettingsError(
                f"--tts-fallback {spare}: it is for --tts ws://… or redis://…; leave it out"
            )
        return _local(settings, settings.tts, settings.tts_voice or agent.voice, progress, "--tts")
    fallback = _local(settings, spare, None, progress, "--tts-fallback")[0] if spare else None
    speech = RemoteSpeech(
        speakers, fallback=fallback, first_audio_limit_s=settings.worker_first_audio
    )
    return speech, Part("speaks", "workers", "theirs", masked(settings.tts))


def _local(
    settings: Settings, name: str, voice: str | None, progress: Progress, flag: str
) -> tuple[Speech, Part]:
    """An engine of this process."""
    loaded = catalog.load_voice(settings, name, voice, progress, flag)
    part = Part("speaks", loaded.engine.name, loaded.model, loaded.source, loaded.better)
    return LocalSpeech(loaded.engine), part


def _pool(settings: Settings, place: str) -> WorkerPool | None:
    """The workers at `ws://…,ws://…`, or those of a `redis://…`; None for an engine's name."""
    if "://" not in place:
        return None
    return WorkerPool(workers_at(place), revealed(settings.worker_token) or None)


def _mind(settings: Settings) -> tuple[Mind, Part]:
    key, base_url = revealed(settings.openai_api_key), settings.openai_base_url
    asked = settings.llm
    if asked != catalog.AUTO:
        catalog.choice(catalog.LLM, asked).require(f"--llm {asked}", settings)
    if asked == "openai" or (asked == catalog.AUTO and (key or base_url)):
        if base_url and not settings.llm_model:
            raise SettingsError(f"--llm-model: name a model that {base_url} has")
        model = settings.llm_model or OPENAI_MODEL
        part = Part("thinks", "openai", model, base_url or "OpenAI")
        return _openai(settings, key or None, base_url, model), part
    if asked == "ollama" or (asked == catalog.AUTO and not settings.offline):
        found = find_ollama(settings.ollama_url, settings.llm_model)
        if found:
            part = Part("thinks", "ollama", found, settings.ollama_url)
            return _openai(settings, None, ollama_base_url(settings.ollama_url), found), part
    better = "a language model: set OPENAI_API_KEY, or start Ollama"
    part = Part("thinks", "builtin", "a few rules", "built in", better)
    rules = Mind(lambda agent: ResponderLLMService(name=agent.name), _nothing, judges=False)
    return rules, part


async def _nothing() -> None:
    """Close what needs no closing."""


def _openai(settings: Settings, key: str | None, base_url: str | None, model: str) -> Mind:
    with blame("OPENAI_BASE_URL, or a proxy in the environment"):
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
