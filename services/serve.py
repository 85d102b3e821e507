"""What every server of the project does alike: listen early, log to the terminal, stop in order."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from loguru import logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from starlette.types import ASGIApp

from services.settings import SettingsError
from services.tts.voices import Progress as FetchProgress

if TYPE_CHECKING:
    import loguru

MAX_LOG_CHARACTERS = 2000
"""The longest message that is logged: some quote what a caller sent."""


def log_to_stderr(level: str) -> None:
    """Log to the terminal, Pipecat's own steps only where the level is debug."""
    logger.remove()
    logger.configure(patcher=_shorten)
    logger.add(
        sys.stderr,
        level=level.upper(),
        format="{time:HH:mm:ss.SSS} {level: <7} {name}: {message}",
        filter=None if level == "debug" else {"pipecat": "WARNING"},
        # It writes variables' values, secrets among them.
        diagnose=False,
        backtrace=False,
    )


def _shorten(record: "loguru.Record") -> None:
    record["message"] = record["message"][:MAX_LOG_CHARACTERS]


def listen(host: str, port: int) -> socket.socket:
    """Take the address before models are loaded, so that a port in use costs no wait.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.

    Raises:
        SettingsError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By the protocol asyncio knows a TCP connection, for which it turns Nagle's algorithm off: a
    # frame of audio right behind another would else wait for the peer's delayed ACK, some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Without it another process could bind the same port. Who connects waits for the models.
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"--port {port} on --host {host}: {str(error.strerror).lower()}; "
            "choose another, or --port 0 for a free one"
        ) from None
    return listener


@contextmanager
def progress() -> Iterator[FetchProgress]:
    """A bar for each file that is fetched.

    Yields:
        A function to call with a file's name, the bytes had and the bytes in all; safe in threads.
    """
    columns = (
        TextColumn("fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(highlight=False, markup=False)) as bars:
        tasks = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total or None)
            bars.update(tasks[name], completed=done, total=total or None)

        yield report


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    ready: Callable[[], None],
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Serve until SIGINT or SIGTERM, then let what goes on come to its end.

    Args:
        app: What answers.
        listener: Where.
        ready: Called once signals are handled.
        drain: Called after the first signal, before the server stops. A second signal stops it
            at once.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Server(uvicorn.Server):
        """Leaves the first signal to what goes on, which ends before the server does."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if stop.is_set():
                super().handle_exit(sig, frame)
            loop.call_soon_threadsafe(stop.set)

    server = Server(
        uvicorn.Config(
            app,
            loop="asyncio",  # uvloop forks to spawn, which deadlocks against BLAS's own handlers.
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            ws_max_size=1 << 20,
            ws_per_message_deflate=False,
        )
    )
    http = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="signal")
    draining = asyncio.ensure_future(_after(stopping, drain))
    try:
        while not (server.started or http.done()):  # noqa: ASYNC110 - uvicorn tells nobody.
            await asyncio.sleep(0.01)
        ready()
        await asyncio.wait({http, draining}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await http
    finally:
        for task in (stopping, draining):
            task.cancel()
        await asyncio.gather(stopping, draining, return_exceptions=True)


async def _after(first: Awaitable[object], then: Callable[[], Awaitable[None]]) -> None:
    await first
    await then()
