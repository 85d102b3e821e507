"""What a Wyoming client sends bit by bit: text to speak, and audio to listen to."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk
from wyoming.event import Eventable
from wyoming.wake import Detection, NotDetected

from services.stt.engine import SAMPLE_RATE
from services.stt.gate import listen
from services.stt.hearing import Hearing
from services.worker.patience import PATIENCE_S, patiently
from services.worker.protocol import MAX_TEXT
from services.worker.recordings import LONGEST_S, cut
from services.worker.wyoming_input import Mono, RequestError

if TYPE_CHECKING:
    from services.tts.clauses import ClauseTextAggregator
    from services.wake import WakeWordListener, WakeWords

MAX_MINUTES = 10.0
"""Minutes of audio to transcribe."""

FIRST_CLAUSE_WORDS = 4
"""Words of streamed text that are spoken ahead of their sentence; see `ClauseTextAggregator`."""

_LONGEST = 2 * round(LONGEST_S * SAMPLE_RATE)

Send = Callable[[Eventable], Awaitable[None]]
"""Sends the client an event."""


class StreamedText:
    """A text that comes while it is being written."""

    def __init__(self) -> None:
        """Begin."""
        self._parts: asyncio.Queue[str | None] = asyncio.Queue()
        self._length = 0

    def add(self, part: str) -> None:
        """Take more of it.

        Raises:
            RequestError: It is too long.
        """
        self._length += len(part)
        if self._length > MAX_TEXT:
            raise RequestError(f"the text is longer than {MAX_TEXT} characters")
        self._parts.put_nowait(part)

    def end(self) -> None:
        """There is no more."""
        self._parts.put_nowait(None)

    async def clauses(self) -> AsyncGenerator[str, None]:
        """What can be spoken, as soon as it can."""
        aggregator = await asyncio.to_thread(_aggregator)
        while (part := await self._parts.get()) is not None:
            async for clause in aggregator.aggregate(part):
                yield clause.text
        if rest := await aggregator.flush():
            yield rest.text


def _aggregator() -> "ClauseTextAggregator":
    """What finds the clauses. Blocks: it brings Pipecat, which nothing else here needs."""
    from services.tts.clauses import ClauseTextAggregator

    return ClauseTextAggregator(first_clause_words=FIRST_CLAUSE_WORDS)


class Ear(Protocol):
    """What the audio of a client is for."""

    async def take(self, chunk: AudioChunk) -> None:
        """Take the next audio."""

    async def finish(self) -> None:
        """There is no more."""


class Transcribing:
    """A recording that is transcribed: what is too long at once, piece by piece as it comes."""

    def __init__(self, hearing: Hearing, language: str | None, send: Send) -> None:
        """Begin.

        Args:
            hearing: What hears.
            language: ISO 639-1 code of the speech, or None to let the engine tell.
            send: For the answer.
        """
        self._hearing = hearing
        self._language = language
        self._send = send
        self._mono = Mono()
        self._pcm = bytearray()
        self._left = 2 * round(60 * MAX_MINUTES * SAMPLE_RATE)
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def take(self, chunk: AudioChunk) -> None:
        """Take the next audio."""
        await self._add(await asyncio.to_thread(self._mono.push, chunk))

    async def finish(self) -> None:
        """There is no more."""
        await self._add(self._mono.flush())
        self._pieces.put_nowait(bytes(self._pcm))
        self._pieces.put_nowait(None)

    async def _add(self, pcm: bytes) -> None:
        self._left -= len(pcm)
        if self._left < 0:
            raise RequestError(f"the audio is longer than {MAX_MINUTES:g} minutes")
        self._pcm += pcm
        if len(self._pcm) > _LONGEST:
            *complete, rest = await asyncio.to_thread(lambda: list(cut([bytes(self._pcm)])))
            self._pcm = bytearray(rest.pcm)
            for piece in complete:
                self._pieces.put_nowait(piece.pcm)

    async def answer(self) -> None:
        """Hear the pieces, and tell the client what is said in each, then in all."""
        text = ""
        patience = 0.0
        begun = False
        language = self._language
        while (piece := await self._pieces.get()) is not None:
            verdict = await patiently(
                partial(listen, self._hearing, piece, self._language), patience
            )
            patience = PATIENCE_S
            heard = verdict.transcript
            language = heard.language or language
            if not begun:
                begun = True
                await self._send(TranscriptStart(language=language))
            for segment in heard.segments:
                words = " ".join(segment.text.split())
                part = f" {words}" if text else words
                text += part
                await self._send(TranscriptChunk(part))
        await self._send(Transcript(text, language=language))
        await self._send(TranscriptStop())


class Detecting:
    """A stream in which wake words are listened for."""

    def __init__(self, wake: "WakeWords", names: list[str], send: Send) -> None:
        """Begin.

        Args:
            wake: What listens.
            names: The words; none for all.
            send: For what is heard.
        """
        self._wake = wake
        self._names = names
        self._send = send
        self._listener: WakeWordListener | None = None
        self._mono = Mono()
        self._ms = 0.0
        self._detected = False

    async def take(self, chunk: AudioChunk) -> None:
        """Take the next audio, and tell the client what is heard in it."""
        for name in await asyncio.to_thread(self._hear, chunk):
            self._detected = True
            began = chunk.timestamp if type(chunk.timestamp) is int else round(self._ms)
            await self._send(Detection(name=name, timestamp=began))
        self._ms += 1000 * chunk.seconds

    async def finish(self) -> None:
        """There is no more."""
        if not self._detected:
            await self._send(NotDetected())

    def _hear(self, chunk: AudioChunk) -> list[str]:
        """In a thread: the words that are heard."""
        if self._listener is None:
            self._listener = self._wake.listen(self._names)
        return [found.name for found in self._listener.hear(self._mono.push(chunk))]
