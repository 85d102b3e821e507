"""Where a call's speech is recognised: by an engine of this process, or a worker's."""

from typing import Protocol

from services.stt.engine import Transcript


class Hearing(Protocol):
    """Hears for calls, many at once."""

    @property
    def name(self) -> str:
        """The engine's name, or what the workers are called together."""
        ...

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """Recognise the speech in `pcm`. Cancelling whoever waits for it ends recognition.

        Args:
            pcm: Signed 16-bit little-endian mono samples at `services.stt.engine.SAMPLE_RATE`.
            language: ISO 639-1 code of the speech, or None to let the engine tell.

        Raises:
            BusyError: It cannot be had now.
            EngineError: Recognition failed.
        """
        ...

    async def close(self) -> None:
        """Let go of threads, processes and connections."""
        ...
