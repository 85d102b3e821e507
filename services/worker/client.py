"""A bot's end of a `parley.v1` socket: one worker, reconnected for as long as it is wanted."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from loguru import logger
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from services.errors import BusyError, EngineError, UnknownVoiceError
from services.stt.engine import Transcript
from services.tts.engine import Chunk, Word
from services.worker import protocol

FIRST_BACKOFF_S = 0.2
LAST_BACKOFF_S = 2.0
"""Seconds before the first and, doubled each time, between later attempts to connect."""

STEADY_S = 5.0
"""Seconds that a connection has to last for the next attempt to be a first one."""

FIRST_BLAME_S = 1.0
LAST_BLAME_S = 30.0
"""Seconds for which one that failed comes last in every choice, doubled each time."""

BUSY_S = 0.1
"""Seconds for which one that says that it is full is not asked: its lease tells a little later."""

CONNECT_LIMIT_S = 2.0
"""Seconds that connecting may take, handshake included."""

LONGEST_S = 7200.0
"""Seconds that no utterance lasts."""

PING_S = 1.0
PONG_LIMIT_S = 3.0
"""How often a worker is asked whether it lives, and for how long it may not answer."""

UPLOAD_FRAME = 1 << 16
"""Bytes of audio in a frame."""


class WorkerGoneError(EngineError):
    """The worker went away, or does not answer; another can do what it was asked."""


class WorkerClient:
    """One worker: its socket, which all calls share, and what it last said of itself."""

    def __init__(self, url: str, token: str | None, on_change: Callable[[], None]) -> None:
        """Set up; `run` connects.

        Args:
            url: Where its WebSocket is, `ws://host:port`.
            token: What it wants to be shown; None where it wants nothing.
            on_change: Called whenever `lease` has changed. Must not block.
        """
        self.url = url
        self.lease: protocol.Lease | None = None
        """What it last said of itself; None while it cannot be reached."""
        self._blamed_until = 0.0
        self._full_until = 0.0
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Queue[_Reply]] = {}
        self._outbox: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._failures = 0

    @property
    def load(self) -> float:
        """How busy it is: 0 is idle, 1 full. Ours that it has not told of yet are counted."""
        if self.lease is None:
            return 1.0
        return max(self.lease.calls, len(self._replies)) / self.lease.capacity

    @property
    def usable(self) -> bool:
        """Whether it can take an utterance now."""
        return (
            self.lease is not None
            and not self.lease.draining
            and self.load < 1
            and time.monotonic() >= self._full_until
        )

    @property
    def blamed(self) -> bool:
        """Whether it failed an utterance not long ago: others are better."""
        return time.monotonic() < self._blamed_until

    def blame(self) -> None:
        """Note that it failed an utterance; it counts for longer each time in a row."""
        wait = min(FIRST_BLAME_S * 2 ** min(self._failures, 16), LAST_BLAME_S)
        self._failures += 1
        self._blamed_until = time.monotonic() + wait

    def full(self) -> None:
        """Note that it has just said that it is full."""
        self._full_until = time.monotonic() + BUSY_S

    async def run(self) -> None:
        """Stay connected until cancelled."""
        backoff = FIRST_BACKOFF_S
        complained = ""
        while True:
            try:
                async with connect(
                    self.url,
                    subprotocols=[protocol.SUBPROTOCOL],  # type: ignore[list-item]  # A NewType of str.
                    additional_headers=self._headers,
                    compression=None,
                    open_timeout=CONNECT_LIMIT_S,
                    close_timeout=CONNECT_LIMIT_S,
                    ping_interval=PING_S,
                    ping_timeout=PONG_LIMIT_S,
                    max_size=protocol.MAX_MESSAGE,
                    # Workers are neighbours: a proxy in the environment is for the world outside.
                    proxy=None,
                ) as socket:
                    began = time.monotonic()
                    try:
                        await self._serve(socket)
                    finally:
                        if time.monotonic() - began >= STEADY_S:
                            backoff, complained = FIRST_BACKOFF_S, ""
                        # Before the closing handshake, which can take `CONNECT_LIMIT_S`.
                        self._lost()
                problem = "it closed the socket"
            except InvalidStatus as error:
                status = error.response.status_code
                problem = f"HTTP {status}"
                if status in (401, 403):
                    problem += ": set PARLEY_WORKER_TOKEN to the worker's"
            # ValueError: an address that cannot be one, by its port or its name.
            except (
                OSError,
                TimeoutError,
                ValueError,
                WebSocketException,
                protocol.ProtocolError,
            ) as error:
                problem = str(error) or type(error).__name__
            finally:
                self._lost()
            if problem != complained:
                complained = problem
                logger.warning("worker {}: {}; trying again", self.url, problem)
            # Spread, so that a fleet of bots does not return to a worker in one moment.
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))
            backoff = min(2 * backoff, LAST_BACKOFF_S)

    async def speak(self, text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        """Speak `text`; see `Speech.speak`.

        Raises:
            WorkerGoneError: The worker went away.
        """
        number = next(self._numbers)
        async with self._utterance(number) as replies:
            self._put(protocol.Speak(id=number, text=text, voice=voice, speed=speed))
            rate = 0
            words: tuple[Word, ...] = ()
            while True:
                match await replies.get():
                    case protocol.Begin(sample_rate=rate):
                        pass
                    case protocol.Words(words=timed):
                        # Not so for NaN either.
                        if not all(0 <= w.start <= w.end <= LONGEST_S for w in timed):
                            raise EngineError(f"worker {self.url} tells impossible times")
                        words += timed
                    case bytes() as pcm if rate:
                        yield Chunk(pcm, rate, words)
                        words = ()
                    case protocol.End():
                        self._failures = 0
                        return
                    case other:
                        self._raise(other)

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """Recognise `pcm`, the last `protocol.MAX_AUDIO` of it; see `Hearing.transcribe`.

        Raises:
            WorkerGoneError: The worker went away.
            EngineError: Recognition failed.
        """
        # The latest is what a caller who spoke for so long waits an answer to.
        pcm = pcm[-protocol.MAX_AUDIO :]
        number = next(self._numbers)
        async with self._utterance(number) as replies:
            self._put(protocol.Transcribe(id=number, bytes=len(pcm), language=language))
            for start in range(0, len(pcm), UPLOAD_FRAME):
                self._put(protocol.pack_audio(number, pcm[start : start + UPLOAD_FRAME]))
            match await replies.get():
                case protocol.Heard(segments=segments, language=found):
                    self._failures = 0
                    return Transcript(segments, found)
                case other:
                    self._raise(other)
        raise AssertionError("not reached")

    @contextlib.asynccontextmanager
    async def _utterance(self, number: int) -> AsyncGenerator[asyncio.Queue["_Reply"], None]:
        """Where the worker's replies to an utterance come; it is cancelled unless it is over."""
        if self.lease is None:
            raise WorkerGoneError(f"worker {self.url} is not connected")
        replies: asyncio.Queue[_Reply] = asyncio.Queue()
        self._replies[number] = replies
        try:
            yield replies
        finally:
            if self._replies.pop(number, None) is not None and self.lease is not None:
                self._put(protocol.Cancel(id=number))
            self._on_change()

    def _put(self, message: protocol.Message | bytes) -> None:
        self._outbox.put_nowait(
            message if isinstance(message, bytes) else message.model_dump_json()
        )

    async def _serve(self, socket: ClientConnection) -> None:
        """Carry messages both ways until the socket closes."""
        self._outbox = asyncio.Queue()
        sending = asyncio.create_task(_send_all(socket, self._outbox))
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    number, pcm = protocol.unpack_audio(message)
                    if (replies := self._replies.get(number)) is not None:
                        replies.put_nowait(pcm)
                else:
                    self._take(protocol.parse_reply(message))
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, WebSocketException):
                await sending

    def _take(self, reply: Any) -> None:
        match reply:
            case protocol.Lease():
                if self.lease is None:
                    logger.info("worker {}: connected, {}", self.url, reply.engine or reply.hears)
                self.lease = reply
                self._on_change()
            case protocol.Draining():
                if self.lease is not None:
                    self.lease = self.lease.model_copy(update={"draining": True})
                    self._on_change()
            case protocol.Error(id=None, message=message):
                logger.warning("worker {}: {}", self.url, message)
            case protocol.Pong():
                pass
            case _:
                if (replies := self._replies.get(reply.id)) is not None:
                    replies.put_nowait(reply)
                    if not isinstance(reply, protocol.Begin | protocol.Words):
                        del self._replies[reply.id]

    def _lost(self) -> None:
        """The socket is gone, and with it what was under way."""
        if self.lease is None:
            return
        self.lease = None
        for replies in self._replies.values():
            replies.put_nowait(WorkerGoneError(f"worker {self.url} went away"))
        self._replies.clear()
        self._on_change()

    def _raise(self, reply: "_Reply") -> None:
        match reply:
            case WorkerGoneError():
                raise reply
            case protocol.Busy(message=message):
                raise BusyError(f"worker {self.url}: {message}")
            case protocol.Error(code="unknown-voice", message=message):
                raise UnknownVoiceError(message)
            case protocol.Error(message=message):
                raise EngineError(message)
            case _:
                raise EngineError(f"worker {self.url} breaks the protocol: {reply!r:.100}")


_Reply = (
    bytes
    | protocol.Begin
    | protocol.Words
    | protocol.End
    | protocol.Heard
    | protocol.Busy
    | protocol.Error
    | WorkerGoneError
)


async def _send_all(socket: ClientConnection, outbox: asyncio.Queue[str | bytes]) -> None:
    while True:
        await socket.send(await outbox.get())
