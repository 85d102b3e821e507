"""Runs a server script with a probe in its event loop.

    BENCH_LAG=lag.bin python -m bench.probe bot/main.py --port 7860

Any script will do that serves with uvicorn, in whatever loop: the probe is set up where
`uvicorn.Server` begins to serve, which both sides do. It is a timer that asks to be called every
`PERIOD` seconds and notes how late that was; whatever holds the loop up makes it late. Each note
goes to the file at once, for a server that SIGTERM ends may get no chance to write at its end.
"""

import asyncio
import os
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Any

PERIOD = 0.005
"""Seconds between the calls. Hold-ups shorter than that show at their share of the time."""

RECORD = struct.Struct("dd")
"""When the call was due, in seconds of `time.monotonic()`, and how many seconds late it came."""

VARIABLE = "BENCH_LAG"
"""The environment variable that names the file."""


def read(path: Path, start: float, end: float) -> list[float]:
    """The lateness of the calls that were due between two times, in seconds.

    Args:
        path: The file that the probe writes.
        start: In seconds of `time.monotonic()`, which on Linux all processes share.
        end: Likewise.
    """
    data = path.read_bytes()
    whole = data[: len(data) // RECORD.size * RECORD.size]
    return [late for due, late in RECORD.iter_unpack(whole) if start <= due < end]


def _watch(loop: asyncio.AbstractEventLoop, file: int) -> None:
    """Call back every `PERIOD` seconds for as long as the loop lives."""

    def tick(due: float) -> None:
        # Not the loop's own clock: uvloop's stands still while callbacks run.
        now = time.monotonic()
        os.write(file, RECORD.pack(due, now - due))
        # From now, not from when it was due: one hold-up is to count once.
        loop.call_later(PERIOD, tick, now + PERIOD)

    loop.call_soon(tick, time.monotonic())


def _main() -> None:
    # Here, since whoever only reads what a probe wrote needs no server.
    import uvicorn

    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    serve = uvicorn.Server.serve

    async def watched(self: uvicorn.Server, *args: Any, **kwargs: Any) -> None:
        _watch(asyncio.get_running_loop(), file)
        await serve(self, *args, **kwargs)

    uvicorn.Server.serve = watched  # type: ignore[method-assign]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _main()
