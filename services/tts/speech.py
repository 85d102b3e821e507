"""Where a call's words are spoken: an engine of this process, or a worker's.

A pipeline, a worker's HTTP side and a Wyoming server all speak through this, and cannot tell which.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.tts.engine import Chunk, VoiceInfo


class Speech(Protocol):
    """Speaks for calls, many at once."""

    @property
    def name(self) -> str:
        """The engine's name, or what the workers are called together."""
        ...

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that can be spoken with now, the default one first. Never blocks."""
        ...

    def speak(self, text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        """Speak `text`, chunk by chunk, as soon as each can be had.

        Closing the generator, or cancelling whoever reads it, ends synthesis within one chunk and
        waits for nothing. A slow reader holds back its own utterance only.

        Args:
            text: What to say, in plain words.
            voice: A name out of `voices`; empty for the default one.
            speed: 1.0 is the voice's own pace, 2.0 twice as fast; within `SPEED_LIMITS`.

        Yields:
            Audio and words in order. Text without anything to say yields nothing.

        Raises:
            UnknownVoiceError: There is no such voice.
            BusyError: It cannot be had now; the message says for how long it was tried.
            EngineError: Synthesis failed, or gave nothing for too long.
        """
        ...

    async def close(self) -> None:
        """Let go of threads and connections; what is being spoken ends."""
        ...
