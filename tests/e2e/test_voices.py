"""Voices under a live call: chosen by callers and by others, and followed as they come and go.

Callers choose among the voices that are here, and cannot have the server look for others.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pipecat.frames.frames import ControlFrame, Frame
from pipecat.processors.frame_processor import FrameDirection

from bot.agent import Agent
from bot.engines import Engines, load_engines
from bot.settings import Settings
from processors.digits import Digits
from services.tts.engine import Chunk
from services.tts.voices import embedded_name, embedded_voice
from tests.callers.local_server import serve
from tests.callers.webrtc import WebRTCCaller
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.voice_hub import VoiceHub, voice_hub
from tests.fakes.worker import LocalWorker, until

OFFERED = "en_GB-alba-medium"
"""A voice that the hub has and the server has not."""

VOICE = embedded_name(24000)
OTHER = embedded_name(16000)


@pytest.fixture(scope="module")
def hub() -> Iterator[VoiceHub]:
    with voice_hub() as hub:
        hub.add(OFFERED, b"a model", b"{}")
        yield hub


@pytest.fixture(scope="module")
def settings(hub: VoiceHub, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An agent that may download voices: its owner's, not its callers'."""
    return Settings(
        tts_voice=VOICE,
        stt="pocketsphinx",
        llm="builtin",
        cache=tmp_path_factory.mktemp("cache"),
        piper_hub=hub.url,
    )


@pytest.fixture
def voices_used(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The voice of each utterance, as the engine is asked for it."""
    used: list[str] = []
    speak = engines.speech.speak

    def watched(text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        used.append(voice)
        return speak(text, voice, speed)

    monkeypatch.setattr(engines.speech, "speak", watched)
    return used


async def told_of(caller: WebRTCCaller, voice: str, after: float = 0.0) -> dict[str, Any]:
    """What the client is told of its voices once it has this one."""
    message = await caller.wait_for_message(
        "server-message",
        lambda data: data.get("type") == "voices" and data["voice"] == voice,
        after=after,
    )
    return dict(message.data)


async def hear_out(caller: WebRTCCaller, after: float = 0.0) -> float:
    """When the agent, having said something, falls silent."""
    return await caller.wait_for_silence(await caller.wait_for_speech(after), hold=0.6)


@pytest.mark.parametrize(
    "voice",
    [OFFERED, "../../etc/passwd", "/tmp/x.onnx", str(embedded_voice(24000)), ""],
    ids=["another's name", "a relative path", "a path", "the path of a voice", "nothing"],
)
async def test_a_voice_that_is_not_here_is_neither_fetched_nor_opened(
    voice: str, settings: Settings, engines: Engines, hub: VoiceHub, voices_used: list[str]
) -> None:
    """No call begins with it, and a call that asks for it goes on with the voice it has."""
    async with serve(settings, engines, Agent()) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            refused = await http.post("/start", json={"body": {"voice": voice}})
            assert refused.status_code == httpx.codes.BAD_REQUEST
        async with WebRTCCaller(server.url) as caller:
            greeted = await caller.wait_for_silence(await caller.wait_for_speech(), hold=0.6)
            told = await caller.request("set-voice", {"voice": voice})
            assert told.type == "error-response"
            caller.send_text("What is 7 times 6?")
            await caller.wait_for_words(1, greeted)
    assert set(voices_used) == {VOICE}
    assert hub.requests == []


async def test_the_voice_is_changed_by_asking_for_it(
    settings: Settings,
    engines: Engines,
    voices_used: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tool takes the next voice, the answer is spoken with it, and the client is told.

    No answer is too quick for that, however slowly a frame comes through the caller's side.
    """
    process = Digits.process_frame

    async def slowly(self: Digits, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, ControlFrame):
            await asyncio.sleep(0.3)
        await process(self, frame, direction)

    monkeypatch.setattr(Digits, "process_frame", slowly)
    async with serve(settings, engines, Agent()) as server, WebRTCCaller(server.url) as caller:
        state = await told_of(caller, VOICE)
        (call,) = server.calls
        assert state["call"] == call.id
        assert [voice["name"] for voice in state["voices"]] == [VOICE, OTHER]
        silent = await hear_out(caller)
        assert voices_used == [VOICE]
        for voice in (OTHER, VOICE):
            before = len(voices_used)
            caller.send_text("Change your voice, please.")
            silent = await hear_out(caller, silent)
            assert set(voices_used[before:]) == {voice}
            assert (await told_of(caller, voice))["wanted"] == voice
            assert call.voice == voice


async def test_the_voice_is_changed_over_http(
    settings: Settings, engines: Engines, voices_used: list[str]
) -> None:
    """A call that is listed can be given another voice: what follows is spoken with it."""
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        async with WebRTCCaller(server.url) as caller:
            silent = await hear_out(caller)
            listed = (await http.get("/calls")).json()["calls"]
            assert listed == [{"id": next(iter(server.calls)).id, "voice": VOICE}]
            path = f"/calls/{listed[0]['id']}/voice"
            for voice in (OTHER, OTHER):
                changed = await http.put(path, json={"voice": voice})
                assert (changed.status_code, changed.json()) == (200, {"voice": voice})
            await told_of(caller, OTHER)
            assert (await http.get("/calls")).json()["calls"][0]["voice"] == OTHER
            caller.send_text("What is 7 times 6?")
            await hear_out(caller, silent)
            assert voices_used[-1] == OTHER
        assert set(voices_used) == {VOICE, OTHER}


BAD_BODIES = [
    (b"", 422),
    (b"{", 422),
    (b"\xff\xfe", 422),
    (b"[]", 422),
    (b"{}", 422),
    (b'{"voice": null}', 422),
    (b'{"voice": ["a"]}', 422),
    (b'{"voice": ""}', 422),
    (b'{"voice": "' + b"a" * 201 + b'"}', 422),
    (b'{"voice": "../../etc/passwd"}', 400),
    (b'{"voice": "nobody\\n"}', 400),
    (b" " * 300_000, 413),
]
"""What is no voice for a call, and the status that it gets."""


async def test_what_is_no_voice_is_refused_over_http(settings: Settings, engines: Engines) -> None:
    """A wrong body is refused in a line, whatever is wrong, and the call keeps its voice."""
    headers = {"content-type": "application/json"}
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers) as http,
        WebRTCCaller(server.url),
    ):
        (call,) = server.calls
        for body, status in BAD_BODIES:
            refused = await http.put(f"/calls/{call.id}/voice", content=body)
            assert refused.status_code == status, body[:40]
            assert len(refused.json()["detail"].splitlines()) == 1
        for unknown in ("nobody", "%00", call.id.upper()):
            answer = await http.put(f"/calls/{unknown}/voice", json={"voice": OTHER})
            assert answer.status_code == 404, unknown
        assert call.voice == VOICE


async def test_a_call_may_end_while_its_voice_changes(settings: Settings, engines: Engines) -> None:
    """Whoever changes the voice at that moment is answered, and nothing is left of the call."""
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        caller = WebRTCCaller(server.url)
        await caller.connect()
        (call,) = server.calls
        path = f"/calls/{call.id}/voice"
        ending = asyncio.create_task(caller.close())
        statuses: list[int] = []
        async with asyncio.timeout(15):
            while not statuses or statuses[-1] != 404:
                answer = await http.put(path, json={"voice": (VOICE, OTHER)[len(statuses) % 2]})
                statuses.append(answer.status_code)
        await ending
        assert set(statuses) <= {200, 404}
        assert (await http.get("/calls")).json() == {"calls": []}
        # As by a tool that was under way.
        await call.set_voice(VOICE)
        await call.update_voices()


class Workers:
    """Two workers, `one` and `two`, with the same voices, and an agent that speaks through them."""

    def __init__(self) -> None:
        self.engines: Engines
        self.settings: Settings
        self._ports: dict[str, int] = {}
        self._stack = AsyncExitStack()
        self._running: dict[str, LocalWorker] = {}

    async def start(self, name: str) -> None:
        """Start one, where it was before."""
        worker = LocalWorker(FakeSpeechEngine(), name=name, port=self._ports.get(name, 0))
        self._ports[name] = worker.port
        self._running[name] = await self._stack.enter_async_context(worker)

    async def stop(self, name: str) -> None:
        """Stop one."""
        await self._running[name].stop()

    def spoken(self, name: str) -> list[str]:
        """The voices of what one has spoken since it started."""
        engine = self._running[name].engine
        assert isinstance(engine, FakeSpeechEngine)
        return [utterance.voice for utterance in engine.utterances]

    async def open(self) -> None:
        """Start both, and what speaks through them."""
        for name in ("one", "two"):
            await self.start(name)
        self.settings = Settings(
            tts=",".join(f"ws://127.0.0.1:{port}" for port in self._ports.values()),
            stt="pocketsphinx",
            llm="builtin",
            tts_voice="one/basso",
            offline=True,
        )
        self.engines = await asyncio.to_thread(
            load_engines, self.settings, Agent(), lambda *_: None
        )
        self._stack.push_async_callback(self.engines.close)
        await self.engines.open()
        await until(lambda: len(self.engines.voices()) == 4)

    async def close(self) -> None:
        """Stop all of it."""
        await self._stack.aclose()


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    workers = Workers()
    try:
        await workers.open()
        yield workers
    finally:
        await workers.close()


async def test_a_voice_that_is_away_is_stood_in_for(workers: Workers) -> None:
    """The closest voice speaks meanwhile, then the one asked for; the client knows at each step."""
    async with (
        serve(workers.settings, workers.engines, Agent()) as server,
        WebRTCCaller(server.url) as caller,
    ):
        state = await told_of(caller, "one/basso")
        assert len(state["voices"]) == 4
        silent = await hear_out(caller)
        before = time.monotonic()
        await workers.stop("one")
        state = await told_of(caller, "two/basso", before)
        assert [voice["name"] for voice in state["voices"]] == ["two/alto", "two/basso"]
        assert state["wanted"] == "one/basso"
        caller.send_text("What is 7 times 6?")
        silent = await hear_out(caller, silent)
        assert set(workers.spoken("two")) == {"basso"}
        before = time.monotonic()
        await workers.start("one")
        state = await told_of(caller, "one/basso", before)
        assert len(state["voices"]) == 4
        caller.send_text("What is 7 times 6?")
        await hear_out(caller, silent)
        assert set(workers.spoken("one")) == {"basso"}
        # One that is chosen meanwhile stays.
        before = time.monotonic()
        await workers.stop("one")
        await told_of(caller, "two/basso", before)
        await caller.request("set-voice", {"voice": "two/alto"})
        assert (await told_of(caller, "two/alto"))["wanted"] == "two/alto"
        await workers.start("one")
        await until(lambda: len(workers.engines.voices()) == 4)
        (call,) = server.calls
        assert call.voice == "two/alto"


async def test_a_call_gets_its_voice_when_there_is_one(workers: Workers) -> None:
    """A call that begins while nobody speaks takes what comes, then the settings' own voice."""
    for name in ("one", "two"):
        await workers.stop(name)
    await until(lambda: not workers.engines.voices())
    async with (
        serve(workers.settings, workers.engines, Agent(greeting="")) as server,
        WebRTCCaller(server.url) as caller,
        httpx.AsyncClient() as http,
    ):
        assert (await told_of(caller, ""))["voices"] == []
        (call,) = server.calls
        url = f"{server.url}/calls/{call.id}/voice"
        refused = await http.put(url, json={"voice": "one/alto"})
        assert refused.status_code == httpx.codes.BAD_REQUEST
        await workers.start("two")
        assert (await told_of(caller, "two/basso"))["wanted"] == "one/basso"
        await workers.start("one")
        await told_of(caller, "one/basso")
        caller.send_text("What is 7 times 6?")
        await hear_out(caller)
        assert set(workers.spoken("one")) == {"basso"}
