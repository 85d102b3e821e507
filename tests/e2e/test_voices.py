"""Callers choose among the voices that are here, and cannot have the server look for others."""

from collections.abc import Iterator
from threading import Event

import httpx
import pytest

from bot.agent import Agent
from bot.engines import Engines
from bot.settings import Settings
from services.tts.engine import Chunk
from services.tts.voices import embedded_name, embedded_voice
from tests.callers.local_server import serve
from tests.callers.webrtc import WebRTCCaller
from tests.fakes.voice_hub import VoiceHub, voice_hub

OFFERED = "en_GB-alba-medium"
"""A voice that the hub has and the server has not."""

VOICE = embedded_name(24000)


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

    def watched(text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        used.append(voice)
        return speak(text, voice, speed, stop)

    monkeypatch.setattr(engines.speech, "speak", watched)
    return used


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
