"""Keys that the agent presses leave after its words, whatever the other side says meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipecat.frames.frames import InterruptionFrame

from bot.agent import Agent, press_keys
from bot.call import Call, Calls
from bot.engines import Engines, Mind, Part
from bot.settings import Settings
from services.llm.openai import openai_llm
from services.openai_endpoint import openai_client
from services.tts.local import LocalSpeech
from tests.fakes.line import FakeLine
from tests.fakes.openai_server import FakeOpenAI, ToolCall
from tests.fakes.speech import FakeHearing
from tests.fakes.speech_engine import FakeSpeechEngine

THREE_WORDS = 3 * 2400 * 2
"""Bytes of three words of a tenth of a second, at 24 kHz."""


@asynccontextmanager
async def calling(server: FakeOpenAI) -> AsyncIterator[tuple[FakeLine, Call]]:
    """A call with a menu, of an agent whose model is the server's."""
    settings = Settings(offline=True, turn_end="timeout", idle_seconds=0)
    part = Part("", "", "", "")
    line = FakeLine()
    async with asyncio.timeout(10.0), server:
        client = openai_client(server.api_key, server.base_url)
        llm = openai_llm(client, model="fake-1", system_instruction="", silence_secs=10.0)
        mind = Mind(lambda _: llm, client.close)
        speech = LocalSpeech(FakeSpeechEngine())
        engines = Engines(settings, (speech, part), (FakeHearing(), part), (mind, part))
        call = Calls(settings, engines, Agent(greeting="", tools=(press_keys,))).start(lambda: line)
        await line.fake.running.wait()
        await line.fake.write("for sales, press one and hash")
        yield line, call
        await call.cancel()
        await call.ended.wait()
        await client.close()


async def until_pressed(line: FakeLine, count: int) -> None:
    """Return when so many keys were pressed."""
    while len(line.fake.speaker.pressed) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_keys_follow_the_last_word() -> None:
    """Each in its turn, and nothing is said after them before the other side speaks."""
    server = FakeOpenAI(ToolCall("press_keys", {"keys": "1*#"}, text="I choose sales."))
    async with calling(server) as (line, _):
        await line.fake.speaker.play(0.2)
        assert not line.fake.speaker.pressed
        await line.fake.speaker.play_on()
        await until_pressed(line, 3)
    assert [key for key, _ in line.fake.speaker.pressed] == ["1", "*", "#"]
    assert all(played >= THREE_WORDS for _, played in line.fake.speaker.pressed)
    assert len(server.requests) == 1


async def test_a_menu_that_goes_on_talking_takes_no_key_back() -> None:
    """Talked over, the agent falls silent, and presses what it has told the model it pressed."""
    server = FakeOpenAI(ToolCall("press_keys", {"keys": "1#"}, text="I choose sales."))
    async with calling(server) as (line, call):
        await line.fake.speaker.play(0.08)
        await call._worker.queue_frame(InterruptionFrame())
        await line.fake.speaker.interrupted.wait()
        await line.fake.speaker.play_on()
        await until_pressed(line, 2)
    assert [key for key, _ in line.fake.speaker.pressed] == ["1", "#"]
    assert all(played < THREE_WORDS for _, played in line.fake.speaker.pressed)


async def test_the_model_is_told_what_is_no_key() -> None:
    """It is asked again, with the tool's answer, and then may press the right one."""
    wrong, right = ToolCall("press_keys", {"keys": "one"}), ToolCall("press_keys", {"keys": "1"})
    server = FakeOpenAI(wrong, right)
    async with calling(server) as (line, _):
        await line.fake.speaker.play_on()
        await until_pressed(line, 1)
    assert "0 to 9" in server.requests[1]["messages"][-1]["content"]
    assert [key for key, _ in line.fake.speaker.pressed] == ["1"]
