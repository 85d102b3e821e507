"""Hears through an engine of this process."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event

from loguru import logger

from services.errors import EngineError
from services.stt.engine import HearingEngine, Transcript

_END_LIMIT_S = 2.0
# How long `close` waits for threads to leave the engine.


class LocalHearing:
    """A `Hearing` whose engine runs in this process, each utterance in a thread of a pool."""

    def __init__(self, engine: HearingEngine, *, threads: int = 32) -> None:
        """Hear through `engine`.

        Args:
            engine: What hears; closed with this.
            threads: Utterances that can be under way together, those that the engine makes wait
                and those that it does not give back included; more wait.
        """
        self._engine = engine
        self._pool = ThreadPoolExecutor(threads, "hearing")
        self._utterances: dict[Future[Transcript], asyncio.Future[Transcript]] = {}
        self._closed = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """Recognise the speech in `pcm`; see `Hearing.transcribe`.

        Args:
            pcm: Signed 16-bit little-endian mono samples at `services.stt.engine.SAMPLE_RATE`.
            language: ISO 639-1 code of the speech, or None to let the engine tell.

        Raises:
            EngineError: Recognition failed, or this was closed.
            Exception: Whatever else the engine raises.
        """
        if self._closed:
            raise EngineError(f"{self.name} was closed")
        stop = Event()
        thread = self._pool.submit(self._engine.transcribe, pcm, language, stop)
        answer = self._utterances[thread] = asyncio.wrap_future(thread)
        thread.add_done_callback(self._utterances.pop)
        try:
            return await answer
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            # Not whoever asks was cancelled, but `close` the answer.
            raise EngineError(f"{self.name} was closed") from None
        finally:
            stop.set()

    async def close(self) -> None:
        """End what is being recognised, see the threads out of the engine, and close it."""
        if self._closed:
            return
        self._closed = True
        for answer in list(self._utterances.values()):
            answer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        # What had no thread yet is gone from here by now.
        _, late = await asyncio.to_thread(wait, list(self._utterances), _END_LIMIT_S)
        if late:
            logger.warning(f"{self.name} does not stop when told to")
        await asyncio.to_thread(self._engine.close)
