"""Daily's REST API on loopback, its webhook of telephone calls, and a stand-in for its native SDK.

Written from Daily's documents: "REST API" (bearer key, errors as `error` and `info`), "Create
room", "Create meeting token", "Delete room", "Eject", "Pinless call update", "SIP Interconnect and
Pinless PSTN dial-in", and the reference of daily-python for what the SDK's client is asked and
tells. The SDK itself cannot be had without Daily's cloud, where it looks rooms up.
"""

import asyncio
import hmac
import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

KEY = "daily-key-of-the-tests"
SECRET = b64encode(b"what Daily and we have agreed upon").decode()


@dataclass
class FakeDaily:
    """A Daily domain, as tests look at it.

    Attributes:
        url: Its REST API's address.
        rooms: Its rooms as they were asked for, by name; those that were deleted are gone.
        made: The names of all rooms that were ever made.
        tokens: What each meeting token is for.
        ejected: The ids of those who were put out of rooms.
        updates: The calls that were put through, as `pinlessCallUpdate` was told.
        failures: What the next requests of a path are answered with, by `METHOD /path`: a status,
            a text that is no JSON, or seconds to be silent for.
        requests: `METHOD /path` of each request.
        room_url: The address of a room; `{name}` is filled in.
    """

    url: str = ""
    rooms: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    ejected: list[str] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, list[int | str | float]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    room_url: str = "https://tests.daily.co/{name}"

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        what = f"{request.method} {request.path.removeprefix('/v1')}"
        self.requests.append(what)
        kind = re.sub(r"(?<=/rooms/)[^/]+", ":name", what)
        if self.failures.get(kind):
            failure = self.failures[kind].pop(0)
            if isinstance(failure, str):
                return web.Response(text=failure)
            if isinstance(failure, int):
                name = {401: "authentication-error", 429: "rate-limit-error"}.get(failure)
                return _error(failure, name or "server-error", "as the test wants it")
            await asyncio.sleep(failure)
        authorization = request.headers.get("Authorization", "")
        if not authorization.startswith("Bearer "):
            return _error(400, "authorization-header-error", "bad Authorization header format")
        if authorization != f"Bearer {KEY}":
            return _error(401, "authentication-error", "the key is not valid")
        body = await request.json() if request.can_read_body else {}
        name = request.match_info.get("name", "")
        match kind:
            case "POST /rooms":
                return self._make_room(body)
            case "POST /meeting-tokens":
                return self._make_token(body["properties"])
            case "DELETE /rooms/:name" if self.rooms.pop(name, None):
                return web.json_response({"deleted": True, "name": name})
            case "POST /rooms/:name/eject" if name in self.rooms:
                self.ejected += body["ids"]
                return web.json_response({"ejectedIds": body["ids"]})
            case "POST /dialin/pinlessCallUpdate":
                self.updates.append(body)
                return web.json_response({})
        return _error(404, "not-found", "")

    def _make_room(self, body: dict[str, Any]) -> web.Response:
        name = body.get("name") or uuid4().hex
        properties = body.get("properties", {})
        if re.search(r"[^A-Za-z0-9_-]", name) or len(name) > 41:
            return _error(400, "invalid-request-error", "invalid room name")
        if name in self.rooms:
            return _error(400, "invalid-request-error", f"a room named {name} already exists")
        if properties["exp"] % 1 or properties["exp"] < time.time():
            return _error(400, "invalid-request-error", "exp is no unix timestamp to come")
        self.rooms[name] = body
        self.made.append(name)
        config = dict(properties)
        if "sip" in config:
            config["sip_uri"] = {"endpoint": f"{name}@tests.sip.daily.co"}
        return web.json_response(
            {
                "id": str(uuid4()),
                "name": name,
                "api_created": True,
                "privacy": body.get("privacy", "public"),
                "url": self.room_url.format(name=name),
                "created_at": "2026-01-26T09:01:22.000Z",
                "config": config,
            }
        )

    def _make_token(self, properties: dict[str, Any]) -> web.Response:
        token = f"token.{uuid4().hex}"
        self.tokens[token] = properties
        return web.json_response({"token": token})


def _error(status: int, error: str, info: str) -> web.Response:
    return web.json_response({"error": error, "info": info}, status=status)


@asynccontextmanager
async def daily_api() -> AsyncIterator[FakeDaily]:
    """Serve on a free loopback port until the block ends."""
    fake = FakeDaily()
    app = web.Application()
    for path in ("rooms", "meeting-tokens", "rooms/{name}", "rooms/{name}/eject"):
        app.router.add_route("*", f"/v1/{path}", fake.answer)
    app.router.add_post("/v1/dialin/pinlessCallUpdate", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield fake
    finally:
        await runner.cleanup()


def signed(body: bytes, *, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers of Daily's webhook.

    Args:
        body: What is posted.
        at: When it is signed, as it is written into the header.
        secret: What it is signed with, in base64.
    """
    timestamp = str(int(time.time() if at is None else at))
    digest = hmac.new(b64decode(secret), f"{timestamp}.".encode() + body, "sha256").digest()
    return {
        "X-Pinless-Timestamp": timestamp,
        "X-Pinless-Signature": b64encode(digest).decode(),
        "Content-Type": "application/json",
    }


def dialin(**fields: Any) -> bytes:
    """What Daily posts of a telephone call that it keeps on hold."""
    call = {
        "To": "+12098765432",
        "From": "+4930123456",
        "callId": str(uuid4()),
        "callDomain": str(uuid4()),
    }
    return json.dumps(call | fields).encode()


class FakeCallClient:
    """What `daily.CallClient` is to Pipecat's transport: a place in a room without a cloud.

    Attributes:
        joined: The room and the token that it was entered with, once it was.
        messages: The app messages that were sent.
        dialled: The telephones that were called.
        transfers: The transfers that were asked for: the method's name and its settings.
        dial_errors: What the next attempts to call fail with.
        transfer_errors: What a transfer method fails with, by name.
    """

    def __init__(self, event_handler: Any) -> None:
        """Stay outside.

        Args:
            event_handler: Who is told of what happens.
        """
        self.joined: tuple[str, str | None] | None = None
        self.messages: list[Any] = []
        self.dialled: list[dict[str, Any]] = []
        self.transfers: list[tuple[str, dict[str, Any]]] = []
        self.dial_errors: list[str] = []
        self.transfer_errors: dict[str, str] = {}
        self._handler = event_handler

    async def tell(self, event: str, *args: Any) -> None:
        """Tell an event, from a thread of its own as the SDK does."""
        await asyncio.to_thread(getattr(self._handler, event), *args)

    async def come(self, person: str) -> None:
        """Let a person into the room."""
        await self.tell("on_participant_joined", {"id": person, "info": {"isLocal": False}})

    async def go(self, person: str) -> None:
        """Have a person leave it."""
        await self.tell(
            "on_participant_left", {"id": person, "info": {"isLocal": False}}, "leftCall"
        )

    def said(self, kind: str) -> bool:
        """Whether an RTVI message of this type was sent."""
        return any(m.get("type") == kind for m in self.messages if isinstance(m, dict))

    def join(
        self, url: str, token: str | None, *, completion: Callable[..., None], **_: Any
    ) -> None:
        self.joined = (url, token)
        completion({"participants": {"local": {"id": "agent"}}}, None)

    def leave(self, *, completion: Callable[..., None]) -> None:
        completion(None)

    def start_dialout(self, settings: dict[str, Any], *, completion: Callable[..., None]) -> None:
        self.dialled.append(settings)
        if self.dial_errors:
            completion("", self.dial_errors.pop(0))
        else:
            completion(f"session-{len(self.dialled)}", None)

    def sip_call_transfer(
        self, settings: dict[str, Any], *, completion: Callable[..., None]
    ) -> None:
        self._transfer("sip_call_transfer", settings, completion)

    def sip_refer(self, settings: dict[str, Any], *, completion: Callable[..., None]) -> None:
        self._transfer("sip_refer", settings, completion)

    def _transfer(
        self, name: str, settings: dict[str, Any], completion: Callable[..., None]
    ) -> None:
        self.transfers.append((name, settings))
        completion(self.transfer_errors.get(name))

    def send_app_message(
        self, message: Any, _to: str | None, *, completion: Callable[..., None]
    ) -> None:
        self.messages.append(message)
        completion(None)

    def update_subscriptions(self, *, completion: Callable[..., None], **_: Any) -> None:
        completion(None)

    def update_subscription_profiles(self, _: Any) -> None: ...

    def set_user_name(self, _: str) -> None: ...

    def set_audio_renderer(self, *_: Any, **__: Any) -> None: ...

    def release(self) -> None: ...
