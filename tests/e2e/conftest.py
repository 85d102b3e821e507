"""What the end-to-end tests share: a server started as a user starts it, or one to look into."""

import asyncio
from collections.abc import Generator, Iterator

import pytest

from bot.agent import Agent
from bot.engines import Engines, load_engines
from bot.settings import Settings
from tests.callers.server import AgentServer

MAX_CALLS = 3

LOG_TAIL = 6000
"""Characters of the server's log that a failing test shows."""

FLAGS = (
    *("--tts", "piper"),
    *("--stt", "pocketsphinx"),
    *("--llm", "builtin"),
    "--offline",
    *("--max-calls", str(MAX_CALLS)),
)
"""An agent that needs nothing from outside and answers the same way each time."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server printed where a test that used it fails."""
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and server:
        report.sections.append(("server log", server.log[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="module")
def server() -> Iterator[AgentServer]:
    """A server that lasts for a module's tests."""
    with AgentServer(*FLAGS) as server:
        yield server


@pytest.fixture(autouse=True)
def no_calls_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the server has forgotten its calls soon after it."""
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").wait_for_calls(0, limit=15.0)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The same agent, for a server in the test's own process."""
    return Settings(tts="piper", stt="pocketsphinx", llm="builtin", offline=True)


@pytest.fixture(scope="module")
def engines(settings: Settings) -> Iterator[Engines]:
    """What that server's calls share, loaded once for a module's tests."""
    engines = load_engines(settings, Agent(), lambda *_: None)
    yield engines
    asyncio.run(engines.close())
