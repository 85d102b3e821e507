"""The agent driven by Pipecat's eval harness through its own socket, without a network."""

import asyncio
import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pipecat.evals.scenario import EvalScenarioFile, EvalScriptScenario
from pipecat.evals.script_session import EvalScriptSession
from pipecat.evals.serializer import EvalConnectionFlags, eval_connect_message
from pipecat.evals.session import EvalSessionParams
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot.agent import TOOLS, Agent
from bot.engines import Engines, listen_for
from bot.server import evals
from bot.settings import Settings, SettingsError
from tests.callers.local_server import LocalServer, serve
from tests.callers.server import ROOT, AgentServer
from tests.e2e.conftest import FLAGS

FOLDER = Path(__file__).parent / "evals"
SCENARIO = Path(__file__).parent / "scenario.yaml"


def scenarios(file: str) -> list[EvalScriptScenario]:
    """The scenarios of a file."""
    return [s for s in EvalScenarioFile.load(FOLDER / file) if isinstance(s, EvalScriptScenario)]


@pytest.fixture
async def local(settings: Settings, engines: Engines) -> AsyncIterator[LocalServer]:
    """An agent that lets evals in. It does not greet, which every text would wait for."""
    agent = Agent(greeting="", tools=tuple(TOOLS.values()), transfers={"sales": "+12025550123"})
    async with serve(settings.model_copy(update={"eval": True}), engines, agent) as server:
        yield server


def socket_of(server: LocalServer) -> str:
    """Where the harness connects."""
    return server.url.replace("http", "ws") + "/eval"


async def until_calls(server: LocalServer, count: int) -> None:
    """Wait until so many calls go on."""
    async with asyncio.timeout(30):
        while len(server.calls) != count:  # noqa: ASYNC110 - nobody tells.
            await asyncio.sleep(0.01)


async def run(scenario: EvalScriptScenario, local: LocalServer) -> None:
    """Have the harness go through a scenario."""
    # The harness would keep what it says in the user's home.
    params = EvalSessionParams(use_cache=False)
    session = EvalScriptSession.from_scenario(scenario, socket_of(local), params=params)
    result = await session.run()
    assert result.passed, (result.failures, result.skipped, "\n".join(result.debug_log))


@pytest.mark.parametrize("scenario", scenarios("text.yaml"), ids=lambda s: s.name)
async def test_in_text(scenario: EvalScriptScenario, local: LocalServer) -> None:
    """What is written, or pressed, is answered as the scenario says."""
    await run(scenario, local)


@pytest.mark.parametrize("scenario", scenarios("speech.yaml"), ids=lambda s: s.name)
async def test_in_speech(
    scenario: EvalScriptScenario, settings: Settings, engines: Engines
) -> None:
    """What is said is heard and answered aloud, and talking over the agent stops it."""
    settings = settings.model_copy(update={"eval": True})
    async with serve(settings, engines, Agent(greeting="Hello. What can I do for you?")) as server:
        await run(scenario, server)


async def test_a_wake_word(settings: Settings, engines: Engines) -> None:
    """The agent is deaf until it is said, answers to it, and hears what is said after."""
    (scenario,) = scenarios("wake_word.yaml")
    settings = settings.model_copy(update={"eval": True, "wake_word": "hey jarvis"})
    engines.listen = listen_for(settings)
    try:
        async with serve(settings, engines, Agent(greeting="Hello.")) as server:
            await run(scenario, server)
    finally:
        engines.listen = None


@pytest.mark.parametrize(
    "messages",
    [
        ["not JSON"],
        ["[]"],
        ['{"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {}}'],
        [b"\x00\x01"],
        [],
    ],
    ids=["text", "list", "client", "bytes", "silence"],
)
async def test_who_is_no_eval_gets_no_call(
    messages: list[str | bytes], local: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first message decides, within a limit."""
    monkeypatch.setattr(evals, "FIRST_MESSAGE_SECONDS", 0.2)
    async with connect(socket_of(local)) as socket:
        # On a busy machine the limit may be over before the first message is sent.
        with suppress(ConnectionClosed):
            for message in messages:
                await socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert len(local.calls) == 0


async def test_random_messages_do_no_harm(local: LocalServer) -> None:
    """Whatever comes after the first message, the socket's end is the call's end."""
    chance = random.Random(4)
    kinds = ["client-message", "send-text", "dtmf", "raw-audio", "client-ready", "eval-image", "?"]
    values: list[Any] = [None, 5, "x", [], {}, {"t": "eval-image"}, {"buttons": ["A"]}, [[]]]
    async with connect(socket_of(local)) as socket:
        await socket.send(eval_connect_message(EvalConnectionFlags(skip_tts=True)))
        for _ in range(500):
            message = {
                "label": "rtvi-ai",
                "id": chance.choice(values),
                "type": chance.choice([*kinds, *values]),
                "data": chance.choice(values),
            }
            await socket.send(chance.choice([json.dumps(message), "{", b"\xff"]))
    await until_calls(local, 0)
    (scenario,) = [s for s in scenarios("text.yaml") if s.name == "text/question"]
    await run(scenario, local)


async def test_a_full_server_says_try_again(settings: Settings, engines: Engines) -> None:
    """The close code tells a busy server from one that refuses."""
    settings = settings.model_copy(update={"eval": True, "max_calls": 1})
    hello = eval_connect_message(EvalConnectionFlags(skip_tts=True))
    async with (
        serve(settings, engines, Agent(greeting="")) as server,
        connect(socket_of(server)) as first,
        connect(socket_of(server)) as second,
    ):
        await first.send(hello)
        await until_calls(server, 1)
        await second.send(hello)
        with pytest.raises(ConnectionClosed) as closed:
            await second.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


async def test_there_is_no_socket_unless_asked_for(settings: Settings, engines: Engines) -> None:
    """Nor where others can reach the server."""
    async with serve(settings, engines, Agent(greeting="")) as server:
        with pytest.raises(InvalidStatus):
            await connect(socket_of(server))
    exposed = settings.model_copy(update={"eval": True, "host": "0.0.0.0", "insecure": True})
    with pytest.raises(SettingsError, match="--eval: it is for this machine alone"):
        exposed.check_access()


def test_the_page_names_what_the_harness_needs() -> None:
    """What it imports is installed by `make run`, or by the command in docs/evals.md."""
    asked = map(Requirement, metadata.requires("pipecat-ai") or ())
    wanted = {r.name for r in asked if str(r.marker) == 'extra == "cli"'}
    not_imported = {"ruff", "pipecat-ai-context-hub"}
    installed = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    (command,) = re.findall(r"pip install (.*)", (ROOT / "docs/evals.md").read_text())
    named = {Requirement(argument).name for argument in shlex.split(command)}
    assert wanted - not_imported - set(installed) == named


def test_from_the_command_line(tmp_path: Path) -> None:
    """As the documentation has it, against a server started with --eval."""
    with AgentServer(*FLAGS, "--eval") as server:
        url = server.url.replace("http", "ws") + "/eval"
        done = subprocess.run(
            [sys.executable, "-m", "pipecat.evals", "run", SCENARIO, "--bot-url", url],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
