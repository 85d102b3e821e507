"""An OpenAI-compatible endpoint on loopback: it streams what it is told to, and can misbehave.

It speaks the chat-completions API as OpenAI does (https://platform.openai.com/docs/api-reference/chat):
server-sent events that begin with an empty delta and end with a usage report and `[DONE]`, tool
calls in fragments, errors in OpenAI's envelope, and a 400 for a conversation whose tool results do
not answer the calls. A request for JSON of a schema (structured outputs) is answered in one piece.
It also answers `GET /api/tags`, as Ollama does.

It speaks and hears as https://platform.openai.com/docs/api-reference/audio says: samples in chunks
of any size, transcripts in the format asked for, and a 400 for what the documentation excludes.
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web


@dataclass(frozen=True)
class Text:
    """An answer in words."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """An answer that says `text`, if there is any, and calls a tool."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Refusal:
    """An HTTP error in OpenAI's envelope."""

    status: int
    message: str = "no"
    code: str = "refused"
    param: str | None = None


@dataclass(frozen=True)
class Silence:
    """Nothing more after `text` until the client goes away; None does not even begin to answer."""

    text: str | None = None


@dataclass(frozen=True)
class Drop:
    """The connection breaks after `text`."""

    text: str = ""


@dataclass(frozen=True)
class Sound:
    """Samples, or whatever else is sent for them.

    Attributes:
        pcm: The bytes.
        step: How many are sent at a time.
        media_type: What they are said to be.
        then: What follows them.
    """

    pcm: bytes
    step: int = 333
    media_type: str = "audio/pcm"
    then: Literal["end", "silence", "drop"] = "end"


@dataclass(frozen=True)
class Heard:
    """A transcript.

    Attributes:
        text: What was said.
        segments: For `verbose_json`.
        language: For `verbose_json`: its English name, as OpenAI gives it.
    """

    text: str
    segments: Sequence[dict[str, Any]] = ()
    language: str = "english"


@dataclass(frozen=True)
class Page:
    """An answer with a status of 200 that is none of the API's."""

    body: str
    media_type: str = "text/html"


Answer = Text | ToolCall | Refusal | Silence | Drop | Sound | Heard | Page


WRONG_KEY = Refusal(401, "Incorrect API key provided.", "invalid_api_key")


class FakeOpenAI:
    """A server that gives each request the next of its answers; without any, it echoes.

    Attributes:
        api_key: The one key that it accepts.
        requests: The bodies asked for so far; of a form, its fields, files in bytes.
        connections: The connections over which they came, by port.
        fell_silent: Set once a `Silence` has said all it will say.
        client_left: Set once the client has closed a request that hung.
        tags: The models that `GET /api/tags` lists; None hangs.
        lists: What it answers on `GET /v1/…` by path, for example `{"voices": {"voices": []}}`.
        transcripts: The formats that its model can transcribe to.
        judge: Makes the object that answers a request for JSON of a schema, from its last message;
            None refuses such requests.
        judged: What `judge` was asked.
    """

    def __init__(self, *answers: Answer, api_key: str = "sk-fake") -> None:
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        self.connections: set[int] = set()
        self.fell_silent = asyncio.Event()
        self.client_left = asyncio.Event()
        self.tags: Sequence[dict[str, Any]] | None = ()
        self.lists: dict[str, Any] = {}
        self.transcripts = {"json", "text", "srt", "verbose_json", "vtt"}
        self.judge: Callable[[str], Any] | None = None
        self.judged: list[str] = []
        self._answers = list(answers)
        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/audio/speech", self._speak)
        app.router.add_post("/v1/audio/transcriptions", self._transcribe)
        app.router.add_get("/v1/{path:.+}", self._get)
        app.router.add_get("/api/tags", self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What `OPENAI_BASE_URL` is set to."""
        return f"{self.url}/v1"

    def then(self, *answers: Answer) -> None:
        """Answer the requests to come with these, in order."""
        self._answers += answers

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def _knows(self, request: web.Request) -> bool:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        return request.headers.get("Authorization") == f"Bearer {self.api_key}"

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return _error(WRONG_KEY)
        body = await request.json()
        if self.judge and not body.get("stream"):
            return self._judge(body, self.judge)
        self.requests.append(body)
        if mistake := _mistake(body):
            return _error(Refusal(400, mistake, "invalid_request_error"))
        echo = Text(f"You said: {body['messages'][-1]['content']}")
        answer = self._answers.pop(0) if self._answers else echo
        if isinstance(answer, Refusal):
            return _error(answer)
        if answer == Silence(None):
            await self._hang()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for event in _events(answer, body["model"]):
            await response.write(f"data: {event}\n\n".encode())
        if isinstance(answer, Silence):
            await self._hang()
        if isinstance(answer, Drop):
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _judge(self, body: dict[str, Any], judge: Callable[[str], Any]) -> web.Response:
        """Answer with JSON of the schema that is asked for."""
        wanted = body.get("response_format") or {}
        schema = wanted.get("json_schema") or {}
        if wanted.get("type") != "json_schema" or not schema.get("name"):
            return _error(Refusal(400, "this server only streams, but for JSON of a schema"))
        if mistake := _schema_mistake(schema["schema"]):
            return _error(Refusal(400, mistake, "invalid_request_error", "response_format"))
        self.judged.append(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": json.dumps(judge(self.judged[-1]))}
        return web.json_response(
            {
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14},
            }
        )

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return _error(WRONG_KEY)
        body = await request.json()
        self.requests.append(body)
        if mistake := _speech_mistake(body):
            return _error(Refusal(400, mistake, "invalid_request_error"))
        answer = self._answers.pop(0) if self._answers else Sound(bytes(4800))
        if not isinstance(answer, Sound):
            return await self._misbehave(request, answer)
        headers = {"Content-Type": answer.media_type} if answer.media_type else {}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(answer.pcm), answer.step):
            await response.write(answer.pcm[start : start + answer.step])
        if answer.then == "silence":
            await self._hang()
        if answer.then == "drop":
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return _error(WRONG_KEY)
        form = await request.post()
        fields: dict[str, Any] = {
            name: value.file.read() if isinstance(value, web.FileField) else value
            for name, value in form.items()
        }
        self.requests.append(fields)
        wanted = fields.get("response_format", "json")
        if not fields.get("model") or not isinstance(form.get("file"), web.FileField):
            return _error(Refusal(400, "you must provide a model and a file"))
        if wanted not in self.transcripts:
            message = f"response_format '{wanted}' is not compatible with model. Use 'json'."
            return _error(Refusal(400, message, "unsupported_value", "response_format"))
        answer = self._answers.pop(0) if self._answers else Heard("you said something")
        if not isinstance(answer, Heard):
            return await self._misbehave(request, answer)
        if wanted == "verbose_json":
            verbose = {"task": "transcribe", "language": answer.language, "duration": 1.0}
            return web.json_response(verbose | {"text": answer.text, "segments": answer.segments})
        if wanted == "json":
            return web.json_response({"text": answer.text})
        return web.Response(text=answer.text + "\n")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return _error(WRONG_KEY)
        listed = self.lists.get(request.match_info["path"])
        if isinstance(listed, Refusal | Page):
            return await self._misbehave(request, listed)
        return _error(Refusal(404, "Not Found")) if listed is None else web.json_response(listed)

    async def _misbehave(self, request: web.Request, answer: Answer) -> web.Response:
        """Answer with what is neither speech nor a transcript."""
        if isinstance(answer, Refusal):
            return _error(answer)
        if isinstance(answer, Page):
            return web.Response(text=answer.body, content_type=answer.media_type)
        if answer == Drop():
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        assert answer == Silence(None)
        await self._hang()
        raise AssertionError

    async def _hang(self) -> None:
        self.fell_silent.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.client_left.set()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self.tags is None:
            await self._hang()
        return web.json_response({"models": self.tags})


def _events(answer: Answer, model: str) -> Iterator[str]:
    """The JSON of a completion's chunks, up to where the answer breaks off."""
    completion = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return json.dumps(completion | {"choices": [choice], "usage": None})

    assert isinstance(answer, Text | ToolCall | Silence | Drop)
    tokens = re.findall(r"\s*\S+", answer.text or "")
    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for token in tokens:
        yield chunk({"content": token})
    if isinstance(answer, (Silence, Drop)):
        return
    if isinstance(answer, ToolCall):
        head = {"name": answer.name, "arguments": ""}
        call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": head}
        yield chunk({"tool_calls": [call]})
        arguments = json.dumps(answer.arguments)
        for start in range(0, len(arguments), 5):
            part = {"arguments": arguments[start : start + 5]}
            yield chunk({"tool_calls": [{"index": 0, "function": part}]})
    yield chunk({}, "tool_calls" if isinstance(answer, ToolCall) else "stop")
    usage = {"prompt_tokens": 7, "completion_tokens": len(tokens), "total_tokens": 7 + len(tokens)}
    yield json.dumps(completion | {"choices": [], "usage": usage})


def _mistake(body: dict[str, Any]) -> str | None:
    """What OpenAI would not accept in a request."""
    if body.get("stream") is not True:
        return "this server only streams"
    waiting: set[str] = set()
    for number, message in enumerate(body.get("messages") or [{}]):
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool"):
            return f"messages[{number}].role: {role!r} is not one of the roles"
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                return f"messages[{number}]: answers no preceding tool call"
            waiting.remove(message["tool_call_id"])
        elif waiting:
            return f"messages[{number}]: tool calls before it have no answer: {sorted(waiting)}"
        waiting |= {call["id"] for call in message.get("tool_calls") or ()}
    return None


def _schema_mistake(schema: dict[str, Any]) -> str | None:
    """What OpenAI would not accept in a strict schema: each object says all that it may have."""
    if schema.get("type") != "object":
        return None
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false"
    if set(schema.get("required", ())) != set(properties):
        return "'required' is required to include every key in properties"
    return next(filter(None, map(_schema_mistake, properties.values())), None)


def _speech_mistake(body: dict[str, Any]) -> str | None:
    """What OpenAI would not accept in a request to speak."""
    for name in ("input", "model", "voice"):
        if not body.get(name):
            return f"{name}: field required"
    if len(body["input"]) > 4096:
        return "input: at most 4096 characters"
    if not 0.25 <= body.get("speed", 1.0) <= 4.0:
        return "speed: between 0.25 and 4.0"
    return None if body.get("response_format") == "pcm" else "this server only has pcm"


def _error(refusal: Refusal) -> web.Response:
    error = {
        "message": refusal.message,
        "type": "invalid_request_error",
        "param": refusal.param,
        "code": refusal.code,
    }
    return web.json_response({"error": error}, status=refusal.status)
