"""The contract of an engine that hears.

An engine turns one stretch of speech into text and knows nothing of Pipecat, networks or calls. It
is shared by every call in the process.
"""

from dataclasses import dataclass
from threading import Event
from typing import Protocol

SAMPLE_RATE = 16000
"""Samples a second of the audio that every engine takes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of recognised speech.

    Attributes:
        text: What was said.
        start: Seconds from the first sample of the audio.
        end: Seconds from the first sample of the audio.
        confidence: The mean probability of its tokens, 0 to 1.
        no_speech: The probability that it holds no speech at all, 0 to 1.
    """

    text: str
    start: float
    end: float
    confidence: float
    no_speech: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What an engine heard.

    Attributes:
        segments: In order of time; empty when nothing was recognised.
        language: ISO 639-1 code, for example `en`; None where the engine cannot tell.
    """

    segments: tuple[Segment, ...]
    language: str | None = None

    @property
    def text(self) -> str:
        """The segments' words, joined by single spaces."""
        return " ".join(" ".join(segment.text.split()) for segment in self.segments).strip()


class HearingEngine(Protocol):
    """An engine that hears."""

    @property
    def name(self) -> str:
        """What `--stt` calls it."""
        ...

    @property
    def at_once(self) -> int:
        """Utterances that can be under way together; beyond, `transcribe` makes them wait."""
        ...

    def load(self, language: str | None = None) -> None:
        """Load the model ahead of its first use, fetching it if need be. Blocks.

        Args:
            language: What will be spoken, where the engine warms up for one.

        Raises:
            UnavailableError: It is not here and cannot be fetched.
            EngineError: It cannot be used.
        """
        ...

    def transcribe(self, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        """Recognise the speech in `pcm`.

        Runs in a worker thread and may block. Once `stop` is set it returns what it has.

        Args:
            pcm: Signed 16-bit little-endian mono samples at `SAMPLE_RATE`.
            language: ISO 639-1 code of the speech, or None to let the engine tell.
            stop: Set by the caller to end recognition early.

        Raises:
            EngineError: Recognition failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds, a process of its own included."""
        ...
