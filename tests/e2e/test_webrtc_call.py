"""A conversation over WebRTC with a caller that hears, speaks and takes the time."""

import asyncio
import re
import socket
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.callers.audio import transcribe
from tests.callers.recordings import Recording
from tests.callers.server import AgentServer
from tests.callers.webrtc import SAMPLE_RATE, CallRefusedError, WebRTCCaller
from tests.e2e.conftest import FLAGS, MAX_CALLS

QUESTION = "go forward ten meters"
"""What is said in the recording `goforward`."""

END_OF_REPLY = 1.0
"""Seconds of silence that no pause between two sentences reaches."""

RECOGNISED = 0.3
"""Share of the agent's words that a small recogniser must find in its voice."""

VANISHED_SECONDS = 15.0
"""How long the line of a caller without a network may stay taken: ten seconds, and some in which a
busy machine does nothing for the server."""


def plain(words: Iterable[str]) -> list[str]:
    """Words without the punctuation and capitals in which speech does not differ."""
    return re.findall(r"[a-z0-9']+", " ".join(words).lower())


def share_heard(expected: list[str], heard: list[str]) -> float:
    """How many of the expected words a recogniser found, 0 to 1."""
    return sum(word in heard for word in expected) / len(expected)


async def hear_out(caller: WebRTCCaller, after: float = 0.0) -> tuple[float, float]:
    """Wait for the agent to speak and to finish; return when it began and when it was over."""
    began = await caller.wait_for_speech(after)
    return began, await caller.wait_for_silence(began, hold=END_OF_REPLY)


async def test_the_agent_speaks_first(server: AgentServer) -> None:
    """What is heard as soon as the call stands is the greeting, in words and in sound."""
    greeting = plain([server.get("/api/agent")["greeting"]])
    async with WebRTCCaller(server.url) as caller:
        began, over = await hear_out(caller)
        assert plain(caller.spoken_words()) == greeting
        audio = caller.heard(began, over)
    assert share_heard(greeting, transcribe(audio, SAMPLE_RATE)) >= RECOGNISED


async def test_a_spoken_question_gets_a_spoken_answer(
    server: AgentServer, recording: Recording
) -> None:
    """The caller's words arrive as they were said, and what is heard is what the LLM answered."""
    async with WebRTCCaller(server.url) as caller:
        await hear_out(caller)
        asked = await caller.say(recording("goforward", SAMPLE_RATE))
        told = await caller.wait_for_message("user-input", lambda d: d["final"], after=asked.start)
        assert told.data["text"].lower() == QUESTION
        began, over = await hear_out(caller, after=asked.end)
        words = plain(caller.spoken_words(after=asked.start))
        assert words
        assert words == plain(caller.thought_words(after=asked.start))
        audio = caller.heard(began, over)
        latency = await caller.wait_for_message("server-message/turn-latency", after=asked.start)
    assert share_heard(words, transcribe(audio, SAMPLE_RATE)) >= RECOGNISED
    stages = latency.data["stages"]
    assert stages
    assert all({"key", "label", "ms"} <= stage.keys() for stage in stages)
    assert 0 < latency.data["total_ms"] < 1000 * (over - asked.start)


async def test_talked_over_the_agent_gives_way(server: AgentServer, recording: Recording) -> None:
    """In mid-story it falls silent and hears what is said.

    What counts as told is a true beginning of the story, and stops growing with the voice.
    """
    async with WebRTCCaller(server.url) as caller:
        _, greeted = await hear_out(caller)
        caller.send_text("Tell me a story.")
        await caller.wait_for_words(8, after=greeted)
        cut = await caller.say(recording("goforward", SAMPLE_RATE))
        interrupted = await caller.wait_for_message("bot-interrupted", after=cut.start)
        # Not one of the story's own pauses.
        silent = await caller.wait_for_silence(interrupted.at)
        told = caller.spoken_words(greeted, before=interrupted.at)

        began, _ = await hear_out(caller, after=silent + 0.1)
        assert QUESTION in [text.lower() for text in caller.understood(after=cut.start)]
        assert began > cut.end
        assert caller.spoken_words(after=interrupted.at)
        assert caller.spoken_words(greeted, before=interrupted.at) == told
        story = plain(caller.thought_words(greeted, before=interrupted.at))
        assert 8 <= len(plain(told)) < len(story)
        assert plain(told) == story[: len(plain(told))]


async def test_what_is_typed_is_answered_aloud(server: AgentServer) -> None:
    """RTVI's `send-text` is a turn like a spoken one."""
    async with WebRTCCaller(server.url) as caller:
        _, greeted = await hear_out(caller)
        caller.send_text("What is 7 times 6?")
        await hear_out(caller, after=greeted)
        assert {"42", "forty"} & set(plain(caller.spoken_words(after=greeted)))


async def test_goodbye_is_heard_to_its_end_before_the_agent_hangs_up(server: AgentServer) -> None:
    """The agent answers a goodbye and hangs up by itself, but not before its last word is out."""
    async with WebRTCCaller(server.url) as caller:
        _, greeted = await hear_out(caller)
        caller.send_text("Goodbye!")
        ended = await caller.wait_for_message("server-message/call-ended", after=greeted)
        await caller.wait_for_end()
        assert ended.data["reason"] == "goodbye"
        words = plain(caller.spoken_words(after=greeted))
        assert "bye" in words or "goodbye" in words
        assert all(s.spoken.split() == s.text.split() for s in caller.segments.values())
        assert not caller.frames[-1].audible


async def test_the_voice_can_be_changed_within_a_call(server: AgentServer) -> None:
    """A voice that there is, is taken and the call goes on; one that there is not, is named."""
    voices = server.get("/api/agent")["tts"]["voices"]
    async with WebRTCCaller(server.url) as caller:
        _, greeted = await hear_out(caller)
        refused = await caller.request("set-voice", {"voice": "no_SUCH-voice"})
        assert refused.type == "error-response"
        assert "no_SUCH-voice" in refused.data["error"]
        taken = await caller.request("set-voice", {"voice": voices[-1]["name"]})
        assert taken.type == "server-response"
        caller.send_text("Hello!")
        await hear_out(caller, after=greeted)
        assert caller.spoken_words(after=greeted)


async def test_a_full_server_says_so_and_its_calls_go_on(
    server: AgentServer, recording: Recording
) -> None:
    """One call too many gets 503 and Retry-After, the others do not notice, and a hang-up frees."""
    async with AsyncExitStack() as calls:
        first, second, *_ = [
            await calls.enter_async_context(WebRTCCaller(server.url)) for _ in range(MAX_CALLS)
        ]
        assert (await asyncio.to_thread(server.health))["calls"] == MAX_CALLS
        await refused(server)

        await hear_out(first)
        asked = await first.say(recording("goforward", SAMPLE_RATE))
        await hear_out(first, after=asked.end)
        assert [text.lower() for text in first.understood()] == [QUESTION]
        assert second.understood() == []

        await second.close()
        await asyncio.to_thread(server.wait_for_calls, MAX_CALLS - 1)
        async with WebRTCCaller(server.url) as late:
            await late.wait_for_speech()


async def test_calls_follow_one_another(server: AgentServer) -> None:
    """Six calls in a row are each greeted, and each is forgotten when its caller hangs up."""
    for _ in range(6):
        async with WebRTCCaller(server.url) as caller:
            await caller.wait_for_speech()
        await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_caller_who_vanishes_is_noticed(server: AgentServer) -> None:
    """A caller whose network is gone frees the line within ten seconds, without hanging up."""
    async with WebRTCCaller(server.url) as caller:
        await caller.wait_for_speech()
        caller.vanish()
        await asyncio.to_thread(server.wait_for_calls, 0, VANISHED_SECONDS)


async def test_a_server_told_to_stop_lets_its_calls_finish(recording: Recording) -> None:
    """After SIGTERM the running call is served, no other is taken, and the exit status is 0."""
    with AgentServer(*FLAGS) as server:
        async with WebRTCCaller(server.url) as caller:
            await hear_out(caller)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await asyncio.to_thread(server.wait_for_draining)
            await refused(server)
            asked = await caller.say(recording("goforward", SAMPLE_RATE))
            await hear_out(caller, after=asked.end)
            assert caller.spoken_words(after=asked.start)
        assert await stopping == 0


async def refused(server: AgentServer) -> None:
    """Make sure that the server takes no call and says when to try again."""
    with pytest.raises(CallRefusedError) as refusal:
        async with WebRTCCaller(server.url):
            pass
    assert refusal.value.status == httpx.codes.SERVICE_UNAVAILABLE
    assert int(refusal.value.retry_after or 0) > 0
    assert len(refusal.value.detail.splitlines()) == 1


async def test_a_stun_server_that_is_away_holds_up_no_call() -> None:
    """A call begins within three seconds all the same, and the log says once what is wrong."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"stun:127.0.0.1:{silent.getsockname()[1]}"
        with AgentServer(*FLAGS, "--stun-servers", url) as server:
            took = []
            for _ in range(2):
                began = time.monotonic()
                async with WebRTCCaller(server.url) as caller:
                    took.append(caller.connected_at - began)
            # The server is waited for in each; a busy machine may hold up one of them.
            assert min(took) < 3
            server.wait_for_calls(0)
            assert server.log.count(f"{url} does not tell the agent its public address") == 1
