"""A worker's Wyoming server, asked by Wyoming's own client over a real connection."""

import asyncio
import json
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeVoice,
)
from wyoming.wake import Detect

from services.audio import Resampler
from services.errors import BusyError, EngineError, MissingExtraError
from services.settings import SettingsError
from services.stt.engine import SAMPLE_RATE
from services.stt.hearing import Hearing
from services.stt.local import LocalHearing
from services.stt.pocketsphinx import PocketsphinxEngine
from services.tts import voices
from services.tts.engine import SpeechEngine
from services.tts.local import LocalSpeech
from services.tts.piper import PiperEngine
from services.worker import patience, wyoming_streams
from services.worker import wyoming as server_module
from services.worker.host import Host, open_host
from services.worker.wyoming import WyomingServer
from services.worker.wyoming_input import MAX_DATA, MAX_LINE, MAX_PAYLOAD
from tests.callers.server import WorkerServer, free_port
from tests.fakes.hearing_engine import heard
from tests.fakes.speech import FakeHearing
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import until
from tests.integration.speech import spoken

TEN_WORDS = "one two three four five six seven eight nine ten"
"""A second of speech."""

ENOUGH = 10_000
"""Permits for whatever a gated engine still has to say."""

LIMIT_S = 20.0
"""How long a test waits for an event."""

Speaks = Callable[[str], bytes]


class Served:
    """A server, the host behind it, and clients of it."""

    def __init__(self, server: WyomingServer, host: Host) -> None:
        self.server = server
        self.host = host

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        """A client, connected."""
        async with Client("127.0.0.1", self.server.port, read_timeout=LIMIT_S) as client:
            yield client

    async def answers(self) -> None:
        """The server serves the next client."""
        async with self.client() as client:
            await client.tell(Describe())
            assert await client.types(1) == ["info"]


class Client(AsyncTcpClient):
    """Wyoming's client, with what tests need more often."""

    async def tell(self, *events: Eventable) -> None:
        """Send events."""
        for event in events:
            await self.write_event(event.event())

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def types(self, count: int) -> list[str]:
        """The types of the next events."""
        return [(await self.next()).type for _ in range(count)]

    async def next(self) -> Event:
        """The next event, which must come."""
        event = await self.read_event()
        assert event is not None
        return event

    async def until(self, kind: str) -> list[Event]:
        """The events up to the first of a type, and with it."""
        events = [await self.next()]
        while events[-1].type != kind:
            events.append(await self.next())
        return events

    async def rest(self) -> list[Event]:
        """The events up to the connection's end."""
        events = []
        while (event := await self.read_event()) is not None:
            events.append(event)
        return events

    async def refused(self) -> tuple[str, str]:
        """The code and the text of the error with which the server ends the connection."""
        *_, last = await self.rest()
        error = Error.from_event(last)
        return error.code or "", error.text

    def vanish(self) -> None:
        """End the connection as a process that is killed does, with unread data."""
        assert self._writer is not None
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@asynccontextmanager
async def serve(
    engine: SpeechEngine | None = None,
    hearing: Hearing | None = None,
    *,
    capacity: int = 8,
    language: str = "en",
) -> AsyncIterator[Served]:
    """A server around engines that the test controls."""
    speech = LocalSpeech(engine) if engine else None
    host = open_host(speech, hearing, language=language, capacity=capacity)
    server = WyomingServer(host, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield Served(server, host)
    finally:
        await server.stop()
        await host.close()


@pytest.fixture
def no_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wake words a server starts sooner."""
    monkeypatch.setattr(server_module, "_load_wake_words", lambda: None)


pytestmark = pytest.mark.usefixtures("no_wake")


@pytest.fixture
def with_wake(no_wake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With wake words."""
    from services.wake import WakeWords

    monkeypatch.setattr(server_module, "_load_wake_words", WakeWords)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> PiperEngine:
    """The embedded voice."""
    return PiperEngine(
        tmp_path_factory.mktemp("voices"),
        default_voice=voices.embedded_name(16000),
        noise_scale=0.0,
        noise_w_scale=0.0,
        offline=True,
    )


def audio_of(events: list[Event]) -> bytes:
    """The samples of an answer, whose events must be in order and of one format."""
    audio = [event for event in events if event.type.startswith("audio-")]
    assert [audio[0].type, audio[-1].type] == ["audio-start", "audio-stop"]
    start = AudioStart.from_event(audio[0])
    assert (start.width, start.channels) == (2, 1)
    chunks = [AudioChunk.from_event(event) for event in audio[1:-1]]
    assert {event.type for event in audio[1:-1]} <= {"audio-chunk"}
    assert {(c.rate, c.width, c.channels) for c in chunks} <= {(start.rate, 2, 1)}
    return b"".join(chunk.audio for chunk in chunks)


def recording(pcm: bytes, rate: int = SAMPLE_RATE, step: int = 2048) -> list[Eventable]:
    """Audio as Home Assistant sends it."""
    chunks = [AudioChunk(rate, 2, 1, pcm[at : at + step]) for at in range(0, len(pcm), step)]
    return [AudioStart(rate, 2, 1), *chunks, AudioStop()]


# What it does


@pytest.mark.usefixtures("with_wake")
async def test_it_says_what_it_does() -> None:
    """Voices with languages, an ear, and wake words, each with what it can stream."""
    async with (
        serve(FakeSpeechEngine(), FakeHearing(), language="de") as served,
        served.client() as one,
    ):
        await one.tell(Describe())
        info = Info.from_event(await one.next())
    (tts,), (asr,), (wake,) = info.tts, info.asr, info.wake
    assert (tts.name, tts.installed, tts.supports_synthesize_streaming) == ("fake", True, True)
    assert [(v.name, v.description, v.languages) for v in tts.voices] == [
        ("alto", "Alto", ["en-US"]),
        ("basso", "Basso", ["en-GB"]),
    ]
    assert (asr.name, asr.supports_transcript_streaming, asr.requires_external_vad) == (
        "ear",
        True,
        True,
    )
    assert [model.languages for model in asr.models] == [["de"]]
    assert {"okay_nabu", "hey_jarvis", "alexa"} <= {model.name for model in wake.models}
    assert {m.phrase for m in wake.models if m.name == "okay_nabu"} == {"Okay Nabu"}
    programs = [tts, asr, wake]
    assert all(re.match(r"\d", program.version or "") for program in programs)
    assert all(program.attribution.name for program in programs)


async def test_it_says_nothing_that_it_does_not() -> None:
    """A worker that only speaks has no ear and no wake words to offer."""
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.tell(Describe())
        info = Info.from_event(await one.next())
        assert (len(info.tts), info.asr, info.wake) == (1, [], [])
        await one.tell(Transcribe())
        assert await one.refused() == ("bad-request", "this worker does not hear")
        async with served.client() as other:
            await other.tell(Detect())
            code, text = await other.refused()
            assert code == "bad-request"
            assert "parley[wake]" in text
    async with serve(hearing=FakeHearing()) as served, served.client() as one:
        await one.tell(Synthesize("hello"))
        assert await one.refused() == ("bad-request", "this worker does not speak")


async def test_a_ping_is_answered() -> None:
    """With its text, also while something is spoken."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as served, served.client() as one:
        await one.tell(Synthesize(TEN_WORDS), Ping("still there?"))
        pong = await one.next()
        engine.permit(ENOUGH)
    assert (pong.type, pong.data) == ("pong", {"text": "still there?"})


# Speaking


async def test_a_text_becomes_audio() -> None:
    """Start, chunks, stop; every sample of the voice that was asked for."""
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.tell(Synthesize(TEN_WORDS, SynthesizeVoice("basso")))
        events = await one.until("audio-stop")
    assert AudioStart.from_event(events[0]).rate == 22050
    assert len(audio_of(events)) == 2 * 10 * 2205


async def test_audio_comes_while_it_is_computed() -> None:
    """The first chunk is there when the engine has made no other."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as served, served.client() as one:
        await one.tell(Synthesize(TEN_WORDS))
        engine.permit(1)
        assert await one.types(2) == ["audio-start", "audio-chunk"]
        assert not engine.utterances[0].ended.is_set()
        engine.permit(ENOUGH)
        await one.until("audio-stop")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (None, ""),
        (SynthesizeVoice(), ""),
        (SynthesizeVoice(name="basso"), "basso"),
        (SynthesizeVoice(language="en-GB"), "basso"),
        (SynthesizeVoice(language="en_gb"), "basso"),
        (SynthesizeVoice(language="en"), "alto"),
        (SynthesizeVoice(language="en-AU"), "alto"),
    ],
)
async def test_a_voice_is_chosen(asked: SynthesizeVoice | None, chosen: str) -> None:
    """By its name, or by its language: the very one, else the first that is near."""
    engine = FakeSpeechEngine()
    async with serve(engine) as served, served.client() as one:
        await one.tell(Synthesize("hello", asked))
        await one.until("audio-stop")
    assert [utterance.voice for utterance in engine.utterances] == [chosen]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (SynthesizeVoice(name="castrato"), "castrato"),
        (SynthesizeVoice(language="de"), "no voice for the language 'de'"),
        (SynthesizeVoice(name="alto", speaker="second"), "'alto' has no speakers"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unknown_voice_is_an_error(
    asked: SynthesizeVoice, message: str, *, streamed: bool
) -> None:
    """The client is told which, whole text or streamed, and does not wait for audio in vain."""
    async with serve(FakeSpeechEngine()) as served:
        async with served.client() as one:
            if streamed:
                await one.tell(SynthesizeStart(asked), SynthesizeChunk("Hello."), SynthesizeStop())
            else:
                await one.tell(Synthesize("Hello.", asked))
            code, text = await one.refused()
        assert code == "unknown-voice"
        assert message in text
        await served.answers()


@pytest.mark.parametrize("text", ["", " \n", "..."])
async def test_nothing_to_say_is_no_error(voice: PiperEngine, text: str) -> None:
    """A client that waits for the end of the audio gets it."""
    async with serve(voice) as served, served.client() as one:
        await one.tell(Synthesize(text))
        assert audio_of(await one.until("audio-stop")) == b""
        await one.tell(SynthesizeStart(), SynthesizeChunk(text), SynthesizeStop())
        assert audio_of(await one.until("synthesize-stopped")) == b""


async def test_streamed_text_is_spoken_as_it_comes() -> None:
    """The first sentence is heard before the second is written; one start, one stop, all of it."""
    engine = FakeSpeechEngine()
    async with serve(engine) as served, served.client() as one:
        await one.tell(SynthesizeStart(SynthesizeVoice("basso")))
        for part in ["It is ", "ten ", "o'clock. ", "And "]:
            await one.tell(SynthesizeChunk(part))
        early = [await one.next() for _ in range(4)]
        assert [u.text for u in engine.utterances] == ["It is ten o'clock."]
        await one.tell(
            SynthesizeChunk("all is well."),
            # For servers that know no streaming.
            Synthesize("It is ten o'clock. And all is well.", SynthesizeVoice("basso")),
            SynthesizeStop(),
        )
        events = early + await one.until("synthesize-stopped")
        assert [event.type for event in events].count("audio-start") == 1
        assert len(audio_of(events)) == 2 * 8 * 2205
        spoken_texts = [(u.text, u.voice) for u in engine.utterances]
        assert spoken_texts == [("It is ten o'clock.", "basso"), ("And all is well.", "basso")]
        # Outside of a stream, the same event is a request again.
        await one.tell(Synthesize("one two"))
        assert len(audio_of(await one.until("audio-stop"))) == 2 * 2 * 1600


async def test_requests_of_a_client_wait_for_each_other() -> None:
    """Two texts at once are answered one after the other, and not mixed."""
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.tell(Synthesize("one"), Synthesize("one two", SynthesizeVoice("basso")))
        assert len(audio_of(await one.until("audio-stop"))) == 2 * 1600
        assert len(audio_of(await one.until("audio-stop"))) == 2 * 2 * 2205


async def test_too_many_requests_are_an_error() -> None:
    """A client cannot pile up work."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as served:
        async with served.client() as one:
            await one.tell(*[Synthesize("one")] * (server_module.MAX_WAITING + 5))
            assert (await one.refused())[0] == "bad-request"
        engine.permit(ENOUGH)
        await served.answers()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_full_worker_says_so(*, streamed: bool) -> None:
    """A client that finds no place is told that the worker is busy, and the other goes on."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine, capacity=1) as served:
        async with served.client() as one, served.client() as two:
            await one.tell(Synthesize(TEN_WORDS))
            assert await asyncio.to_thread(engine.wait_for_utterance, 1)
            if streamed:
                await two.tell(SynthesizeStart(), SynthesizeChunk("Hi."), SynthesizeStop())
            else:
                await two.tell(Synthesize("Hi."))
            code, text = await two.refused()
            assert (code, text) == ("busy", "all 1 places of the worker are taken")
            engine.permit(ENOUGH)
            assert len(audio_of(await one.until("audio-stop"))) == 2 * 10 * 1600
        await served.answers()


async def test_a_text_under_way_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may take the place between two sentences: the rest is spoken all the same."""
    monkeypatch.setattr(patience, "RETRY_S", 0.01)
    engine = FakeSpeechEngine()
    async with serve(engine, capacity=1) as served, served.client() as one:
        await one.tell(SynthesizeStart(), SynthesizeChunk("Number one. And "))
        await one.until("audio-chunk")
        await until(lambda: served.host.admission.active == 0)
        with served.host.admission.admit("speak"):
            await one.tell(SynthesizeChunk("number two."), SynthesizeStop(), Ping())
            await one.until("pong")
            await asyncio.sleep(0.05)
            assert len(engine.utterances) == 1
        audio = [e for e in await one.until("synthesize-stopped") if e.type == "audio-chunk"]
        assert audio
    assert [u.text for u in engine.utterances] == ["Number one.", "And number two."]


async def test_an_engine_that_fails_is_an_error() -> None:
    """In mid-sentence: what there was has come, the error says why, no end of audio is claimed."""
    engine = FakeSpeechEngine()
    engine.fail = lambda text, chunks: "two" in text and chunks == 2
    async with serve(engine) as served:
        async with served.client() as one:
            await one.tell(Synthesize("one two three"))
            events = await one.rest()
        assert [e.type for e in events] == ["audio-start", "audio-chunk", "audio-chunk", "error"]
        assert events[-1].data == {"text": "cannot say 'one two three'", "code": "failed"}
        await served.answers()


async def test_ssml_is_not_read_aloud() -> None:
    """Marked-up text is refused rather than spoken, tags and all."""
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.tell(Synthesize("<speak>hi</speak>", text_format="ssml"))
        code, text = await one.refused()
    assert code == "bad-request"
    assert "ssml" in text


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_goes_away_stops_the_engine(*, killed: bool, streamed: bool) -> None:
    """In mid-sentence, whether it hangs up or dies: not a chunk more is computed than under way."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as served:
        async with served.client() as one:
            if streamed:
                await one.tell(SynthesizeStart(), SynthesizeChunk(f"{TEN_WORDS}. And"))
            else:
                await one.tell(Synthesize(TEN_WORDS))
            engine.permit(2)
            await one.until("audio-chunk")
            if killed:
                one.vanish()
        await until(lambda: served.host.admission.active == 0)
        engine.permit(ENOUGH)
        (utterance,) = engine.utterances
        assert await asyncio.to_thread(utterance.ended.wait, 5)
        assert utterance.stopped
        assert utterance.chunks <= 3
        await served.answers()


async def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hold its place in the worker for ever, and others are served meanwhile."""
    monkeypatch.setattr(server_module, "READER_S", 0.2)
    engine = FakeSpeechEngine(word_secs=60.0, chunk_secs=1.0)
    async with serve(engine) as served:
        async with served.client() as one:
            await one.tell(*[Synthesize(TEN_WORDS)] * 8)
            await asyncio.to_thread(engine.wait_for_utterance, 1)
            await served.answers()
            await until(lambda: served.host.admission.active == 0, LIMIT_S)
        assert await asyncio.to_thread(engine.utterances[-1].ended.wait, 5)
        assert engine.utterances[-1].stopped


async def test_the_embedded_voice_speaks(voice: PiperEngine) -> None:
    """The real engine: what it says over Wyoming, whole or streamed, is understood."""
    text = "Go forward ten meters."
    async with (
        serve(voice, LocalHearing(PocketsphinxEngine(timeout=LIMIT_S))) as served,
        served.client() as one,
    ):
        await one.tell(Synthesize(text))
        events = await one.until("audio-stop")
        whole = audio_of(events)
        rate = AudioStart.from_event(events[0]).rate
        assert 0.5 < len(whole) / 2 / rate < 5.0
        await one.tell(SynthesizeStart())
        for letter in text:
            await one.tell(SynthesizeChunk(letter))
        await one.tell(Synthesize(text), SynthesizeStop())
        streamed = audio_of(await one.until("synthesize-stopped"))
        assert len(streamed) == pytest.approx(len(whole), rel=0.1)
        # Its own ear knows the voice.
        await one.tell(Transcribe(language="en"), *recording(whole, rate))
        (*_, transcript, _stop) = await one.until("transcript-stop")
        assert "forward" in Transcript.from_event(transcript).text


# Hearing


async def test_speech_becomes_text() -> None:
    """The real ear hears a real person, chunk by chunk, and says so in Wyoming's two ways."""
    async with (
        serve(hearing=LocalHearing(PocketsphinxEngine(timeout=LIMIT_S))) as served,
        served.client() as one,
    ):
        await one.tell(Transcribe(language="en-US"), *recording(spoken("goforward")))
        events = await one.until("transcript-stop")
    assert [e.type for e in events] == [
        "transcript-start",
        "transcript-chunk",
        "transcript",
        "transcript-stop",
    ]
    assert Transcript.from_event(events[2]).text == "go forward ten meters"
    assert events[1].data["text"] == "go forward ten meters"


async def test_two_recordings_on_one_connection() -> None:
    """A request to transcribe holds for the recordings that follow, each with its own words."""
    ear = FakeHearing(heard("one"), heard("two"))
    async with serve(hearing=ear, language="en") as served, served.client() as one:
        await one.tell(Transcribe(language="de_AT"))
        for word in ("one", "two"):
            await one.tell(*recording(spoken("clubs")))
            (*_, transcript, _stop) = await one.until("transcript-stop")
            assert transcript.data["text"] == word
    assert [request.language for request in ear.requests] == ["de", "de"]
    assert {request.pcm for request in ear.requests} == {spoken("clubs")}


async def test_the_language_is_the_workers_own_unless_it_is_said() -> None:
    """A client that names none gets what the worker was started for."""
    ear = FakeHearing(heard("ja"))
    async with serve(hearing=ear, language="de") as served, served.client() as one:
        await one.tell(Transcribe(), *recording(spoken("clubs")))
        await one.until("transcript-stop")
    assert ear.requests[0].language == "de"


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
async def test_audio_of_any_rate_is_heard(rate: int, channels: int) -> None:
    """A tone of any rate, mono or stereo, reaches the engine as the same tone."""
    seconds = 0.5
    times = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 440 * times)
    # Of two channels the other is silent: their mean is quieter.
    frames = np.zeros((len(tone), channels))
    frames[:, 0] = tone
    raw = np.rint(frames * 32767).astype("<i2").tobytes()
    ear = FakeHearing(heard("a tone"))
    async with serve(hearing=ear) as served, served.client() as one:
        step = 1000 * channels
        chunks = [
            AudioChunk(rate, 2, channels, raw[at : at + step]) for at in range(0, len(raw), step)
        ]
        await one.tell(Transcribe(), AudioStart(rate, 2, channels), *chunks, AudioStop())
        await one.until("transcript-stop")
    pcm = np.frombuffer(ear.requests[0].pcm, "<i2") / 32768
    assert len(pcm) == pytest.approx(seconds * SAMPLE_RATE, abs=2)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(pcm)) / SAMPLE_RATE) / channels
    middle = slice(400, -400)
    assert np.abs(pcm[middle] - expected[middle]).max() < 0.005


async def test_stereo_that_agrees_does_not_clip() -> None:
    """Two equal channels are as loud as one."""
    pcm = np.full(8000, 30000, "<i2")
    raw = np.repeat(pcm, 2).tobytes()
    ear = FakeHearing(heard("loud"))
    async with serve(hearing=ear) as served, served.client() as one:
        chunk = AudioChunk(SAMPLE_RATE, 2, 2, raw)
        await one.tell(Transcribe(), AudioStart(SAMPLE_RATE, 2, 2), chunk, AudioStop())
        await one.until("transcript-stop")
    assert ear.requests[0].pcm == pcm.tobytes()


@pytest.mark.parametrize(
    ("rate", "width", "channels", "size", "message"),
    [
        (0, 2, 1, 100, "the rate 0,"),
        (10**9, 2, 1, 100, "the rate 1000000000,"),
        ("16000", 2, 1, 100, "the rate '16000',"),
        (16000, 1, 1, 100, "16 bits, 1 or 2 channels and 4000 to 192000 samples a second"),
        (16000, 3, 1, 102, "the width 3 "),
        (16000, 2.5, 1, 100, "the width 2.5 "),
        (16000, 2, 0, 100, "the channels 0"),
        (16000, 2, 3, 102, "the channels 3"),
        (16000, 2, True, 100, "the channels True"),
        (16000, 2, 1, 101, "ends within a sample"),
        (16000, 2, 2, 102, "ends within a sample"),
    ],
)
async def test_audio_that_is_not_taken_is_an_error(
    rate: Any, width: Any, channels: Any, size: int, message: str
) -> None:
    """Formats that no Wyoming client sends, and chunks that end within a sample."""
    async with serve(hearing=FakeHearing()) as served:
        async with served.client() as one:
            await one.tell(Transcribe(), AudioStart(rate, width, channels))
            await one.tell(AudioChunk(rate, width, channels, bytes(size)))
            code, text = await one.refused()
        assert code == "bad-request"
        assert message in text
        await served.answers()


async def test_a_format_that_changes_is_an_error() -> None:
    """Half a recording at another rate would be heard at another pitch."""
    async with serve(hearing=FakeHearing()) as served, served.client() as one:
        await one.tell(Transcribe(), AudioStart(16000, 2, 1), AudioChunk(16000, 2, 1, bytes(100)))
        await one.tell(AudioChunk(8000, 2, 1, bytes(100)))
        assert await one.refused() == ("bad-request", "the format of the audio changes within it")


@pytest.mark.parametrize("seconds", [0.0, 0.01, 2.0])
async def test_silence_gives_an_empty_transcript(seconds: float) -> None:
    """No audio, hardly any, or nobody who speaks: the engine is not asked, the client not left."""
    ear = FakeHearing(heard("Thanks for watching!"))
    async with serve(hearing=ear) as served, served.client() as one:
        await one.tell(Transcribe(), *recording(bytes(2 * round(seconds * SAMPLE_RATE))))
        (*_, transcript, _stop) = await one.until("transcript-stop")
    assert transcript.data["text"] == ""
    assert ear.requests == []


async def test_noise_gives_an_empty_transcript() -> None:
    """What an engine makes up is kept from the client."""
    ear = FakeHearing(heard("Thanks for watching!", confidence=0.6, no_speech=0.9))
    noise = np.random.default_rng(1).normal(0, 500, 2 * SAMPLE_RATE).astype("<i2").tobytes()
    async with serve(hearing=ear) as served, served.client() as one:
        await one.tell(Transcribe(), *recording(noise))
        events = await one.until("transcript-stop")
    assert [e.type for e in events] == ["transcript-start", "transcript", "transcript-stop"]
    assert events[1].data["text"] == ""
    assert len(ear.requests) == 1


async def test_long_speech_is_transcribed_while_it_comes() -> None:
    """The first half minute is written before the recording ends; no sample and no word is lost."""
    pcm = spoken("dashwood") + spoken("respectable") + spoken("illdisposed")
    pcm = (pcm * (1 + 75 * 2 * SAMPLE_RATE // len(pcm)))[: 75 * 2 * SAMPLE_RATE]
    ear = FakeHearing(heard("first"), heard("second"), heard("third"), heard("fourth"))
    async with serve(hearing=ear) as served, served.client() as one:
        start, *chunks, stop = recording(pcm, step=32_000)
        await one.tell(Transcribe(), start, *chunks[:-1])
        early = await one.until("transcript-chunk")
        assert [e.type for e in early] == ["transcript-start", "transcript-chunk"]
        await one.tell(chunks[-1], stop)
        events = early + await one.until("transcript-stop")
    text = events[-2].data["text"]
    assert text.startswith("first second third")
    assert "".join(e.data["text"] for e in events if e.type == "transcript-chunk") == text
    assert b"".join(request.pcm for request in ear.requests) == pcm


async def test_a_recording_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client cannot fill the memory."""
    monkeypatch.setattr(wyoming_streams, "MAX_MINUTES", 1 / 60)
    async with serve(hearing=FakeHearing()) as served:
        async with served.client() as one:
            await one.tell(Transcribe(), *recording(bytes(2 * 2 * SAMPLE_RATE))[:-1])
            code, text = await one.refused()
        assert code == "bad-request"
        assert "longer than" in text
        await served.answers()


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("it broke"), "failed"), (BusyError("full"), "busy")]
)
async def test_an_ear_that_fails_is_an_error(error: EngineError, code: str) -> None:
    """The client is told why and need not wait."""
    async with serve(hearing=FakeHearing(error)) as served:
        async with served.client() as one:
            await one.tell(Transcribe(), *recording(spoken("clubs")))
            assert await one.refused() == (code, str(error))
        await served.answers()


async def test_a_fault_is_an_error_that_tells_nothing_of_the_inside() -> None:
    """A bug in an engine: the client learns that it failed, and the server goes on."""
    async with serve(hearing=FakeHearing(KeyError("/etc/secret"))) as served:
        async with served.client() as one:
            await one.tell(Transcribe(), *recording(spoken("clubs")))
            assert await one.refused() == ("failed", "KeyError")
        await served.answers()


async def test_a_client_that_goes_away_ends_recognition() -> None:
    """Nobody waits for the words any more."""
    ear = FakeHearing(heard("too late"))
    ear.free.clear()
    async with serve(hearing=ear) as served:
        async with served.client() as one:
            await one.tell(Transcribe(), *recording(spoken("clubs")))
            await asyncio.wait_for(ear.asked.wait(), LIMIT_S)
        await until(lambda: ear.requests[0].cancelled)
        assert served.host.admission.active == 0


async def test_events_out_of_place_are_errors() -> None:
    """Each says what is missing; the next client is served."""
    cases: list[tuple[list[Eventable], str]] = [
        ([AudioStart(16000, 2, 1)], "before transcribe or detect"),
        ([AudioChunk(16000, 2, 1, bytes(2))], "before audio-start"),
        ([AudioStop()], "before audio-start"),
        ([SynthesizeChunk("a")], "before synthesize-start"),
        ([SynthesizeStop()], "before synthesize-start"),
        ([SynthesizeStart(), SynthesizeStart()], "before synthesize-stop"),
        ([Transcribe(), *[AudioStart(16000, 2, 1)] * 2], "before audio-stop"),
    ]
    for events, message in cases:
        async with serve(FakeSpeechEngine(), FakeHearing()) as served, served.client() as one:
            await one.tell(*events)
            code, text = await one.refused()
            assert code == "bad-request"
            assert message in text


async def test_unknown_events_are_dropped() -> None:
    """Wyoming grows: an event of tomorrow does no harm."""
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.write_event(Event("select-program", {"name": "fake"}))
        await one.write_event(Event("made-up", {"a": [1]}, b"payload"))
        await one.tell(Ping())
        assert await one.types(1) == ["pong"]


# Wake words


@pytest.fixture
def say(voice: PiperEngine) -> Speaks:
    """Says something with the embedded voice, as samples at `SAMPLE_RATE`."""

    def speak(text: str) -> bytes:
        resampler = Resampler(16000, SAMPLE_RATE)
        chunks = voice.speak(text, "", 1.0, Flag())
        return b"".join(resampler.push(chunk.pcm) for chunk in chunks) + resampler.flush()

    return speak


@pytest.mark.usefixtures("with_wake")
async def test_a_wake_word_is_detected(say: Speaks) -> None:
    """While audio streams, with the time of the chunk; at another rate as well; others are not."""
    second = bytes(2 * SAMPLE_RATE)
    pcm = second + say("hey jarvis") + second
    async with serve() as served, served.client() as one:
        await one.tell(Detect(["alexa", "hey_jarvis"]), *recording(pcm)[:-1])
        detection = await one.next()
        assert (detection.type, detection.data["name"]) == ("detection", "hey_jarvis")
        assert 1000 < detection.data["timestamp"] < len(pcm) / 32
        assert detection.data["timestamp"] % 64 == 0
        # A stream that was answered needs no end; the next begins anew, here on the client's clock.
        resampler = Resampler(SAMPLE_RATE, 44100)
        other = resampler.push(pcm) + resampler.flush()
        begin, *chunks, stop = recording(other, 44100, step=8820)
        stamped = [
            AudioChunk(44100, 2, 1, c.audio, timestamp=7000 + 100 * number)
            for number, c in enumerate(chunks)
            if isinstance(c, AudioChunk)
        ]
        await one.tell(begin, *stamped, stop)
        detection = await one.next()
        assert detection.data["name"] == "hey_jarvis"
        assert detection.data["timestamp"] in {c.timestamp for c in stamped}
        # It had its detection: no `not-detected` after the end.
        await one.tell(Ping())
        assert await one.types(1) == ["pong"]


@pytest.mark.usefixtures("with_wake")
@pytest.mark.parametrize("names", [None, [], ["okay_nabu"]])
async def test_other_speech_is_not_detected(names: list[str] | None) -> None:
    """At the end of the audio the client is told that there was nothing."""
    async with serve() as served, served.client() as one:
        await one.tell(Detect(names), *recording(spoken("dashwood")))
        assert await one.types(1) == ["not-detected"]


@pytest.mark.usefixtures("with_wake")
@pytest.mark.parametrize("names", [["hey_you"], "alexa", [5]])
async def test_unknown_wake_words_are_errors(names: Any) -> None:
    """The error comes before any audio."""
    async with serve() as served:
        async with served.client() as one:
            await one.tell(Detect(names))
            assert (await one.refused())[0] == "bad-request"
        await served.answers()


async def test_wake_words_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the server works, and offers none."""
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyopen_wakeword", None)
    monkeypatch.delitem(sys.modules, "services.wake", raising=False)
    async with serve(FakeSpeechEngine()) as served, served.client() as one:
        await one.tell(Describe())
        assert Info.from_event(await one.next()).wake == []


def test_wyoming_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the import says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] == "wyoming"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "services.worker.wyoming")
    with pytest.raises(MissingExtraError, match=r"pip install 'parley\[wyoming\]'"):
        import_module("services.worker.wyoming")


# Bad input


def header(**fields: Any) -> bytes:
    """An event's first line."""
    return json.dumps(fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(range(256)) * 4 + b"\n", "no JSON object"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "no JSON object"),
        (b"\n", "no JSON object"),
        (b"[]\n", "no JSON object"),
        (b"null\n", "no JSON object"),
        (b"[" * 50_000 + b"\n", "no JSON object"),
        (b'{"type": "\xff\xfe"}\n', "no JSON object"),
        (header(), "no type"),
        (header(type=["describe"]), "no type"),
        (header(type="synthesize", data=[1]), "data are no object"),
        (header(type="synthesize"), "lack something"),
        (header(type="synthesize", data={"text": 5}), "should be a text"),
        (header(type="synthesize", data={"text": "a", "voice": 5}), "lack something"),
        (header(type="synthesize", data={"text": "a", "voice": {"name": [1]}}), "a text"),
        (header(type="synthesize", data={"text": "a", "text_format": [1]}), "cannot be spoken"),
        (header(type="synthesize", data={"text": "a" * 20_000}), "longer than"),
        (header(type="transcribe", data={"language": {"a": 1}}), "should be a text"),
        (header(type="describe", data_length=5) + b"abcde", "no JSON object"),
        (header(type="describe", data_length=-1), "data_length is -1"),
        (header(type="describe", data_length="7"), "data_length is 7"),
        (header(type="describe", data_length=MAX_DATA + 1), "must be 0 to"),
        (header(type="audio-chunk", payload_length=MAX_PAYLOAD + 1), "must be 0 to"),
        (header(type="audio-chunk", payload_length=10**400), "must be 0 to"),
        (header(type="audio-chunk", payload_length=1.5), "payload_length is 1.5"),
        (header(type="audio-chunk", payload_length=True), "payload_length is True"),
        (b"x" * (MAX_LINE + 10), "a line is longer"),
    ],
    ids=str,
)
async def test_bad_input_is_an_error(data: bytes, message: str) -> None:
    """Garbage, things that are no events, lengths that lie: an error, and the next is served."""
    async with serve(FakeSpeechEngine(), FakeHearing()) as served:
        async with served.client() as one:
            await one.raw(data)
            code, text = await one.refused()
        assert code == "bad-request"
        assert message in text
        assert "\n" not in text
        await served.answers()


async def test_text_that_is_no_unicode_does_no_harm(voice: PiperEngine) -> None:
    """Half a surrogate pair, which JSON can carry: spoken as well as may be, or an error."""
    async with serve(voice) as served:
        async with served.client() as one:
            await one.raw(header(type="synthesize", data={"text": "one \ud83d two"}))
            assert audio_of(await one.until("audio-stop"))
            await one.raw(header(type="synthesize", data={"text": "", "voice": {"name": "\ud83d"}}))
            assert (await one.refused())[0] == "unknown-voice"
        await served.answers()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"type": "desc',
        header(type="describe", data_length=100) + b"{",
        header(type="audio-chunk", payload_length=100) + bytes(50),
    ],
)
async def test_a_connection_cut_within_an_event(data: bytes) -> None:
    """A client that goes away between an event's bytes is gone, and that is all."""
    async with serve(FakeSpeechEngine()) as served:
        async with served.client() as one:
            await one.raw(data)
            one.vanish()
        await until(lambda: not served.server._clients)
        await served.answers()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"type": "desc',
        header(type="audio-chunk", payload_length=100) + bytes(50),
        header(type="synthesize-start"),
        header(type="transcribe")
        + header(type="audio-start", data={"rate": 8000, "width": 2, "channels": 1}),
    ],
)
async def test_a_client_that_says_nothing_more_is_left(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """At once, within an event, or within a request: after a while the connection ends."""
    monkeypatch.setattr(server_module, "IDLE_S", 0.1)
    async with serve(FakeSpeechEngine(), FakeHearing()) as served:
        async with served.client() as one:
            await one.raw(data)
            code, text = await one.refused()
        assert (code, text) == ("bad-request", "nothing came for 0.1 s")
        assert served.host.admission.active == 0


async def test_a_client_may_wait_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the answer takes: it is not the client's turn."""
    ear = FakeHearing(heard("at last"))
    ear.free.clear()
    async with serve(hearing=ear) as served, served.client() as one:
        await one.tell(Transcribe(), *recording(spoken("clubs")))
        await asyncio.wait_for(ear.asked.wait(), LIMIT_S)
        monkeypatch.setattr(server_module, "IDLE_S", 0.05)
        await one.tell(Ping())
        assert await one.types(1) == ["pong"]
        await asyncio.sleep(0.2)
        ear.free.set()
        (*_, transcript, _stop) = await one.until("transcript-stop")
        assert transcript.data["text"] == "at last"
        # Then it is.
        assert (await one.refused())[1] == "nothing came for 0.05 s"


async def test_too_many_clients_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is told so; when one has gone, there is a place again."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    async with serve(FakeSpeechEngine()) as served:
        async with served.client() as one, served.client() as two:
            for client in (one, two):
                await client.tell(Ping())
                assert await client.types(1) == ["pong"]
            async with served.client() as three:
                assert (await three.refused())[0] == "busy"
        await until(lambda: not served.server._clients)
        await served.answers()


# Its life


async def test_stop_ends_what_is_under_way() -> None:
    """Clients see the end of the connection, the engine stops, the port is free; twice is once."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as served:
        port = served.server.port
        async with served.client() as one, served.client() as idle:
            await one.tell(Synthesize(TEN_WORDS))
            assert await asyncio.to_thread(engine.wait_for_utterance, 1)
            await served.server.stop()
            assert await one.rest() == []
            assert await idle.rest() == []
        await served.server.stop()
        assert served.host.admission.active == 0
        engine.permit(ENOUGH)
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_a_port_in_use_is_one_line() -> None:
    """The error names the settings."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        host = open_host(None, None, language="en", capacity=1)
        server = WyomingServer(host, host="127.0.0.1", port=port)
        message = rf"--wyoming-port {port} on --wyoming-host 127.0.0.1: .*address already in use"
        with pytest.raises(SettingsError, match=message):
            await server.start()
        await server.stop()


def test_a_worker_starts_without_pipecat() -> None:
    """With all of its doors open it imports nothing of the agent's side."""
    doors = ("--engine", "piper", "--offline", "--wyoming-port", str(free_port()))
    with WorkerServer(*doors, python=(sys.executable, "-X", "importtime")) as worker:
        imported = {line.rpartition("|")[2].strip() for line in worker.log.splitlines()}
    assert {"services.worker.openai_api", "services.worker.wyoming"} <= imported
    assert not {name for name in imported if name.partition(".")[0] in {"pipecat", "processors"}}


async def test_many_clients_are_served_at_once() -> None:
    """Each gets its own audio, complete."""
    async with serve(FakeSpeechEngine(), capacity=16) as served:

        async def ask(words: int) -> int:
            async with served.client() as one:
                await one.tell(Synthesize("word " * words))
                return len(audio_of(await one.until("audio-stop")))

        lengths = await asyncio.gather(*(ask(words) for words in range(1, 17)))
    assert lengths == [2 * words * 1600 for words in range(1, 17)]


async def test_nothing_is_left_behind(voice: PiperEngine) -> None:
    """After many requests, cut short or not, no task and no place is held."""
    async with serve(voice, FakeHearing()) as served:
        before = len(asyncio.all_tasks())
        for number in range(20):
            async with served.client() as one:
                await one.tell(Synthesize("One, two, three, four, five, six."))
                await one.until("audio-stop" if number % 2 else "audio-chunk")
        await until(lambda: not served.server._clients)
        assert served.host.admission.active == 0
        assert len(asyncio.all_tasks()) == before
