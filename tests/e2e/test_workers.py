"""Calls whose voice lives in other processes, which are stopped, frozen and killed meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from services.tts.voices import embedded_name
from tests.callers.recordings import recording
from tests.callers.redis import RedisServer
from tests.callers.server import AgentServer, WorkerServer
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller
from tests.e2e.conftest import FLAGS
from tests.fakes.worker import until

LONG = (
    "once upon a time there was a small white boat that sailed across the wide and quiet water "
    "with nobody in it but an old grey cat who had always wanted to see what lay behind the far "
    "blue hills and who had never in all its life been asked whether it could swim or sing or "
    "read the stars at night."
)
"""A sentence without a pause: what speaks it is killed in the middle."""

SLOW_VOICE = Path(".cache/models/piper-medium.onnx")
"""A voice whose sentence takes seconds, so that there is a middle."""

GAP_LIMIT = 1.0
"""Seconds of silence that a worker's death may cost."""

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as redis:
        yield redis


def worker(redis: RedisServer, *flags: str) -> WorkerServer:
    """A worker that Redis tells of."""
    return WorkerServer("--offline", "--redis", redis.url, *flags)


def agent(redis: RedisServer, *flags: str) -> AgentServer:
    """An agent that speaks through workers."""
    rest = FLAGS[2:]
    return AgentServer("--tts", redis.url, *rest, *flags)


def spoken(process: WorkerServer) -> float:
    """How many utterances a worker has spoken."""
    page = httpx.get(process.url + "/metrics").text
    lines = [line for line in page.splitlines() if "utterances_total{" in line]
    return sum(float(line.split()[-1]) for line in lines if 'outcome="done"' in line)


def longest_silence(caller: WebRTCCaller, began: float, over: float) -> float:
    """Seconds of the longest pause between two sounds."""
    sounds = [frame.at for frame in caller.frames if began <= frame.at <= over and frame.audible]
    return max(later - sooner for sooner, later in pairwise(sounds))


async def hear_out(caller: WebRTCCaller, after: float = 0.0) -> tuple[float, float]:
    began = await caller.wait_for_speech(after)
    return began, await caller.wait_for_silence(began, hold=1.2, limit=60)


async def test_a_call_through_a_worker_is_a_call(redis: RedisServer) -> None:
    """Greeting and answers are heard, word for word, from another process."""
    with worker(redis, "--engine", "piper") as voice, agent(redis) as server:
        async with WebRTCCaller(server.url) as caller:
            _, greeted = await hear_out(caller)
            caller.send_text("What is 7 times 6?")
            await hear_out(caller, greeted)
            assert caller.spoken_words(greeted) == caller.thought_words(greeted)
        assert spoken(voice) >= 2


async def test_kill_in_mid_sentence_costs_no_words(redis: RedisServer, tmp_path: Path) -> None:
    """Another worker speaks the rest: each word once, and no pause of a second."""
    persona = tmp_path / "agent.yaml"
    persona.write_text(f"greeting: {LONG}\n")
    flags = ("--engine", "piper", "--tts-voice", str(SLOW_VOICE), "--tts-threads", "1")
    with ExitStack() as stack:
        first = stack.enter_context(worker(redis, *flags))
        server = stack.enter_context(agent(redis, "--agent", str(persona)))
        spare = stack.enter_context(worker(redis, *flags))
        await until(lambda: server.log.count("connected, piper") == 2, 30)
        async with WebRTCCaller(server.url) as caller:
            began = await caller.wait_for_speech()
            busy = [one for one in (first, spare) if one.get("/ready")["calls"]]
            assert len(busy) == 1, "the sentence was over before anybody could be killed"
            await asyncio.to_thread(busy[0].kill)
            over = await caller.wait_for_silence(began, hold=1.2, limit=60)
            assert caller.spoken_words() == LONG.split()
            assert longest_silence(caller, began, over) <= GAP_LIMIT
        other = spare if busy[0] is first else first
        assert spoken(other) == 1


async def test_a_worker_that_freezes_is_left_and_used_again(redis: RedisServer) -> None:
    """One that accepts and says nothing costs two seconds once; thawed, it speaks again."""
    with ExitStack() as stack:
        voice = stack.enter_context(worker(redis, "--engine", "piper"))
        server = stack.enter_context(agent(redis, "--tts-fallback", "piper"))
        async with WebRTCCaller(server.url) as caller:
            _, greeted = await hear_out(caller)
            await asyncio.to_thread(voice.freeze)
            caller.send_text("What is 7 times 6?")
            _, answered = await hear_out(caller, greeted)
            assert caller.spoken_words(greeted) == caller.thought_words(greeted)
            before = answered
            voice.thaw()
            async with asyncio.timeout(40):
                heard = spoken(voice)
                while spoken(voice) == heard:
                    caller.send_text("What is 2 times 2?")
                    _, before = await hear_out(caller, before)


async def test_voices_are_swapped_under_a_call(redis: RedisServer) -> None:
    """Another engine's worker starts, the first stops: the same call goes on with the new voice.

    The other engine is OpenAI's speech API, as a third worker serves it.
    """
    other_voice = embedded_name(16000)
    with ExitStack() as stack:
        behind = stack.enter_context(
            WorkerServer("--offline", "--engine", "piper", "--tts-voice", other_voice)
        )
        first = stack.enter_context(worker(redis, "--engine", "piper"))
        # However long the other worker takes to start, nobody is asked whether they are there.
        server = stack.enter_context(agent(redis, "--idle-seconds", "0"))
        async with WebRTCCaller(server.url) as caller:
            _, greeted = await hear_out(caller)
            (call,) = server.get("/calls")["calls"]
            other = worker(
                redis,
                *("--engine", "openai", "--tts-base-url", f"{behind.url}/v1"),
                *("--tts-model", "any", "--tts-voice", other_voice),
            )
            # In a thread: a caller who is not heard of for seconds is taken to have left.
            second = await asyncio.to_thread(stack.enter_context, other)
            await asyncio.to_thread(first.stop)
            caller.send_text("What is 7 times 6?")
            _, answered = await hear_out(caller, greeted)
            assert caller.spoken_words(greeted) == caller.thought_words(greeted)
            assert spoken(second) >= 1
            assert server.get("/calls")["calls"][0]["id"] == call["id"]
            # By hand, over HTTP, to a voice that is there, and to one that is not.
            voices = [v["name"] for v in server.get("/api/agent")["tts"]["voices"]]
            url = f"{server.url}/calls/{call['id']}/voice"
            async with httpx.AsyncClient() as http:
                changed = await http.put(url, json={"voice": voices[0]})
            assert changed.json() == {"voice": voices[0]}
            told = await caller.request("set-voice", {"voice": voices[0]})
            assert told.type == "server-response"
            caller.send_text("Change your voice, please.")
            await hear_out(caller, answered)


async def test_an_ear_elsewhere_hears_as_one_here() -> None:
    """Speech goes to another process and comes back as words; without it the call goes on."""
    with WorkerServer("--stt", "pocketsphinx") as ear:
        flags = ("--tts", "piper", "--llm", "builtin", "--offline", "--stt", ear.address)
        with AgentServer(*flags) as server:
            async with WebRTCCaller(server.url) as caller:
                _, greeted = await hear_out(caller)
                said = await caller.say(recording("goforward", SAMPLE_RATE))
                told = await caller.wait_for_message(
                    "user-input", lambda d: d["final"], after=said.start
                )
                assert told.data["text"].lower() == "go forward ten meters"
                await asyncio.to_thread(ear.kill)
                caller.send_text("What is 7 times 6?")
                await hear_out(caller, max(greeted, said.end))
