"""Waiting for a place in a worker that is full."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.errors import BusyError

T = TypeVar("T")

PATIENCE_S = 30.0
"""Seconds that what goes on waits for its next place: each sentence of a text that is being written
and each piece of a recording takes one anew, so that none keeps others waiting for long. What only
begins does not wait: whoever asks can ask elsewhere."""

RETRY_S = 0.2
"""How often it tries meanwhile."""


async def patiently(work: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What `work` returns, once the worker has a place for it.

    Args:
        work: Called until it raises no BusyError.
        seconds: How long.

    Raises:
        BusyError: There was no place in all that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except BusyError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(RETRY_S)
