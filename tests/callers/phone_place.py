"""A server that takes one carrier's calls, that carrier's REST API, and what tests ask of both."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from bot.agent import Agent
from bot.call import Call
from bot.engines import Engines
from bot.settings import Settings
from tests.callers.audio import Samples, transcribe
from tests.callers.local_server import LocalServer, serve
from tests.callers.phone import RATE, PhoneCaller
from tests.fakes.carrier_api import Asked, CarrierApi, carrier_api

PUBLIC = "https://agent.example.org"
"""Where the server believes to be."""

AGENT = Agent(greeting="Hello, this is the telephone of the agent.", goodbye="Goodbye.")


@dataclass(frozen=True)
class Place:
    """A server and a carrier's REST API.

    Attributes:
        server: The server.
        http: A client whose base is its address on loopback.
        api: The carrier's REST API.
    """

    server: LocalServer
    http: httpx.AsyncClient
    api: CarrierApi

    async def until(self, holds: Callable[[], object]) -> None:
        """Return when something holds."""
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)

    async def until_calls(self, count: int) -> None:
        """Return when so many calls are in progress."""
        await self.until(lambda: len(self.server.calls) == count)

    async def only_call(self) -> Call:
        """The call in progress."""
        await self.until_calls(1)
        return next(iter(self.server.calls))

    async def interrupt(self, caller: PhoneCaller, speech: Samples) -> list[str]:
        """Talk over the greeting of a call that begins, and make sure that this ends it.

        Args:
            caller: The call.
            speech: What is said, at the telephone's rate.

        Returns:
            The words of the greeting that were sent until then.
        """
        began = await caller.wait_for_speech()
        while time.monotonic() < began + 1.0:
            await caller.wait_for_speech(after=time.monotonic())
        said = await caller.say(speech)
        cleared = await caller.wait_for_clear(after=said.start)
        assert cleared - said.start < 1.5
        assert await caller.wait_for_silence(cleared) - cleared < 0.3
        return transcribe(caller.sent(0.0, cleared), RATE)

    async def asked(self) -> Asked:
        """The one request that the REST API gets."""
        await self.until(lambda: self.api.asked)
        (asked,) = self.api.asked
        return asked


@asynccontextmanager
async def phone_place(
    settings: Settings, engines: Engines, carrier: str, **wanted: Any
) -> AsyncIterator[Place]:
    """Serve until the block ends.

    Args:
        settings: The settings but for the carrier's.
        engines: What the agent speaks, hears and thinks with.
        carrier: The carrier.
        wanted: Its settings, but for its REST API's address.
    """
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(carrier_api())
        given = {"public_url": PUBLIC, f"{carrier}_api_url": api.url, **wanted}
        # Through the model, so that each is what its field makes of it.
        telephone = Settings(**{**settings.model_dump(exclude_unset=True), **given})
        server = await stack.enter_async_context(serve(telephone, engines, AGENT))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url))
        yield Place(server, http, api)
