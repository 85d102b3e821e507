"""The life of a call: how long it may last, and how it ends."""

import asyncio

from bot.agent import Agent
from bot.engines import Engines
from bot.settings import Settings
from tests.callers.local_server import serve
from tests.callers.webrtc import WebRTCCaller

AGENT = Agent(greeting="Hello.", time_up="Time is up.", goodbye="Goodbye.")


async def test_the_longest_call_is_ended_with_words(settings: Settings, engines: Engines) -> None:
    """A call that reaches its longest is told so aloud, and then ended."""
    short = settings.model_copy(update={"max_call_seconds": 2.0})
    async with (
        serve(short, engines, AGENT) as server,
        WebRTCCaller(server.url) as caller,
    ):
        ended = await caller.wait_for_message("server-message/call-ended")
        assert ended.data["reason"] == "max-length"
        await caller.wait_for_end()
    assert caller.spoken_words()[-3:] == ["Time", "is", "up."]


async def test_a_silent_caller_is_asked_and_then_left(settings: Settings, engines: Engines) -> None:
    """Who says nothing is asked whether anyone is there, as often as is set, and then left."""
    short = settings.model_copy(update={"idle_seconds": 1.0, "idle_prompts": 1})
    async with (
        serve(short, engines, AGENT) as server,
        WebRTCCaller(server.url) as caller,
    ):
        ended = await caller.wait_for_message("server-message/call-ended")
        assert ended.data["reason"] == "idle"
        await caller.wait_for_end()
    words = caller.spoken_words()
    assert words[0] == "Hello."
    assert any(word.endswith("?") for word in words)
    assert words[-1] == "Goodbye."


async def test_a_caller_who_writes_is_not_idle(settings: Settings, engines: Engines) -> None:
    """Whatever a caller writes counts as a sign of life: the asking begins anew."""
    short = settings.model_copy(update={"idle_seconds": 1.0, "idle_prompts": 1})
    async with (
        serve(short, engines, AGENT) as server,
        WebRTCCaller(server.url) as caller,
    ):
        await caller.wait_for_message("bot-output", lambda data: "?" in data["text"])
        caller.send_text("what is two plus two")
        await caller.wait_for_message("server-message/call-ended")
        texts = [segment.text for segment in caller.segments.values()]
        assert sum("?" in text for text in texts) == 2


async def test_a_draining_process_lets_calls_end(settings: Settings, engines: Engines) -> None:
    """A process that is told to stop takes no call, tells those it has, and ends when they have.

    Even an agent in the middle of a long story breaks off to say so.
    """
    async with serve(settings, engines, AGENT) as server, WebRTCCaller(server.url) as caller:
        await caller.wait_for_words(1)
        caller.send_text("tell me a story")
        await caller.wait_for_words(8)
        draining = asyncio.create_task(server.calls.drain(0.5, "We are closing."))
        ended = await caller.wait_for_message("server-message/call-ended")
        assert server.calls.full
        assert ended.data["reason"] == "shutdown"
        await asyncio.wait_for(draining, 10)
        assert len(server.calls) == 0
        await caller.wait_for_end()
    assert caller.spoken_words()[-3:] == ["We", "are", "closing."]
