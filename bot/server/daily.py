"""Calls in Daily rooms, and over Daily's telephone lines.

`POST /start` makes a room for a caller. `POST /daily/dialin` is where Daily asks what to do with a
telephone call: a room is made, and the call is put through to it. `--daily-room` joins a room that
is there already.

What Daily says and takes is as in its documents "REST API", "SIP Interconnect and Pinless PSTN
dial-in", "SIP and PSTN call transfers" and "Telephony events". Its SDK is an extra, imported where
it is used.
"""

import asyncio
import hmac
import importlib
import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from loguru import logger
from pipecat.transports.daily.utils import DailyRoomSipParams
from pydantic import BaseModel, Field, ValidationError

from bot.agent import Agent
from bot.call import HANG_UP_SECONDS, Call, Calls, TooManyCallsError
from bot.line import Line, LineError, Origin, is_number, is_sip, mask_number
from bot.server.daily_api import DailyApi, DailyError, daily_line
from bot.server.openapi import answers
from bot.server.signatures import MAX_AGE_SECONDS, Replays, SignatureError
from bot.server.start import StartBody, busy
from bot.server.ways import daily_lacks, daily_lacks_for_dialin, daily_lacks_for_dialling
from bot.settings import Settings
from services.settings import revealed

if TYPE_CHECKING:
    from pipecat.transports.daily.transport import DailyDialinSettings

WAIT_SECONDS = 600.0
"""How long the agent waits for the first person in a room that is there already."""

PHONE_SECONDS = 90.0
"""How long a telephone may take to be there; all attempts to call it included."""

DIAL_ATTEMPTS = 3
"""How often a telephone is called where Daily fails to."""

DIAL_PAUSE = 2.0
"""Seconds until it is called again; Daily takes about one such request a second."""

TRANSFER_SECONDS = 30.0
"""How long a telephone may take to leave the room for where it is transferred to."""

CLOSE_SECONDS = 10.0
"""How long it may take to end a room; one that is not ended expires."""

MILLISECONDS = 1e11
"""From here on a time since 1970 is in milliseconds; Daily's documents do not say what it sends."""


class DialIn(BaseModel):
    """A telephone call that Daily keeps on hold, as its webhook tells of it.

    Attributes:
        call_id: The call, on Daily's SIP network.
        call_domain: Our domain there.
        caller: The number or SIP address that calls.
        called: The number or SIP address that was called.
        sip_headers: What else a SIP caller said.
    """

    call_id: Annotated[str, Field(alias="callId", min_length=1, max_length=256)]
    call_domain: Annotated[str, Field(alias="callDomain", min_length=1, max_length=256)]
    caller: Annotated[str, Field(alias="From", max_length=256)] = ""
    called: Annotated[str, Field(alias="To", max_length=256)] = ""
    sip_headers: Annotated[dict[str, Any], Field(alias="sipHeaders", max_length=64)] = {}


@dataclass(frozen=True)
class Room:
    """A room, as the agent enters it.

    Attributes:
        url: Its address.
        token: Lets the agent in; None where everybody may enter.
        name: Its name, where it is ours to delete.
    """

    url: str
    token: str | None
    name: str = ""


class DailyLine(Line):
    """The agent's place in a Daily room."""

    def __init__(
        self,
        daily: "Daily",
        room: Room,
        origin: Origin,
        *,
        dialin: "DailyDialinSettings | None" = None,
        awaits_client: bool = False,
        connect_seconds: float | None = None,
    ) -> None:
        """Take a place in a room.

        Args:
            daily: Whose room it is.
            room: The room.
            origin: Where the call comes from; one that is outbound calls who is its caller.
            dialin: The telephone call that is put through to the room.
            awaits_client: As for any line.
            connect_seconds: As for any line.
        """
        from pipecat.transports.daily.transport import DailyParams

        from bot.server.daily_transport import RoomTransport

        params = DailyParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            api_url=daily.api_url,
            api_key=daily.api_key if dialin else "",
            dialin_settings=dialin,
            camera_out_enabled=False,
        )
        transport = RoomTransport(
            room.url, room.token, daily.agent_name, params, ringing=origin.outbound
        )
        super().__init__(transport, origin)
        self.awaits_client = awaits_client
        self.connect_seconds = connect_seconds
        self.can_transfer = daily.dials and (dialin is not None or origin.outbound)
        self.detect_machine = origin.outbound
        self._room_transport = transport
        self._daily = daily
        self._room = room
        self._people: set[str] = set()
        self._gone = asyncio.Event()
        self._dial_failed = asyncio.Event()
        self._dialling: asyncio.Task[None] | None = None
        self._transferring = False
        self._leaving = False

    @property
    def occupied(self) -> bool:
        """Whether a person is in the room, is being called, or is on the way to elsewhere."""
        return bool(self._people) or self._transferring or self._room_transport.ringing

    def listen(self, end: Callable[[], Awaitable[None]]) -> None:
        """Follow who is in the room.

        Args:
            end: Ends the call, when nobody is there and nobody can come any more.
        """
        transport = self._room_transport

        @transport.event_handler("on_joined")
        async def joined(_: object, _data: object) -> None:
            if self.origin.outbound and not self._leaving:
                self._dialling = asyncio.create_task(self._dial(end), name="daily: dial")

        @transport.event_handler("on_participant_joined")
        async def came(_: object, person: Mapping[str, Any]) -> None:
            self._people.add(person["id"])

        @transport.event_handler("on_participant_left")
        async def went(_: object, person: Mapping[str, Any], _reason: str) -> None:
            self._people.discard(person["id"])
            if not self._people:
                self._gone.set()

        @transport.event_handler("on_before_leave")
        async def leaving(_: object) -> None:
            self._leaving = True

        @transport.event_handler("on_call_state_updated")
        async def state(_: object, state: str) -> None:
            if state == "left" and not self._leaving:
                logger.info("Daily: the room is closed, or the agent was put out of it")
                await end()

        @transport.event_handler("on_error")
        async def failed(_: object, error: object) -> None:
            if not self._leaving:
                logger.warning("Daily: {}", daily_line(error))
            if not self._people:
                await end()

        @transport.event_handler("on_dialin_error")
        async def not_put_through(_: object, data: object) -> None:
            logger.warning("Daily: a telephone call was not put through: {}", _reason(data))
            await end()

        @transport.event_handler("on_dialout_answered")
        async def answered(_: object, data: object) -> None:
            await transport.answered(data)

        @transport.event_handler("on_dialout_error")
        async def not_dialled(_: object, data: object) -> None:
            logger.warning("Daily: a telephone was not reached: {}", _reason(data))
            self._dial_failed.set()

        @transport.event_handler("on_dialout_stopped")
        async def declined(_: object, _data: object) -> None:
            if transport.ringing:
                await end()

    async def transfer(self, to: str) -> None:
        """Have Daily connect the telephone with someone else; see `Line`.

        A caller who came over SIP and goes to a SIP address is asked to go there by itself (SIP
        REFER), so that Daily carries the call no longer; where that is refused, and for telephones,
        Daily connects the two.
        """
        ways = [self._room_transport.sip_call_transfer]
        if is_sip(to) and is_sip(self.origin.caller):
            ways.insert(0, self._room_transport.sip_refer)
        self._gone.clear()
        self._transferring = True
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                for way in ways:
                    error: object = await way({"toEndPoint": to})
                    if not error:
                        # Until then the room has to be there, and so the agent.
                        await self._gone.wait()
                        return
        except TimeoutError:
            error = "the telephone was not transferred in time"
        finally:
            self._transferring = False
        if not self._people:
            # Who hung up meanwhile was taken for on the way to elsewhere.
            await self._room_transport.deserted()
        raise LineError(f"Daily: {daily_line(error)}")

    async def close(self) -> None:
        """Let go of the room; one that is ours ends, and who is still in it is put out."""
        self._leaving = True
        if self._dialling:
            self._dialling.cancel()
            # However it ends, the room has to be let go of.
            await asyncio.wait({self._dialling})
        await self._daily.let_go(self._room, self.origin, self._people)

    async def _dial(self, end: Callable[[], Awaitable[None]]) -> None:
        """Call the telephone, and again where Daily fails to; then give up."""
        to = self.origin.caller
        settings = {"sipUri": to} if is_sip(to) else {"phoneNumber": to}
        for attempt in range(DIAL_ATTEMPTS):
            if attempt:
                await asyncio.sleep(DIAL_PAUSE)
            self._dial_failed.clear()
            _, error = await self._room_transport.start_dialout(dict(settings))
            if error:
                logger.warning("Daily: a telephone was not called: {}", daily_line(error))
                continue
            await self._dial_failed.wait()
            if not self._room_transport.ringing:
                break
        await end()


class Daily:
    """Our rooms at Daily, and the calls in them."""

    def __init__(self, settings: Settings, agent: Agent, calls: Calls) -> None:
        """Read the settings; nothing is asked of Daily.

        Args:
            settings: The settings in force.
            agent: Who answers.
            calls: Where the calls go.
        """
        self.lacks = daily_lacks(settings)
        self.lacks_dialin = daily_lacks_for_dialin(settings)
        self.lacks_dialout = daily_lacks_for_dialling(settings)
        self.dials = settings.daily_dialout
        self.agent_name = agent.name
        self.api_url = settings.daily_api_url
        self.api_key = revealed(settings.daily_api_key)
        self._named = settings.daily_room
        self._named_token = revealed(settings.daily_token) or None
        # The longest call is waited for before it, and ends with a goodbye.
        longest = max(PHONE_SECONDS, settings.connect_seconds) + settings.max_call_seconds
        self._room_seconds = max(settings.daily_room_minutes * 60, longest + HANG_UP_SECONDS)
        self._dialin_secret = revealed(settings.daily_dialin_secret)
        self._calls = calls
        self._signatures = Replays()
        # The telephone calls that are answered.
        self._dialins: set[str] = set()
        if not self.lacks or self._named:
            # The native SDK takes a moment to load, in which calls would stutter.
            importlib.import_module("bot.server.daily_transport")
        self._api = DailyApi(self.api_url, self.api_key)
        if settings.log_level != "debug":
            # It logs whole numbers. What matters of it comes as an event, and is logged here.
            logger.disable("pipecat.transports.daily")

    async def open(self) -> None:
        """Join the room that the settings name."""
        if self._named:
            room = Room(self._named, self._named_token)
            origin = Origin("daily", id=self._named)
            self._begin(
                lambda: DailyLine(self, room, origin, connect_seconds=WAIT_SECONDS), reserved=False
            )

    async def close(self) -> None:
        """Close the connections to Daily's REST API."""
        await self._api.close()

    async def start(self, body: StartBody) -> dict[str, Any]:
        """Make a room, and send the agent in.

        Args:
            body: What was asked for; its voice is one of the engines'.

        Returns:
            The room's address, `dailyRoom`; `dailyToken`, which lets one person in; and
            `sessionId`, the call's id.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            HTTPException: 502, Daily makes no room.
        """
        try:
            async with self._make("private") as (room, expiry):
                token = await self._api.make_token(room.name, expiry)
                origin = Origin("daily", id=room.name)
                call = self._begin(
                    lambda: DailyLine(self, room, origin, awaits_client=True), body.voice
                )
        except DailyError as error:
            raise _no_room(error) from None
        return {"dailyRoom": room.url, "dailyToken": token, "sessionId": call.id}

    async def dial(
        self, to: str, voice: str | None = None, data: Mapping[str, str] | None = None
    ) -> str:
        """Call a telephone, and again where Daily fails to reach it.

        Args:
            to: A number in E.164, or a SIP address.
            voice: A voice other than the agent's own; it must be one of the engines'.
            data: What to keep with the call.

        Returns:
            The call's id. It ends where nobody answers.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            LineError: It cannot be done.
        """
        if self.lacks_dialout:
            raise LineError(self.lacks_dialout)
        if not is_number(to) and not is_sip(to):
            raise LineError("write a number with its country code, like +4930123456, or sip:…")
        try:
            async with self._make("public", enable_dialout=True) as (room, _):
                origin = Origin("daily", id=room.name, caller=to, outbound=True, data=data or {})
                call = self._begin(
                    lambda: DailyLine(self, room, origin, connect_seconds=PHONE_SECONDS), voice
                )
        except DailyError as error:
            raise LineError(f"Daily: {error}") from None
        logger.info("call {}: calls {} over Daily", call.id, mask_number(to))
        return call.id

    def verify(self, body: bytes, timestamp: str, signature: str) -> None:
        """Make sure that Daily made a request, not long ago and once.

        Args:
            body: The request's body.
            timestamp: Its `X-Pinless-Timestamp` header, a time since 1970.
            signature: Its `X-Pinless-Signature` header: the HMAC-SHA256 of timestamp, a full stop
                and body under the secret that is known to both in base64; in base64 itself.

        Raises:
            SignatureError: It did not.
        """
        key = b64decode(self._dialin_secret)
        digest = hmac.digest(key, f"{timestamp}.".encode() + body, "sha256")
        if not hmac.compare_digest(b64encode(digest), signature.encode()):
            raise SignatureError("the signature is not Daily's")
        at = int(timestamp) if re.fullmatch("[0-9]{1,15}", timestamp) else 0
        at = at // 1000 if at > MILLISECONDS else at
        if abs(time.time() - at) > MAX_AGE_SECONDS:
            raise SignatureError("the signature is too old")
        self._signatures.refuse(signature)

    async def answer(self, call: DialIn) -> str:
        """Make a room for a telephone call that Daily holds, and send the agent in.

        Daily's transport puts the call through once the room can take it.

        Args:
            call: The call, of which Daily itself has told.

        Returns:
            Our call's id.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            HTTPException: 409, it is answered already; 502, Daily makes no room.
        """
        from pipecat.transports.daily.transport import DailyDialinSettings

        if call.call_id in self._dialins:
            raise HTTPException(409, "this call is answered already")
        self._dialins.add(call.call_id)
        headers = {name[:256]: str(value)[:1024] for name, value in call.sip_headers.items()}
        origin = Origin("daily", call.call_id, call.caller, call.called, data=headers)
        dialin = DailyDialinSettings(call_id=call.call_id, call_domain=call.call_domain)
        sip = DailyRoomSipParams(display_name="caller", sip_mode="dial-in", num_endpoints=1)
        dialout = {"enable_dialout": True} if self.dials else {}
        try:
            async with self._make("public", sip=sip, **dialout) as (room, _):
                ours = self._begin(
                    lambda: DailyLine(
                        self, room, origin, dialin=dialin, connect_seconds=PHONE_SECONDS
                    )
                )
        except BaseException as error:
            self._dialins.discard(call.call_id)
            if isinstance(error, DailyError):
                raise _no_room(error) from None
            raise
        logger.info("call {}: {} calls over Daily", ours.id, mask_number(call.caller))
        return ours.id

    async def let_go(self, room: Room, origin: Origin, people: set[str]) -> None:
        """End a call's room, where it is ours.

        Args:
            room: The room.
            origin: Where the call came from.
            people: Who is still in it, by Daily's id.
        """
        self._dialins.discard(origin.id)
        if not room.name:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if people:
                    with suppress(DailyError):
                        await self._api.eject(room.name, people)
                await self._api.delete_room(room.name)
        except TimeoutError:
            logger.warning("Daily: a room was not deleted in time; it expires")

    def _begin(
        self,
        open_line: Callable[[], DailyLine],
        voice: str | None = None,
        *,
        reserved: bool = True,
    ) -> Call:
        """Begin the agent's call in a room; the arguments are those of `Calls.start`.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
        """
        call = self._calls.start(open_line, voice, reserved=reserved)
        assert isinstance(call.line, DailyLine)
        call.line.listen(call.cancel)
        return call

    @asynccontextmanager
    async def _make(
        self, privacy: Literal["private", "public"], **properties: Any
    ) -> AsyncIterator[tuple[Room, int]]:
        """A new room, and when it expires; it is deleted where the block raises.

        Args:
            privacy: Whether a token is needed to enter. Telephones have none, so that rooms for
                them are public, under a name that cannot be guessed.
            properties: What else the room is to be.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            DailyError: There is no room.
        """
        with self._calls.reserve():
            name = f"parley-{token_hex(8)}"
            try:
                expiry = int(time.time() + self._room_seconds)
                url = await self._api.make_room(name, privacy, expiry, **properties)
                token = await self._api.make_token(name, expiry, owner=self.agent_name)
                yield Room(url, token, name), expiry
            except BaseException:
                # Daily may have made it even where its answer did not come.
                await self._api.delete_room(name)
                raise


def router(daily: Daily, calls: Calls) -> APIRouter:
    """The route of Daily's webhook for telephone calls.

    Args:
        daily: What answers.
        calls: The calls of the process.
    """
    api = APIRouter()

    @api.post("/daily/dialin", responses=answers(400, 404, 409, 502, 503))
    async def dialin(request: Request) -> dict[str, str]:
        if daily.lacks_dialin:
            raise HTTPException(404, daily.lacks_dialin)
        body = await request.body()
        if _is_test(body):
            return {"status": "ok"}
        headers = request.headers
        try:
            daily.verify(
                body,
                headers.get("x-pinless-timestamp", ""),
                headers.get("x-pinless-signature", ""),
            )
        except SignatureError as error:
            logger.warning("a telephone call is not from Daily: {}", error)
            raise HTTPException(403, str(error)) from None
        try:
            call = DialIn.model_validate_json(body)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise HTTPException(400, f"{where or 'body'}: {error.errors()[0]['msg']}") from None
        try:
            return {"status": "ok", "sessionId": await daily.answer(call)}
        except TooManyCallsError:
            raise busy(calls) from None

    return api


def _is_test(body: bytes) -> bool:
    """Whether a webhook tells of no call.

    Daily makes one when its address is set; it may have chosen the secret just then, which we
    cannot know yet.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and not said.keys() & {"callId", "callDomain"}


def _no_room(error: DailyError) -> HTTPException:
    logger.warning("Daily makes no room: {}", error)
    return HTTPException(502, "Daily makes no room; the log says why")


def _reason(data: object) -> str:
    """Why a telephone was not reached, as an event of Daily's tells it."""
    said = data if isinstance(data, Mapping) else {}
    return daily_line(said.get("errorMsg") or said.get("error") or "it does not say why")
