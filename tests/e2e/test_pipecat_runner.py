"""The agent on Pipecat's own runner, driven by Pipecat's own tools."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipecat.evals.scenario import EvalScenarioFile, EvalScriptScenario
from pipecat.evals.script_session import EvalScriptSession

from tests.callers.server import AgentServer
from tests.callers.webrtc import WebRTCCaller

SCENARIO = Path(__file__).parent / "scenario.yaml"


@pytest.fixture(scope="module")
def runner() -> Iterator[AgentServer]:
    """Pipecat's development runner, which finds our `bot` by itself."""
    settings = {"PARLEY_OFFLINE": "1", "PARLEY_STT": "pocketsphinx", "PARLEY_LLM": "builtin"}
    with AgentServer(
        script="pipecat.runner.run", python=(sys.executable, "-m"), health="/status", env=settings
    ) as server:
        yield server


async def test_pipecats_runner_carries_a_web_call(runner: AgentServer) -> None:
    """A caller of Pipecat's own server hears the greeting and gets its words."""
    async with WebRTCCaller(runner.url) as caller:
        await caller.wait_for_speech()
        assert (await caller.wait_for_words(3))[0] == "Hello,"


async def test_pipecat_eval_drives_the_agent(runner: AgentServer) -> None:
    """Pipecat's eval harness connects by WebSocket, asks in text and finds the answer right."""
    (scenario,) = EvalScenarioFile.load(SCENARIO).scenarios
    assert isinstance(scenario, EvalScriptScenario)
    url = runner.url.replace("http", "ws") + "/ws"
    result = await EvalScriptSession.from_scenario(scenario, url).run()
    assert result.passed, (result.failures, result.skipped, result.debug_log)
