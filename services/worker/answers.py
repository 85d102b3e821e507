"""How a worker answers over HTTP: as OpenAI does, streamed, and never to nobody.

Errors have OpenAI's shape (https://platform.openai.com/docs/guides/error-codes/api-errors), so
that its clients raise what they raise for OpenAI's own.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from loguru import logger
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from services.errors import BusyError, EngineError, UnknownVoiceError

BODY_SECONDS = 60.0
"""How long a request's body may take to arrive."""

READER_SECONDS = 60.0
"""How long a client may leave what it is sent unread. A browser that plays an answer reads it at
the pace of speech, some seconds at a time; one that has been forgotten keeps a place taken."""

RETRY_SECONDS = 1
"""When a client that found the worker full may try again: most sentences take no longer."""


class RefusalError(Exception):
    """A request is not granted; the message says why, in one line."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Refuse.

        Args:
            status: The HTTP status.
            message: Why.
            param: The field of the request that is wrong, if it is one.
            code: OpenAI's word for it, where there is one.
            headers: What to send besides.
        """
        super().__init__(message)
        self.status = status
        self.headers = headers
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"message": message, "type": kind, "param": param, "code": code}

    @classmethod
    def of(cls, error: Exception) -> "RefusalError":
        """The refusal that says what went wrong.

        Raises:
            Exception: `error` itself, if it is no answer to a request.
        """
        match error:
            case RefusalError():
                return error
            case ValidationError():
                first = error.errors(include_url=False, include_input=False)[0]
                field = str(first["loc"][0]) if first["loc"] else None
                message = first["msg"].removeprefix("Value error, ")
                return cls(400, f"{field}: {message}" if field else message, param=field)
            case BusyError():
                after = {"Retry-After": str(RETRY_SECONDS)}
                return cls(503, str(error), code="busy", headers=after)
            case UnknownVoiceError():
                return cls(400, str(error), param="voice", code="unknown_voice")
            case EngineError():
                return cls(500, str(error), code="engine_failed")
            case HTTPException():
                code = "invalid_api_key" if error.status_code == 401 else None
                headers = dict(error.headers or {})
                return cls(error.status_code, str(error.detail), code=code, headers=headers)
        raise error

    @property
    def response(self) -> JSONResponse:
        """The refusal as an answer."""
        return JSONResponse({"error": self.body}, self.status, self.headers)


class OpenAIRoute(APIRoute):
    """A route that refuses as OpenAI does, its dependencies' refusals included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, and what becomes of its errors."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (RefusalError, ValidationError, EngineError, HTTPException) as error:
                return RefusalError.of(error).response
            except ClientDisconnect:
                return Response(status_code=499)

        return answer


class Limited:
    """A request whose body may neither be too large nor take too long.

    Use it as a context manager around whatever reads the body.
    """

    def __init__(self, request: Request, most: int) -> None:
        """Watch over the body of `request`.

        Args:
            request: What came; its body has not been read yet.
            most: Bytes.
        """
        self._request = request
        self._most = most
        self._size = 0
        self._clock = asyncio.timeout(BODY_SECONDS)

    async def __aenter__(self) -> Request:
        declared = self._request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._most:
            raise self._too_large()
        await self._clock.__aenter__()
        return Request(self._request.scope, self._receive)

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._clock.__aexit__(*error)
        except TimeoutError:
            raise RefusalError(408, "the body took too long to arrive") from None

    async def _receive(self) -> Message:
        message = await self._request.receive()
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> RefusalError:
        return RefusalError(413, f"the body is larger than {self._most} bytes")


class Streamed(StreamingResponse):
    """An answer that is sent as it is made, and no longer made once the client has gone.

    What goes wrong before its first part is answered with an error. What goes wrong later cuts the
    connection before the answer's end, which a client cannot take for the whole. Middleware must
    pass that on, and a client's leaving: Starlette's BaseHTTPMiddleware completes what was cut.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None], media_type: str) -> None:
        """Answer with `parts`.

        Args:
            parts: The body's parts; closed, wherever it is, when the client goes away.
            media_type: What they are.
        """
        # A reverse proxy that gathers an answer before it passes it on would undo the streaming.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(parts, headers=headers, media_type=media_type)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(self._answer(scope, receive, send))
            leaving = tasks.create_task(self.listen_for_disconnect(receive))
            answering.add_done_callback(lambda _: leaving.cancel())
            leaving.add_done_callback(lambda _: answering.cancel())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts) as parts:
            try:
                first = await anext(parts, b"")
            except (RefusalError, EngineError) as error:
                refusal = RefusalError.of(error)
                if refusal.status == 500:
                    logger.warning("{}: {}", scope["path"], error)
                await refusal.response(scope, receive, send)
                return
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            try:
                await _send_part(send, first)
                async for part in parts:
                    await _send_part(send, part)
            except EngineError as error:
                logger.warning("{}: cut short: {}", scope["path"], error)
                return
            except TimeoutError:
                logger.warning("{}: cut short: nobody reads it", scope["path"])
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, part: bytes) -> None:
    async with asyncio.timeout(READER_SECONDS):
        await send({"type": "http.response.body", "body": part, "more_body": True})


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return f"data: {json.dumps(data)}\n\n".encode()


async def as_events(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """Events on the wire. What goes wrong after the first one becomes the last one."""
    begun = False
    async with aclosing(events):
        try:
            async for data in events:
                yield event(data)
                begun = True
        except EngineError as error:
            if not begun:
                raise
            logger.warning("cut short: {}", error)
            yield event({"type": "error", "error": RefusalError.of(error).body})
