"""An OpenAI-compatible endpoint on loopback: it streams what it is told to, and can misbehave.

It speaks the chat-completions API as OpenAI does (https://platform.openai.com/docs/api-reference/chat):
server-sent events that begin with an empty delta and end with a usage report and `[DONE]`, tool
calls in fragments, errors in OpenAI's envelope, and a 400 for a conversation whose tool results do
not answer the calls. It also answers `GET /api/tags`, as Ollama does.
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

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


@dataclass(frozen=True)
class Silence:
    """Nothing more after `text` until the client goes away; None does not even begin to answer."""

    text: str | None = None


@dataclass(frozen=True)
class Drop:
    """The connection breaks after `text`."""

    text: str = ""


Answer = Text | ToolCall | Refusal | Silence | Drop


class FakeOpenAI:
    """A server that gives each request the next of its answers; without any, it echoes.

    Attributes:
        api_key: The one key that it accepts.
        requests: The bodies of the completions asked for so far.
        connections: The connections over which they came, by port.
        fell_silent: Set once a `Silence` has said all it will say.
        client_left: Set once the client has closed a request that hung.
        tags: The models that `GET /api/tags` lists; None hangs.
    """

    def __init__(self, *answers: Answer, api_key: str = "sk-fake") -> None:
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        self.connections: set[int] = set()
        self.fell_silent = asyncio.Event()
        self.client_left = asyncio.Event()
        self.tags: Sequence[dict[str, Any]] | None = ()
        self._answers = list(answers)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
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

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _error(Refusal(401, "Incorrect API key provided.", "invalid_api_key"))
        body = await request.json()
        self.requests.append(body)
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
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
            request.transport.abort()
            return response
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

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

    assert not isinstance(answer, Refusal)
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


def _error(refusal: Refusal) -> web.Response:
    error = {
        "message": refusal.message,
        "type": "invalid_request_error",
        "param": None,
        "code": refusal.code,
    }
    return web.json_response({"error": error}, status=refusal.status)
