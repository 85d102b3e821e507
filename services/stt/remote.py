"""Hearing by workers, whichever can hear at the moment."""

import asyncio

from loguru import logger

from services.errors import BusyError, EngineError
from services.stt.engine import Transcript
from services.worker.pool import WorkerPool

WORKER_LIMIT_S = 5.0
"""Seconds that an utterance waits for any worker to be free."""

MOST_FAILURES = 3
"""Workers that are tried for one utterance."""


class RemoteHearing:
    """Hears through workers; see `Hearing`. An utterance whose worker fails goes to another."""

    name = "workers"

    def __init__(
        self,
        pool: WorkerPool,
        *,
        worker_limit_s: float = WORKER_LIMIT_S,
    ) -> None:
        """Hear through `pool`, which is closed with this.

        Args:
            pool: The workers, started.
            worker_limit_s: Seconds to wait for a worker.
        """
        self._pool = pool
        self._worker_s = worker_limit_s

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """See `Hearing.transcribe`.

        Raises:
            BusyError: No worker was free in time.
            EngineError: Those that were tried failed.
        """
        avoid: set[str] = set()
        failures: list[EngineError] = []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._worker_s
        while len(failures) < MOST_FAILURES:
            client = self._pool.choose("transcribe", avoid=avoid)
            # One that has failed is better than none.
            client = client or self._pool.choose("transcribe")
            if client is None:
                left = deadline - loop.time()
                if left <= 0:
                    break
                await self._pool.wait_for_change(min(left, 0.1))
                continue
            try:
                return await client.transcribe(pcm, language)
            except BusyError:
                client.full()
            except EngineError as error:
                logger.warning("worker {}: {}; asking elsewhere", client.url, error)
                client.blame()
                failures.append(error)
                avoid.add(client.url)
        raise failures[-1] if failures else BusyError("no worker is free, or none is there")

    async def close(self) -> None:
        """See `Hearing.close`."""
        await self._pool.close()
