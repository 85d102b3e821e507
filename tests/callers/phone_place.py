"""A server that takes one carrier's calls, that carrier's REST API, and what tests ask of both."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
from pipecat.frames.frames import Frame

from bot.agent import Agent
from bot.call import Call
from bot.engines import Engines
from bot.settings import Settings
from tests.callers.audio import Samples, silence, transcribe
from tests.callers.local_server import LocalServer, serve
from tests.callers.phone import RATE, WAIT_LIMIT, PhoneCaller
from tests.callers.phone_network import Network
from tests.fakes.carrier_api import Asked, CarrierApi, carrier_api

PUBLIC = "https://agent.example.org"
"""Where the server believes to be."""

AGENT = Agent(greeting="Good evening, and welcome. How may I help you?", goodbye="Goodbye.")

MESSAGE = "Good morning. You may ask me about the time of day."
"""Both are words that a recogniser made for wide-band speech finds in the embedded voice at
8 kHz."""

N = TypeVar("N", bound=Network)


def recognised(audio: Samples) -> set[str]:
    """The words that a recogniser finds in what came over a telephone.

    The embedded voice speaks a little otherwise each time, and at 8 kHz the recogniser, which was
    made for wide-band speech, may miss most of it: it listens at three paces.
    """
    quiet = silence(0.5, RATE)
    around = np.concatenate([quiet, audio, quiet])
    return {word for pace in (1.0, 0.95, 1.05) for word in transcribe(around, int(RATE * pace))}


def understood(audio: Samples) -> bool:
    """Whether a recogniser finds `MESSAGE` in what was heard."""
    words = {"good", "morning", "you", "may", "ask", "me", "about", "time", "day"}
    return len(words & recognised(audio)) >= 4


@dataclass(frozen=True)
class Place(Generic[N]):
    """A server and a carrier.

    Attributes:
        server: The server.
        http: A client whose base is its address on loopback.
        network: The carrier's side of it.
        api: The carrier's REST API.
    """

    server: LocalServer
    http: httpx.AsyncClient
    network: N
    api: CarrierApi

    async def until(self, holds: Callable[[], object]) -> None:
        """Return when something holds."""
        async with asyncio.timeout(WAIT_LIMIT):
            while not holds():  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)

    async def until_calls(self, count: int) -> None:
        """Return when so many calls are in progress."""
        await self.until(lambda: len(self.server.calls) == count)

    async def only_call(self) -> Call:
        """The call in progress."""
        await self.until_calls(1)
        return next(iter(self.server.calls))

    async def queue(self, frame: Frame) -> None:
        """Have the agent do something, in the call in progress."""
        await (await self.only_call())._worker.queue_frame(frame)

    async def interrupt(self, caller: PhoneCaller, speech: Samples) -> Samples:
        """Talk over the greeting of a call that begins, and make sure that this ends it.

        Args:
            caller: The call.
            speech: What is said, at the telephone's rate.

        Returns:
            What was sent of the greeting until then.
        """
        began = await caller.wait_for_speech()
        while time.monotonic() < began + 1.0:
            await caller.wait_for_speech(after=time.monotonic())
        said = await caller.say(speech)
        cleared = await caller.wait_for_clear(after=said.start)
        assert cleared < min(said.end, said.start + 1.5)
        # Counted in what was played: this machine may stand still in between.
        silent = await caller.wait_for_silence(cleared)
        assert len(caller.heard(cleared, silent)) < 0.1 * RATE
        return caller.sent(0.0, cleared)

    async def asked(self) -> Asked:
        """The one request that the REST API gets."""
        await self.until(lambda: self.api.asked)
        (asked,) = self.api.asked
        return asked


@asynccontextmanager
async def phone_place(
    settings: Settings,
    engines: Engines,
    network: type[N],
    agent: Agent = AGENT,
    *,
    public_url: str = PUBLIC,
    **wanted: Any,
) -> AsyncIterator[Place[N]]:
    """Serve until the block ends.

    Args:
        settings: The settings but for the carrier's.
        engines: What the agent speaks, hears and thinks with.
        network: The carrier.
        agent: Who answers.
        public_url: Where the server believes to be.
        wanted: Settings besides, or in place of the carrier's.
    """
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(carrier_api())
        folder = Path(stack.enter_context(TemporaryDirectory()))
        theirs = {**network.settings(folder), f"{network.name}_api_url": api.url}
        # Through the model, so that each is what its field makes of it.
        given = {**settings.model_dump(exclude_unset=True), "public_url": public_url, **theirs}
        server = await stack.enter_async_context(
            serve(Settings(**{**given, **wanted}), engines, agent)
        )
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url))
        yield Place(server, http, network(http, public_url), api)
