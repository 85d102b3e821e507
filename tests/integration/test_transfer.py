"""A caller is put through after the last word was played; where that fails, the agent goes on."""

import asyncio
from typing import Any

import pytest
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema

from bot.agent import Agent
from bot.call import Calls
from bot.engines import Engines, Mind, Part
from bot.settings import Settings
from processors.hang_up import TransferFrame
from services.llm.responder import ResponderLLMService
from services.tts.local import LocalSpeech
from tests.fakes.line import FakeLine
from tests.fakes.speech import FakeHearing
from tests.fakes.speech_engine import FakeSpeechEngine

NUMBER = "+12025550123"
TRANSFERS = {"sales": NUMBER, "sales support": "sip:support@example.org"}


def calls(engine: FakeSpeechEngine) -> Calls:
    """A process whose agent speaks in tones, thinks in rules and can put callers through."""
    settings = Settings(offline=True, turn_end="timeout", idle_seconds=0)
    part = Part("", "", "", "")

    async def nothing() -> None:
        pass

    mind = Mind(lambda _: ResponderLLMService(), nothing)
    speech = LocalSpeech(engine)
    engines = Engines(settings, (speech, part), (FakeHearing(), part), (mind, part))
    return Calls(settings, engines, Agent(greeting="", transfers=TRANSFERS))


async def test_the_transfer_follows_the_last_word() -> None:
    """While words are still being played nobody is put through, and then it is at once."""
    line, engine = FakeLine(), FakeSpeechEngine()
    call = calls(engine).start(lambda: line)
    async with asyncio.timeout(10.0):
        await line.fake.running.wait()
        await line.fake.write("put me through to sales please")
        await line.fake.speaker.play(0.2)
        assert not line.transferred
        await line.fake.speaker.play_on()
        await call.ended.wait()
    assert [utterance.text for utterance in engine.utterances] == ["One moment, please."]
    ((to, played),) = line.transferred
    assert to == NUMBER
    # Three words of a tenth of a second, as 16-bit samples at 24 kHz.
    assert played >= 0.3 * 24000 * 2
    assert line.closed


async def test_a_transfer_that_fails_costs_no_call() -> None:
    """The agent says so, and hears the caller's next words."""
    line, engine = FakeLine(failure="the carrier said no"), FakeSpeechEngine()
    calls_ = calls(engine)
    call = calls_.start(lambda: line)
    async with asyncio.timeout(10.0):
        await line.fake.running.wait()
        await line.fake.speaker.play_on()
        await line.fake.write("connect me to sales support")
        await line.asked.wait()
        await asyncio.to_thread(engine.wait_for_utterance, 3)
        await line.fake.write("one plus one")
        await asyncio.to_thread(engine.wait_for_utterance, 4)
        assert [to for to, _ in line.transferred] == ["sip:support@example.org"]
        assert len(calls_) == 1
        await call.cancel()
        await call.ended.wait()
    said = " ".join(utterance.text for utterance in engine.utterances)
    assert "I couldn't put you through." in said
    assert said.endswith("1 plus 1 is 2.")


class Params:
    """What the tool gets from Pipecat, as far as it looks."""

    def __init__(self, to: object) -> None:
        self.arguments = {"to": to}
        self.llm = self
        self.result: Any = None
        self.pushed: list[Any] = []

    async def result_callback(self, result: Any, *, properties: Any = None) -> None:
        self.result = result

    async def push_frame(self, frame: Any) -> None:
        self.pushed.append(frame)


def tool(agent: Agent) -> FunctionSchema:
    """The agent's tool for transfers."""
    found = agent.tool_functions(can_transfer=True)[-1]
    assert isinstance(found, FunctionSchema)
    return found


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        ("sales", NUMBER),
        ("Sales Support", "sip:support@example.org"),
        ("put me through to sales", NUMBER),
        ("+4930999999", None),
        ("", None),
        (None, None),
        (["sales"], NUMBER),
    ],
)
async def test_only_names_are_put_through(asked: object, to: str | None) -> None:
    """The model picks one of the names; a number of its own, or nobody's name, goes nowhere."""
    params: Any = Params(asked)
    handler = tool(Agent(transfers=TRANSFERS)).handler
    assert handler is not None
    await handler(params)
    pushed = [frame.to for frame in params.pushed if isinstance(frame, TransferFrame)]
    assert pushed == ([to] if to else [])
    assert ("error" in params.result) == (to is None)


def test_the_model_never_sees_a_number() -> None:
    """Neither in what it is told of the tool, nor in its result."""
    schema = tool(Agent(transfers=TRANSFERS)).to_default_dict()
    assert "sales support" in str(schema)
    assert NUMBER not in str(schema)
    assert "sip:" not in str(schema)


def test_the_tool_is_there_only_where_it_works() -> None:
    """A line that cannot be transferred, or an agent that knows nobody, has no such tool."""
    agent = Agent(transfers=TRANSFERS)
    assert agent.tool_functions() == list(agent.tools)
    assert Agent().tool_functions(can_transfer=True) == list(Agent().tools)
