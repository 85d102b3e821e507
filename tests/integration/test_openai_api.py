"""A worker's OpenAI API, asked by OpenAI's own client over a real connection."""

import asyncio
import base64
import io
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile
from numpy.typing import NDArray
from openai import AsyncOpenAI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from services.errors import BusyError, EngineError
from services.stt.engine import SAMPLE_RATE, Segment, Transcript
from services.stt.hearing import Hearing
from services.worker import answers, openai_api, patience
from services.worker.encoding import FORMATS, SPEECH_RATE, Encoder
from services.worker.protocol import SUBPROTOCOL
from tests.fakes.hearing_engine import heard
from tests.fakes.speech import FakeHearing
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import LocalWorker
from tests.integration.speech import spoken

TEN_WORDS = "one two three four five six seven eight nine ten"
"""A second of speech."""

TOKEN = "open sesame"

CODEC_DELAY = 0.1
"""Seconds by which a file may be longer than its sound: mp3 and aac have no place to say so."""

MANY = 10_000
"""Permits for whatever a gated engine still has to say."""

Floats = NDArray[np.float32]


def client_of(worker: LocalWorker, key: str = "any") -> AsyncOpenAI:
    """OpenAI's client, which asks once."""
    url = f"http://127.0.0.1:{worker.port}/v1"
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=20)


@asynccontextmanager
async def serve(
    engine: FakeSpeechEngine | None,
    hearing: Hearing | None = None,
    *,
    token: str | None = None,
    key: str = "any",
    capacity: int = 16,
) -> AsyncIterator[AsyncOpenAI]:
    """A worker, and OpenAI's client for it."""
    async with (
        LocalWorker(engine, hearing=hearing, capacity=capacity, token=token) as worker,
        client_of(worker, key) as client,
    ):
        yield client


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so, twenty seconds at most."""
    deadline = asyncio.get_running_loop().time() + 20
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


def read(file: bytes, form: str) -> Floats:
    """The samples of a file, as FFmpeg reads it, at the rate that it says it has."""
    if form == "pcm":
        return np.frombuffer(file, "<i2").astype(np.float32) / 32768
    parts = []
    with av.open(io.BytesIO(file), "r") as container:
        assert container.streams.audio[0].rate == (48_000 if form == "opus" else SPEECH_RATE)
        resampler = av.AudioResampler("flt", "mono", SPEECH_RATE)
        for frame in [*container.decode(audio=0), None]:
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.concatenate(parts).astype(np.float32)


def pitch(samples: Floats) -> float:
    """The strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SPEECH_RATE / len(samples)


def encode(pcm: bytes, form: str) -> bytes:
    """A file of samples at `SAMPLE_RATE`."""
    encoder = Encoder(form)
    return encoder.encode(pcm, SAMPLE_RATE) + encoder.finish()


def tone(seconds: float) -> bytes:
    """A 440 Hz tone at `SAMPLE_RATE`."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (8000 * np.sin(2 * np.pi * 440 * times)).astype("<i2").tobytes()


# Speech


@pytest.mark.parametrize("voice", ["alto", "basso"])
@pytest.mark.parametrize("form", FORMATS)
async def test_every_format_holds_what_was_said(form: str, voice: str) -> None:
    """A file has its format's type, the speech's length and pitch, and begins without a click."""
    async with serve(FakeSpeechEngine()) as client:
        answer = await client.audio.speech.create(
            model="any",
            voice=voice,
            input=TEN_WORDS,
            response_format=form,
        )
    assert answer.response.headers["content-type"] == FORMATS[form].media_type
    samples = read(answer.content, form)
    assert 1.0 <= len(samples) / SPEECH_RATE <= 1.0 + CODEC_DELAY
    assert pitch(samples[2400:-2400]) == pytest.approx(440, abs=3)


async def test_a_plain_request_is_mp3_in_the_default_voice() -> None:
    """What a client does not say is OpenAI's default, and the voice the worker's."""
    engine = FakeSpeechEngine()
    async with serve(engine) as client:
        answer = await client.audio.speech.create(model="any", voice={"id": "basso"}, input="hello")
        assert answer.response.headers["content-type"] == "audio/mpeg"
        await client.audio.speech.create(
            model="any", voice="alto", input="hello", instructions="whisper", speed=2.0
        )
    assert [(said.voice, said.speed) for said in engine.utterances] == [("basso", 1), ("alto", 2)]


async def test_a_wav_of_unknown_length_is_read_by_soundfile() -> None:
    """Its header promises more than comes, and libsndfile takes what has come."""
    async with serve(FakeSpeechEngine()) as client:
        answer = await client.audio.speech.create(
            model="any", voice="alto", input=TEN_WORDS, response_format="wav"
        )
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(samples), rate) == (SPEECH_RATE, SPEECH_RATE)


@pytest.mark.parametrize("form", FORMATS)
async def test_speech_is_sent_while_it_is_made(form: str) -> None:
    """Sound reaches the client while the engine has most of the text before it."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine) as client:
        engine.permit(4)
        async with client.audio.speech.with_streaming_response.create(
            model="any",
            voice="alto",
            input=TEN_WORDS,
            response_format=form,
        ) as answer:
            parts = answer.iter_bytes()
            early = b""
            while len(early) < 1000:
                early += await anext(parts)
            assert not engine.utterances[0].ended.is_set()
            engine.permit(MANY)
            whole = early + b"".join([part async for part in parts])
    assert 1.0 <= len(read(whole, form)) / SPEECH_RATE <= 1.0 + CODEC_DELAY


async def test_server_sent_events_carry_the_same_speech() -> None:
    """Each event holds a part of the file, and the last one says that it is complete."""
    async with (
        serve(FakeSpeechEngine()) as client,
        client.audio.speech.with_streaming_response.create(
            model="any", voice="alto", input=TEN_WORDS, response_format="flac", stream_format="sse"
        ) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in answer.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    assert len(events) > 5
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["total_tokens"] == 0
    file = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(read(file, "flac")) == SPEECH_RATE


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"input": 7}, "input"),
        ({"input": None}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": 7}, "voice"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"stream_format": "morse"}, "stream_format"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(wrong: dict[str, object], param: str) -> None:
    """The client raises BadRequestError, which names the field; the next request is served."""
    async with serve(FakeSpeechEngine()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.audio.speech.create(
                model="any", voice="alto", input="hello", extra_body=wrong
            )
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"
        assert len(str(caught.value.body["message"])) < 200
        await client.audio.speech.create(model="any", voice="alto", input="hello")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff\xfe", b'{"input": "\\ud800", "voice": "alto"}', b"[" * 100_000],
)
async def test_what_is_no_request_is_refused(body: bytes) -> None:
    """Whatever comes in place of a JSON object is answered with 400 in OpenAI's shape."""
    async with serve(FakeSpeechEngine()) as client, httpx.AsyncClient() as bare:
        answer = await bare.post(f"{client.base_url}audio/speech", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_request_that_is_too_large_is_not_read() -> None:
    """A body beyond the limit is answered with 413, whether or not it says how large it is."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    async with serve(FakeSpeechEngine()) as client, httpx.AsyncClient() as bare:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.audio.speech.create(
                model="any", voice="alto", input="hello", instructions="x" * 2_000_000
            )
        assert caught.value.status_code == 413
        answer = await bare.post(f"{client.base_url}audio/speech", content=endless())
        assert answer.status_code == 413


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that sends half a request is answered with 408 after the limit."""
    monkeypatch.setattr(answers, "BODY_SECONDS", 0.1)
    async with serve(FakeSpeechEngine()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
        )
        async with asyncio.timeout(5):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_text_without_anything_to_say_is_an_empty_file() -> None:
    """Every format answers with a file that says nothing, not with an error."""
    async with serve(FakeSpeechEngine(word_secs=0)) as client:
        for form in FORMATS:
            answer = await client.audio.speech.create(
                model="any",
                voice="alto",
                input="...",
                response_format=form,
            )
            assert len(answer.content) < 200


async def test_a_full_worker_says_so() -> None:
    """Beyond its capacity a worker answers 503 and when to come again, and serves again after."""
    engine = FakeSpeechEngine(gated=True)
    async with serve(engine, capacity=1) as client:
        first = asyncio.create_task(
            client.audio.speech.create(model="any", voice="alto", input="hello")
        )
        await soon(lambda: bool(engine.utterances))
        with pytest.raises(openai.InternalServerError) as caught:
            await client.audio.speech.create(model="any", voice="alto", input="hello")
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) >= 1
        engine.permit(MANY)
        await first
        await client.audio.speech.create(model="any", voice="alto", input="hello")


async def test_an_engine_that_fails_at_once_is_an_error() -> None:
    """Before the first sound there is a 500 with the engine's reason, in events as well."""
    engine = FakeSpeechEngine()
    engine.fail = lambda _text, _chunks: True
    async with serve(engine) as client:
        for stream_format in ("audio", "sse"):
            with pytest.raises(openai.InternalServerError, match="cannot say 'hello'") as caught:
                await client.audio.speech.create(
                    model="any",
                    voice="alto",
                    input="hello",
                    stream_format=stream_format,
                )
            assert caught.value.status_code == 500


async def test_an_engine_that_fails_later_cuts_the_answer() -> None:
    """The client gets what was said, and cannot take it for the whole."""
    engine = FakeSpeechEngine()
    engine.fail = lambda _text, chunks: chunks == 5
    async with serve(engine) as client:
        early = bytearray()

        async def listen(parts: AsyncIterator[bytes]) -> None:
            async for part in parts:
                early.extend(part)

        async with client.audio.speech.with_streaming_response.create(
            model="any", voice="alto", input=TEN_WORDS, response_format="pcm"
        ) as answer:
            with pytest.raises(Exception, match="incomplete"):
                await listen(answer.iter_bytes())
        assert 0.3 < len(early) / 2 / SPEECH_RATE <= 0.4

        async with client.audio.speech.with_streaming_response.create(
            model="any", voice="alto", input=TEN_WORDS, response_format="pcm", stream_format="sse"
        ) as answer:
            lines = [line async for line in answer.iter_lines() if line]
        last = json.loads(lines[-1].removeprefix("data: "))
        assert last["type"] == "error"
        assert "cannot say" in last["error"]["message"]


@pytest.mark.parametrize("chunks", [0, 3])
async def test_a_client_that_leaves_is_not_spoken_to(chunks: int) -> None:
    """The engine computes no chunk after the one that it is at when the client goes away."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, client_of(worker) as client:
        if chunks:
            engine.permit(chunks)
        asked = asyncio.create_task(
            client.audio.speech.create(
                model="any", voice="alto", input=TEN_WORDS, response_format="wav"
            )
        )
        await soon(lambda: bool(engine.utterances) and engine.utterances[0].chunks == chunks)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

        # Its place is free at once, whatever the engine is at.
        await soon(lambda: worker.host.admission.active == 0)
        engine.permit(MANY)
        assert await asyncio.to_thread(engine.utterances[0].ended.wait, 5)
        assert engine.utterances[0].chunks <= chunks + 1
        assert engine.utterances[0].stopped


async def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves unread holds neither the engine nor a place beyond the limit."""
    monkeypatch.setattr(answers, "READER_SECONDS", 0.2)
    engine = FakeSpeechEngine(word_secs=1.0)
    words = "a " * 600
    body = json.dumps({"input": words, "voice": "alto", "response_format": "wav"}).encode()
    async with serve(engine) as client:
        lazy = socket.create_connection(("127.0.0.1", client.base_url.port))
        head = "POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
        lazy.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        await soon(lambda: bool(engine.utterances))
        assert await asyncio.to_thread(engine.utterances[0].ended.wait, 20)
        assert engine.utterances[0].stopped
        lazy.close()


async def test_eight_at_once_each_get_their_own() -> None:
    """Requests that overlap do not mix: each gets speech of its own length."""
    async with serve(FakeSpeechEngine()) as client:
        forms = [*FORMATS, "mp3", "opus"]
        answered = await asyncio.gather(
            *(
                client.audio.speech.create(
                    model="any",
                    voice="alto",
                    input=" ".join(["word"] * 5 * (n + 1)),
                    response_format=form,
                )
                for n, form in enumerate(forms)
            )
        )
    for n, (form, answer) in enumerate(zip(forms, answered, strict=True)):
        seconds = len(read(answer.content, form)) / SPEECH_RATE - 0.5 * (n + 1)
        assert -0.001 <= seconds <= CODEC_DELAY


# Lists and the token


async def test_lists_say_what_a_worker_offers() -> None:
    """Engines are listed as OpenAI lists models, voices by name, label and language."""
    async with serve(FakeSpeechEngine(), FakeHearing()) as client, httpx.AsyncClient() as bare:
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == ["fake", "ear"]
        assert all(model.object == "model" for model in listed)
        voices = (await bare.get(f"{client.base_url}voices")).json()
        assert voices["engine"] == "fake"
        assert voices["voices"][0] == {"name": "alto", "label": "Alto", "language": "en-US"}
        names = (await bare.get(f"{client.base_url}audio/voices")).json()
        assert names["voices"] == ["alto", "basso"]


async def test_a_worker_does_what_it_has_an_engine_for() -> None:
    """What it cannot do is a 404 that says so."""
    async with serve(None, FakeHearing()) as client:
        with pytest.raises(openai.NotFoundError, match="does not speak"):
            await client.audio.speech.create(model="any", voice="alto", input="hello")
    async with serve(FakeSpeechEngine()) as client:
        with pytest.raises(openai.NotFoundError, match="does not hear"):
            await client.audio.transcriptions.create(model="any", file=("x.wav", b"x"))


@pytest.mark.parametrize("key", ["wrong", "open sesamé", "open"])
async def test_a_wrong_token_opens_nothing(key: str) -> None:
    """Neither the API nor the socket is open to whoever lacks the token.

    The page is, and what says how the worker fares.
    """
    async with serve(FakeSpeechEngine(), FakeHearing(), token=TOKEN) as client:
        base = str(client.base_url)
        header = [(b"Authorization", f"Bearer {key}".encode())]
        async with httpx.AsyncClient(headers=header) as bare:
            for path in ("models", "voices", "audio/voices"):
                assert (await bare.get(base + path)).status_code == 401
            for path in ("audio/speech", "audio/transcriptions"):
                assert (await bare.post(base + path)).status_code == 401
            for path in ("", "health", "ready", "metrics"):
                assert (await bare.get(base.removesuffix("v1/") + path)).status_code == 200
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.audio.speech.create(model="any", voice="alto", input="hello")
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{client.base_url.port}/"):
                pass
        assert refused.value.response.status_code == 403


async def test_what_is_not_the_api_refusalsin_its_own_way() -> None:
    """A path that is not there, a page from elsewhere, a name that is not the worker's."""
    async with serve(FakeSpeechEngine()) as client, httpx.AsyncClient() as bare:
        url = str(client.base_url)
        refusals = [
            await bare.get(f"{url}embeddings"),
            await bare.get(f"{url}audio/speech"),
            await bare.get(f"{url}models", headers={"Origin": "https://elsewhere.example"}),
            await bare.get(f"{url}models", headers={"Host": "elsewhere.example"}),
        ]
    assert [answer.status_code for answer in refusals] == [404, 405, 403, 403]
    assert all(isinstance(answer.json()["detail"], str) for answer in refusals)


async def test_the_token_opens_everything() -> None:
    """With it, speech and the socket are there as without one."""
    async with serve(FakeSpeechEngine(), token=TOKEN, key=TOKEN) as client:
        await client.audio.speech.create(model="any", voice="alto", input="hello")
        headers = {"Authorization": f"bearer {TOKEN}"}
        url = f"ws://127.0.0.1:{client.base_url.port}/"
        async with connect(
            url, additional_headers=headers, subprotocols=[Subprotocol(SUBPROTOCOL)]
        ) as opened:
            assert json.loads(await opened.recv())["type"] == "lease"


# Transcriptions


def said(*texts: str, seconds: float = 0.5, confidence: float = 0.9) -> Transcript:
    """A transcript of segments that follow each other."""
    return Transcript(
        tuple(
            Segment(text, n * seconds, (n + 1) * seconds, confidence, 0.01)
            for n, text in enumerate(texts)
        ),
        "en",
    )


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "pcm"])
async def test_every_format_is_heard(form: str) -> None:
    """The engine gets a file's sound, whole and in tune, at its own rate."""
    hearing = FakeHearing(said("hello there"))
    async with serve(None, hearing) as client:
        answer = await client.audio.transcriptions.create(
            model="any", file=(f"x.{form}", encode(tone(2.0), form)), language="de"
        )
    assert answer.text == "hello there"
    (request,) = hearing.requests
    samples = np.frombuffer(request.pcm, "<i2").astype(np.float32)
    assert 2.0 <= len(samples) / SAMPLE_RATE <= 2.0 + CODEC_DELAY
    assert pitch(samples) * SAMPLE_RATE / SPEECH_RATE == pytest.approx(440, abs=3)
    assert request.language == "de"


async def test_a_transcript_comes_in_every_form() -> None:
    """JSON, text, subtitles and details all hold the same words and times."""
    audio = ("x.wav", encode(tone(2.0), "wav"))
    async with serve(None, FakeHearing(*[said("a < b", "so --> it is")] * 5)) as client:
        create = client.audio.transcriptions.create
        plain = await create(model="any", file=audio)
        assert plain.text == "a < b so --> it is"
        assert plain.usage
        assert plain.usage.type == "duration"
        text = await create(model="any", file=audio, response_format="text")
        assert text.strip() == plain.text
        srt = await create(model="any", file=audio, response_format="srt")
        assert srt.startswith("1\n00:00:00,000 --> 00:00:00,500\na < b\n\n2\n00:00:00,500 --> ")
        vtt = await create(model="any", file=audio, response_format="vtt")
        assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\na &lt; b\n\n")
        assert vtt.count("-->") == 2
        details = await create(
            model="any",
            file=audio,
            response_format="verbose_json",
            timestamp_granularities=["segment"],
            prompt="ignored",
            temperature=0.5,
        )
        assert details.segments
        assert details.text == plain.text
        assert details.language == "en"
        assert details.duration == pytest.approx(2.0)
        assert [(part.id, part.start, part.end) for part in details.segments] == [
            (0, 0.0, 0.5),
            (1, 0.5, 1.0),
        ]
        assert details.segments[0].avg_logprob == pytest.approx(np.log(0.9))


def monologue() -> bytes:
    """Something over a minute of speech, with a second's pause every five seconds or so."""
    sentence = spoken("goforward") + bytes(2 * SAMPLE_RATE)
    return sentence * (70 * 2 * SAMPLE_RATE // len(sentence) + 1)


async def test_long_audio_is_cut_where_nobody_speaks_and_streamed() -> None:
    """Each piece's words come while the next is being heard; no cut falls into a word.

    Put together, the pieces are the file, and the times go on from piece to piece.
    """
    pcm = monologue()
    hearing = FakeHearing(said("first"), said("second"), said("third"), said("fourth"))
    async with serve(None, hearing) as client:
        hearing.free.clear()
        asked = asyncio.create_task(
            client.audio.transcriptions.create(
                model="any", file=("x.flac", encode(pcm, "flac")), stream=True
            )
        )
        await soon(hearing.asked.is_set)
        hearing.asked.clear()
        hearing.free.set()
        stream = await asked
        deltas: list[str] = []
        async for event in stream:
            if event.type == "transcript.text.delta":
                if not deltas:
                    hearing.free.clear()
                    assert len(hearing.requests) < 4
                    hearing.free.set()
                deltas.append(event.delta)
            elif event.type == "transcript.text.done":
                assert event.text == "".join(deltas)
        details = await client.audio.transcriptions.create(
            model="any", file=("x.flac", encode(pcm, "flac")), response_format="verbose_json"
        )
    pieces = [request.pcm for request in hearing.requests]
    assert "".join(deltas) == " ".join(["first", "second", "third", "fourth"][: len(deltas)])
    assert len(deltas) >= 3
    assert all(len(piece) <= 30 * 2 * SAMPLE_RATE for piece in pieces)
    for piece in pieces[: len(deltas) - 1]:
        around = np.frombuffer(piece, "<i2")[-SAMPLE_RATE // 5 :].astype(np.float32)
        assert np.sqrt(np.mean(around**2)) < 100
    assert details.duration == pytest.approx(len(pcm) / 2 / SAMPLE_RATE, abs=0.05)


async def test_times_go_on_from_piece_to_piece() -> None:
    """A segment's times are the file's, and never beyond its piece."""
    pcm = monologue()
    hearing = FakeHearing(*[said("word", seconds=100.0)] * 4)
    async with serve(None, hearing) as client:
        details = await client.audio.transcriptions.create(
            model="any", file=("x.wav", encode(pcm, "wav")), response_format="verbose_json"
        )
    assert details.segments
    assert details.segments[0].start == 0
    for one, next_one in zip(details.segments, details.segments[1:], strict=False):
        assert one.end == next_one.start
    assert details.segments[-1].end == pytest.approx(details.duration)


async def test_what_nobody_said_is_not_heard() -> None:
    """The engine is not asked about silence, on which it would make words up."""
    ear = FakeHearing(heard("Thank you."))
    async with serve(None, ear) as client:
        answer = await client.audio.transcriptions.create(
            model="any", file=("x.wav", encode(bytes(32_000), "wav"))
        )
        assert answer.text == ""
    assert ear.requests == []


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://%s\n#EXT-X-ENDLIST\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Sound on the worker's own disk."""
    path = tmp_path / "secret.aac"
    path.write_bytes(encode(tone(1.0), "aac"))
    return path


async def test_what_is_no_audio_is_refused_and_leaves_nothing(secret: Path) -> None:
    """Garbage, nothing, and files that name other files are 400, and nothing stays open."""
    wrong = {
        "empty": b"",
        "garbage": bytes(range(256)) * 400,
        "text": b"hello " * 5000,
        "header": encode(tone(1.0), "wav")[:44],
        "broken": b"RIFF" + bytes(100_000),
        "playlist": PLAYLIST % str(secret).encode(),
        "concat": f"ffconcat version 1.0\nfile {secret}\n".encode(),
    }
    hearing = FakeHearing()
    async with serve(None, hearing) as client:
        await client.models.list()
        before = len(os.listdir("/proc/self/fd"))
        for name, file in wrong.items():
            with pytest.raises(openai.BadRequestError) as caught:
                await client.audio.transcriptions.create(model="any", file=(f"{name}.mp3", file))
            assert caught.value.param == "file", name
        await soon(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert hearing.requests == []
        await client.audio.transcriptions.create(
            model="any", file=("x.wav", encode(tone(1.0), "wav"))
        )


async def test_a_file_that_breaks_off_is_heard_as_far_as_it_goes() -> None:
    """Half of a file gives half of its sound."""
    hearing = FakeHearing(said("half"))
    whole = encode(tone(4.0), "opus")
    async with serve(None, hearing) as client:
        await client.audio.transcriptions.create(
            model="any", file=("x.ogg", whole[: len(whole) // 2])
        )
    assert len(hearing.requests[0].pcm) / 2 / SAMPLE_RATE == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[]"),
        ({"language": "English"}, "language"),
        ({"stream": "perhaps"}, "stream"),
    ],
)
async def test_a_wrong_question_about_a_file_is_refused(
    wrong: dict[str, object], param: str
) -> None:
    """The client raises BadRequestError, which names the field."""
    async with serve(None, FakeHearing()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.audio.transcriptions.create(
                model="any",
                file=("x.wav", encode(tone(1.0), "wav")),
                **wrong,
            )
        assert caught.value.param == param


@pytest.mark.parametrize("content", [b"", b"--x\r\nbad", b"--x--\r\n"])
async def test_a_form_without_a_file_is_refused(content: bytes) -> None:
    """Neither a broken form nor one that lacks the file is more than a 400."""
    async with serve(None, FakeHearing()) as client, httpx.AsyncClient() as bare:
        url = f"{client.base_url}audio/transcriptions"
        header = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = await bare.post(url, content=content, headers=header)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
        answer = await bare.post(url, data={"file": "not a file"})
        assert answer.status_code == 400


async def test_too_much_audio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes or more minutes than the limits are refused before anything is heard."""
    monkeypatch.setattr(openai_api, "MAX_MINUTES", 2.0)
    hearing = FakeHearing()
    async with serve(None, hearing) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.audio.transcriptions.create(model="any", file=("x.wav", bytes(27_000_000)))
        assert caught.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="longer than 2 minutes"):
            await client.audio.transcriptions.create(
                model="any", file=("x.flac", encode(bytes(2 * SAMPLE_RATE * 121), "flac"))
            )
    assert hearing.requests == []


async def test_an_ear_that_fails_is_an_error() -> None:
    """Before the first word there is a 500 or 503; after it the events end with the error."""
    audio = ("x.wav", encode(tone(1.0), "wav"))
    hearing = FakeHearing(
        EngineError("deaf"), BusyError("full"), said("first"), EngineError("deaf")
    )
    async with serve(None, hearing) as client:
        create = client.audio.transcriptions.create
        with pytest.raises(openai.InternalServerError, match="deaf"):
            await create(model="any", file=audio)
        with pytest.raises(openai.InternalServerError, match="full") as caught:
            await create(model="any", file=audio, stream=True)
        assert caught.value.status_code == 503
        stream = await create(model="any", file=("x.wav", encode(monologue(), "wav")), stream=True)
        assert (await anext(stream)).type == "transcript.text.delta"
        with pytest.raises(openai.APIError, match="deaf"):
            await anext(stream)


async def test_a_long_file_waits_for_its_next_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that fills up between two pieces does not fail the file."""
    monkeypatch.setattr(patience, "RETRY_S", 0.01)
    hearing = FakeHearing(said("first"), BusyError("full"), BusyError("full"), said("second"))
    async with serve(None, hearing) as client:
        answer = await client.audio.transcriptions.create(
            model="any", file=("x.wav", encode(monologue(), "wav"))
        )
    assert answer.text == "first second"


async def test_a_client_that_leaves_is_not_listened_to() -> None:
    """Recognition is cancelled when the client goes away."""
    hearing = FakeHearing()
    hearing.free.clear()
    async with serve(None, hearing) as client:
        asked = asyncio.create_task(
            client.audio.transcriptions.create(
                model="any", file=("x.wav", encode(tone(1.0), "wav"))
            )
        )
        await soon(hearing.asked.is_set)
        asked.cancel()
        await soon(lambda: hearing.requests[0].cancelled)


async def test_eight_files_at_once_are_each_heard() -> None:
    """Files that come together are told apart."""

    class Clock(FakeHearing):
        async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
            await super().transcribe(pcm, language)
            return said(f"{len(pcm) / 2 / SAMPLE_RATE:.0f} seconds")

    async with serve(None, Clock()) as client:
        answered = await asyncio.gather(
            *(
                client.audio.transcriptions.create(
                    model="any", file=("x.flac", encode(tone(n), "flac"))
                )
                for n in range(1, 9)
            )
        )
    assert [answer.text for answer in answered] == [f"{n} seconds" for n in range(1, 9)]
