"""What carriers would not send, or not so: it ends its own call at most, and leaves nothing."""

import asyncio
import base64
import gc
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger
from pipecat.frames.frames import Frame
from websockets.exceptions import ConnectionClosed

from bot.engines import Engines
from bot.server.phone import media
from bot.server.phone.media import MediaSerializer
from bot.settings import Settings
from tests.callers.phone import FRAME, PhoneCaller
from tests.callers.phone_network import Network
from tests.callers.phone_networks import NETWORKS
from tests.callers.phone_place import phone_place

MESSAGES = 10_000
"""How many of them each carrier's sockets have to read during calls."""

BEGINNINGS = 50
"""How many sockets begin with one."""

MAX_GROWTH = 40 << 20
"""Bytes of memory that may be kept of all that."""

WORDS = ("event", "start", "media", "payload", "mark", "name", "dtmf", "digit", "stop", "x")

SCALARS = (
    *(None, True, 0, -1, 7, 2**70, 0.5, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x00", "\u00e4" * 40, "websocket:dtmf", "websocket:notify", *WORDS),
)
"""JSON has half a character, too, and Python's has what is no number."""


class Junk:
    """Messages that a carrier would not send, or not so; those of a seed are always the same."""

    def __init__(self, seed: str) -> None:
        """Begin anew.

        Args:
            seed: What makes them.
        """
        self._random = random.Random(seed)

    def message(self, own: list[str | bytes]) -> str | bytes:
        """One of them: of nobody's making, JSON of no meaning, or a carrier's own with a fault.

        Args:
            own: The carrier's; the last of them is seldom taken, since it may end the call.
        """
        random_ = self._random
        match random_.randrange(20):
            case 0:
                return random_.randbytes(random_.randrange(400))
            case 1:
                return "".join(chr(random_.randrange(32, 0x2FFF)) for _ in range(100))
            case 2:
                return json.dumps(self._value())
            case 3:
                deep = random_.randrange(1, 3000)
                return '{"event":' + random_.choice(["[" * deep, "9" * deep, "[" * 90 + "]" * 90])
            case 4:
                return json.dumps({random_.choice(WORDS): self._text() for _ in range(3)})
            case _:
                last = random_.random() < 0.002
                return self.fault(own[-1] if last else random_.choice(own[:-1]))

    def fault(self, message: str | bytes) -> str | bytes:
        """A message with a fault or two, which may be none to who reads it.

        Args:
            message: One as the carrier sends it.
        """
        random_ = self._random
        if isinstance(message, bytes):
            cut = message[: random_.randrange(len(message))]
            wrong: list[str | bytes] = [cut, message + b"\x00", message * 250, cut.hex()]
            return random_.choice(wrong)
        told = json.loads(message)
        for _ in range(random_.randrange(1, 3)):
            if told:
                self._spoil(told)
        text = json.dumps(told)
        return text[: random_.randrange(len(text))] if random_.random() < 0.05 else text

    def _spoil(self, told: dict[str, Any]) -> None:
        """Take a field away, or make it another."""
        random_ = self._random
        key = random_.choice(list(told))
        while isinstance(told[key], dict) and told[key] and random_.random() < 0.8:
            told = told[key]
            key = random_.choice(list(told))
        match random_.randrange(6):
            case 0:
                del told[key]
            case 1:
                told[key] = self._value()
            case 2:
                told[key] = self._text()
            case 3:
                told[key] = random_.choice([[told[key]], {key: told[key]}])
            case 4:
                told[random_.choice(WORDS)] = told.pop(key)
            case 5:
                told[key] = str(told[key])[: random_.randrange(20)]

    def _value(self, depth: int = 4) -> Any:
        random_ = self._random
        match random_.randrange(6 if depth else 4):
            case 4:
                return [self._value(depth - 1) for _ in range(random_.randrange(4))]
            case 5:
                return {random_.choice(WORDS): self._value(depth - 1) for _ in range(2)}
            case _:
                return random_.choice(SCALARS)

    def _text(self) -> str:
        """What is nearly base64, or is of nothing, or of too much."""
        random_ = self._random
        audio = base64.b64encode(random_.randbytes(random_.randrange(700))).decode()
        wrong = (audio[1:], audio + "=", "!" + audio, audio.replace("A", "\u00e4"), "=" * 4)
        huge = "/" * random_.choice([40_000, 70_000])
        return random_.choice([audio, *wrong, huge if random_.random() < 0.1 else ""])


def messages_of(caller: PhoneCaller) -> list[str | bytes]:
    """One of each that a carrier sends during a call, in their order."""
    sound = np.arange(FRAME, dtype=np.int16) * 100
    messages = [*caller.begin(), caller.media(sound), caller.echo("mark-1"), caller.digit("5")]
    stop = caller.stop()
    return [*messages, stop] if stop else messages


def memory() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """File descriptors of this process, sockets included."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What has been logged of failures."""
    ours: list[str] = []
    sink = logger.add(ours.append, level="ERROR")
    yield lambda: ours + [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    logger.remove(sink)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
async def test_junk_does_no_harm(
    network: type[Network],
    settings: Settings,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
) -> None:
    """Ten thousand messages later the next call is greeted, and nothing of them is left.

    A call that goes on meanwhile is not ended by them, and no error is logged, since nothing of
    ours has failed.
    """
    junk = Junk(network.name)
    sent: set[int] = set()
    read = 0
    really_read = MediaSerializer._read

    async def reading(self: MediaSerializer, data: str | bytes) -> tuple[bool, Frame | None]:
        nonlocal read
        read += hash(data) in sent
        return await really_read(self, data)

    monkeypatch.setattr(MediaSerializer, "_read", reading)
    # A call would be ended after thirty of them; that it is, is another test's.
    monkeypatch.setattr(media, "JUNK_COST", media.JUNK_COST // 64)
    async with phone_place(settings, engines, network, idle_seconds=0) as place:

        async def greet() -> None:
            async with await place.network.call() as caller:
                await caller.wait_for_speech()
                # So that the carrier's REST API is asked, over a connection that is kept.
                await caller.vanish()
            await place.until_calls(0)

        await greet()
        tasks, files, size = len(asyncio.all_tasks()), open_files(), memory()
        async with await place.network.call() as other:
            for _ in range(BEGINNINGS):
                caller = await place.network.call()
                first = [junk.fault(message) for message in caller.begin()]
                monkeypatch.setattr(caller, "begin", lambda first=first: first)
                async with caller:
                    pass
                await place.until_calls(1)
            while read < MESSAGES:
                async with await place.network.call() as caller:
                    own = messages_of(caller)
                    with suppress(ConnectionClosed):
                        while read < MESSAGES and not caller.ended_at:
                            message = junk.message(own)
                            sent.add(hash(message))
                            await caller.send(message)
                            await asyncio.sleep(0)
                await place.until_calls(1)
            assert errors() == []
            # What is no UTF-8 is no text, and an error to uvicorn.
            async with await place.network.call() as caller:
                await caller._socket.send(b"\xff", text=True)
                await caller.wait_for_end(limit=5)
            assert not other.ended_at
        await place.until_calls(0)
        await greet()
        await place.until(lambda: len(asyncio.all_tasks()) <= tasks and open_files() <= files)
        assert memory() - size < MAX_GROWTH
