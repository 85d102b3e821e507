"""Daily: rooms that we make and join, telephone calls in and out, and who may ask for them."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from loguru import logger
from pipecat.transports.daily import transport as pipecat_daily
from pipecat.transports.daily.transport import DailyParams

from bot.agent import Agent
from bot.call import Call, Calls
from bot.engines import Engines, load_engines
from bot.line import LineError
from bot.server import daily, ways
from bot.server import daily_api as rest
from bot.server.daily import Daily
from bot.server.daily_transport import MAX_BEHIND, RoomInput, RoomTransport
from bot.server.signatures import MAX_AGE_SECONDS
from bot.settings import Settings, SettingsError
from tests.callers.local_server import LocalServer, serve
from tests.fakes.daily_api import (
    KEY,
    SECRET,
    FakeCallClient,
    FakeDaily,
    daily_api,
    dialin,
    signed,
)

LIMIT = 20.0
"""Seconds within which what is waited for has to be."""

NUMBER = "+4930123456"


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """What the agent speaks and hears with, loaded once."""
    settings = Settings(tts="piper", stt="pocketsphinx", llm="builtin", offline=True)
    engines = load_engines(settings, Agent(), lambda *_: None)
    yield engines
    asyncio.run(engines.close())


@pytest.fixture
async def api() -> AsyncIterator[FakeDaily]:
    async with daily_api() as fake:
        yield fake


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> list[FakeCallClient]:
    """The clients of Daily's SDK that calls make, in order."""
    clients: list[FakeCallClient] = []

    def make(event_handler: Any) -> FakeCallClient:
        clients.append(FakeCallClient(event_handler))
        return clients[-1]

    monkeypatch.setattr(pipecat_daily, "CallClient", make)
    return clients


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="DEBUG", format="{level} {name} {message}")
    yield lines
    logger.remove(sink)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Whatever a test did, no task of it is left."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(LIMIT):
        while left := {t for t in asyncio.all_tasks() - before if t is not asyncio.current_task()}:
            assert left
            await asyncio.sleep(0.02)


def configured(api: FakeDaily, **settings: Any) -> Settings:
    known = {
        "daily_api_key": KEY,
        "daily_api_url": api.url,
        "daily_dialin_secret": SECRET,
        "daily_dialout": True,
    }
    return Settings(tts="piper", stt="pocketsphinx", llm="builtin", **(known | settings))


@asynccontextmanager
async def serving(
    api: FakeDaily, engines: Engines, **settings: Any
) -> AsyncIterator[tuple[LocalServer, httpx.AsyncClient]]:
    """The agent's server, and a client of it."""
    async with (
        serve(configured(api, **settings), engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        yield server, http
        await hang_up(server.calls)


@asynccontextmanager
async def rooms(api: FakeDaily, engines: Engines, **settings: Any) -> AsyncIterator[Daily]:
    """Daily without a server before it."""
    wanted = configured(api, **settings)
    calls = Calls(wanted, engines, Agent(greeting=""))
    ours = Daily(wanted, Agent(greeting=""), calls)
    await ours.open()
    try:
        yield ours
    finally:
        await hang_up(calls)
        await ours.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():  # noqa: ASYNC110 - nobody tells.
            await asyncio.sleep(0.01)


async def hang_up(calls: Calls) -> None:
    """End the calls without a goodbye, which takes two seconds."""
    for call in calls:
        await call.cancel()
    await until(lambda: not len(calls))


async def only(calls: Calls) -> Call:
    await until(lambda: len(calls))
    return next(iter(calls))


async def over(call: Call) -> None:
    await asyncio.wait_for(call.ended.wait(), LIMIT)


def line_of(answer: httpx.Response, status: int) -> str:
    """The detail of a refusal, which is one line."""
    assert answer.status_code == status, answer.text
    detail = str(answer.json()["detail"])
    assert detail
    assert "\n" not in detail
    assert KEY not in detail
    return detail


# Rooms for callers


async def test_a_caller_gets_a_room_and_the_agent_stays_for_the_last(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """The room is private and expires, the agent greets, and leaves with the last person only."""
    async with serving(api, engines, max_call_seconds=600, daily_room_minutes=20) as (server, http):
        answer = await http.post("/start", json={"transport": "daily"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        (name, room), call = *api.rooms.items(), await only(server.calls)
        assert told["dailyRoom"] == f"https://tests.daily.co/{name}"
        assert told["sessionId"] == call.id
        properties = room["properties"]
        assert room["privacy"] == "private"
        assert properties["eject_at_room_exp"] is True
        assert abs(properties["exp"] - time.time() - 1200) < 5
        theirs = api.tokens[told["dailyToken"]]
        assert theirs == {"room_name": name, "exp": int(properties["exp"]), "is_owner": False}
        await until(lambda: sdk[0].joined)
        url, token = sdk[0].joined or ("", "")
        assert url == told["dailyRoom"]
        assert (
            api.tokens[str(token)] | {"is_owner": True, "room_name": name} == api.tokens[str(token)]
        )
        await sdk[0].come("anna")
        await sdk[0].come("bert")
        await until(lambda: sdk[0].said("bot-started-speaking"))
        await sdk[0].go("anna")
        assert call.line.occupied
        assert not call.ended.is_set()
        await sdk[0].go("bert")
        await over(call)
        assert api.rooms == {}
        assert api.ejected == []


async def test_a_room_outlasts_the_longest_call(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """It is there until the agent has said that the time is up, late as the caller may come."""
    async with rooms(api, engines, max_call_seconds=7200, daily_room_minutes=120) as ours:
        before = time.time()
        await ours.start(daily.StartBody())
        (room,) = api.rooms.values()
        assert room["properties"]["exp"] >= before + 7200 + daily.PHONE_SECONDS
        await until(lambda: sdk[0].joined)


async def test_a_room_that_closes_ends_the_call(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """Where the agent is put out, the call is over, and who is left is put out with the room."""
    async with serving(api, engines) as (server, http):
        await http.post("/start", json={"transport": "daily"})
        call = await only(server.calls)
        await until(lambda: sdk[0].joined)
        await sdk[0].come("anna")
        await sdk[0].tell("on_call_state_updated", "left")
        await over(call)
        assert api.rooms == {}
        assert api.ejected == ["anna"]


async def test_a_room_that_cannot_be_entered_costs_nothing(
    api: FakeDaily, engines: Engines, log: list[str]
) -> None:
    """With the real SDK, which refuses the address: one line, no call, no room."""
    api.room_url = "nonsense-{name}"
    async with serving(api, engines) as (server, http):
        assert (await http.post("/start", json={"transport": "daily"})).status_code == 200
        await until(lambda: api.made and not len(server.calls))
        assert api.rooms == {}
    (told,) = [line for line in log if line.startswith(("WARNING", "ERROR"))]
    assert "Failed to parse url" in told


@pytest.mark.parametrize("path", ["POST /rooms", "POST /meeting-tokens"])
@pytest.mark.parametrize(
    "failures", [[401], [429] * 3, [500], [403], ["<html>"], ["[]"], [2.0]], ids=str
)
async def test_where_daily_fails_a_caller_is_told_so(
    api: FakeDaily,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    log: list[str],
    path: str,
    failures: list[int | str | float],
) -> None:
    """502 in a line, which the log explains without the key; no call begins, no room stays."""
    monkeypatch.setattr(rest, "API_SECONDS", 1.0)
    monkeypatch.setattr(rest, "API_PAUSE", 0.01)
    api.failures[path] = list(failures)
    async with rooms(api, engines) as ours:
        with pytest.raises(daily.HTTPException) as refused:
            await ours.start(daily.StartBody())
        assert refused.value.status_code == 502
        assert len(ours._calls) == ours._calls._reserved == 0
    assert api.rooms == {}
    text = "".join(log)
    assert "Daily makes no room" in text
    assert KEY not in text


async def test_a_request_that_came_too_soon_is_made_again(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 is answered with patience, when a room is made and when it is deleted."""
    monkeypatch.setattr(rest, "API_PAUSE", 0.01)
    api.failures = {"POST /rooms": [429], "DELETE /rooms/:name": [429, 429]}
    async with rooms(api, engines) as ours:
        assert (await ours.start(daily.StartBody()))["dailyRoom"]
        await until(lambda: sdk[0].joined)
    assert len(api.made) == 1
    assert api.rooms == {}


async def test_a_full_process_makes_no_room(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """Of two at once, one gets the only line and its room; the other is told when to try again."""
    async with serving(api, engines, max_calls=1) as (_, http):
        both = await asyncio.gather(
            *(http.post("/start", json={"transport": "daily"}) for _ in range(2))
        )
        assert sorted(answer.status_code for answer in both) == [200, 503]
        full = await http.post("/start", json={"transport": "daily"})
        line_of(full, 503)
        await until(lambda: sdk[0].joined)
        assert int(full.headers["retry-after"]) > 0
        body = dialin()
        line_of(await http.post("/daily/dialin", content=body, headers=signed(body)), 503)
        assert len(api.made) == 1


async def test_daily_is_off_until_it_is_configured(
    api: FakeDaily, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without key, SDK or secret, one line names what is lacking."""
    async with serving(api, engines, daily_api_key=None) as (_, http):
        started = await http.post("/start", json={"transport": "daily"})
        assert "DAILY_API_KEY" in line_of(started, 400)
        assert "DAILY_API_KEY" in line_of(await http.post("/daily/dialin", content=b"{}"), 404)
    for secret, said in ((None, "DAILY_DIALIN_SECRET"), ("no-base64", "base64")):
        async with serving(api, engines, daily_dialin_secret=secret) as (_, http):
            assert said in line_of(await http.post("/daily/dialin", content=b"{}"), 404)
        assert said in ways.lacks(configured(api, daily_dialin_secret=secret))["daily dial-in"]
    silent = configured(api, daily_dialout=False)
    assert "--daily-dialout" in ways.lacks_for_dialling(silent)["daily"]
    assert ways.lacks_for_dialling(configured(api, daily_dialout=True))["daily"] == ""
    monkeypatch.setattr(ways, "find_spec", lambda _: None)
    assert "parley[daily]" in ways.daily_lacks(configured(api))
    with pytest.raises(SettingsError, match=r"^--daily-room: .*parley"):
        ways.check_rooms(configured(api, daily_room="https://tests.daily.co/lobby"))
    assert api.requests == []


async def test_the_named_room_is_joined_and_left_as_it_was(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """`--daily-room` needs no key; the agent waits there, and leaves the room to others."""
    room = "https://tests.daily.co/lobby"
    named = {"daily_api_key": None, "daily_room": room, "daily_token": "let-me-in"}
    async with serving(api, engines, **named) as (server, _):
        call = await only(server.calls)
        await until(lambda: sdk[0].joined)
        assert sdk[0].joined == (room, "let-me-in")
        assert call.line.connect_seconds == daily.WAIT_SECONDS
        await sdk[0].come("anna")
        await sdk[0].go("anna")
        await over(call)
    assert api.requests == []


# Telephone calls that come in


async def test_a_telephone_call_is_put_through(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient], log: list[str]
) -> None:
    """The room takes SIP, the call goes there once it can, and the call knows who calls."""
    async with serving(api, engines) as (server, http):
        body = dialin(sipHeaders={"X-Order": 17})
        answer = await http.post("/daily/dialin", content=body, headers=signed(body))
        assert answer.status_code == 200, answer.text
        call = await only(server.calls)
        assert answer.json() == {"status": "ok", "sessionId": call.id}
        (room,) = api.rooms.values()
        assert room["properties"]["sip"]["sip_mode"] == "dial-in"
        held = json.loads(body)
        origin = call.line.origin
        assert (origin.caller, origin.called, origin.id) == (
            held["From"],
            held["To"],
            held["callId"],
        )
        assert origin.data == {"X-Order": "17"}
        await until(lambda: sdk[0].joined)
        await sdk[0].tell("on_dialin_ready", "sip:room@tests.sip.daily.co")
        await until(lambda: api.updates)
        assert api.updates == [
            {
                "callId": held["callId"],
                "callDomain": held["callDomain"],
                "sipUri": "sip:room@tests.sip.daily.co",
            }
        ]
        # Daily asks again while the call goes on: it has its agent.
        line_of(
            await http.post(
                "/daily/dialin", content=body, headers=signed(body, at=time.time() - 9)
            ),
            409,
        )
        await sdk[0].come("phone")
        await sdk[0].tell("on_dialin_connected", {"sessionId": "phone", "sipFrom": held["From"]})
        await until(lambda: sdk[0].said("bot-started-speaking"))
        await sdk[0].go("phone")
        await over(call)
    assert api.rooms == {}
    assert held["From"] not in "".join(log)


async def test_a_call_that_cannot_be_put_through_ends(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """Daily refuses to connect the telephone: the agent does not wait for nobody."""
    api.failures["POST /dialin/pinlessCallUpdate"] = [404]
    async with serving(api, engines) as (server, http):
        body = dialin()
        await http.post("/daily/dialin", content=body, headers=signed(body))
        call = await only(server.calls)
        await until(lambda: sdk[0].joined)
        await sdk[0].tell("on_dialin_ready", "sip:room@tests.sip.daily.co")
        await over(call)
    assert api.rooms == {}


async def test_only_daily_may_tell_of_a_call(api: FakeDaily, engines: Engines) -> None:
    """Unsigned, signed otherwise, altered, too old, too new: 403 before anything is asked."""
    body, now = dialin(), time.time()
    other = "b3RoZXIgc2VjcmV0"
    bad = [
        {},
        {"X-Pinless-Timestamp": str(int(now))},
        signed(body) | {"X-Pinless-Signature": ""},
        signed(body) | {"X-Pinless-Signature": "\u00e9\u00e9".encode("latin-1").decode("latin-1")},
        signed(body, secret=other),
        signed(dialin()),
        signed(body) | {"X-Pinless-Timestamp": str(int(now) - 1)},
        signed(body) | {"X-Pinless-Timestamp": "9" * 400},
        signed(body, at=now - MAX_AGE_SECONDS - 5),
        signed(body, at=now + MAX_AGE_SECONDS + 5),
        signed(body, at=(now - MAX_AGE_SECONDS - 5) * 1000),
        signed(body, at=0),
    ]
    async with serving(api, engines) as (server, http):
        for headers in bad:
            raw = {k: v.encode("latin-1") for k, v in headers.items()}
            line_of(await http.post("/daily/dialin", content=body, headers=raw), 403)
        assert len(server.calls) == 0
    assert api.requests == []


async def test_a_webhook_is_taken_once(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """What somebody overheard is worth nothing, even when the call is over; nor is it in ms."""
    async with serving(api, engines) as (server, http):
        body = dialin()
        headers = signed(body, at=time.time() * 1000)
        assert (await http.post("/daily/dialin", content=body, headers=headers)).is_success
        await (await only(server.calls)).cancel()
        await until(lambda: not len(server.calls))
        line_of(await http.post("/daily/dialin", content=body, headers=headers), 403)
    assert len(api.made) == 1


async def test_a_test_of_the_webhook_is_answered(api: FakeDaily, engines: Engines) -> None:
    """Daily asks whether we are there, perhaps before we can know its secret; nothing begins."""
    async with serving(api, engines) as (server, http):
        for test in ({"test": "test"}, {"Test": "test"}, {"To": "+12098765432"}):
            assert (await http.post("/daily/dialin", json=test)).status_code == 200
        assert len(server.calls) == 0
    assert api.requests == []


async def test_whatever_is_signed_does_no_harm(api: FakeDaily, engines: Engines) -> None:
    """Bodies that are no call are refused in a line."""
    chance = random.Random(7)
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 50_000,
        b"\xff\xfe",
        b'{"callId": 7, "callDomain": "x"}',
        b'{"callId": "", "callDomain": "x"}',
        dialin(callId="x" * 10_000),
        dialin(callDomain=None),
        dialin(From={"a": 1}),
        dialin(sipHeaders=[1]),
        dialin(sipHeaders={str(i): 1 for i in range(1000)}),
        *(chance.randbytes(chance.randrange(200)) for _ in range(30)),
    ]
    async with serving(api, engines) as (server, http):
        for body in bodies:
            answer = await http.post("/daily/dialin", content=body, headers=signed(body))
            line_of(answer, 400)
        assert len(server.calls) == 0
    assert api.requests == []


# Telephone calls that go out, and transfers


async def ring(ours: Daily, sdk: list[FakeCallClient], to: str = NUMBER) -> Call:
    """Have the agent call a telephone, until Daily was asked to."""
    call_id = await ours.dial(to)
    (call,) = [call for call in ours._calls if call.id == call_id]
    await until(lambda: sdk and sdk[-1].dialled)
    return call


async def test_a_telephone_is_greeted_when_it_is_answered(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """It comes into the room when it rings, but nobody speaks to a ringing telephone."""
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk)
        (room,) = api.rooms.values()
        assert room["properties"]["enable_dialout"] is True
        assert sdk[0].dialled == [{"phoneNumber": NUMBER}]
        assert call.line.origin.outbound
        await sdk[0].come("phone")
        await sdk[0].tell("on_dialout_connected", {"sessionId": "phone"})
        assert not call._connected.is_set()
        await sdk[0].tell("on_dialout_answered", {"sessionId": "phone"})
        await until(call._connected.is_set)
        await sdk[0].go("phone")
        await over(call)
    assert api.rooms == {}


async def test_a_sip_address_is_called(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """Asked for over HTTP as a number is; the call finds out by itself if a machine answers."""
    async with serving(api, engines) as (server, http):
        wanted = {"carrier": "daily", "to": "sip:desk@example.org", "data": {"order": "17"}}
        placed = await http.post("/calls", json=wanted)
        assert placed.status_code == 201, placed.text
        await until(lambda: sdk and sdk[0].dialled)
        assert sdk[0].dialled == [{"sipUri": "sip:desk@example.org"}]
        line = (await only(server.calls)).line
        assert line.detect_machine
        line.answered_by("human")
        assert line.origin.data == {"order": "17", "answered_by": "human"}


async def test_a_telephone_that_is_not_reached_is_called_again(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Daily fails, a few times, and then the agent gives up."""
    monkeypatch.setattr(daily, "DIAL_PAUSE", 0.01)
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk)
        for attempt in range(1, daily.DIAL_ATTEMPTS):
            await sdk[0].come(f"phone{attempt}")
            await sdk[0].go(f"phone{attempt}")
            await sdk[0].tell("on_dialout_error", {"errorMsg": f"no route to {NUMBER}"})
            await until(lambda made=attempt: len(sdk[0].dialled) == made + 1)
        await sdk[0].tell("on_dialout_error", {"errorMsg": "no route"})
        await over(call)
        assert len(sdk[0].dialled) == daily.DIAL_ATTEMPTS
    assert api.rooms == {}


async def test_a_telephone_that_declines_is_left_alone(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """Who does not want to be called is not called again."""
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk)
        await sdk[0].tell("on_dialout_stopped", {"sessionId": "phone"})
        await over(call)
        assert len(sdk[0].dialled) == 1


async def test_a_room_ends_however_the_calling_does(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the SDK raises an error, the call's room is deleted like any other."""
    tried = asyncio.Event()

    def fail(*_: object, **__: object) -> None:
        tried.set()
        raise RuntimeError("as native code does")

    monkeypatch.setattr(FakeCallClient, "start_dialout", fail)
    async with rooms(api, engines) as ours:
        await ours.dial(NUMBER)
        await asyncio.wait_for(tried.wait(), LIMIT)
        assert api.rooms
    assert api.rooms == {}


async def test_what_cannot_be_called_is_said(api: FakeDaily, engines: Engines) -> None:
    """A wrong number, a Daily that fails, a setting that is off: one line, and no room."""
    async with rooms(api, engines) as ours:
        with pytest.raises(LineError, match="country code"):
            await ours.dial("0800 CALL ME")
        api.failures["POST /rooms"] = [400]
        with pytest.raises(LineError, match=r"^Daily: 400"):
            await ours.dial(NUMBER)
    async with rooms(api, engines, daily_dialout=False) as ours:
        with pytest.raises(LineError, match="--daily-dialout"):
            await ours.dial(NUMBER)
    assert api.rooms == {}


@pytest.mark.parametrize(
    ("caller", "to", "refused", "asked"),
    [
        (NUMBER, "+4930999999", {}, ["sip_call_transfer"]),
        (NUMBER, "sip:desk@example.org", {}, ["sip_call_transfer"]),
        ("sip:a@example.org", "sip:desk@example.org", {}, ["sip_refer"]),
        (
            "sip:a@example.org",
            "sip:desk@example.org",
            {"sip_refer": "not allowed"},
            ["sip_refer", "sip_call_transfer"],
        ),
    ],
)
async def test_a_telephone_is_transferred(
    api: FakeDaily,
    engines: Engines,
    sdk: list[FakeCallClient],
    caller: str,
    to: str,
    refused: dict[str, str],
    asked: list[str],
) -> None:
    """By SIP REFER from SIP to SIP, else by Daily; the agent stays until the telephone is gone."""
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk, caller)
        assert call.line.can_transfer
        await sdk[0].come("phone")
        await sdk[0].tell("on_dialout_connected", {"sessionId": "phone"})
        await sdk[0].tell("on_dialout_answered", {"sessionId": "phone"})
        sdk[0].transfer_errors = refused
        transferring = asyncio.create_task(call.line.transfer(to))
        await until(lambda: len(sdk[0].transfers) == len(asked))
        assert not transferring.done()
        await sdk[0].go("phone")
        await asyncio.wait_for(transferring, LIMIT)
        assert [way for way, _ in sdk[0].transfers] == asked
        assert sdk[0].transfers[-1][1] == {"toEndPoint": to, "sessionId": "phone"}
        assert not call.ended.is_set()


async def test_a_transfer_that_fails_leaves_the_call(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, or nothing comes of it in time: a line says so, and the agent goes on."""
    monkeypatch.setattr(daily, "TRANSFER_SECONDS", 0.1)
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk)
        await sdk[0].come("phone")
        with pytest.raises(LineError, match="sessionId"):
            await call.line.transfer("+4930999999")
        await sdk[0].tell("on_dialout_connected", {"sessionId": "phone"})
        await sdk[0].tell("on_dialout_answered", {"sessionId": "phone"})
        with pytest.raises(LineError, match="in time"):
            await call.line.transfer("+4930999999")
        assert not call.ended.is_set()
        assert call.line.occupied


async def test_who_hangs_up_during_a_transfer_ends_the_call(
    api: FakeDaily, engines: Engines, sdk: list[FakeCallClient]
) -> None:
    """While Daily has not said that it cannot transfer: the agent does not stay alone."""
    async with rooms(api, engines) as ours:
        call = await ring(ours, sdk)
        await sdk[0].come("phone")
        await sdk[0].tell("on_dialout_connected", {"sessionId": "phone"})
        await sdk[0].tell("on_dialout_answered", {"sessionId": "phone"})
        await until(call._connected.is_set)
        refuse, gone = asyncio.Event(), asyncio.Event()

        async def sip_call_transfer(_: object) -> str:
            await refuse.wait()
            return "no such session"

        @call.line.transport.event_handler("on_client_disconnected")
        async def left(_: object, _person: object) -> None:
            gone.set()

        call.line.transport.sip_call_transfer = sip_call_transfer  # type: ignore[attr-defined]
        transferring = asyncio.create_task(call.line.transfer("+4930999999"))
        await until(lambda: call.line._transferring)
        await sdk[0].go("phone")
        await asyncio.wait_for(gone.wait(), LIMIT)
        assert not call.ended.is_set()
        refuse.set()
        with pytest.raises(LineError, match="no such session"):
            await transferring
        await over(call)
    assert api.rooms == {}


# What is heard


def test_everybody_is_heard_in_one_stream() -> None:
    """Two who speak at once are added up, moment by moment; who is silent delays nobody."""
    transport = RoomTransport("https://tests.daily.co/x", None, "a", DailyParams(), ringing=False)
    heard = transport.input()
    assert isinstance(heard, RoomInput)

    def say(who: str, level: int) -> list[int]:
        pieces = heard._mix(who, level.to_bytes(2, "little", signed=True) * 320)
        return [int.from_bytes(piece[:2], "little", signed=True) for piece in pieces]

    assert say("anna", 1) == [1]
    assert say("bert", 10) == []
    assert say("anna", 2) == [12]
    assert say("anna", 30_000) == []
    assert say("bert", 30_000) == [32_767]
    assert say("anna", 1) == []
    assert say("anna", 2) == []
    assert MAX_BEHIND == 3
    assert say("anna", 3) == []
    assert say("anna", 4) == [1, 2, 3, 4]
    assert say("anna", 5) == [5]
