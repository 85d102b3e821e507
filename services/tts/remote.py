"""Speech from workers, whichever can speak at the moment."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection

from loguru import logger

from services.errors import BusyError, EngineError, UnknownVoiceError
from services.tts.engine import Chunk, VoiceInfo, check_speed
from services.tts.pieces import pieces
from services.tts.playout import Part, Playout, Rest
from services.tts.speech import Speech
from services.worker import protocol
from services.worker.client import WorkerClient
from services.worker.pool import WorkerPool

FIRST_AUDIO_LIMIT_S = 2.0
"""Seconds that a worker may take for an utterance's first audio, and between chunks."""

WORKER_LIMIT_S = 5.0
"""Seconds that an utterance waits for any worker to be free, where there is no fallback."""

MOST_FAILURES = 3
"""Failures in a row, without a word between, after which no further worker is tried."""


class SilentError(EngineError):
    """It accepted an utterance and gives no audio."""


class RemoteSpeech:
    """Speaks through workers; see `Speech`.

    An utterance whose worker dies, fails, is full or falls silent goes on with another worker, or
    with the fallback, from the first word that was not passed on.
    """

    name = "workers"

    def __init__(
        self,
        pool: WorkerPool,
        *,
        fallback: Speech | None = None,
        first_audio_limit_s: float = FIRST_AUDIO_LIMIT_S,
        worker_limit_s: float = WORKER_LIMIT_S,
    ) -> None:
        """Speak through `pool`, which is closed with this.

        Args:
            pool: The workers, started.
            fallback: What speaks when no worker can.
            first_audio_limit_s: Seconds without audio after which a worker is left.
            worker_limit_s: Seconds to wait for a worker, where there is no fallback.
        """
        self._pool = pool
        self._fallback = fallback
        self._silence_s = first_audio_limit_s
        self._worker_s = worker_limit_s

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The workers' voices as `ENGINE/NAME`; the fallback's while there are none."""
        return self._pool.voices() or (self._fallback.voices() if self._fallback else ())

    async def speak(self, text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        """See `Speech.speak`. A voice that is gone is replaced by the one that comes closest.

        Raises:
            BusyError: No worker was free in time.
            EngineError: Those that were tried failed.
        """
        check_speed(speed)
        playout = Playout()
        # Half an emoji, in which a model's stream may end, is nothing that can be sent.
        for piece in pieces(text.encode("utf-8", "replace").decode(), protocol.MAX_TEXT):
            async with contextlib.aclosing(
                self._finish(Rest(piece), playout, voice, speed)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _finish(
        self, rest: Rest, playout: Playout, voice: str, speed: float
    ) -> AsyncGenerator[Chunk, None]:
        """Speak the rest of a text, by as many workers as it takes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._worker_s
        avoid: set[str] = set()
        failures: list[EngineError] = []
        while rest.text and len(failures) < MOST_FAILURES:
            client = await self._next(voice, avoid, deadline)
            if client is None:
                break
            before = playout.passed_s
            speaking = client.speak(rest.text, self._pool.voice_at(client, voice), speed)
            try:
                async with contextlib.aclosing(
                    self._pass_on(speaking, Part(playout, rest))
                ) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except BusyError:
                client.full()
            except EngineError as error:
                logger.warning("worker {}: {}; going on elsewhere", client.url, error)
                if not isinstance(error, UnknownVoiceError):
                    client.blame()
                if playout.passed_s > before:
                    failures.clear()
                    avoid.clear()
                failures.append(error)
                avoid.add(client.url)
                deadline = loop.time() + self._worker_s
        if not rest.text:
            return
        if self._fallback is None:
            raise failures[-1] if failures else BusyError("no worker is free, or none is there")
        logger.info("speaking with the fallback, {}", self._fallback.name)
        part = Part(playout, rest)
        async with contextlib.aclosing(self._fallback.speak(rest.text, "", speed)) as spoken:
            async for chunk in spoken:
                for ready in part.take(chunk):
                    yield ready
        for ready in part.flush():
            yield ready

    async def _next(
        self, voice: str, avoid: Collection[str], deadline: float
    ) -> WorkerClient | None:
        """The worker to ask; None where it is the fallback's turn, or nobody's."""
        while True:
            client = self._pool.choose("speak", voice, avoid)
            if self._fallback is not None:
                return client if client is not None and not client.blamed else None
            # Without a fallback, one that has failed is better than none.
            client = client or self._pool.choose("speak", voice)
            left = deadline - asyncio.get_running_loop().time()
            if client is not None or left <= 0:
                return client
            # Some become free by the clock alone.
            await self._pool.wait_for_change(min(left, 0.1))

    async def close(self) -> None:
        """See `Speech.close`."""
        await self._pool.close()
        if self._fallback is not None:
            await self._fallback.close()

    async def _pass_on(
        self, speaking: AsyncGenerator[Chunk, None], part: Part
    ) -> AsyncGenerator[Chunk, None]:
        """What comes of `speaking`, as soon as it may be passed on.

        Raises:
            SilentError: Nothing came for too long.
        """
        coming: asyncio.Task[Chunk] | None = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._silence_s
        try:
            while True:
                coming = asyncio.ensure_future(anext(speaking))
                while not coming.done():
                    left = deadline - loop.time()
                    if left <= 0:
                        raise SilentError(f"no audio for {self._silence_s:g} s")
                    patience = part.patience_s
                    await asyncio.wait(
                        {coming}, timeout=left if patience is None else min(left, patience)
                    )
                    if not coming.done() and part.patience_s == 0:
                        for piece in part.flush():
                            yield piece
                try:
                    chunk = coming.result()
                except StopAsyncIteration:
                    break
                if chunk.pcm:
                    deadline = loop.time() + self._silence_s
                for piece in part.take(chunk):
                    yield piece
            for piece in part.flush():
                yield piece
        finally:
            if coming is not None:
                coming.cancel()
                # Also fetches what it may have ended with, which nobody else will.
                await asyncio.gather(coming, return_exceptions=True)
            await speaking.aclose()
