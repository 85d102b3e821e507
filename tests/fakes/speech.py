"""A `Hearing` that hears what a test tells it to, when the test lets it."""

import asyncio
from collections import deque
from dataclasses import dataclass

from services.stt.engine import Transcript


@dataclass
class Heard:
    """One call of `transcribe`.

    Attributes:
        pcm: What was to be recognised.
        language: The language asked for.
        cancelled: Whether whoever asked went away before the answer.
    """

    pcm: bytes
    language: str | None
    cancelled: bool = False


class FakeHearing:
    """A `Hearing` without an engine.

    It answers with the given answers in order: a transcript is returned, an exception raised. When
    they run out it hears nothing.

    Attributes:
        name: `ear`.
        requests: What was asked, in order.
        asked: Set whenever something is asked.
        free: Cleared by a test, it holds answers back.
    """

    name = "ear"

    def __init__(self, *answers: Transcript | Exception) -> None:
        """Make one with its answers."""
        self.requests: list[Heard] = []
        self.asked = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self._answers = deque(answers)

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """Hear as `Hearing.transcribe` says."""
        request = Heard(pcm, language)
        self.requests.append(request)
        self.asked.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            request.cancelled = True
            raise
        answer = self._answers.popleft() if self._answers else Transcript((), language)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing to let go of."""
