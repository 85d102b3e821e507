"""The telephone's routes: what carriers ask us, the sockets that they open, the calls we place.

`/phone/{carrier}` answers the carrier's webhook with a document that names a media socket, and
`/phone/{carrier}/media/{ticket}` is that socket. `POST /calls` has the agent call someone.
`/phone/busy.wav` is for a carrier that has to be given its busy tone.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol

import httpx
from fastapi import APIRouter, HTTPException, Request, Response, WebSocket
from loguru import logger
from pydantic import AfterValidator, BaseModel, Field

from bot.call import Call, Calls, TooManyCallsError
from bot.engines import Engines
from bot.line import AnsweredBy, LineError, Origin, is_number, is_sip
from bot.server.openapi import answers
from bot.server.phone import busy_tone, media
from bot.server.phone.carrier import (
    REST_SECONDS,
    RING_SECONDS,
    Carrier,
    HandshakeError,
    Webhook,
)
from bot.server.signatures import SignatureError
from bot.server.start import busy, check_voice
from bot.server.ways import CARRIERS, carrier_lacks
from bot.settings import Settings

TICKET_SECONDS = 30.0
"""How long a media socket may take to be opened after it was named to the carrier."""

PLACED_SECONDS = RING_SECONDS + 10 * 60.0
"""How long the carrier may ask what to do with a call that we placed: what is placed faster than it
dials waits its turn, at Twilio one call a second unless the account has more."""

MAX_REMEMBERED = 10_000
"""Calls that are remembered in order not to begin again, tickets, and the like."""


def _callee(text: str) -> str:
    if not (is_number(text) or is_sip(text)):
        raise ValueError("write a number with its country code, like +4930123456, or sip:…")
    return text


class CallRequest(BaseModel):
    """Someone whom the agent is to call.

    Attributes:
        carrier: Over which carrier.
        to: Their number in E.164, or a SIP address, where the carrier calls such.
        voice: A voice other than the agent's own.
        data: What to keep with the call, by name.
    """

    carrier: str = Field(max_length=20)
    to: Annotated[str, Field(max_length=512), AfterValidator(_callee)]
    voice: str | None = Field(default=None, max_length=200)
    data: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]
    ] = Field(default={}, max_length=32)


class PlacedCall(BaseModel):
    """A call that the carrier was asked for.

    Attributes:
        carrier: The carrier.
        id: The carrier's name of the call or of the request, empty where it gives none; over Daily
            the name of our own call.
    """

    carrier: str
    id: str


class Dialer(Protocol):
    """What places calls besides carriers.

    Attributes:
        lacks_dialout: What it lacks before it can, in one line; empty if nothing.
    """

    lacks_dialout: str

    async def dial(self, to: str, voice: str | None, data: Mapping[str, str]) -> str:
        """Call someone, and tell the call's id; its errors are those of `Daily.dial`."""
        ...


@dataclass(frozen=True)
class _Placed:
    """A call that we placed and that nobody has answered yet."""

    voice: str | None
    data: Mapping[str, str]
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Ticket:
    """Leave to open one media socket, for one call."""

    secret: str
    origin: Origin
    voice: str | None
    at: float = field(default_factory=time.monotonic)


class Phone:
    """The telephone calls of a process."""

    def __init__(
        self,
        settings: Settings,
        engines: Engines,
        calls: Calls,
        dialers: Mapping[str, Dialer],
    ) -> None:
        """Start with none.

        Args:
            settings: The settings in force.
            engines: What the agent speaks with.
            calls: The calls of the process.
            dialers: What places calls besides the carriers, by name.
        """
        self._dialers = dialers
        self._engines = engines
        self._calls = calls
        self._http = httpx.AsyncClient(timeout=REST_SECONDS)
        self._carriers = {carrier.name: carrier(settings, self._http) for carrier in CARRIERS}
        self._running: dict[tuple[str, str], Call] = {}
        # Each is bounded, and its oldest entry first.
        self._tickets: OrderedDict[tuple[str, str], _Ticket] = OrderedDict()
        self._placed: OrderedDict[tuple[str, str], _Placed] = OrderedDict()
        self._begun: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._early: OrderedDict[tuple[str, str], AnsweredBy] = OrderedDict()

    async def close(self) -> None:
        """Let go of the connections to the carriers' REST APIs."""
        await self._http.aclose()

    async def answer(self, name: str, request: Request, token: str = "") -> Response:
        """What a carrier is to do with a call.

        Args:
            name: The carrier.
            request: What it asks.
            token: Names the call, where we placed it.

        Raises:
            HTTPException: 404 for a carrier that is not set up or a call that nobody placed, 403
                for a wrong signature, 400 for a request without a call, 409 for a call that has
                begun.
        """
        carrier, webhook = await self._verified(name, request)
        if (document := carrier.document(webhook)) is not None:
            return document
        origin = carrier.origin(webhook)
        if not origin.id:
            raise HTTPException(400, "the request names no call")
        call = (name, origin.id)
        placed = self._find_placed(name, token, origin.id)
        if placed and not origin.outbound:
            # The carrier does not say in which direction a call goes.
            origin = replace(origin, outbound=True, caller=origin.called, called=origin.caller)
        if call in self._begun:
            raise HTTPException(409, "this call has begun already")
        if self._calls.full:
            logger.warning("{} {}: turned away, all lines are busy", *call)
            return carrier.busy(origin)
        if placed:
            origin = replace(origin, data={**placed.data, **origin.data})
        secret = secrets.token_urlsafe(24)
        _remember(self._tickets, call, _Ticket(secret, origin, placed.voice if placed else None))
        return carrier.answer(origin, _socket_url(carrier, secret))

    async def answer_with_key(self, name: str, request: Request) -> Response:
        """What a carrier is to do with a call, where its address ends in a key.

        Elsewhere such an address is nobody's, or what was signed for another would be good for it:
        Twilio's signature does not tell where the address ends and the form begins.

        Args:
            name: The carrier.
            request: What it asks.

        Raises:
            HTTPException: As `answer`; 404 for a carrier that has no such address.
        """
        carrier = self._carriers.get(name)
        if carrier is not None and not carrier.keyed:
            raise HTTPException(404, f"{name} has no such address")
        return await self.answer(name, request)

    async def report(self, name: str, request: Request) -> Response:
        """Take note of what a carrier says of a call besides its audio.

        Args:
            name: The carrier.
            request: What it says.

        Raises:
            HTTPException: 404 for a carrier that is not set up, 403 for a wrong signature.
        """
        carrier, webhook = await self._verified(name, request)
        report = carrier.report(webhook)
        if report:
            call = (name, report.call_id)
            logger.info("{} {}: {} {}", name, report.call_id, report.status, report.answered_by)
            if report.answered_by and call in self._running:
                await self._running[call].answered_by(report.answered_by)
            elif report.answered_by and call not in self._begun:
                _remember(self._early, call, report.answered_by)
        return carrier.acknowledge()

    async def carry(self, name: str, secret: str, socket: WebSocket) -> None:
        """Carry the call of a media socket to its end.

        Args:
            name: The carrier.
            secret: The last part of the socket's address.
            socket: The socket, which is not accepted before all that comes with it was checked.
        """
        carrier = self._carriers.get(name)
        ticket = self._find_ticket(name, secret)
        if carrier is None or ticket is None:
            await media.close_socket(socket, media.POLICY_VIOLATION)
            return
        call_id = (name, ticket.origin.id)
        try:
            carrier.verify_socket(_socket_url(carrier, secret), socket.headers)
        except SignatureError as error:
            logger.warning("{} {}: a media socket was refused: {}", *call_id, error)
            await media.close_socket(socket, media.POLICY_VIOLATION)
            return
        del self._tickets[call_id]
        if self._calls.full:
            await self._turn_away(carrier, ticket.origin, socket)
            return
        await socket.accept()
        try:
            start = await media.shake_hands(socket, carrier)
            # JSON may have half a character, which UTF-8 has not.
            said = start.call_id.encode(errors="replace")
            if not hmac.compare_digest(said, ticket.origin.id.encode(errors="replace")):
                raise HandshakeError("it is for another call than was signed for")
            if call_id in self._begun:
                # Another socket was quicker: its ticket was used before this one was made.
                raise HandshakeError("its call has begun already")
        except HandshakeError as error:
            logger.warning("{} {}: a media socket was closed: {}", *call_id, error)
            await media.close_socket(socket, media.POLICY_VIOLATION)
            return
        _remember(self._begun, call_id, None)
        try:
            call = self._calls.start(
                lambda: media.PhoneLine(socket, carrier, ticket.origin, start), ticket.voice
            )
        except TooManyCallsError:
            await self._turn_away(carrier, ticket.origin, socket)
            return
        logger.info("{} {}: is call {}", *call_id, call.id)
        self._running[call_id] = call
        try:
            if who := self._early.pop(call_id, ""):
                await call.answered_by(who)
            await call.ended.wait()
        finally:
            del self._running[call_id]

    async def place(self, wanted: CallRequest) -> PlacedCall:
        """Call someone.

        Args:
            wanted: Whom, and how.

        Raises:
            HTTPException: 400 for a carrier or a voice that there is not, or a SIP address where
                the carrier calls numbers alone, 503 when the process is full, 502 when the carrier
                does not.
        """
        carrier = self._carriers.get(wanted.carrier)
        dialer = self._dialers.get(wanted.carrier)
        if carrier is not None:
            missing = carrier_lacks(carrier) or carrier.lacks_for_dialling()
        elif dialer is not None:
            missing = dialer.lacks_dialout
        else:
            names = ", ".join((*self._carriers, *self._dialers))
            raise HTTPException(400, f"there is no carrier {wanted.carrier!r}; there are: {names}")
        if missing:
            raise HTTPException(400, f"{wanted.carrier} cannot be used: {missing}")
        if carrier is not None and is_sip(wanted.to) and not carrier.dials_sip:
            detail = f"{carrier.name} calls numbers alone: write one like +4930123456"
            raise HTTPException(400, detail)
        check_voice(self._engines, wanted.voice)
        if self._calls.full:
            raise busy(self._calls)
        if carrier is None:
            assert dialer is not None
            return await self._dial(dialer, wanted)
        token = secrets.token_urlsafe(24)
        placed = _Placed(wanted.voice, wanted.data)
        # Before the carrier knows of it, since it may ask back before it has said its name.
        _remember(self._placed, (carrier.name, token), placed)
        base = f"{carrier.public_url}/phone/{carrier.name}"
        try:
            call_id = await carrier.dial(wanted.to, f"{base}/placed/{token}", f"{base}/events")
            if not call_id:
                raise LineError(f"{carrier.name} answered without a call")
        except LineError as error:
            self._placed.pop((carrier.name, token), None)
            raise HTTPException(502, str(error)) from None
        _remember(self._placed, (carrier.name, call_id), placed)
        return PlacedCall(carrier=carrier.name, id=call_id)

    async def _dial(self, dialer: Dialer, wanted: CallRequest) -> PlacedCall:
        """Have somebody called by what is no carrier."""
        try:
            call_id = await dialer.dial(wanted.to, wanted.voice, wanted.data)
        except TooManyCallsError:
            raise busy(self._calls) from None
        except LineError as error:
            raise HTTPException(502, str(error)) from None
        return PlacedCall(carrier=wanted.carrier, id=call_id)

    async def _verified(self, name: str, request: Request) -> tuple[Carrier, Webhook]:
        """The carrier, and what it says, once it is known to be the carrier that says it."""
        carrier = self._carriers.get(name)
        if carrier is None:
            raise HTTPException(404, "there is no such carrier")
        if missing := carrier_lacks(carrier):
            raise HTTPException(404, f"{name} is not set up: {missing}")
        query = f"?{request.url.query}" if request.url.query else ""
        webhook = Webhook(
            url=f"{carrier.public_url}{request.url.path}{query}",
            headers=request.headers,
            body=await request.body(),
        )
        try:
            carrier.verify(webhook)
        except SignatureError as error:
            logger.warning("{}: a webhook was refused: {}", name, error)
            raise HTTPException(403, "the signature is wrong") from None
        return carrier, webhook

    def _find_placed(self, name: str, token: str, call_id: str) -> _Placed | None:
        """What we know of a call, where we placed it.

        Raises:
            HTTPException: 404, when it is said to be ours and is not.
        """
        placed = self._placed.get((name, token or call_id))
        if placed and time.monotonic() - placed.at > PLACED_SECONDS:
            placed = None
        if token and placed is None:
            raise HTTPException(404, "this call was not placed, or too long ago")
        return placed

    def _find_ticket(self, name: str, secret: str) -> _Ticket | None:
        """The ticket with this secret, unless it is used or out of date."""
        oldest = time.monotonic() - TICKET_SECONDS
        # Anybody may ask, and each answer takes as long as there are tickets.
        while self._tickets and next(iter(self._tickets.values())).at <= oldest:
            self._tickets.popitem(last=False)
        for (carrier, _), ticket in self._tickets.items():
            if hmac.compare_digest(ticket.secret.encode(), secret.encode()):
                return ticket if carrier == name else None
        return None

    async def _turn_away(self, carrier: Carrier, origin: Origin, socket: WebSocket) -> None:
        """End a call for which there was room when it was answered."""
        logger.warning("{} {}: turned away, all lines are busy", carrier.name, origin.id)
        await media.close_socket(socket, media.TRY_AGAIN_LATER)
        await media.hang_up(carrier, origin)


def _socket_url(carrier: Carrier, secret: str) -> str:
    """The public address of a media socket."""
    public = carrier.public_url.removeprefix("https")
    return f"wss{public}/phone/{carrier.name}/media/{secret}"


def router(phone: Phone) -> APIRouter:
    """The routes of telephone calls.

    Args:
        phone: The calls.
    """
    api = APIRouter()

    @api.post("/calls", status_code=201, responses=answers(400, 502, 503))
    async def place(wanted: CallRequest) -> PlacedCall:
        return await phone.place(wanted)

    # Before the carriers: the first route that matches answers.
    @api.head("/phone/busy.wav", include_in_schema=False)
    @api.get(
        "/phone/busy.wav",
        response_class=Response,
        responses={
            200: {
                "description": "The busy tone, to be repeated",
                "content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def busy_wav() -> Response:
        return Response(busy_tone.WAV, media_type="audio/wav")

    async def events(carrier: str, request: Request) -> Response:
        return await phone.report(carrier, request)

    async def placed(carrier: str, token: str, request: Request) -> Response:
        return await phone.answer(carrier, request, token)

    async def answer(carrier: str, request: Request) -> Response:
        return await phone.answer(carrier, request)

    async def answer_with_key(carrier: str, key: str, request: Request) -> Response:
        # The key is the carrier's to look for in the address.
        return await phone.answer_with_key(carrier, request)

    webhooks: list[tuple[str, Callable[..., Awaitable[Response]]]] = [
        ("/phone/{carrier}", answer),
        ("/phone/{carrier}/events", events),
        ("/phone/{carrier}/placed/{token}", placed),
        ("/phone/{carrier}/connect/{key}", answer_with_key),
        ("/phone/{carrier}/{key}", answer_with_key),
    ]
    for path, handler in webhooks:
        for method in ("GET", "POST"):
            # What they answer is the carrier's own: XML or JSON, or nothing.
            api.add_api_route(
                path,
                handler,
                methods=[method],
                response_class=Response,
                responses={204: {"description": "Noted"}, **answers(400, 403, 404, 409, 503)},
            )

    @api.websocket("/phone/{carrier}/media/{ticket}")
    async def carry(socket: WebSocket, carrier: str, ticket: str) -> None:
        await phone.carry(carrier, ticket, socket)

    return api


def _remember(memory: OrderedDict[tuple[str, str], Any], key: tuple[str, str], value: Any) -> None:
    """Put an entry last, and forget the first where there are too many."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
