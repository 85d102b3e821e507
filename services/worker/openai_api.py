"""OpenAI's speech API, spoken by a worker.

`POST /v1/audio/speech` and `POST /v1/audio/transcriptions` as
https://platform.openai.com/docs/api-reference/audio describes them, so that whatever talks to
OpenAI can talk to a worker. `docs/worker-http.md` says in what a worker differs.
"""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.datastructures import FormData, UploadFile

from services.stt.engine import Segment, Transcript
from services.stt.gate import listen
from services.stt.hearing import Hearing
from services.tts.engine import SPEED_LIMITS
from services.tts.speech import Speech
from services.worker.answers import (
    Limited,
    OpenAIRoute,
    RefusalError,
    Streamed,
    as_events,
)
from services.worker.encoding import FORMATS, Encoder, UnreadableAudioError, decode
from services.worker.host import Host
from services.worker.patience import PATIENCE_S, patiently
from services.worker.recordings import Piece, cut
from services.worker.transcripts import TRANSCRIPT_FORMATS

MAX_INPUT = 4096
"""Characters of a text: OpenAI's limit."""

MAX_SPEECH_BODY = 1 << 20
"""Bytes of a request to speak."""

MAX_FILE = 25 * 1000 * 1000
"""Bytes of a file to transcribe: OpenAI's limit."""

MAX_MINUTES = 30.0
"""Minutes of audio in a file."""


class CustomVoice(BaseModel):
    """A voice by its id."""

    id: str


class SpeechRequest(BaseModel):
    """What to say and how; fields that are not listed are ignored.

    Attributes:
        model: Any name: a worker has one engine.
        input: The text.
        voice: A name out of `GET /v1/voices`; empty for the default one.
        response_format: One of `encoding.FORMATS`.
        speed: 1.0 is the voice's own pace.
        stream_format: Whether the audio comes as it is or in server-sent events.
    """

    model: str = ""
    input: Annotated[str, Field(max_length=MAX_INPUT)]
    voice: Annotated[str | CustomVoice, Field(union_mode="left_to_right")] = ""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Field(ge=SPEED_LIMITS[0], le=SPEED_LIMITS[1], allow_inf_nan=False)] = (
        1.0
    )
    stream_format: Literal["audio", "sse"] = "audio"

    @field_validator("input")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("there is nothing to say")
        return text


class TranscriptionRequest(BaseModel):
    """How to transcribe a file; fields that are not listed are ignored.

    Attributes:
        model: Any name: a worker has one engine.
        language: ISO 639 code of what is spoken; None for the worker's own.
        response_format: What to answer with.
        stream: Whether the text comes piece by piece, in server-sent events.
        timestamp_granularities: Whose times `verbose_json` is to hold.
    """

    model_config = ConfigDict(populate_by_name=True)

    model: str = ""
    language: Annotated[str | None, Field(pattern="^[a-z]{2,3}$")] = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    stream: bool = False
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]], Field(alias="timestamp_granularities[]")
    ] = []

    @field_validator("timestamp_granularities")
    @classmethod
    def _are_known(cls, wanted: list[str]) -> list[str]:
        if "word" in wanted:
            raise ValueError("the times of words are not known here, only those of segments")
        return wanted


def openai_router(host: Host) -> APIRouter:
    """OpenAI's speech API, and the lists of engines and voices.

    Args:
        host: What speaks and hears.
    """
    api = APIRouter(prefix="/v1", route_class=OpenAIRoute)
    started = int(time.time())

    @api.get("/models")
    async def models() -> dict[str, Any]:
        tasks: dict[str, list[str]] = {}
        if host.speech:
            tasks.setdefault(host.speech.name, []).append("text-to-speech")
        if host.hearing:
            tasks.setdefault(host.hearing.name, []).append("automatic-speech-recognition")
        data = [
            {"id": name, "object": "model", "created": started, "owned_by": "parley", "tasks": does}
            for name, does in tasks.items()
        ]
        return {"object": "list", "data": data}

    @api.get("/voices")
    async def voices() -> dict[str, Any]:
        listed = [
            {"name": voice.name, "label": voice.label, "language": voice.language}
            for voice in _speech(host).voices()
        ]
        return {"engine": _speech(host).name, "voices": listed}

    # As vLLM-Omni lists them (https://docs.vllm.ai/projects/vllm-omni, "Speech API").
    @api.get("/audio/voices")
    async def voice_names() -> dict[str, list[str]]:
        names = [voice.name for voice in _speech(host).voices()]
        return {"voices": names, "uploaded_voices": []}

    @api.post("/audio/speech")
    async def speak(request: Request) -> Response:
        speech = _speech(host)
        async with Limited(request, MAX_SPEECH_BODY) as limited:
            body = await limited.body()
        asked = SpeechRequest.model_validate_json(body)
        audio = _speak(speech, asked)
        if asked.stream_format == "sse":
            return Streamed(as_events(_speech_events(audio)), "text/event-stream")
        return Streamed(audio, FORMATS[asked.response_format].media_type)

    @api.post("/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        if host.hearing is None:
            raise RefusalError(404, "this worker does not hear")
        # The other fields are few and short.
        async with (
            Limited(request, MAX_FILE + MAX_SPEECH_BODY) as limited,
            limited.form(max_files=1, max_fields=100) as form,
        ):
            asked = TranscriptionRequest.model_validate(_fields(form))
            file = await _file(form)
        language = asked.language or host.language or None
        heard = _hear(host.hearing, file, language)
        if asked.stream:
            if asked.response_format not in {"json", "text"}:
                raise RefusalError(
                    400, f"{asked.response_format} cannot be streamed", param="response_format"
                )
            return Streamed(as_events(_transcript_events(heard)), "text/event-stream")
        return Streamed(
            _write(heard, asked.response_format, language),
            TRANSCRIPT_FORMATS[asked.response_format].media_type,
        )

    return api


def _speech(host: Host) -> Speech:
    if host.speech is None:
        raise RefusalError(404, "this worker does not speak")
    return host.speech


async def _speak(speech: Speech, asked: SpeechRequest) -> AsyncGenerator[bytes, None]:
    """What is asked for as a file, part by part."""
    voice = asked.voice if isinstance(asked.voice, str) else asked.voice.id
    encoder = await asyncio.to_thread(Encoder, asked.response_format)
    async with aclosing(speech.speak(asked.input, voice, asked.speed)) as chunks:
        async for chunk in chunks:
            if part := await asyncio.to_thread(encoder.encode, chunk.pcm, chunk.sample_rate):
                yield part
    if part := await asyncio.to_thread(encoder.finish):
        yield part


async def _speech_events(
    audio: AsyncGenerator[bytes, None],
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(audio):
        async for part in audio:
            yield {"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()}
    # The field is required, and there are no tokens to count.
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    yield {"type": "speech.audio.done", "usage": usage}


def _fields(form: FormData) -> dict[str, Any]:
    """A form's fields as `TranscriptionRequest` takes them."""
    fields: dict[str, Any] = {
        name: value for name, value in form.items() if isinstance(value, str) and value
    }
    for name in ("timestamp_granularities", "timestamp_granularities[]"):
        if values := form.getlist(name):
            fields[name] = values
    return fields


async def _file(form: FormData) -> bytes:
    """The file that a form holds."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise RefusalError(400, "file: send the audio as a file", param="file")
    file = await upload.read()
    if len(file) > MAX_FILE:
        raise RefusalError(413, f"file: it is larger than {MAX_FILE} bytes", param="file")
    if not file:
        raise RefusalError(400, "file: it is empty", param="file")
    return file


async def _hear(
    hearing: Hearing, file: bytes, language: str | None
) -> AsyncGenerator[tuple[Piece, Transcript], None]:
    """What is said in a file, piece by piece; the times are the file's."""
    pieces = cut(decode(file, 60 * MAX_MINUTES))
    patience = 0.0
    while True:
        try:
            piece = await asyncio.to_thread(next, pieces, None)
        except UnreadableAudioError as error:
            raise RefusalError(400, f"file: {error}", param="file") from error
        if piece is None:
            return
        verdict = await patiently(partial(listen, hearing, piece.pcm, language), patience)
        patience = PATIENCE_S
        believed = verdict.transcript
        segments = tuple(_shifted(segment, piece) for segment in believed.segments)
        yield piece, Transcript(segments, believed.language)


def _shifted(segment: Segment, piece: Piece) -> Segment:
    """A segment with times from the file's beginning, and within the piece."""
    start, end = (
        piece.start + min(max(at, 0.0), piece.seconds) for at in (segment.start, segment.end)
    )
    text = " ".join(segment.text.split())
    return Segment(text, start, end, segment.confidence, segment.no_speech)


async def _transcript_events(
    heard: AsyncGenerator[tuple[Piece, Transcript], None],
) -> AsyncGenerator[dict[str, Any], None]:
    text = ""
    async with aclosing(heard):
        async for _, transcript in heard:
            for segment in transcript.segments:
                delta = f" {segment.text}" if text else segment.text
                text += delta
                yield {"type": "transcript.text.delta", "delta": delta}
    yield {"type": "transcript.text.done", "text": text}


async def _write(
    heard: AsyncGenerator[tuple[Piece, Transcript], None], form: str, language: str | None
) -> AsyncGenerator[bytes, None]:
    """All that is said in a file, in one part."""
    segments: list[Segment] = []
    seconds = 0.0
    async with aclosing(heard):
        async for piece, transcript in heard:
            segments += transcript.segments
            seconds = piece.start + piece.seconds
            language = transcript.language or language
    yield TRANSCRIPT_FORMATS[form].write(segments, seconds, language).encode()
