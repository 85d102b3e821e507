"""LiveKit: its rooms, tokens and webhooks, and calls in them through LiveKit's own SDK."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import jwt
import pytest
from livekit.api import ParticipantInfo, TokenVerifier, WebhookEvent
from livekit.protocol.sip import SIPTransferStatus
from loguru import logger
from pydantic import SecretStr

from bot.agent import Agent, press_keys
from bot.call import Call, EndReason, TooManyCallsError
from bot.engines import Engines, load_engines
from bot.line import LineError
from bot.server import ways
from bot.server.livekit import LiveKitLine
from bot.settings import Settings, SettingsError, load
from processors.hang_up import TransferFrame
from tests.callers.audio import first_sound
from tests.callers.local_server import LocalServer, serve
from tests.fakes.livekit_api import KEY, SECRET, FakeLiveKit, as_body, livekit_api, signed
from tests.fakes.livekit_room import RATE

AGENT = Agent(greeting="Hello.", goodbye="Goodbye.")

SIP = {
    "sip.callID": "SCL_one",
    "sip.phoneNumber": "+15105550123",
    "sip.trunkPhoneNumber": "+15105550100",
    "sip.ruleID": "SDR_one",
    "sip.trunkID": "ST_one",
}
"""What LiveKit says of a telephone caller."""

START = {"transport": "livekit"}


@pytest.fixture(scope="module")
def settings() -> Settings:
    """An agent that needs nothing from outside."""
    return Settings(tts="piper", stt="pocketsphinx", llm="builtin", offline=True)


@pytest.fixture(scope="module")
def engines(settings: Settings) -> Iterator[Engines]:
    """What its calls share, loaded once."""
    engines = load_engines(settings, Agent(), lambda *_: None)
    yield engines
    asyncio.run(engines.close())


@pytest.fixture
async def fake() -> AsyncIterator[FakeLiveKit]:
    async with livekit_api() as fake:
        yield fake


@dataclass
class House:
    """The agent's server and the LiveKit server that it uses."""

    server: LocalServer
    http: httpx.AsyncClient
    livekit: FakeLiveKit

    async def tell(self, event: WebhookEvent, **signature: Any) -> httpx.Response:
        """Post an event as LiveKit does."""
        body = as_body(event)
        return await self.post(body, signed(body, **signature))

    async def post(self, body: bytes, headers: dict[str, Any]) -> httpx.Response:
        return await self.http.post("/livekit/webhook", content=body, headers=headers)

    @property
    def calls(self) -> list[Call]:
        return list(self.server.calls)

    async def until_seated(self, room: str) -> Any:
        """The agent's seat in a room, once it has one."""
        await until(lambda: room in self.livekit.seats)
        return self.livekit.seats[room]


@pytest.fixture
async def house(settings: Settings, engines: Engines, fake: FakeLiveKit) -> AsyncIterator[House]:
    async with furnished(settings, engines, fake) as house:
        yield house


@asynccontextmanager
async def furnished(
    settings: Settings, engines: Engines, fake: FakeLiveKit, **more: Any
) -> AsyncIterator[House]:
    """A server that knows the LiveKit server; its calls are over at the end."""
    known = {
        "livekit_url": fake.url,
        "livekit_api_key": SecretStr(KEY),
        "livekit_api_secret": SecretStr(SECRET),
        **more,
    }
    async with (
        serve(settings.model_copy(update=known), engines, AGENT) as server,
        httpx.AsyncClient(base_url=server.url, timeout=10) as http,
    ):
        yield House(server, http, fake)
        for call in server.calls:
            await call.cancel()
        await until(lambda: len(server.calls) == 0)


async def until(what: Any, limit: float = 20.0) -> None:
    """Wait for something that comes true by itself."""
    async with asyncio.timeout(limit):
        while not what():  # noqa: ASYNC110 - nobody tells.
            await asyncio.sleep(0.01)


async def settle(call: Call) -> None:
    """Wait for a call that ends by itself."""
    await asyncio.wait_for(call.ended.wait(), 20)


def claims_of(call: Call) -> Any:
    """What the token says that the agent joins with, verified."""
    return TokenVerifier(KEY, SECRET).verify(call.line.transport._client._token)


# Rooms that are made for a caller


async def test_a_room_is_made_for_a_caller(house: House) -> None:
    """`POST /start` answers as Pipecat's runner does; each token lets one of the two in."""
    answer = (await house.http.post("/start", json=START)).json()
    room = answer["room"]
    assert answer["url"] == house.livekit.url
    assert room.startswith("parley-")
    assert house.livekit.rooms[room].empty_timeout == 60
    theirs, ours = TokenVerifier(KEY, SECRET).verify(answer["token"]), claims_of(house.calls[0])
    assert answer["sessionId"] == house.calls[0].id
    for claims in (theirs, ours):
        assert (claims.video.room_join, claims.video.room) == (True, room)
        assert not claims.video.room_admin
        assert not claims.video.room_create
    assert (theirs.kind, ours.kind, ours.name) == ("", "agent", "Parley")
    assert theirs.identity != ours.identity


async def test_a_caller_hears_the_agent_and_is_heard(house: House, recording: Any) -> None:
    """LiveKit's own SDK carries audio both ways, and the room ends with the call."""
    room = (await house.http.post("/start", json=START)).json()["room"]
    seat = await house.until_seated(room)
    call = house.calls[0]
    heard = asyncio.Event()

    @call._conversation.caller.event_handler("on_user_turn_started")
    async def started(*_: object) -> None:
        heard.set()

    event = house.livekit.join(room, "caller")
    await until(lambda: first_sound(seat.heard))
    house.livekit.people[room]["caller"].microphone.say(recording("goforward", RATE))
    await asyncio.wait_for(heard.wait(), 20)
    # LiveKit tells of the caller, too, but the agent is there already.
    assert (await house.tell(event)).status_code == 200
    assert len(house.calls) == 1
    house.livekit.leave(room, "caller")
    await settle(call)
    assert house.livekit.deleted == [room]


async def test_the_greeting_waits_until_it_is_heard(house: House) -> None:
    """The agent says nothing before LiveKit gives its audio to somebody."""
    house.livekit.delay_subscription = 0.4
    room = (await house.http.post("/start", json=START)).json()["room"]
    seat = await house.until_seated(room)
    house.livekit.join(room, "caller")
    await until(lambda: first_sound(seat.heard))
    assert seat.subscribed
    assert first_sound(seat.heard) > seat.subscribed


@pytest.mark.parametrize("end", ["agent", "server"])
async def test_who_is_left_is_hung_up_on(house: House, end: str) -> None:
    """The room is deleted when the agent hangs up; the call ends when the room is deleted."""
    room = (await house.http.post("/start", json=START)).json()["room"]
    seat = await house.until_seated(room)
    house.livekit.join(room, "caller")
    await until(lambda: first_sound(seat.heard))
    call = house.calls[0]
    if end == "agent":
        await call.hang_up(EndReason.MAX_LENGTH, "Bye.")
    else:
        seat.put_out()
    await settle(call)
    assert room not in house.livekit.rooms
    await asyncio.wait_for(seat.gone.wait(), 20)


async def test_the_agent_stays_with_the_last_person(house: House) -> None:
    """The call goes on when one of two leaves; a machine that stays is nobody."""
    room = (await house.http.post("/start", json=START)).json()["room"]
    await house.until_seated(room)
    call, livekit = house.calls[0], house.livekit
    left: asyncio.Queue[str] = asyncio.Queue()

    @call.line.transport.event_handler("on_participant_disconnected")
    async def disconnected(_: object, identity: str) -> None:
        left.put_nowait(identity)

    for name in ("one", "two"):
        livekit.join(room, name)
    livekit.join(room, "recorder", ParticipantInfo.Kind.EGRESS)
    await until(lambda: len(call.line.transport.get_participants()) == 3)
    livekit.leave(room, "one")
    assert await asyncio.wait_for(left.get(), 20) == "one"
    assert call.line.occupied
    livekit.leave(room, "two")
    await settle(call)


async def test_nobody_comes(settings: Settings, engines: Engines, fake: FakeLiveKit) -> None:
    """An agent that is left alone leaves in its turn, and its room ends."""
    async with furnished(settings, engines, fake, connect_seconds=0.5) as house:
        room = (await house.http.post("/start", json=START)).json()["room"]
        await settle(house.calls[0])
        assert fake.deleted == [room]


async def test_an_agent_that_cannot_join_costs_a_line(house: House) -> None:
    """A call whose room cannot be reached ends in time with one line; the next one works."""
    house.livekit.no_media = True
    lines: list[str] = []
    log = logger.add(lines.append, level="WARNING", format="{message}")
    before = asyncio.all_tasks()
    room = (await house.http.post("/start", json=START)).json()["room"]
    await settle(house.calls[0])
    logger.remove(log)
    (line,) = lines
    assert "the agent is not let into its LiveKit room: " in line
    # What serves the requests stays; nothing of the call does.
    await until(lambda: not [t for t in asyncio.all_tasks() - before if "Handler" not in repr(t)])
    assert house.livekit.deleted == [room]
    house.livekit.no_media = False
    room = (await house.http.post("/start", json=START)).json()["room"]
    await house.until_seated(room)


@pytest.mark.parametrize("limit", [7.0, 0.2], ids=["cancelled", "too slow"])
async def test_a_call_that_ends_while_it_connects_is_left(
    house: House, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    """LiveKit's SDK may connect after its call is over: the agent leaves what it has entered.

    The SDK ends the whole process where nobody takes a room that it has connected to.
    """
    monkeypatch.setattr("bot.server.livekit_transport.JOIN_SECONDS", limit)
    house.livekit.delay_join = 0.5
    room = (await house.http.post("/start", json=START)).json()["room"]
    call = house.calls[0]
    if limit > house.livekit.delay_join:
        await until(lambda: house.livekit.knocked)
        await call.cancel()
    await settle(call)
    seat = await house.until_seated(room)
    await asyncio.wait_for(seat.gone.wait(), 20)


# What LiveKit is not there for


async def test_it_is_off_until_it_is_configured(settings: Settings, engines: Engines) -> None:
    """Without a server, each way in says in one line what it lacks."""
    async with (
        serve(settings, engines, AGENT) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        refused = await http.post("/start", json=START)
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("LiveKit needs LIVEKIT_URL and LIVEKIT_API_KEY")
        assert (await http.post("/livekit/webhook", content=b"{}")).status_code == 404
    named = settings.model_copy(update={"livekit_room": "hall"})
    with pytest.raises(SettingsError, match=r"^--livekit-room: LiveKit needs LIVEKIT_URL"):
        ways.check_rooms(named)


def test_a_wrong_address_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LiveKit's own variables are the settings; what is wrong with one is said with its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVEKIT_URL", "livekit.example.org")
    with pytest.raises(SettingsError, match=r"^LIVEKIT_URL: the address is like wss://"):
        load([])
    monkeypatch.setenv("LIVEKIT_URL", "wss://livekit.example.org")
    monkeypatch.setenv("LIVEKIT_API_KEY", KEY)
    monkeypatch.setenv("LIVEKIT_API_SECRET", SECRET)
    loaded = load(["--livekit-room", "hall"])
    assert (loaded.livekit_url, loaded.livekit_room) == ("wss://livekit.example.org", "hall")
    assert SECRET not in repr(loaded)
    with pytest.raises(SettingsError, match=r"^--livekit-prefix: "):
        load(["--livekit-prefix", ""])


async def test_a_server_that_is_away(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """LiveKit away: one line, no call; an event that it sends again is heard then."""
    fake.down = True
    async with furnished(settings, engines, fake, livekit_room="hall") as house:
        assert (await house.http.post("/start", json=START)).status_code == 502
        event = fake.join("parley-one", "caller")
        assert (await house.tell(event)).status_code == 502
        assert house.calls == []
        fake.down = False
        assert (await house.tell(event)).status_code == 200
        assert len(house.calls) == 1


async def test_a_key_that_is_not_the_servers(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """The log names the settings that are wrong; the caller is told to look there."""
    lines: list[str] = []
    log = logger.add(lines.append, level="WARNING", format="{message}")
    wrong = {"livekit_api_secret": SecretStr("x" * 40), "livekit_room": "hall"}
    async with furnished(settings, engines, fake, **wrong) as house:
        assert (await house.http.post("/start", json=START)).status_code == 502
    logger.remove(log)
    named = "LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not the server's"
    assert [named in line for line in lines] == [True] * 2


async def test_a_server_that_is_silent(
    settings: Settings, engines: Engines, fake: FakeLiveKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for LiveKit for longer than it may take: the start, a caller, an event."""
    monkeypatch.setattr("bot.server.livekit.API_SECONDS", 0.2)
    fake.delay_answer = 1.0
    lines: list[str] = []
    log = logger.add(lines.append, level="WARNING", format="{message}")
    async with furnished(settings, engines, fake, livekit_room="hall") as house:
        assert (await house.http.post("/start", json=START)).status_code == 502
        assert (await house.tell(fake.join("parley-one", "caller"))).status_code == 502
    logger.remove(log)
    assert [line.strip().endswith("no answer within 0.2 seconds") for line in lines] == [True] * 3


async def test_a_busy_process_does_not_join(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """Who is too many is refused by `/start` before a room is made; an event waits for a line."""
    async with furnished(settings, engines, fake, max_calls=1) as house:
        await house.http.post("/start", json=START)
        refused = await house.http.post("/start", json=START)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert len(fake.rooms) == 1
        event = fake.join("parley-one", "caller")
        assert (await house.tell(event)).status_code == 503
        (first,) = house.calls
        await first.cancel()
        await settle(first)
        assert (await house.tell(event)).status_code == 200
        (second,) = house.calls
        assert second is not first


async def test_a_line_is_taken_while_its_room_is_made(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """Of two who ask at one instant for the last line, one has a room, and the other has none."""
    async with furnished(settings, engines, fake, max_calls=1) as house:
        both = await asyncio.gather(*(house.http.post("/start", json=START) for _ in range(2)))
        assert sorted(answer.status_code for answer in both) == [200, 503]
        assert len(fake.rooms) == 1


async def test_a_room_that_is_made_too_late_is_deleted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process is told to stop meanwhile, the caller hears so, and the room ends."""
    monkeypatch.setattr(house.server.calls, "start", Mock(side_effect=TooManyCallsError))
    assert (await house.http.post("/start", json=START)).status_code == 503
    assert house.livekit.rooms == {}
    assert len(house.livekit.deleted) == 1


async def test_a_room_is_joined_by_name(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """`--livekit-room` sends the agent in at the start; the room is not ours to delete."""
    async with furnished(settings, engines, fake, livekit_room="hall") as house:
        seat = await house.until_seated("hall")
        fake.join("hall", "caller")
        await until(lambda: first_sound(seat.heard))
        call = house.calls[0]
        fake.leave("hall", "caller")
        await settle(call)
        await asyncio.wait_for(seat.gone.wait(), 20)
        assert fake.deleted == []


async def test_a_room_by_name_is_joined_whoever_else_is_there(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """An agent there may be the one before, which died and which LiveKit has not missed yet."""
    async with furnished(settings, engines, fake, livekit_room="hall") as before:
        first = await before.until_seated("hall")
        async with furnished(settings, engines, fake, livekit_room="hall") as after:
            await until(lambda: fake.seats["hall"] is not first)
            (second,) = after.calls
            met = asyncio.Event()

            @second.line.transport.event_handler("on_participant_connected")
            async def seen(_: object, identity: str) -> None:
                assert identity == first.identity
                met.set()

            await asyncio.wait_for(met.wait(), 20)
            fake.join("hall", "caller")
            await until(lambda: first_sound(fake.seats["hall"].heard))
            assert fake.seats["hall"].identity == claims_of(second).identity


async def test_something_else_at_its_address(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """What is no answer of LiveKit's is said in a line; the process starts, and hears again."""
    fake.nonsense = b"<html>"
    async with furnished(settings, engines, fake, livekit_room="hall") as house:
        assert house.calls == []
        assert (await house.http.post("/start", json=START)).status_code == 502
        event = fake.join("parley-one", "caller")
        assert (await house.tell(event)).status_code == 502
        fake.nonsense = b""
        assert (await house.tell(event)).status_code == 200
        assert len(house.calls) == 1


async def test_a_machine_begins_and_ends_no_call(house: House) -> None:
    """A recorder that is there before the caller is not greeted, nor missed when it leaves."""
    room = (await house.http.post("/start", json=START)).json()["room"]
    seat = await house.until_seated(room)
    call, livekit = house.calls[0], house.livekit
    told: asyncio.Queue[str] = asyncio.Queue()

    @call.line.transport.event_handler("on_participant_connected")
    @call.line.transport.event_handler("on_participant_disconnected")
    async def seen(_: object, identity: str) -> None:
        told.put_nowait(identity)

    livekit.join(room, "recorder", ParticipantInfo.Kind.EGRESS)
    assert await asyncio.wait_for(told.get(), 20) == "recorder"
    assert not call._connected.is_set()
    livekit.leave(room, "recorder")
    assert await asyncio.wait_for(told.get(), 20) == "recorder"
    livekit.join(room, "caller")
    await until(lambda: first_sound(seat.heard))
    assert house.calls == [call]


# The webhook


async def test_a_telephone_caller_is_answered(house: House) -> None:
    """What LiveKit says of a SIP caller is known to the call; keys are heard and pressed.

    No line of the log has their number in full.
    """
    lines: list[str] = []
    log = logger.add(lines.append, level="INFO", filter={"pipecat": "WARNING"})
    room = "parley-_+15105550123_xyz"
    event = house.livekit.join(room, "sip_+15105550123", ParticipantInfo.Kind.SIP, SIP)
    assert (await house.tell(event)).status_code == 200
    call = house.calls[0]
    origin = call.line.origin
    assert (origin.transport, origin.id, origin.outbound) == ("livekit", room, False)
    assert (origin.caller, origin.called) == ("+15105550123", "+15105550100")
    assert origin.data["sip.callID"] == "SCL_one"
    assert call.line.can_transfer
    seat = await house.until_seated(room)
    await until(lambda: first_sound(seat.heard))

    pressed: asyncio.Queue[str] = asyncio.Queue()

    @call.line.transport.event_handler("on_dtmf_event")
    async def dtmf(_: object, data: dict[str, Any]) -> None:
        pressed.put_nowait(data["digit"])

    seat.press(house.livekit.people[room]["sip_+15105550123"], "7", 7)
    assert await asyncio.wait_for(pressed.get(), 20) == "7"
    params = SimpleNamespace(
        llm=SimpleNamespace(push_frame=call._worker.queue_frame), result_callback=AsyncMock()
    )
    await press_keys(params, "51#")  # type: ignore[arg-type]
    await until(lambda: seat.pressed == ["5", "1", "#"])
    house.livekit.leave(room, "sip_+15105550123")
    await settle(call)
    logger.remove(log)
    assert lines
    assert not [line for line in lines if "5550123" in line]


@pytest.mark.parametrize("answers", [True, False])
async def test_a_ringing_telephone_is_not_spoken_to(
    settings: Settings, engines: Engines, fake: FakeLiveKit, answers: bool
) -> None:
    """Whom somebody calls is in the room while it rings; the agent waits, longer than for others.

    The call ends where nobody answers.
    """
    called = {name: value for name, value in SIP.items() if name != "sip.ruleID"}
    async with furnished(settings, engines, fake, connect_seconds=0.2) as house:
        called["sip.callStatus"] = "dialing"
        event = fake.join("parley-one", "phone", ParticipantInfo.Kind.SIP, called)
        assert (await house.tell(event)).status_code == 200
        seat = await house.until_seated("parley-one")
        (call,) = house.calls
        assert call.line.origin.outbound
        await until(lambda: call.line.transport._ringing)
        fake.change("parley-one", "phone", {"sip.callStatus": "automation"})
        assert not call._connected.is_set()
        if answers:
            fake.change("parley-one", "phone", {"sip.callStatus": "active"})
            await until(lambda: first_sound(seat.heard))
        fake.leave("parley-one", "phone")
        await settle(call)
        assert call._connected.is_set() is answers


@pytest.mark.parametrize(
    ("to", "asked"),
    [("+15105550199", "tel:+15105550199"), ("sip:desk@example.org", "sip:desk@example.org")],
)
async def test_a_telephone_caller_is_transferred(house: House, to: str, asked: str) -> None:
    """LiveKit is told whom to transfer, and where to; the call then ends."""
    room, identity = "parley-one", "sip_caller"
    await house.tell(house.livekit.join(room, identity, ParticipantInfo.Kind.SIP, SIP))
    seat = await house.until_seated(room)
    await until(lambda: first_sound(seat.heard))
    call = house.calls[0]
    await call._worker.queue_frame(TransferFrame(to=to))
    await settle(call)
    (transfer,) = house.livekit.transfers
    assert (transfer.room_name, transfer.participant_identity) == (room, identity)
    assert transfer.transfer_to == asked


async def test_a_transfer_that_fails_says_why(house: House) -> None:
    """A busy target, a caller without a telephone, and a server that is away: one line each.

    So is a reason that our SDK has no name for.
    """
    room = "parley-one"
    await house.tell(house.livekit.join(room, "caller"))
    seat = await house.until_seated(room)
    await until(lambda: first_sound(seat.heard))
    line = house.calls[0].line
    assert isinstance(line, LiveKitLine)
    assert not line.can_transfer
    with pytest.raises(LineError, match="nobody in the room came by telephone"):
        await line.transfer("+15105550199")
    house.livekit.join(room, "sip", ParticipantInfo.Kind.SIP, SIP)
    await until(lambda: len(line.transport.get_participants()) == 2)
    house.livekit.transfer_status = SIPTransferStatus.STS_TRANSFER_FAILED
    with pytest.raises(LineError, match="STR_REJECTED Busy Here"):
        await line.transfer("+15105550199")
    house.livekit.transfer_reason = 4711
    with pytest.raises(LineError, match="4711 Busy Here"):
        await line.transfer("+15105550199")
    house.livekit.down = True
    with pytest.raises(LineError, match="no response"):
        await line.transfer("+15105550199")


async def test_a_room_has_one_agent(house: House) -> None:
    """Whoever joins besides, the agent comes once; not at all where another agent is."""
    room = "parley-one"
    events = [house.livekit.join(room, f"caller{n}") for n in range(5)]
    answers = await asyncio.gather(*(house.tell(event) for event in events))
    assert {answer.status_code for answer in answers} == {200}
    assert len(house.calls) == 1
    house.livekit.join("parley-two", "another", ParticipantInfo.Kind.AGENT)
    assert (await house.tell(house.livekit.join("parley-two", "caller"))).status_code == 200
    assert len(house.calls) == 1


async def test_two_processes_have_one_agent_in_a_room(
    settings: Settings, engines: Engines, fake: FakeLiveKit
) -> None:
    """Told at one instant, both join; who set out later leaves, and the room goes on."""
    fake.delay_join = 0.3
    async with (
        furnished(settings, engines, fake) as one,
        furnished(settings, engines, fake) as two,
    ):
        event = fake.join("parley-one", "caller")
        answers = await asyncio.gather(one.tell(event), two.tell(event))
        assert [answer.status_code for answer in answers] == [200, 200]
        begun = one.calls + two.calls
        assert len(begun) == 2
        await until(lambda: len(one.calls + two.calls) == 1)
        (last,) = one.calls + two.calls
        names = sorted(claims_of(call).identity for call in begun)
        assert claims_of(last).identity == names[0]
        # The call of the other is over a moment before its seat is.
        await until(lambda: fake.seats["parley-one"].identity == names[0])
        seat = fake.seats["parley-one"]
        await until(lambda: first_sound(seat.heard))
        fake.leave("parley-one", "caller")
        await settle(last)
        assert fake.deleted == ["parley-one"]


async def test_a_room_is_answered_again(house: House) -> None:
    """When a call is over, whoever joins its room begins another."""
    for _ in range(2):
        await house.tell(house.livekit.join("parley-one", "caller"))
        await house.until_seated("parley-one")
        call = house.calls[0]
        await call.cancel()
        await settle(call)
        del house.livekit.seats["parley-one"]


async def test_other_events_begin_no_call(house: House) -> None:
    """Only a person who joins a room with our prefix is answered, and no agent ever."""
    kinds = ParticipantInfo.Kind
    for room, event, kind in (
        ("elsewhere", "participant_joined", kinds.STANDARD),
        ("parley-one", "participant_joined", kinds.AGENT),
        ("parley-one", "participant_joined", kinds.EGRESS),
        ("parley-one", "participant_joined", kinds.INGRESS),
        ("parley-one", "participant_left", kinds.STANDARD),
        ("parley-one", "room_started", kinds.STANDARD),
        ("parley-start-of-another-process", "participant_joined", kinds.STANDARD),
    ):
        told = house.livekit.join(room, "someone", kind)
        told.event = event
        assert (await house.tell(told)).status_code == 200
        assert house.calls == [], (room, event, kind)


async def test_sip_attributes_of_others_are_not_believed(house: House) -> None:
    """A web participant may set any attribute; a telephone number is only SIP's to tell."""
    await house.tell(house.livekit.join("parley-one", "me", attributes=SIP))
    origin = house.calls[0].line.origin
    assert (origin.caller, origin.called, dict(origin.data)) == ("me", "", {})


# Signatures


async def test_a_wrong_signature_begins_no_call(house: House) -> None:
    """What is not signed with our key and secret, for this body and in time, is refused."""
    event = house.livekit.join("parley-one", "caller")
    wrong: list[dict[str, Any]] = [
        {"secret": "another-secret-that-is-long-enough-for-hmac"},
        {"key": "APIother"},
        {"digest": ""},
        {"digest": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
        {"digest": "not base64, \u00fc"},
        {"life": timedelta(minutes=-5)},
    ]
    for signature in wrong:
        assert (await house.tell(event, **signature)).status_code == 403, signature
    assert house.calls == []
    assert (await house.tell(event)).status_code == 200


async def test_a_missing_signature_begins_no_call(house: House) -> None:
    """No header, or one that is no token, is refused; so is a token that names no algorithm."""
    body = as_body(house.livekit.join("parley-one", "caller"))
    assert (await house.post(body, {})).status_code == 403
    unsigned = jwt.encode({"iss": KEY, "exp": 2**33}, "", algorithm="none")
    for authorization in ("", "Bearer", "e30.e30.e30", "x" * 5000, "\u00e4", unsigned):
        headers = {"Authorization": authorization.encode("latin-1")}
        assert (await house.post(body, headers)).status_code == 403, authorization
    assert house.calls == []


async def test_a_token_of_a_caller_is_no_signature(house: House) -> None:
    """What lets a caller into a room is signed with the same secret, but tells no events."""
    token = (await house.http.post("/start", json=START)).json()["token"]
    body = as_body(house.livekit.join("parley-one", "caller"))
    assert (await house.post(body, {"Authorization": token})).status_code == 403
    assert len(house.calls) == 1


async def test_a_tampered_body_is_refused(house: House) -> None:
    """A signature is good for one body."""
    body = as_body(house.livekit.join("elsewhere", "caller"))
    tampered = body.replace(b"elsewhere", b"parley-on")
    assert (await house.post(tampered, signed(body))).status_code == 403
    assert house.calls == []


async def test_an_event_is_heard_once(house: House) -> None:
    """A replayed event is refused even when its call is over; so is one from long ago."""
    event = house.livekit.join("parley-one", "caller")
    assert (await house.tell(event)).status_code == 200
    await house.calls[0].cancel()
    await until(lambda: not house.calls)
    assert (await house.tell(event)).status_code == 409
    old = house.livekit.join("parley-two", "caller")
    old.created_at -= 3600
    assert (await house.tell(old)).status_code == 403
    nameless = house.livekit.join("parley-two", "caller")
    nameless.id = ""
    assert (await house.tell(nameless)).status_code == 409
    assert house.calls == []


async def test_a_signed_body_that_cannot_be_read(house: House) -> None:
    """Even what LiveKit signs may be unreadable: 400, and nothing comes of it."""
    for body in (b"", b"{", b"7", b"\xff", b'{"room":7}', b"[" * 100_000, b'{"createdAt":"x"}'):
        assert (await house.post(body, signed(body))).status_code == 400, body[:20]
    assert house.calls == []


async def test_a_body_is_bounded(house: House) -> None:
    """A large body is refused before anything is computed of it."""
    body = b" " * 1_000_000
    assert (await house.post(body, signed(body))).status_code == 413
