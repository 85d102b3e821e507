"""A LiveKit server's API on loopback: rooms, participants, SIP transfers, and signed webhooks.

Written from LiveKit's documents: "Server APIs" (Twirp: `POST /twirp/livekit.<Service>/<Method>`, a
bearer token with the grant that the method needs, errors as JSON), "Webhooks & events" and
"SIP participant". `/rtc`, where participants connect, is `livekit_room`'s.
"""

import asyncio
import hashlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from aiohttp import web
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from livekit.api import (
    AccessToken,
    CreateRoomRequest,
    DeleteRoomRequest,
    DeleteRoomResponse,
    ListParticipantsRequest,
    ListParticipantsResponse,
    ParticipantInfo,
    Room,
    TokenVerifier,
    TransferSIPParticipantRequest,
    WebhookEvent,
)
from livekit.api.access_token import Claims
from livekit.protocol.sip import (
    SIPStatus,
    SIPStatusCode,
    SIPTransferReason,
    SIPTransferStatus,
    TransferSIPParticipantResponse,
)

from tests.fakes.livekit_room import AgentSeat, Person

KEY = "APItest"
SECRET = "a-secret-that-is-long-enough-for-hmac-sha256"


class RefusedError(Exception):
    """The API answers with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """A Twirp error: an HTTP status, a code and a text."""
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class FakeLiveKit:
    """A server, as tests look at it.

    Attributes:
        url: Its address, as `LIVEKIT_URL` has it.
        rooms: Its rooms, by name.
        people: Who is in them.
        seats: The agents in them; of several in one room, the one that is left.
        deleted: The rooms that were deleted, in order.
        transfers: The transfers that were asked for.
        transfer_status: How those end.
        transfer_reason: Why one fails; a server may know reasons that its SDKs do not know yet.
        down: Whether every request is answered with 503.
        delay_answer: Seconds until any request is answered.
        nonsense: What every request is answered with, where something else is at the address.
        no_media: Whether nobody can connect.
        knocked: Whether an agent has asked to be let in.
        delay_join: Seconds until it is.
        delay_subscription: Seconds until an agent's audio goes to whoever is there.
    """

    url: str = ""
    rooms: dict[str, Room] = field(default_factory=dict)
    people: dict[str, dict[str, Person]] = field(default_factory=dict)
    seats: dict[str, AgentSeat] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    transfers: list[TransferSIPParticipantRequest] = field(default_factory=list)
    transfer_status: "SIPTransferStatus" = SIPTransferStatus.STS_TRANSFER_SUCCESSFUL
    transfer_reason: int = SIPTransferReason.STR_REJECTED
    down: bool = False
    delay_answer: float = 0.0
    nonsense: bytes = b""
    no_media: bool = False
    knocked: bool = False
    delay_join: float = 0.0
    delay_subscription: float = 0.0

    def create_room(self, request: CreateRoomRequest, claims: Claims) -> Room:
        """Make a room, or find the one of that name."""
        _demand(claims.video and claims.video.room_create)
        room = Room(name=request.name, sid=f"RM_{uuid4().hex[:12]}", metadata=request.metadata)
        room.empty_timeout = request.empty_timeout
        return self.rooms.setdefault(request.name, room)

    def delete_room(self, request: DeleteRoomRequest, claims: Claims) -> DeleteRoomResponse:
        """End a room."""
        _demand(claims.video and claims.video.room_create)
        if self.rooms.pop(request.room, None) is None:
            raise RefusedError(404, "not_found", "requested room does not exist")
        self.people.pop(request.room, None)
        self.deleted.append(request.room)
        return DeleteRoomResponse()

    def list_participants(
        self, request: ListParticipantsRequest, claims: Claims
    ) -> ListParticipantsResponse:
        """Who is in a room."""
        _demand(claims.video and claims.video.room_admin and claims.video.room == request.room)
        if request.room not in self.rooms:
            raise RefusedError(404, "not_found", "requested room does not exist")
        people = self.people.get(request.room, {}).values()
        return ListParticipantsResponse(participants=[person.info for person in people])

    def transfer_sip_participant(
        self, request: TransferSIPParticipantRequest, claims: Claims
    ) -> TransferSIPParticipantResponse:
        """Transfer a SIP caller."""
        _demand(claims.video and claims.video.room_admin and claims.video.room == request.room_name)
        _demand(claims.sip and claims.sip.call)
        if request.participant_identity not in self.people.get(request.room_name, {}):
            raise RefusedError(404, "not_found", "participant does not exist")
        self.transfers.append(request)
        if self.transfer_status == SIPTransferStatus.STS_TRANSFER_FAILED:
            return TransferSIPParticipantResponse(
                status=self.transfer_status,
                reason=self.transfer_reason,  # type: ignore[arg-type]
                sip_status=SIPStatus(code=SIPStatusCode.SIP_STATUS_BUSY_HERE, status="Busy Here"),
            )
        return TransferSIPParticipantResponse(status=self.transfer_status)

    def join(
        self,
        room: str,
        identity: str,
        kind: "ParticipantInfo.Kind" = ParticipantInfo.Kind.STANDARD,
        attributes: dict[str, str] | None = None,
    ) -> WebhookEvent:
        """Put a participant into a room, which is made for them, and return the event of it.

        An agent that is there is told of them.
        """
        self.rooms.setdefault(room, Room(name=room, sid=f"RM_{uuid4().hex[:12]}"))
        person = ParticipantInfo(
            sid=f"PA_{uuid4().hex[:12]}",
            identity=identity,
            kind=kind,
            attributes=attributes or {},
            state=ParticipantInfo.State.ACTIVE,
        )
        self.people.setdefault(room, {})[identity] = Person(person)
        if room in self.seats:
            self.seats[room].person_joined(self.people[room][identity])
        return WebhookEvent(
            event="participant_joined",
            id=f"EV_{uuid4().hex[:12]}",
            created_at=int(time.time()),
            room=self.rooms[room],
            participant=person,
        )

    def leave(self, room: str, identity: str) -> None:
        """Have a participant leave a room."""
        person = self.people[room].pop(identity)
        if room in self.seats:
            self.seats[room].person_left(person)

    def change(self, room: str, identity: str, attributes: dict[str, str]) -> None:
        """Have a participant's attributes change."""
        person = self.people[room][identity]
        person.info.attributes.update(attributes)
        self.seats[room].person_changed(person)

    async def seat(self, request: web.Request) -> web.StreamResponse:
        """Let an agent into a room."""
        if self.no_media:
            raise web.HTTPServiceUnavailable
        self.knocked = True
        await asyncio.sleep(self.delay_join)
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = TokenVerifier(KEY, SECRET).verify(token)
        _demand(claims.kind == "agent" and claims.video and claims.video.room_join)
        assert claims.video is not None
        name = claims.video.room
        room = self.rooms.setdefault(name, Room(name=name, sid=f"RM_{uuid4().hex[:12]}"))
        seat = AgentSeat(room, claims.identity, self.people.get(name, {}), self.delay_subscription)
        if (before := self.seats.get(name)) and not before.gone.is_set():
            seat.beside(before)
            before.beside(seat)
        self.seats[name] = seat
        try:
            return await seat.serve(request)
        finally:
            if before and not before.gone.is_set():
                self.seats[name] = before


def as_body(event: WebhookEvent) -> bytes:
    """An event as LiveKit posts it."""
    return MessageToJson(event, indent=None).encode()


def signed(
    body: bytes,
    *,
    key: str = KEY,
    secret: str = SECRET,
    digest: str | None = None,
    life: timedelta = timedelta(minutes=5),
) -> dict[str, str]:
    """The headers of a webhook: its signature is a token that has the body's SHA-256.

    Args:
        body: What is posted.
        key: The API key that signs.
        secret: Its secret.
        digest: The token's `sha256`, where it is not to be the body's; empty for none.
        life: How long the token is good.
    """
    if digest is None:
        digest = b64encode(hashlib.sha256(body).digest()).decode()
    token = AccessToken(key, secret).with_sha256(digest).with_ttl(life)
    return {"Authorization": token.to_jwt(), "Content-Type": "application/webhook+json"}


def _demand(granted: object) -> None:
    if not granted:
        raise RefusedError(403, "permission_denied", "permissions denied")


@asynccontextmanager
async def livekit_api() -> AsyncIterator[FakeLiveKit]:
    """Serve on a free loopback port until the block ends."""
    fake = FakeLiveKit()
    app = web.Application()
    methods: list[tuple[str, type[Message], Callable[[Any, Claims], Message]]] = [
        ("RoomService/CreateRoom", CreateRoomRequest, fake.create_room),
        ("RoomService/DeleteRoom", DeleteRoomRequest, fake.delete_room),
        ("RoomService/ListParticipants", ListParticipantsRequest, fake.list_participants),
        (
            "SIP/TransferSIPParticipant",
            TransferSIPParticipantRequest,
            fake.transfer_sip_participant,
        ),
    ]
    for path, kind, method in methods:
        app.router.add_post(f"/twirp/livekit.{path}", _twirp(fake, kind, method))
    app.router.add_get("/rtc", fake.seat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()


def _twirp(
    fake: FakeLiveKit, kind: type[Message], method: Callable[[Any, Claims], Message]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """What answers a method, as Twirp's specification has it."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(fake.delay_answer)
        if fake.nonsense:
            return web.Response(body=fake.nonsense, content_type="text/html")
        try:
            if fake.down:
                raise RefusedError(503, "unavailable", "no response from servers")
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            try:
                claims = TokenVerifier(KEY, SECRET).verify(token)
            except Exception:
                scheme = ""
            if scheme != "Bearer":
                raise RefusedError(401, "unauthenticated", "invalid token")
            if request.content_type != "application/protobuf":
                raise RefusedError(400, "malformed", "this fake takes protobuf alone")
            asked = kind()
            asked.ParseFromString(await request.read())
            told = method(asked, claims)
        except RefusedError as error:
            body = {"code": error.code, "msg": str(error)}
            return web.json_response(body, status=error.status)
        return web.Response(body=told.SerializeToString(), content_type="application/protobuf")

    return answer
