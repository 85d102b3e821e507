"""The agent's server in the test's own process and event loop, so that a test can look inside."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from bot.agent import Agent
from bot.call import Calls
from bot.engines import Engines
from bot.server.app import create_app
from bot.settings import Settings


@dataclass(frozen=True)
class LocalServer:
    """A server that takes calls.

    Attributes:
        url: Its address.
        calls: The calls that it carries.
    """

    url: str
    calls: Calls


class _Server(uvicorn.Server):
    """Leaves the process's signals to the test runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve(settings: Settings, engines: Engines, agent: Agent) -> AsyncIterator[LocalServer]:
    """Serve on a free loopback port until the block ends; calls are then ended too."""
    calls = Calls(settings, engines, agent)
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    app = create_app(settings, engines, agent, calls)
    server = _Server(
        uvicorn.Config(app, loop="asyncio", log_config=None, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield LocalServer(f"http://127.0.0.1:{listener.getsockname()[1]}", calls)
    finally:
        await calls.drain(0, "")
        server.should_exit = True
        await task
        listener.close()
