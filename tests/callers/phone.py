"""A telephone call over a carrier's media socket, from the carrier's side.

It sends the caller's voice as it is spoken, keeps what it is sent in a buffer from which it plays
in real time, echoes marks when they have been played, and empties the buffer when it is told to:
what carriers document of their sockets. A subclass for each carrier says how its messages look.

All times are `time.monotonic()`.
"""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.callers.audio import (
    Heard,
    Samples,
    fell_silent,
    first_sound,
    level_db,
    silence,
    speech_extent,
)

RATE = 8000
"""Samples a second of a telephone call."""

FRAME = RATE // 50
"""Samples in a message: 20 ms."""

WAIT_LIMIT = 30.0
"""Seconds that a wait may take unless the test says otherwise."""

T = TypeVar("T")


class LineEndedError(Exception):
    """The call ended while something was still awaited from it."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """When the first and the last sound of something that was said left."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound that the carrier is to play."""

    samples: Samples


@dataclass(frozen=True, slots=True)
class Mark:
    """What the carrier is to echo when it has played what came before."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """The carrier is to forget what it has not played."""


class PhoneCaller(ABC):
    """One call. Entering opens the media socket and says its start; leaving hangs up."""

    echoes_cleared = True
    """Whether the carrier echoes the marks in what it is told to forget."""

    def __init__(self, url: str, call_id: str, headers: Mapping[str, str] | None = None) -> None:
        """Prepare a call.

        Args:
            url: Where the media socket is reached.
            call_id: The call's ID in the start.
            headers: What the upgrade bears.
        """
        self.call_id = call_id
        self.stream_id = str(uuid4())
        self.frames: list[Heard] = []
        """What the person heard, 20 ms each, without holes."""
        self.received: list[tuple[float, Any]] = []
        """Every message: a JSON object as it is, audio as `bytes`."""
        self.clears: list[float] = []
        """When the carrier was told to forget what it had not played."""
        self.marks: list[str] = []
        """The marks that were echoed."""
        self.ended_at = 0.0
        """When the agent's side closed the socket; 0 while it has not."""
        self.close_code = 0
        self.echoes_marks = True
        self._url = url
        self._sequence = 0
        self._headers = dict(headers or {})
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._voice: deque[Samples] = deque()
        self._buffer: deque[Samples | Mark] = deque()

    # What a carrier's messages look like

    @abstractmethod
    def begin(self) -> list[str]:
        """The messages before the first audio."""

    @abstractmethod
    def media(self, samples: Samples) -> str | bytes:
        """The message with 20 ms of the caller's voice."""

    @abstractmethod
    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """What a message from the agent asks for."""

    @abstractmethod
    def echo(self, mark: str) -> str:
        """The message that says that a mark was reached."""

    @abstractmethod
    def digit(self, key: str) -> str:
        """The message that says that a key was pressed."""

    @abstractmethod
    def stop(self) -> str | None:
        """The message that says that the call is over; None where the carrier has none."""

    # What the caller does

    async def __aenter__(self) -> Self:
        """Open the socket and begin to talk, in silence at first."""
        self._socket: ClientConnection = await connect(
            self._url, additional_headers=self._headers, compression=None, proxy=None
        )
        for message in self.begin():
            await self._socket.send(message)
        self._tasks = [asyncio.create_task(self._talk()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        await self.hang_up()

    async def hang_up(self) -> None:
        """End the call from the person's side, as the carrier tells of it; once is enough."""
        message = self.stop()
        try:
            if message and not self.ended_at:
                await self._socket.send(message)
        except ConnectionClosed:
            pass
        await self.vanish()

    async def vanish(self) -> None:
        """Close the socket without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def send(self, message: str | bytes) -> None:
        """Send a message as it is."""
        await self._socket.send(message)

    async def press(self, keys: str) -> None:
        """Press keys of the telephone."""
        for key in keys:
            await self._socket.send(self.digit(key))

    async def say(self, samples: Samples) -> Spoken:
        """Say something at `RATE` and return when it was said, once the first sound is out."""
        extent = speech_extent(samples, RATE)
        padded = np.concatenate([samples, silence(0.02, RATE)])
        frames = [padded[i : i + FRAME] for i in range(0, len(padded) - FRAME + 1, FRAME)]
        before = len(self._voice)
        self._voice.extend(frames)
        gone = before + len(frames) - (before + extent.start // FRAME)
        await self._until(lambda: len(self._voice) < gone or None, WAIT_LIMIT, "the voice")
        now = time.monotonic()
        return Spoken(now, now + (extent.end - extent.start) / RATE)

    # What the caller waits for

    async def wait_for_said(self) -> float:
        """When all that was to be said has left; later than planned where the machine is slow."""
        await self._until(lambda: not self._voice or None, WAIT_LIMIT, "the voice's end")
        return time.monotonic()

    async def wait_for_speech(self, after: float = 0.0, limit: float = WAIT_LIMIT) -> float:
        """When the agent was first heard at or after `after`."""
        return await self._until(
            lambda: first_sound(self.frames, after), limit, "the agent's voice"
        )

    async def wait_for_silence(
        self, after: float = 0.0, hold: float = 0.3, limit: float = WAIT_LIMIT
    ) -> float:
        """When the agent fell silent for `hold` seconds, seen from `after`."""
        return await self._until(
            lambda: fell_silent(self.frames, after, hold), limit, "the agent's silence"
        )

    def sent(self, after: float, before: float) -> Samples:
        """The agent's voice in what came in a stretch of time, at `RATE`.

        What was heard of it in that time has holes where this machine was too slow.
        """
        messages = (self.read(message) for at, message in self.received if after <= at < before)
        voice = [message.samples for message in messages if isinstance(message, Audio)]
        return np.concatenate([np.zeros(0, np.int16), *voice])

    async def wait_for_end(self, limit: float = WAIT_LIMIT) -> float:
        """When the agent's side closed the socket."""
        return await self._until(lambda: self.ended_at or None, limit, "the end of the call")

    async def wait_for_clear(self, after: float = 0.0, limit: float = WAIT_LIMIT) -> float:
        """When the carrier was first told, at or after `after`, to forget what it had to play."""
        return await self._until(
            lambda: next((at for at in self.clears if at >= after), None), limit, "a clear"
        )

    def heard(self, after: float = 0.0, before: float = float("inf")) -> Samples:
        """What the person heard between two times; a recogniser wants some silence before it."""
        parts = [f.samples for f in self.frames if after <= f.at < before]
        return np.concatenate(parts) if parts else silence(0, RATE)

    # Inside

    async def _talk(self) -> None:
        """Send and play 20 ms, every 20 ms."""
        due = time.monotonic()
        try:
            while True:
                voice = self._voice.popleft() if self._voice else silence(0.02, RATE)
                await self._socket.send(self.media(voice))
                await self._play()
                self._notify()
                due += 0.02
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        except ConnectionClosed:
            self._end()

    async def _play(self) -> None:
        """Play 20 ms of what is there, and echo the marks that are reached."""
        played: list[Samples] = []
        wanted = FRAME
        while self._buffer and (wanted or isinstance(self._buffer[0], Mark)):
            first = self._buffer.popleft()
            if isinstance(first, Mark):
                await self._echo(first)
                continue
            played.append(first[:wanted])
            if len(first) > wanted:
                self._buffer.appendleft(first[wanted:])
            wanted -= len(played[-1])
        samples = np.concatenate([*played, np.zeros(wanted, np.int16)])
        self.frames.append(Heard(time.monotonic(), samples, level_db(samples)))

    async def _listen(self) -> None:
        try:
            async for data in self._socket:
                now = time.monotonic()
                message = json.loads(data) if isinstance(data, str) else data
                self.received.append((now, message))
                match self.read(message):
                    case Audio(samples):
                        self._buffer.append(samples)
                    case Mark() as mark:
                        self._buffer.append(mark)
                    case Clear():
                        self.clears.append(now)
                        cleared = [m for m in self._buffer if isinstance(m, Mark)]
                        self._buffer.clear()
                        for mark in cleared if self.echoes_cleared else ():
                            await self._echo(mark)
                self._notify()
        except ConnectionClosed:
            pass
        self._end()

    async def _echo(self, mark: Mark) -> None:
        self.marks.append(mark.name)
        if self.echoes_marks:
            await self._socket.send(self.echo(mark.name))

    def _end(self) -> None:
        self.ended_at = self.ended_at or time.monotonic()
        self.close_code = self._socket.close_code or 0
        self._notify()

    def _notify(self) -> None:
        """Let every wait look again."""
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, probe: Callable[[], T | None], limit: float, what: str) -> T:
        try:
            async with asyncio.timeout(limit):
                while True:
                    # Taken before the probe, so that news during it is not missed.
                    news = self._news
                    if (found := probe()) is not None:
                        return found
                    if self.ended_at:
                        raise LineEndedError(f"the call ended before {what} came")
                    await news.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} did not come in {limit:g} s") from None


def reached_at(base: str, url: str) -> str:
    """A public address of a socket, where it is reached on loopback, without a proxy's prefix.

    Args:
        base: The server's `http` address on loopback.
        url: The socket's public `wss` address.
    """
    parts = urlsplit(url)
    assert parts.scheme == "wss"
    return f"ws://{urlsplit(base).netloc}{parts.path[parts.path.index('/phone/') :]}"


MULAW_BIAS = 33
"""What G.711 adds to a 14-bit magnitude before it takes the segment."""


def to_mulaw(samples: Samples) -> bytes:
    """16-bit samples as G.711's mu-law, a byte each."""
    linear = np.clip(samples.astype(np.int32) >> 2, -8158, 8158)
    magnitude = np.abs(linear) + MULAW_BIAS
    segment = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    step = (magnitude >> (segment + 1)) & 0x0F
    sign = np.where(linear < 0, 0x80, 0)
    return bytes((~(sign | (segment << 4) | step) & 0xFF).astype(np.uint8))


def from_mulaw(data: bytes) -> Samples:
    """G.711's mu-law as 16-bit samples."""
    codes: npt.NDArray[np.int32] = ~np.frombuffer(data, np.uint8).astype(np.int32) & 0xFF
    magnitude = (((codes & 0x0F) * 2 + MULAW_BIAS) << ((codes >> 4) & 0x07)) - MULAW_BIAS
    return np.asarray(np.where(codes & 0x80, -magnitude, magnitude) * 4, np.int16)
