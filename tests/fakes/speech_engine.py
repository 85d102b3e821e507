"""An engine that speaks in tones: exact word times, and every step under the test's control."""

import array
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Condition, Event, Semaphore

from services.errors import EngineError, UnknownVoiceError
from services.tts.engine import Chunk, VoiceInfo, Word

VOICES = (VoiceInfo("alto", "Alto", "en-US"), VoiceInfo("basso", "Basso", "en-GB"))
RATES = {"alto": 16000, "basso": 22050}


@dataclass
class Utterance:
    """One call of `speak`.

    Attributes:
        text: What was to be said.
        voice: The voice asked for.
        speed: The speed asked for.
        stop: The caller's stop flag.
        chunks: How many chunks have been computed.
        stopped: Whether it ended because it was told to stop.
        ended: Set once its generator has ended, however it did.
    """

    text: str
    voice: str
    speed: float
    stop: Event
    chunks: int = 0
    stopped: bool = False
    ended: Event = field(default_factory=Event)


class FakeSpeechEngine:
    """A `SpeechEngine` without a model.

    Every word is a tone of `word_secs`, divided by the speed; its times are exact. By default
    speech is computed at once. A `gated` engine computes a chunk only for each permit that
    `permit` gives it, and does not look at its stop flag while it waits, as a model does not
    while it computes.

    Attributes:
        name: `fake`.
        at_once: How many utterances it says that it can do together.
        gated: Whether each chunk needs a permit.
        utterances: What was asked for, in order.
        fail: Whether to fail, given the text and the number of chunks already computed.
        closed: Whether it was closed.
    """

    name = "fake"

    def __init__(
        self,
        *,
        word_secs: float = 0.1,
        chunk_secs: float = 0.08,
        gated: bool = False,
        at_once: int = 64,
    ) -> None:
        """Make an engine.

        Args:
            word_secs: Seconds a word lasts at speed 1.0.
            chunk_secs: Seconds of audio in a chunk.
            gated: Whether each chunk needs a permit.
            at_once: How many utterances it says that it can do together.
        """
        self.at_once = at_once
        self.gated = gated
        self.utterances: list[Utterance] = []
        self.fail: Callable[[str, int], bool] = lambda _text, _chunks: False
        self.closed = False
        self._loaded: dict[str, None] = {}
        self._word_secs = word_secs
        self._chunk_secs = chunk_secs
        self._permits = Semaphore(0) if gated else None
        self._changed = Condition()

    def load(self, voice: str = "") -> None:
        """Note that a voice was loaded."""
        self._loaded[_known(voice)] = None

    def loaded(self) -> tuple[str, ...]:
        """The voices that were loaded or spoken with."""
        return tuple(self._loaded)

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices it has, the default one first."""
        return VOICES

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak as `SpeechEngine.speak` says; the words are what blanks separate."""
        utterance = Utterance(text, voice, speed, stop)
        with self._changed:
            self.utterances.append(utterance)
            self._changed.notify_all()
        try:
            yield from self._chunks(utterance, stop)
        finally:
            utterance.stopped = stop.is_set()
            utterance.ended.set()

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def permit(self, chunks: int) -> None:
        """Let a gated engine compute `chunks` more chunks."""
        assert self._permits is not None
        self._permits.release(chunks)

    def wait_for_utterance(self, count: int, timeout: float = 20.0) -> bool:
        """Wait, in a thread, until `speak` has been called `count` times; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.utterances) >= count, timeout)

    def _chunks(self, utterance: Utterance, stop: Event) -> Iterator[Chunk]:
        self.load(utterance.voice)
        rate = RATES[_known(utterance.voice)]
        word_samples = round(self._word_secs * rate / utterance.speed)
        words = [
            Word(text, index * word_samples / rate, (index + 1) * word_samples / rate)
            for index, text in enumerate(utterance.text.split())
        ]
        total = word_samples * len(words)
        step = round(self._chunk_secs * rate)
        for start in range(0, total, step):
            if self._permits is not None:
                self._permits.acquire()
            if stop.is_set():
                return
            if self.fail(utterance.text, utterance.chunks):
                raise EngineError(f"cannot say {utterance.text!r}")
            end = min(start + step, total)
            utterance.chunks += 1
            completed = tuple(word for word in words if start / rate < word.end <= end / rate)
            yield Chunk(_tone(start, end, rate), rate, completed)


def _known(voice: str) -> str:
    """A voice's name, the default one's where it is empty."""
    if voice and voice not in RATES:
        raise UnknownVoiceError(f"no voice {voice!r}")
    return voice or VOICES[0].name


def _tone(start: int, end: int, rate: int) -> bytes:
    """Samples `start` to `end` of a 440 Hz tone."""
    step = 2 * math.pi * 440 / rate
    return array.array("h", (round(8000 * math.sin(n * step)) for n in range(start, end))).tobytes()
