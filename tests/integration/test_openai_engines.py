"""Voice and ear at an OpenAI-compatible endpoint: the real SDK against a server on loopback."""

import asyncio
import io
import json
import math
import socket
import threading
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from services import catalog
from services.errors import BusyError, EngineError, UnknownVoiceError
from services.settings import EngineSettings, SettingsError
from services.stt import openai as stt
from services.stt.engine import SAMPLE_RATE, Segment, Transcript
from services.stt.openai import OpenAIHearing
from services.tts import openai as tts
from services.tts.engine import Chunk, VoiceInfo
from services.tts.openai import BUILT_IN, MOST_CHARACTERS, OpenAISpeech
from tests.fakes.openai_server import (
    Answer,
    Drop,
    FakeOpenAI,
    Heard,
    Page,
    Refusal,
    Silence,
    Sound,
)

PCM = (np.arange(24000) % 3000).astype("<i2").tobytes()
"""A second of audio in which every stretch differs from its neighbours."""

GONE_S = 5.0
"""When the server must have seen the connection closed: at once on a machine that is not busy, and
long before the engine has enough of the silence, which closes it as well."""


@contextmanager
def speaking(server: FakeOpenAI, **settings: Any) -> Iterator[OpenAISpeech]:
    """An engine whose endpoint is the server."""
    defaults: dict[str, Any] = {
        "model": "tts-x",
        "voice": "vivian",
        "api_key": server.api_key,
        "silence_s": 20.0,
    }
    engine = OpenAISpeech(base_url=server.base_url, **(defaults | settings))
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def hearing(server: FakeOpenAI, **settings: Any) -> Iterator[OpenAIHearing]:
    """An engine whose endpoint is the server."""
    defaults: dict[str, Any] = {"model": "stt-x", "api_key": server.api_key, "silence_s": 20.0}
    engine = OpenAIHearing(base_url=server.base_url, **(defaults | settings))
    try:
        yield engine
    finally:
        engine.close()


async def speak(
    engine: OpenAISpeech, text: str = "Hello there.", voice: str = "", speed: float = 1.0
) -> list[Chunk]:
    """All of an utterance, spoken in a thread as the service does."""

    def run() -> list[Chunk]:
        return list(engine.speak(text, voice, speed, Event()))

    return await asyncio.to_thread(run)


async def hear(
    engine: OpenAIHearing, pcm: bytes = bytes(SAMPLE_RATE), language: str | None = "en"
) -> Transcript:
    return await asyncio.to_thread(engine.transcribe, pcm, language, Event())


def audio(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


@asynccontextmanager
async def until_it_leaves(server: FakeOpenAI) -> AsyncIterator[None]:
    """The server sees the client go at once after what is done within."""
    await asyncio.wait_for(server.fell_silent.wait(), 20)
    began = time.monotonic()
    yield
    await asyncio.wait_for(server.client_left.wait(), 20)
    assert time.monotonic() - began < GONE_S


class TestSpeech:
    """`--tts openai`."""

    @pytest.mark.parametrize("step", [1, 333, 1920, 100_000])
    async def test_speaks(self, step: int) -> None:
        """The server's samples, whatever it cuts them into, in chunks of at most 80 ms."""
        async with FakeOpenAI(Sound(PCM[:2400] if step == 1 else PCM, step)) as server:
            with speaking(server) as engine:
                chunks = await speak(engine)
        assert audio(chunks) == (PCM[:2400] if step == 1 else PCM)
        assert all(len(chunk.pcm) <= 2 * 1920 and not len(chunk.pcm) % 2 for chunk in chunks)
        assert {chunk.sample_rate for chunk in chunks} == {24000}

    async def test_asks_as_documented(self) -> None:
        """Raw samples, streamed; a speed only where one is wanted: not all servers know it."""
        async with FakeOpenAI() as server:
            with speaking(server) as engine:
                await speak(engine)
                await speak(engine, speed=1.5)
        first, second = server.requests
        assert first == {
            "model": "tts-x",
            "voice": "vivian",
            "input": "Hello there.",
            "response_format": "pcm",
            "stream_format": "audio",
            "sample_rate": 24000,
        }
        assert second == first | {"speed": 1.5}

    async def test_gives_words(self) -> None:
        """Every word once, in order, marked as estimated and within the audio."""
        text = "It is a long way to the sea, but a short one to the shop."
        async with FakeOpenAI(Sound(PCM * 3)) as server:
            with speaking(server) as engine:
                chunks = await speak(engine, text)
        words = [word for chunk in chunks for word in chunk.words]
        assert [word.text for word in words] == text.split()
        assert all(word.estimated for word in words)
        assert sorted(words, key=lambda word: word.end) == words
        assert words[-1].end <= 3.0

    async def test_audio_is_given_as_it_comes(self) -> None:
        """The first chunk is there while the server has not finished."""
        async with FakeOpenAI(Sound(PCM, then="silence")) as server:
            with speaking(server) as engine:
                stop = Event()
                going = engine.speak("Hello there.", "", 1.0, stop)
                first = await asyncio.to_thread(next, going)
                assert first.pcm == PCM[: len(first.pcm)]
                stop.set()
                assert await asyncio.to_thread(list, going) == []

    @pytest.mark.parametrize("answer", [Silence(), Sound(PCM, then="silence")])
    async def test_stop_closes_the_connection(self, answer: Answer) -> None:
        """At once, though the thread is blocked in a read: before the first byte or later."""
        async with FakeOpenAI(answer) as server:
            with speaking(server) as engine:
                stop = Event()

                def run() -> list[Chunk]:
                    return list(engine.speak("Hello there.", "", 1.0, stop))

                speech = asyncio.create_task(asyncio.to_thread(run))
                async with until_it_leaves(server):
                    stop.set()
                await speech
                assert audio(await speak(engine)) == bytes(4800)

    async def test_a_closed_generator_closes_the_connection(self) -> None:
        """Whoever stops reading needs not set a flag."""
        async with FakeOpenAI(Sound(PCM, then="silence")) as server:
            with speaking(server) as engine:
                going = engine.speak("Hello there.", "", 1.0, Event())
                await asyncio.to_thread(next, going)
                async with until_it_leaves(server):
                    going.close()  # type: ignore[attr-defined]

    async def test_close_ends_everything(self) -> None:
        """What is being spoken ends, the thread ends, and a second time does nothing."""
        async with FakeOpenAI(Silence()) as server:
            with speaking(server) as engine:
                speech = asyncio.create_task(speak(engine))
                async with until_it_leaves(server):
                    await asyncio.to_thread(engine.close)
                assert await speech == []
                assert await speak(engine) == []
            assert not any(thread.name == "openai" for thread in threading.enumerate())

    async def test_utterances_share_connections_and_wait_for_nobody(self) -> None:
        """One that hangs holds up no other; one after another use the same connection."""
        async with FakeOpenAI(Silence()) as server:
            with speaking(server) as engine:
                stop = Event()

                def run() -> list[Chunk]:
                    return list(engine.speak("Hang.", "", 1.0, stop))

                hung = asyncio.create_task(asyncio.to_thread(run))
                await asyncio.wait_for(server.fell_silent.wait(), 20)
                many = await asyncio.gather(*(speak(engine) for _ in range(7)))
                assert [audio(chunks) for chunks in many] == [bytes(4800)] * 7
                stop.set()
                await hung
                before = set(server.connections)
                for _ in range(3):
                    await speak(engine)
                assert server.connections == before

    async def test_a_long_text_takes_several_requests(self) -> None:
        """Each of whole sentences; words once each, with times that go on."""
        text = " ".join(f"This is sentence number {n}." for n in range(300))
        async with FakeOpenAI(*[Sound(PCM)] * 3) as server:
            with speaking(server) as engine:
                chunks = await speak(engine, text)
        asked = [request["input"] for request in server.requests]
        assert len(asked) == 3
        assert all(len(part) <= MOST_CHARACTERS and part.endswith(".") for part in asked)
        assert " ".join(asked) == text
        assert audio(chunks) == PCM * 3
        words = [word for chunk in chunks for word in chunk.words]
        assert [word.text for word in words] == text.split()
        assert sum(word.end <= 1.0 for word in words) == len(asked[0].split())
        assert 2.0 < words[-1].end <= 3.0

    @pytest.mark.parametrize("text", ["", "  \n", "…", "?!"])
    async def test_nothing_to_say(self, text: str) -> None:
        """Asks nothing and gives nothing."""
        async with FakeOpenAI() as server:
            with speaking(server) as engine:
                assert await speak(engine, text) == []
            assert server.requests == []

    @pytest.mark.parametrize("speed", [0.1, 5.0, math.nan])
    async def test_a_speed_out_of_bounds(self, speed: float) -> None:
        """Is refused here, before anything is asked."""
        async with FakeOpenAI() as server:
            with speaking(server) as engine, pytest.raises(EngineError, match="speed"):
                await speak(engine, speed=speed)
            assert server.requests == []

    @pytest.mark.parametrize(
        ("answer", "kind", "message"),
        [
            (Refusal(401), EngineError, "does not accept the API key"),
            (Refusal(403), EngineError, "may not use model 'tts-x'"),
            (Refusal(404, "no such model"), EngineError, "knows no model 'tts-x'.*no such model"),
            (Refusal(429, "slow down"), BusyError, "takes no more requests.*slow down"),
            (Refusal(429, "pay", "insufficient_quota"), EngineError, "quota.*used up"),
            (Refusal(503, "full"), BusyError, "takes no more requests.*full"),
            (Refusal(500, "oh"), EngineError, "failed with status 500: oh"),
            (Refusal(400, "speed\nmust be 1.0"), EngineError, "refuses: speed must be 1.0"),
            (Refusal(400, "try x", param="voice"), UnknownVoiceError, "no such voice: try x"),
            (Refusal(400, "sk-fake is bad"), EngineError, r"refuses: \*\*\* is bad"),
            (Page("<html>Hello</html>"), EngineError, "sends text/html instead of samples"),
            (Page("{}", "application/json"), EngineError, "sends application/json instead"),
            (Sound(PCM, media_type="audio/mpeg"), EngineError, "sends audio/mpeg instead"),
            (Sound(b""), EngineError, "sends no audio"),
            (Sound(PCM[:-1]), EngineError, "odd number of bytes"),
            (Sound(PCM, then="drop"), EngineError, "broke off"),
        ],
    )
    async def test_errors(self, answer: Answer, kind: type[EngineError], message: str) -> None:
        """One line that says who failed and how, without the key; nothing is asked twice."""
        async with FakeOpenAI(answer) as server:
            with speaking(server) as engine, pytest.raises(EngineError, match=message) as error:
                await speak(engine)
        assert error.type is kind
        assert "127.0.0.1:" in str(error.value)
        assert "\n" not in str(error.value)
        assert server.api_key not in str(error.value)
        assert len(server.requests) == 1

    async def test_what_came_before_an_error_is_given(self) -> None:
        """A connection that breaks in mid-speech costs what was to follow only."""
        async with FakeOpenAI(Sound(PCM, then="drop")) as server:
            with speaking(server) as engine:
                chunks: list[Chunk] = []

                def run() -> None:
                    chunks.extend(engine.speak("Hello there.", "", 1.0, Event()))

                with pytest.raises(EngineError, match="broke off"):
                    await asyncio.to_thread(run)
        assert audio(chunks)
        assert PCM.startswith(audio(chunks))

    async def test_a_kept_connection_that_was_closed_is_no_error(self) -> None:
        """Servers close idle connections as we use them: asked again, once, on a new one."""
        async with FakeOpenAI(Drop(), Sound(PCM), Drop(), Drop()) as server:
            with speaking(server) as engine:
                assert audio(await speak(engine)) == PCM
                with pytest.raises(EngineError, match="cannot be reached"):
                    await speak(engine)
                assert len(server.requests) == 4

    async def test_nobody_there(self) -> None:
        """A port on which nobody listens is named."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        engine = OpenAISpeech(base_url=f"http://127.0.0.1:{port}/v1", model="m", voice="v")
        try:
            with pytest.raises(EngineError, match=f"127.0.0.1:{port} cannot be reached"):
                await speak(engine)
        finally:
            engine.close()

    @pytest.mark.parametrize("answer", [Silence(), Sound(PCM, then="silence")])
    async def test_a_silent_endpoint_is_left(self, answer: Answer) -> None:
        """After the limit, before the first byte or between two, and its connection is closed."""
        async with FakeOpenAI(answer) as server:
            with speaking(server, silence_s=1.0) as engine:
                with pytest.raises(EngineError, match="was silent for 1 s"):
                    await speak(engine)
                await asyncio.wait_for(server.client_left.wait(), 20)

    @pytest.mark.parametrize(
        ("media_type", "rate"),
        [("audio/pcm;rate=16000", 16000), ("Audio/PCM; rate=48000; channels=1", 48000)],
    )
    async def test_another_rate(self, media_type: str, rate: int) -> None:
        """A server that says its rate is believed."""
        async with FakeOpenAI(Sound(PCM, media_type=media_type)) as server:
            with speaking(server) as engine:
                chunks = await speak(engine)
        assert {chunk.sample_rate for chunk in chunks} == {rate}
        assert audio(chunks) == PCM

    async def test_no_key(self) -> None:
        """An endpoint that wants a key where none is set says so."""
        async with FakeOpenAI() as server:
            wanted = pytest.raises(EngineError, match="wants an API key")
            with speaking(server, api_key=None) as engine, wanted:
                await speak(engine)


class TestVoices:
    """Which voices an endpoint has."""

    @pytest.mark.parametrize(
        ("lists", "voices"),
        [
            (
                # A worker of ours.
                {
                    "voices": {"voices": [{"name": "a", "label": "A", "language": "de-DE"}]},
                    "audio/voices": {"voices": ["a"]},
                },
                [VoiceInfo("a", "A", "de-DE")],
            ),
            (
                # vLLM-Omni, Kokoro-FastAPI.
                {"audio/voices": {"voices": ["a", "b"], "uploaded_voices": []}},
                [VoiceInfo("a", "a", "en"), VoiceInfo("b", "b", "en")],
            ),
            (
                {"audio/voices": {"voices": [{"voice_id": "v1", "name": "Ann"}, {"bad": 1}, 7]}},
                [VoiceInfo("v1", "Ann", "en")],
            ),
            ({"voices": {"data": [{"id": "v1", "name": "Ann"}]}}, [VoiceInfo("v1", "Ann", "en")]),
            ({"voices": ["a"]}, [VoiceInfo("a", "a", "en")]),
            # A web page for every address.
            ({"voices": Page("<html>"), "audio/voices": ["a"]}, [VoiceInfo("a", "a", "en")]),
        ],
    )
    async def test_are_listed(self, lists: dict[str, Any], voices: list[VoiceInfo]) -> None:
        """In any of the shapes that servers give them; the first is the default."""
        async with FakeOpenAI() as server:
            server.lists = lists
            with speaking(server, voice=None) as engine:
                await asyncio.to_thread(engine.load)
                assert list(engine.voices()) == voices
                assert engine.loaded() == tuple(voice.name for voice in voices)
                await speak(engine)
        assert server.requests[-1]["voice"] == voices[0].name

    async def test_the_setting_is_first_and_needs_no_list(self) -> None:
        """The voice that a person named is asked for, though the server does not list it."""
        async with FakeOpenAI() as server:
            server.lists = {"audio/voices": {"voices": ["a", "b"]}}
            with speaking(server, voice="a+b") as engine:
                await asyncio.to_thread(engine.load)
                assert [voice.name for voice in engine.voices()] == ["a+b", "a", "b"]
                await speak(engine)
        assert server.requests[-1]["voice"] == "a+b"

    async def test_a_listed_voice_keeps_its_description(self) -> None:
        """The setting makes it the first, and nothing else of it."""
        async with FakeOpenAI() as server:
            server.lists = {"voices": [{"name": "a"}, {"name": "b", "language": "fr-FR"}]}
            with speaking(server, voice="b") as engine:
                await asyncio.to_thread(engine.load)
                assert engine.voices()[0] == VoiceInfo("b", "b", "fr-FR")

    async def test_an_unknown_voice(self) -> None:
        """Is asked for nowhere but in the list, which may have grown."""
        async with FakeOpenAI() as server:
            server.lists = {"audio/voices": {"voices": ["a"]}}
            with speaking(server, voice="a") as engine:
                await asyncio.to_thread(engine.load)
                with pytest.raises(UnknownVoiceError, match=r"no voice 'b'.*known are a"):
                    await speak(engine, voice="b")
                assert server.requests == []
                server.lists = {"audio/voices": {"voices": ["a", "b"]}}
                await speak(engine, voice="b")
        assert server.requests[-1]["voice"] == "b"

    async def test_no_voice_at_all(self) -> None:
        """Without a list a voice must be named, and the line says where."""
        async with FakeOpenAI() as server:
            unnamed = pytest.raises(EngineError, match="--tts-voice")
            with speaking(server, voice=None) as engine, unnamed:
                await asyncio.to_thread(engine.load)

    async def test_a_list_that_is_refused(self) -> None:
        """A wrong key is found when the engine is loaded."""
        async with FakeOpenAI() as server:
            refused = pytest.raises(EngineError, match="does not accept the API key")
            with speaking(server, api_key="sk-wrong") as engine, refused:
                await asyncio.to_thread(engine.load)

    def test_openai_s_own(self) -> None:
        """Are known without asking; the one of the setting comes first."""
        engine = OpenAISpeech(model="m", api_key="sk", voice="nova")
        try:
            engine.load("cedar")
            names = [voice.name for voice in engine.voices()]
            assert names[0] == "nova"
            assert sorted(names) == sorted(BUILT_IN)
        finally:
            engine.close()


SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello there.", "avg_logprob": -0.1},
    {"id": 1, "start": 1.5, "end": 2.0, "text": " ", "avg_logprob": -9.0, "no_speech_prob": 0.9},
    {"id": 2, "start": 2.0, "end": 3.0, "text": " Bye.", "avg_logprob": 0.1, "no_speech_prob": 0.4},
]


class TestHearing:
    """`--stt openai`."""

    async def test_hears(self) -> None:
        """Segments with their times and probabilities, clamped to 0 and 1; empty ones left out."""
        async with FakeOpenAI(Heard("Hello there. Bye.", SEGMENTS)) as server:
            with hearing(server) as engine:
                transcript = await hear(engine)
        assert transcript == Transcript(
            (
                Segment("Hello there.", 0.0, 1.5, math.exp(-0.1), 0.0),
                Segment("Bye.", 2.0, 3.0, 1.0, 0.4),
            ),
            "en",
        )

    async def test_sends_a_wav(self) -> None:
        """The samples as they are, with the language and the model; half a sample is left out."""
        pcm = (np.arange(8000) % 777).astype("<i2").tobytes()
        async with FakeOpenAI() as server:
            with hearing(server) as engine:
                await hear(engine, pcm + b"x", "de")
                await hear(engine, pcm, None)
        first, second = server.requests
        assert first["model"] == "stt-x"
        assert first["language"] == "de"
        assert first["response_format"] == "verbose_json"
        assert "language" not in second
        with wave.open(io.BytesIO(first["file"])) as wav:
            assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16000, 1, 2)
            assert wav.readframes(wav.getnframes()) == pcm

    @pytest.mark.parametrize("format_", ["json", "text"])
    async def test_falls_back_to_what_the_model_gives(self, format_: str) -> None:
        """Without probabilities what was heard counts as certain; the way is found once."""
        async with FakeOpenAI(Heard("Hello."), Heard("Hello.")) as server:
            server.transcripts = {format_}
            with hearing(server) as engine:
                expected = Transcript((Segment("Hello.", 0.0, 0.5, 1.0, 0.0),), "en")
                assert await hear(engine) == expected
                tried = len(server.requests)
                assert await hear(engine) == expected
        assert [request["response_format"] for request in server.requests[tried:]] == [format_]

    async def test_tells_a_language_by_its_code(self) -> None:
        """A code is passed on, an English name is not one."""
        async with FakeOpenAI(Heard("Ja.", SEGMENTS, "de"), Heard("Ja.", SEGMENTS)) as server:
            with hearing(server) as engine:
                assert (await hear(engine, language=None)).language == "de"
                assert (await hear(engine, language=None)).language is None

    async def test_silence_has_no_segments(self) -> None:
        """Nothing heard is an empty transcript, and no audio is not sent at all."""
        async with FakeOpenAI(Heard("", [])) as server:
            with hearing(server) as engine:
                assert (await hear(engine)).segments == ()
                assert (await hear(engine, b"")).segments == ()
                assert len(server.requests) == 1

    async def test_stop_closes_the_connection(self) -> None:
        """At once, and what comes back is empty."""
        async with FakeOpenAI(Silence()) as server:
            with hearing(server) as engine:
                stop = Event()
                task = asyncio.create_task(
                    asyncio.to_thread(engine.transcribe, bytes(3200), "en", stop)
                )
                async with until_it_leaves(server):
                    stop.set()
                assert await task == Transcript(())
                assert (await hear(engine)).text == "you said something"

    async def test_close_ends_everything(self) -> None:
        """What is being heard ends empty, and a second time does nothing."""
        async with FakeOpenAI(Silence()) as server:
            with hearing(server) as engine:
                task = asyncio.create_task(hear(engine))
                async with until_it_leaves(server):
                    await asyncio.to_thread(engine.close)
                assert await task == Transcript(())

    @pytest.mark.parametrize(
        ("answer", "kind", "message"),
        [
            (Refusal(401), EngineError, "does not accept the API key"),
            (Refusal(404, "no such model"), EngineError, "knows no model 'stt-x'"),
            (Refusal(429), BusyError, "takes no more requests"),
            (Refusal(503), BusyError, "takes no more requests"),
            (Refusal(500, "oh"), EngineError, "failed with status 500: oh"),
            (Refusal(413, "too big"), EngineError, "refuses: too big"),
            (Page("<html>Hello</html>"), EngineError, "a web page instead of a transcript"),
            (Page("{}", "application/json"), EngineError, "no transcript"),
            (Page("[", "application/json"), EngineError, "no transcript"),
            (Page(json.dumps({"text": 7}), "application/json"), EngineError, "no transcript"),
        ],
    )
    async def test_errors(self, answer: Answer, kind: type[EngineError], message: str) -> None:
        """One line that says who failed and how."""
        async with FakeOpenAI(answer) as server:
            with hearing(server) as engine, pytest.raises(EngineError, match=message) as error:
                await hear(engine)
        assert error.type is kind
        assert "127.0.0.1:" in str(error.value)

    async def test_a_silent_endpoint_is_left(self) -> None:
        """After the limit."""
        async with FakeOpenAI(Silence()) as server:
            with hearing(server, silence_s=1.0) as engine:
                with pytest.raises(EngineError, match="was silent"):
                    await hear(engine)
                await asyncio.wait_for(server.client_left.wait(), 20)

    async def test_too_long(self) -> None:
        """More than the endpoint takes is refused here, in minutes."""
        async with FakeOpenAI() as server:
            with hearing(server) as engine, pytest.raises(EngineError, match="13 minutes"):
                await hear(engine, bytes(26_000_000))
            assert server.requests == []


class TestBuild:
    """What the settings make."""

    @pytest.mark.parametrize(
        ("rows", "flag"), [(catalog.TTS, "--tts-model"), (catalog.STT, "--stt-model")]
    )
    def test_no_model(self, rows: Sequence[catalog.Choice], flag: str) -> None:
        """There is no default that may be shut down: the setting is named."""
        address = "http://127.0.0.1:9/v1"
        settings = settings_of(tts_base_url=address, stt_base_url=address)
        with pytest.raises(SettingsError, match=flag):
            catalog.choice(rows, "openai").build(settings, "openai", "en", _silently)

    @pytest.mark.parametrize("build", [tts.build, stt.build])
    def test_openai_s_key(
        self, build: Callable[..., catalog.Loaded[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`OPENAI_API_KEY` goes to OpenAI, and to no other address."""
        keys: list[str | None] = []

        def note(base_url: str | None, api_key: str | None, **_: Any) -> None:
            keys.append(api_key)
            raise EngineError("noted")

        monkeypatch.setattr(f"{build.__module__}.Endpoint", note)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
        models = {"tts_model": "m", "stt_model": "m"}
        address = "http://127.0.0.1:9/v1"
        for more in (
            {},
            {"tts_base_url": address, "stt_base_url": address},
            {"tts_api_key": "sk-own", "stt_api_key": "sk-own"},
        ):
            with pytest.raises(EngineError, match="noted"):
                build(settings_of(**models, **more), "en", _silently)
        assert keys == ["sk-openai", None, "sk-own"]

    async def test_a_voice(self) -> None:
        """The settings' model, key and voice are used, and the table says where it is."""
        async with FakeOpenAI() as server:
            settings = settings_of(
                tts_base_url=server.base_url, tts_model="m", tts_api_key=server.api_key
            )
            loaded = await asyncio.to_thread(tts.build, settings, "v", _silently)
            try:
                assert (loaded.model, loaded.source) == ("m", server.url.removeprefix("http://"))
                list_ = await asyncio.to_thread(
                    lambda: list(loaded.engine.speak("Hello.", "", 1.0, Event()))
                )
                assert audio(list_) == bytes(4800)
            finally:
                loaded.engine.close()
        assert server.requests[0]["voice"] == "v"

    async def test_an_ear(self) -> None:
        """It is seen to hear; a key that is wrong is told with the setting."""
        async with FakeOpenAI() as server:
            settings = settings_of(
                stt_base_url=server.base_url, stt_model="m", stt_api_key=server.api_key
            )
            loaded = await asyncio.to_thread(stt.build, settings, "en", _silently)
            loaded.engine.close()
            settings = settings_of(
                stt_base_url=server.base_url, stt_model="m", stt_api_key="sk-wrong"
            )
            with pytest.raises(SettingsError, match=r"--stt-base-url: .* does not accept"):
                await asyncio.to_thread(stt.build, settings, "en", _silently)
        assert not any(thread.name == "openai" for thread in threading.enumerate())


def settings_of(**values: Any) -> EngineSettings:
    """Settings without the environment's."""
    return EngineSettings(_env_file=None, cache=Path("unused"), **values)  # type: ignore[call-arg]


def _silently(name: str, done: int, total: int) -> None:
    """Nothing is downloaded."""
