"""What every server of the project does alike: listen early, log to the terminal, stop in order."""

import asyncio
import fcntl
import logging
import re
import socket
import sys
import termios
from collections.abc import Awaitable, Callable, Collection, Iterator
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.reach import network_of, within_networks
from services.settings import SettingsError
from services.tts.voices import Progress as FetchProgress

if TYPE_CHECKING:
    import loguru

MAX_LOG_CHARACTERS = 2000
"""The longest message that is logged: some quote what a caller sent."""

REQUEST_SECONDS = 10.0
"""How long a peer may take to send a request's headers, or the rest of one that was answered."""

READ_SECONDS = 30.0
"""How often a peer is looked at for whom some of an answer waits."""

READ_BYTES = 16 * 1024
"""What it has to have taken of that by then: half a kilobyte a second."""

MAX_CONNECTIONS = 500
"""Connections that speak HTTP at once, WebSockets aside: each takes a file descriptor."""

MAX_CONNECTIONS_OF_ONE = 100
"""Those of one network address."""

_GAP = r"[ ().\-/\u00a0\u202f\u2010-\u2015]{0,2}"
"""What people put between the groups of a telephone number."""

_PRIVATE = (
    # What was pressed on a telephone, as turns, frames, tools and Vonage's serializer show it, and
    # the transports of rooms in several fields: a card's number.
    (re.compile(r"(DTMF: |tone: |buttons: |\b(?:digits?|keys)\W{1,9})[\d*#]+"), r"\1***"),
    (re.compile(r"(DTMF event: ).*"), r"\1***"),
    # Bearer tokens, JSON Web Tokens, and what addresses carry in their query.
    (re.compile(r"(?i)\b(bearer\s+)[^\s,;'\"]+"), r"\1***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),
    (
        re.compile(r"(?i)([?&](?:t|\w*(?:token|key|secret|signature|password))=)[^\s&#'\"]+"),
        r"\1***",
    ),
    # What may be a telephone number: E.164 allows 15 digits. With a plus it may be in groups. In an
    # address it follows %2B, and in names of LiveKit's rooms and participants it stands between
    # underscores.
    (
        re.compile(
            r"(?:(?<![^\W_])(?<!\.)|(?<=%[\dA-Fa-f]{2}))"
            rf"(?:\+?\d{{8,13}}|\+\d(?:{_GAP}\d){{3,12}}{_GAP})(?=\d\d(?![^\W_]))"
        ),
        "***",
    ),
)


_EVERY_CALL = (
    "No screen video transceiver is available",
    "Media stream error while reading the audio; clearing track.",
)
"""What Pipecat warns of in each call from a browser: it shows no screen, and it has hung up."""


def log_to_stderr(level: str, secrets: Collection[str] = ()) -> None:
    """Log to the terminal, Pipecat's own steps only where the level is debug.

    No line shows a secret, a token or a telephone number whole, whoever wrote it.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        secrets: What is left out wherever it stands.
    """

    def write(line: str) -> None:
        sys.stderr.write(without_secrets(line, secrets))

    logger.remove()
    logger.configure(patcher=_shorten)
    logger.add(
        write,
        level=level.upper(),
        format="{time:HH:mm:ss.SSS} {level: <7} {name}: {message}",
        filter=None if level == "debug" else _is_of_use,
        # It writes variables' values, secrets among them.
        diagnose=False,
        backtrace=False,
    )
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


class _ToLoguru(logging.Handler):
    """Has what libraries log the standard way written like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        def name(line: "loguru.Record") -> None:
            line["name"] = record.name

        plain = logger.patch(name).opt(exception=record.exc_info)
        plain.log(record.levelname, "{}", record.getMessage())


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """A text with `***` for secrets, for what looks like a token, and for most of a number.

    Args:
        text: What is to be logged.
        secrets: Secrets that are known.
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    for pattern, stars in _PRIVATE:
        text = pattern.sub(stars, text)
    return text


def _is_of_use(record: "loguru.Record") -> bool:
    if (record["name"] or "").partition(".")[0] != "pipecat":
        return True
    return record["level"].no >= logging.WARNING and record["message"] not in _EVERY_CALL


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
    proxies: Collection[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM, then let what goes on come to its end.

    Args:
        app: What answers.
        listener: Where.
        ready: Called once signals are handled.
        drain: Called after the first signal, before the server stops. A second signal stops it
            at once.
        proxies: Networks of proxies, from which many callers' connections come.
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
            http=connection(proxies),
            # Whom a server may believe is for its application to say.
            proxy_headers=False,
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


def connection(proxies: Collection[str]) -> type[H11Protocol]:
    """A connection that ends when its peer is too slow, or has too many of them.

    uvicorn waits without limit for a request's headers, for the rest of a body once the request
    was answered, and for an answer to be read: whoever sends or takes a byte now and then would
    keep a connection for good. h11 itself ends a connection whose headers are longer than 16 KiB.

    Args:
        proxies: Networks that may have more connections than one peer may.
    """

    class Connection(H11Protocol):
        network = ""
        deadline: asyncio.TimerHandle | None = None
        reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # Writing is paused, and this is told, as soon as anything has to wait for the peer.
            transport.set_write_buffer_limits(high=0)
            address = self.client[0] if self.client else ""
            self.network = network_of(address)
            everyone = [c for c in self.connections if isinstance(c, Connection)]
            neighbours = sum(c.network == self.network for c in everyone)
            crowd = neighbours > MAX_CONNECTIONS_OF_ONE and not within_networks(address, proxies)
            if crowd or len(everyone) > MAX_CONNECTIONS:
                logger.debug("a connection from {} too many", self.network)
                transport.abort()
            else:
                self.watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self.rest()
            self.resume_writing()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.await_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.reading is not None:
                self.reading.cancel()
                self.reading = None

        def await_reading(self) -> None:
            """Look again later whether the peer takes what waits for it."""

            def look() -> None:
                if _unread(self.transport) > enough:
                    self.transport.abort()
                else:
                    self.await_reading()

            enough = max(0, _unread(self.transport) - READ_BYTES)
            self.reading = self.loop.call_later(READ_SECONDS, look)

        def watch(self) -> None:
            """Give the peer its time while it is its move; that of a WebSocket is not watched."""
            upgraded = self.transport.get_protocol() is not self
            answering = self.cycle is not None and not self.cycle.response_complete
            if upgraded:
                self.resume_writing()
                self.transport.set_write_buffer_limits()
            if upgraded or answering:
                self.rest()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

        def rest(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Connection


def _unread(transport: asyncio.WriteTransport) -> int:
    """Bytes that wait for a peer, in the process and in the kernel, which holds megabytes."""
    held = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)


async def _after(first: Awaitable[object], then: Callable[[], Awaitable[None]]) -> None:
    await first
    await then()
