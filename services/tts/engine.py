"""The contract of an engine that speaks.

An engine turns text into audio and knows nothing of Pipecat, networks or calls. It is shared by
every call in the process, so `speak` must be safe to run in several threads at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from services.errors import EngineError

SPEED_LIMITS = (0.25, 4.0)
"""The slowest and the fastest speed that can be asked for: beyond, nobody understands a word."""

LUFS = -16.0
"""How loud voices are to be: what Apple asks of podcasts, heard, as calls are, on phones and in
noise."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is heard within one utterance.

    Attributes:
        text: The word as it stood in the text, with the punctuation that touches it.
        start: Seconds from the utterance's first sample to the word's first.
        end: Seconds from the utterance's first sample to the word's last.
        estimated: Whether the times are a guess: the engine's model gives none.
    """

    text: str
    start: float
    end: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of audio, and the words that it completes.

    Attributes:
        pcm: Signed 16-bit little-endian mono samples, at most 80 ms of them after the first chunk.
        sample_rate: Samples a second: the voice's own rate.
        words: The words whose last sample is in this chunk, in order.
    """

    pcm: bytes
    sample_rate: int
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """A voice that an engine offers.

    Attributes:
        name: What `speak` takes, for example `en_US-ljspeech-medium`.
        label: What a person reads in a list.
        language: BCP 47 tag, for example `en-US`.
    """

    name: str
    label: str
    language: str


class SpeechEngine(Protocol):
    """An engine that speaks."""

    @property
    def name(self) -> str:
        """What `--tts` calls it."""
        ...

    @property
    def at_once(self) -> int:
        """Utterances that can be under way together without one waiting for another's end.

        1 where the model keeps an utterance's state in itself: `speak` then makes others wait.
        """
        ...

    def load(self, voice: str = "") -> None:
        """Load what a voice needs ahead of its first use, fetching it if need be. Blocks.

        Args:
            voice: The voice's name; empty for the default one.

        Raises:
            UnknownVoiceError: There is no such voice.
            UnavailableError: It is not here and cannot be fetched.
            EngineError: Its files cannot be used.
        """
        ...

    def loaded(self) -> tuple[str, ...]:
        """The voices whose models are in memory: those that answer at once."""
        ...

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that can be spoken with now, the default one first."""
        ...

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak `text`, chunk by chunk, as soon as each can be had.

        Runs in a worker thread and may block. Once `stop` is set it ends within one chunk and
        frees the core.

        Args:
            text: What to say, in plain words.
            voice: A name out of `voices`; empty for the default one.
            speed: 1.0 is the voice's own pace, 2.0 twice as fast; within `SPEED_LIMITS`.
            stop: Set by the caller to end synthesis early.

        Yields:
            Audio and words in order. Text without anything to say yields nothing.

        Raises:
            UnknownVoiceError: There is no such voice.
            EngineError: Synthesis failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds, processes and connections included. Safe to call twice."""
        ...


def check_speed(speed: float) -> None:
    """Refuse a speed that is not within `SPEED_LIMITS`.

    Args:
        speed: As in `SpeechEngine.speak`.

    Raises:
        EngineError: It is beyond them, or no number.
    """
    slowest, fastest = SPEED_LIMITS
    if not slowest <= speed <= fastest:
        raise EngineError(f"a speed of {speed:g} cannot be spoken: {slowest} to {fastest} can")
