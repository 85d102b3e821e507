"""Calls in LiveKit rooms.

`POST /start` makes a room for one caller. `POST /livekit/webhook` is where LiveKit tells who has
joined which room: in those whose names begin with our prefix, where SIP callers are put too, the
agent answers. `--livekit-room` joins a room by its name.

What LiveKit says and takes is as in its documents "Webhooks & events", "SIP participant", "Room
service API" and "Call forwarding". Its packages are an extra, imported where they are used.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import APIRouter, HTTPException, Request
from loguru import logger

from bot.agent import Agent
from bot.call import Call, Calls, TooManyCallsError
from bot.line import Line, LineError, Origin, is_sip
from bot.server.openapi import answers
from bot.server.start import StartBody, busy
from bot.server.ways import livekit_lacks
from bot.settings import Settings
from services.errors import one_line
from services.settings import revealed

if TYPE_CHECKING:
    from livekit.api import LiveKitAPI, ParticipantInfo, WebhookEvent

    from bot.server.livekit_transport import RoomTransport

TOKEN_LIFE = timedelta(minutes=2)
"""How long a token lets somebody in; LiveKit renews it for who is in the room."""

EMPTY_SECONDS = 60
"""How long a room that we made waits for the first to come."""

LEAVE_SECONDS = 5.0
"""How long the process waits at its end for what it has not left yet."""

API_SECONDS = 5.0
"""How long LiveKit's API may take to answer."""

RING_SECONDS = 30
"""How long the telephone of someone to whom a caller is transferred may ring."""

PHONE_SECONDS = 90.0
"""How long a telephone may take to answer that somebody has called; LiveKit lets it ring for 80."""

EVENT_SECONDS = 300
"""How old an event may be: LiveKit's signature of one is good for five minutes."""


class Kind(IntEnum):
    """What a participant is, where it matters: `ParticipantInfo.Kind` of livekit_models.proto."""

    INGRESS = 1
    EGRESS = 2
    SIP = 3
    AGENT = 4


MACHINES = (Kind.INGRESS, Kind.EGRESS, Kind.AGENT)
"""Who counts as nobody."""


class LiveKitLine(Line):
    """The agent's place in a LiveKit room."""

    transport: "RoomTransport"

    def __init__(self, server: "LiveKit", room: str, transport: "RoomTransport", origin: Origin):
        """Take a place in a room.

        Args:
            server: Where the room is.
            room: Its name.
            transport: What carries the audio.
            origin: Where the call comes from.
        """
        super().__init__(transport, origin)
        self.gives_way = False
        """Whether another of our agents is in the room, which then goes on without this one."""
        self.can_transfer = "sip.callID" in origin.data
        if origin.outbound:
            self.connect_seconds = PHONE_SECONDS
        self._server = server
        self._room = room

    @property
    def occupied(self) -> bool:
        """Whether a person is in the room."""
        return any(kind not in MACHINES for kind in self.transport.participants().values())

    async def until_heard(self) -> None:
        """Return once somebody receives the agent's audio, which takes LiveKit a moment."""
        await self.transport.until_heard()

    async def transfer(self, to: str) -> None:
        """Have the caller's telephone company connect them with someone else; see `Line`."""
        others = self.transport.participants().items()
        callers = [identity for identity, kind in others if kind == Kind.SIP]
        if not callers:
            raise LineError("nobody in the room came by telephone")
        await self._server.transfer(self._room, callers[0], to)

    async def close(self) -> None:
        """Leave the room, and end it where it is ours."""
        await self._server.leave(self._room, end=not self.gives_way)


class LiveKit:
    """A LiveKit server, and our calls in its rooms."""

    def __init__(self, settings: Settings, agent: Agent, calls: Calls) -> None:
        """Read the settings; nothing is asked of the server.

        Args:
            settings: The settings in force.
            agent: Who answers.
            calls: Where the calls go.
        """
        self.url = settings.livekit_url or ""
        self.lacks = livekit_lacks(settings)
        self._key = revealed(settings.livekit_api_key)
        self._secret = revealed(settings.livekit_api_secret)
        self._named_room = settings.livekit_room
        self._prefix = settings.livekit_prefix
        # LiveKit's webhook tells of these rooms too, but their calls have begun already.
        self._made_prefix = f"{settings.livekit_prefix}start-"
        self._agent = agent
        self._calls = calls
        self._rooms: set[str] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        # The events that began calls, and when they happened, in seconds since 1970.
        self._events: dict[str, float] = {}
        if not self.lacks and settings.log_level != "debug":
            # They name participants and rooms, and SIP names both after the caller's number.
            logger.disable("pipecat.transports.livekit")
            logging.getLogger("livekit").setLevel(logging.CRITICAL)

    async def open(self) -> None:
        """Join the room that the settings name, or log why not."""
        if not (room := self._named_room):
            return
        try:
            await self._participants(room)
            self._join(room, Origin("livekit", id=room))
        except _api_errors() as error:
            logger.warning("--livekit-room {}: not joined: LiveKit: {}", room, _why(error))
        except TooManyCallsError:
            logger.warning("--livekit-room {}: not joined: all lines are busy", room)

    async def close(self) -> None:
        """Leave the rooms that were entered when their calls were over already."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=LEAVE_SECONDS)

    async def start(self, body: StartBody) -> dict[str, Any]:
        """Make a room, and send the agent in.

        Args:
            body: What was asked for; its voice is one of the engines'.

        Returns:
            The server's `url`, the `room`, a `token` that lets one person in, and `sessionId`, the
            call's id.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            HTTPException: 502, LiveKit makes no room.
        """
        from livekit.api import CreateRoomRequest

        room = f"{self._made_prefix}{uuid4().hex}"
        request = CreateRoomRequest(name=room, empty_timeout=EMPTY_SECONDS)
        with self._calls.reserve():
            try:
                async with self._api() as api:
                    await api.room.create_room(request)
                origin = Origin("livekit", id=room)
                call = self._join(room, origin, body.voice, reserved=True)
            except _api_errors() as error:
                logger.warning("LiveKit made no room: {}", _why(error))
                raise HTTPException(502, "LiveKit made no room; the log says why") from None
            except TooManyCallsError:
                # The process is about to stop.
                await self.leave(room)
                raise
        token = self._token(room, f"caller-{uuid4().hex}")
        return {"url": self.url, "room": room, "token": token, "sessionId": call.id}

    def verify(self, body: bytes, signature: str) -> None:
        """Make sure that LiveKit sent an event.

        Args:
            body: The request's body.
            signature: Its `Authorization` header: a JWT, signed with our secret, which has the
                body's SHA-256 in it.

        Raises:
            HTTPException: 403, it did not.
        """
        from jwt import PyJWTError
        from livekit.api import TokenVerifier

        try:
            claims = TokenVerifier(self._key, self._secret).verify(signature)
        except (PyJWTError, TypeError, ValueError, AttributeError) as error:
            logger.warning("an event is not from LiveKit: {}", one_line(error))
            raise HTTPException(403, "the signature is not LiveKit's") from None
        digest = b64encode(hashlib.sha256(body).digest())
        if not hmac.compare_digest(digest, str(claims.sha256).encode()):
            logger.warning("an event is not from LiveKit: its body is another than was signed")
            raise HTTPException(403, "the signature is not of this body")

    async def hear(self, body: bytes) -> None:
        """Answer where somebody has joined a room with our prefix, in which no agent is yet.

        Args:
            body: A verified event.

        Raises:
            HTTPException: 400, it cannot be read; 403, it is too old; 409, it was heard before;
                502, LiveKit's API does not answer, and 503, all lines are busy: the event should
                be sent again.
        """
        from google.protobuf.json_format import Parse, ParseError
        from livekit.api import WebhookEvent

        try:
            event = Parse(body, WebhookEvent(), ignore_unknown_fields=True)
        except (ParseError, UnicodeDecodeError, RecursionError):
            raise HTTPException(400, "the event cannot be read") from None
        room, person = event.room.name, event.participant
        if (
            event.event != "participant_joined"
            or not room.startswith(self._prefix)
            or room.startswith(self._made_prefix)
            or int(person.kind) in MACHINES
        ):
            return
        self._remember(event)
        if room in self._rooms:
            return
        # Others may join while LiveKit is asked.
        self._rooms.add(room)
        call: Call | None = None
        try:
            others = await self._participants(room)
            if not any(int(other.kind) == Kind.AGENT for other in others):
                call = self._join(room, _origin(event))
                logger.info("call {}: answers in a LiveKit room", call.id)
        except _api_errors() as error:
            self._events.pop(event.id, None)
            logger.warning("LiveKit does not say who is in a room: {}", _why(error))
            raise HTTPException(502, "LiveKit's API does not answer; the log says why") from None
        except TooManyCallsError:
            # LiveKit sends it again, to another process or when a line is free.
            self._events.pop(event.id, None)
            logger.warning("nobody answers in a LiveKit room: all lines are busy")
            raise busy(self._calls) from None
        finally:
            if call is None:
                self._rooms.discard(room)

    async def transfer(self, room: str, identity: str, to: str) -> None:
        """Have a SIP participant's telephone company connect them with someone else.

        Args:
            room: Where they are.
            identity: Who they are.
            to: A number in E.164, or a SIP address.

        Raises:
            LineError: It cannot be done.
        """
        from google.protobuf.duration_pb2 import Duration
        from google.protobuf.json_format import MessageToDict
        from livekit.protocol.sip import SIPTransferStatus, TransferSIPParticipantRequest

        request = TransferSIPParticipantRequest(
            room_name=room,
            participant_identity=identity,
            transfer_to=to if is_sip(to) else f"tel:{to}",
            ringing_timeout=Duration(seconds=RING_SECONDS),
        )
        try:
            async with self._api(RING_SECONDS) as api:
                answer = await api.sip.transfer_sip_participant(request)
        except _api_errors() as error:
            raise LineError(f"LiveKit: {_why(error)}") from None
        # A server that says nothing of its status has transferred the caller.
        if answer.status == SIPTransferStatus.STS_TRANSFER_FAILED:
            # As JSON a reason is its name, or its number where our SDK is older than the server.
            reason = MessageToDict(answer).get("reason", "it does not say why")
            why = f"{reason} {answer.sip_status.status}"
            raise LineError(f"LiveKit: {one_line(why)}")

    async def leave(self, room: str, *, end: bool = True) -> None:
        """Forget a call's room. One that is ours ends, and whoever is in it is hung up on.

        Args:
            room: Its name.
            end: Whether it may end; it goes on where another of our agents is there.
        """
        from livekit.api import DeleteRoomRequest

        self._rooms.discard(room)
        if not end or not room.startswith(self._prefix):
            return
        try:
            async with self._api() as api:
                await api.room.delete_room(DeleteRoomRequest(room=room))
        except _api_errors() as error:
            if getattr(error, "code", "") != "not_found":
                logger.warning("a LiveKit room was not deleted: {}", _why(error))

    def _join(
        self, room: str, origin: Origin, voice: str | None = None, *, reserved: bool = False
    ) -> Call:
        """Begin the agent's call in a room.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
        """
        from bot.server.livekit_transport import RoomTransport

        ours = f"{self._prefix}agent-"
        identity = f"{ours}{time.time_ns():x}-{uuid4().hex}"
        token = self._token(room, identity, agent=True)

        def open_line() -> LiveKitLine:
            transport = RoomTransport(self.url, token, room, self._leaving)
            return LiveKitLine(self, room, transport, origin)

        call = self._calls.start(open_line, voice, reserved=reserved)
        line = call.line
        assert isinstance(line, LiveKitLine)
        self._rooms.add(room)

        @line.transport.event_handler("on_participant_connected")
        async def give_way(_: object, other: str) -> None:
            # Two processes that are told at one instant both join. Each sees the other, and both
            # know by the names which of them has set out later.
            is_agent = line.transport.participants().get(other) == Kind.AGENT
            # Into the room of the settings nobody is called twice: who is there may be this
            # process's forerunner, which died, and which LiveKit has not missed yet.
            if is_agent and ours < other < identity and room != self._named_room:
                line.gives_way = True
                logger.info("call {}: another agent was in the LiveKit room before", call.id)
                await call.cancel()

        @line.transport.event_handler("on_join_failed")
        async def shut_out(_: object, why: str) -> None:
            logger.warning("call {}: the agent is not let into its LiveKit room: {}", call.id, why)
            await call.cancel()

        @line.transport.event_handler("on_disconnected")
        async def put_out(_: object) -> None:
            # The room was deleted, or the server cannot be reached any more.
            await call.cancel()

        return call

    async def _participants(self, room: str) -> "Sequence[ParticipantInfo]":
        """Who is in a room; nobody is in one that does not exist."""
        from livekit.api import ListParticipantsRequest, ServerError

        try:
            async with self._api() as api:
                answer = await api.room.list_participants(ListParticipantsRequest(room=room))
        except ServerError as error:
            if error.code == "not_found":
                return ()
            raise
        return answer.participants

    def _remember(self, event: "WebhookEvent") -> None:
        """Refuse an event that is old or known.

        Raises:
            HTTPException: 403 or 409.
        """
        oldest = time.time() - EVENT_SECONDS
        for known in [known for known, at in self._events.items() if at < oldest]:
            del self._events[known]
        if event.created_at < oldest:
            raise HTTPException(403, "the event is too old")
        if not event.id or event.id in self._events:
            raise HTTPException(409, "the event was heard before")
        self._events[event.id] = event.created_at

    @asynccontextmanager
    async def _api(self, seconds: float = 0.0) -> AsyncIterator["LiveKitAPI"]:
        """LiveKit's API, for one request.

        Its client takes a timeout and hands none to aiohttp: a server that is silent would be
        waited for forever.

        Args:
            seconds: How long it may take besides what it may always take.

        Raises:
            TimeoutError: It takes longer.
        """
        from livekit.api import LiveKitAPI

        limit = API_SECONDS + seconds
        try:
            async with (
                asyncio.timeout(limit),
                LiveKitAPI(self.url, self._key, self._secret) as api,
            ):
                yield api
        except TimeoutError:
            raise TimeoutError(f"no answer within {limit:g} seconds") from None

    def _token(self, room: str, identity: str, *, agent: bool = False) -> str:
        """What lets somebody into a room."""
        from livekit.api import AccessToken, VideoGrants

        token = (
            AccessToken(self._key, self._secret)
            .with_identity(identity)
            .with_ttl(TOKEN_LIFE)
            .with_grants(VideoGrants(room_join=True, room=room))
        )
        if agent:
            token.with_kind("agent").with_name(self._agent.name)
        return token.to_jwt()


def router(livekit: LiveKit) -> APIRouter:
    """The route of LiveKit's webhook.

    Args:
        livekit: The server that calls it.
    """
    api = APIRouter()

    @api.post("/livekit/webhook", responses=answers(400, 404, 409, 502, 503))
    async def webhook(request: Request) -> dict[str, str]:
        if livekit.lacks:
            raise HTTPException(404, livekit.lacks)
        body = await request.body()
        livekit.verify(body, request.headers.get("authorization", ""))
        await livekit.hear(body)
        return {"status": "ok"}

    return api


def _origin(event: "WebhookEvent") -> Origin:
    """Where a call comes from that somebody began by joining a room."""
    room, person = event.room.name, event.participant
    if int(person.kind) != Kind.SIP:
        return Origin("livekit", id=room, caller=person.identity)
    # Only what LiveKit's SIP service says: other participants may set any attribute.
    sip = dict(person.attributes)
    return Origin(
        "livekit",
        id=room,
        caller=sip.get("sip.phoneNumber", ""),
        called=sip.get("sip.trunkPhoneNumber", ""),
        # No rule dispatches those whom somebody else has called.
        outbound=not sip.get("sip.ruleID"),
        data=sip,
    )


def _api_errors() -> tuple[type[Exception], ...]:
    """What LiveKit's API client raises; the last one where something else is at its address."""
    from aiohttp import ClientError
    from google.protobuf.message import DecodeError
    from livekit.api import ServerError

    return ServerError, ClientError, TimeoutError, DecodeError


def _why(error: Exception) -> str:
    """What LiveKit's API client raised, in one line."""
    if getattr(error, "code", "") == "unauthenticated":
        return "LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not the server's"
    return one_line(error)
