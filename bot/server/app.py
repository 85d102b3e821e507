"""The HTTP application: what it serves, how large a request may be, how it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from bot.agent import Agent
from bot.call import Calls
from bot.engines import Engines
from bot.server import (
    access,
    daily,
    health,
    livekit,
    openapi,
    records,
    start,
    tokens,
    web,
    webrtc,
    widget,
)
from bot.server import calls as calls_in_progress
from bot.server.phone import routes as phone
from bot.settings import Settings
from services.guard import Guard
from services.reach import as_seen

MAX_BODY_BYTES = 256 * 1024
"""The largest request body: an SDP offer is a few kilobytes."""

BODY_SECONDS = 10.0
"""How long a request body may take to arrive."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; connect-src 'self'; media-src 'self' blob: mediastream:; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
)
"""The page needs nothing from anywhere else, and a script that got into it could reach nothing."""


def create_app(settings: Settings, engines: Engines, agent: Agent, calls: Calls) -> FastAPI:
    """The application, around engines that are loaded.

    Args:
        settings: The settings in force.
        engines: What the agent speaks, hears and thinks with.
        agent: Who answers.
        calls: The calls of the process.
    """
    offers = webrtc.Offers(settings, engines, calls)
    daily_rooms = daily.Daily(settings, agent, calls)
    livekit_rooms = livekit.LiveKit(settings, agent, calls)
    telephone = phone.Phone(settings, engines, calls, {"daily": daily_rooms})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        voices = asyncio.create_task(calls.follow_voices(), name="voices")
        keeping = asyncio.create_task(records.keep(calls.records), name="records")
        await daily_rooms.open()
        await livekit_rooms.open()
        yield
        voices.cancel()
        with suppress(asyncio.CancelledError):
            await voices
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await offers.close()
        await livekit_rooms.close()
        await daily_rooms.close()
        await telephone.close()

    app = FastAPI(
        title="Parley",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=openapi.EVERYWHERE,
    )
    app.include_router(health.router(calls, engines))
    app.include_router(calls_in_progress.router(calls))
    app.include_router(records.router(calls))
    starters: dict[str, start.Starter] = {
        "webrtc": offers,
        "daily": daily_rooms,
        "livekit": livekit_rooms,
    }
    app.include_router(start.router(starters, calls, engines))
    app.include_router(webrtc.router(offers))
    app.include_router(web.router(engines, agent))
    app.include_router(daily.router(daily_rooms, calls))
    app.include_router(livekit.router(livekit_rooms))
    app.include_router(phone.router(telephone))
    if settings.eval:
        # What it imports is of no use to others.
        from bot.server import evals

        app.include_router(evals.router(calls))
    keys = access.keys_of(settings)
    app.include_router(tokens.router(keys))
    app.include_router(widget.router())
    openapi.describe(app)
    app.exception_handler(RequestValidationError)(_say_what_is_wrong)
    # The last one added is asked first: who may not come in has nothing read of what they send.
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)
    app.add_middleware(
        access.Access,
        keys=keys,
        limit=access.limit_of(settings),
        keyless_origins=[] if settings.require_token else settings.allowed_origins,
    )
    app.add_middleware(
        Guard,
        host=settings.host,
        allowed_origins=settings.allowed_origins,
        public_url=settings.public_url,
        cure="; --allowed-origins adds an origin",
    )
    app.add_middleware(PageHeaders)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=as_seen(settings.trusted_proxies))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "PATCH", "PUT"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["retry-after"],
        )
    # Last, since it answers every path that nothing else does.
    web.mount_page(app)
    return app


async def _say_what_is_wrong(_: Request, error: Exception) -> JSONResponse:
    """One line for a body that cannot be read, in place of a list of objects."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Where the body is no JSON, the place in it is a count of characters, and no field.
    loc = () if first["type"] == "json_invalid" else first["loc"]
    where = ".".join(str(part) for part in loc if part != "body") or "body"
    message = first["msg"].removeprefix("Value error, ")
    return JSONResponse({"detail": f"{where}: {message}"}, status_code=422)


class PageHeaders:
    """Says with every answer what a page of it may do."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application.

        Args:
            app: What answers.
        """
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses a body that is too large with 413, before more is read, and a slow one with 408."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Wrap an application.

        Args:
            app: What answers the requests that are small enough.
            limit: The most bytes of a body.
        """
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        body, more = b"", True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._limit:
                        await self._refuse(scope, receive, send)
                        return
        except TimeoutError:
            late = JSONResponse({"detail": "the body took too long"}, status_code=408)
            await late(scope, receive, send)
            return
        delivered = False

        async def replay() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body is larger than {self._limit} bytes"
        await JSONResponse({"detail": detail}, status_code=413)(scope, receive, send)
