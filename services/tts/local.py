"""Speaks through an engine of this process."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Condition, Event

from loguru import logger

from services.errors import EngineError
from services.tts.engine import Chunk, SpeechEngine, VoiceInfo

SILENCE_LIMIT_S = 20.0
"""Seconds that an engine may take for a chunk, loading its voice included."""

AHEAD_LIMIT_S = 30.0
"""Seconds of audio that wait for a reader before the engine does."""

_END_LIMIT_S = 2.0
# How long `close` waits for threads to leave the engine.


class LocalSpeech:
    """A `Speech` whose engine runs in this process, each utterance in a thread of a pool.

    An utterance is computed ahead of its reader, up to `AHEAD_LIMIT_S`, and holds its thread until
    the last chunk is computed. Where the engine speaks one utterance at a time, there is no limit:
    others would wait for that reader too.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        *,
        threads: int = 32,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        """Speak through `engine`.

        Args:
            engine: What speaks; closed with this.
            threads: Utterances that can be under way together; more wait.
            silence_limit_s: Seconds without a chunk after which the engine has failed, those spent
                waiting for a thread included.
        """
        self._engine = engine
        self._pool = ThreadPoolExecutor(threads, "speech")
        self._ahead_limit_s = AHEAD_LIMIT_S if engine.at_once > 1 else math.inf
        self._silence_limit_s = silence_limit_s
        self._utterances: dict[_Utterance, Future[None]] = {}
        self._closed = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The engine's voices, the default one first."""
        return self._engine.voices()

    async def speak(self, text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        """Speak `text`; see `Speech.speak`.

        Args:
            text: What to say.
            voice: A name out of `voices`; empty for the default one.
            speed: 1.0 is the voice's own pace; within `SPEED_LIMITS`.

        Yields:
            The engine's chunks.

        Raises:
            EngineError: The engine gave nothing for too long, or this was closed.
            Exception: Whatever the engine raises.
        """
        if self._closed:
            raise EngineError(f"{self.name} was closed")
        utterance = _Utterance(self._ahead_limit_s)
        self._utterances[utterance] = self._pool.submit(
            utterance.compute, self._engine, text, voice, speed
        )
        self._utterances[utterance].add_done_callback(lambda _: self._utterances.pop(utterance))
        try:
            while (chunk := await utterance.next(self._silence_limit_s)) is not None:
                yield chunk
        finally:
            utterance.end(None)

    async def close(self) -> None:
        """End what is being spoken, see the threads out of the engine, and close it."""
        if self._closed:
            return
        self._closed = True
        for utterance in list(self._utterances):
            utterance.end(EngineError(f"{self.name} was closed"))
        self._pool.shutdown(wait=False, cancel_futures=True)
        # What had no thread yet is gone from here by now.
        threads = list(self._utterances.values())
        _, late = await asyncio.to_thread(wait, threads, _END_LIMIT_S)
        if late:
            logger.warning(f"{self.name} does not stop when told to")
        await asyncio.to_thread(self._engine.close)


class _Utterance:
    """One text on its way from the engine, in a thread, to its reader on the event loop."""

    def __init__(self, ahead_limit_s: float) -> None:
        self._ahead_limit_s = ahead_limit_s
        self._loop = asyncio.get_running_loop()
        self._stop = Event()
        self._changed = Condition()
        self._news = asyncio.Event()
        self._chunks: deque[Chunk] = deque()
        self._ahead_s = 0.0
        self._over = False
        self._error: Exception | None = None

    def compute(self, engine: SpeechEngine, text: str, voice: str, speed: float) -> None:
        """Run the engine; in a thread."""
        error: Exception | None = None
        try:
            if not self._stop.is_set():
                self._speak(engine.speak(text, voice, speed, self._stop))
        except Exception as e:
            error = e
        except BaseException as e:  # A panic in Rust, for one.
            error = EngineError(repr(e))
        if error is not None and self._stop.is_set():
            logger.warning(f"{engine.name}: {error!r} in a text that was stopped")
        self.end(error)

    def _speak(self, chunks: Iterator[Chunk]) -> None:
        while True:
            chunk = next(chunks, None)
            if chunk is None or self._stop.is_set():
                return
            seconds = _seconds(chunk)
            with self._changed:
                self._chunks.append(chunk)
                self._ahead_s += seconds
            self._tell()
            if self._ahead_s >= self._ahead_limit_s:
                with self._changed:
                    self._changed.wait_for(self._wanted)

    def _wanted(self) -> bool:
        return self._stop.is_set() or self._ahead_s < self._ahead_limit_s

    async def next(self, limit_s: float) -> Chunk | None:
        """The next chunk; None after the last.

        Raises:
            EngineError: None came for `limit_s` seconds.
            Exception: Whatever the engine raised, after its last chunk.
        """
        while True:
            self._news.clear()
            with self._changed:
                if self._chunks:
                    chunk = self._chunks.popleft()
                    self._ahead_s -= _seconds(chunk)
                    self._changed.notify()
                    return chunk
                if self._error is not None:
                    raise self._error
                if self._over:
                    return None
            try:
                async with asyncio.timeout(limit_s):
                    await self._news.wait()
            except TimeoutError:
                raise EngineError(f"no audio for {limit_s:g} s") from None

    def end(self, error: Exception | None) -> None:
        """Compute no more. What is computed can still be read, and `error` after it."""
        with self._changed:
            if self._over:
                return
            self._over = True
            self._error = error
            self._stop.set()
            self._changed.notify()
        self._tell()

    def _tell(self) -> None:
        """Have the reader look, if it is waiting."""
        if not self._news.is_set():
            self._loop.call_soon_threadsafe(self._news.set)


def _seconds(chunk: Chunk) -> float:
    return len(chunk.pcm) / 2 / chunk.sample_rate
