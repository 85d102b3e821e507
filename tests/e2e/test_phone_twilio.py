"""Calls over Twilio, by a caller written from Twilio's documentation and signed by its own SDK."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from pipecat.frames.frames import BotStoppedSpeakingFrame
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.agent import Agent
from bot.call import Call
from bot.engines import Engines
from bot.server.phone import media, routes
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.audio import AUDIBLE_DB, Samples, level_db, silence, transcribe
from tests.callers.local_server import LocalServer, serve
from tests.callers.phone import RATE, from_mulaw, reached_at, to_mulaw
from tests.callers.phone_twilio import (
    ACCOUNT,
    CALLED,
    CALLER,
    TOKEN,
    TwilioCaller,
    TwilioNetwork,
    sid,
    sign,
    stream_url,
    webhook,
)
from tests.callers.recordings import Recording
from tests.fakes.carrier_api import CarrierApi, carrier_api

PUBLIC = "https://agent.example.org"

GREETING = "Good morning. You may ask me about the time of day."
"""Words that a recogniser made for wide-band speech finds in the embedded voice at 8 kHz."""

AGENT = Agent(greeting=GREETING, goodbye="Goodbye.")

MAX_CALLS = 2


@dataclass(frozen=True)
class Place:
    """A server, Twilio's side of it, and Twilio's REST API."""

    server: LocalServer
    twilio: TwilioNetwork
    api: CarrierApi

    async def until_calls(self, count: int) -> None:
        """Return when so many calls are in progress."""
        await until(lambda: len(self.server.calls) == count)

    async def only_call(self) -> Call:
        """The call in progress."""
        await self.until_calls(1)
        return next(iter(self.server.calls))


async def until(done: Callable[[], bool]) -> None:
    """Return when something that nobody tells of has come about."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def understood(audio: Samples) -> bool:
    """Whether a recogniser finds the greeting in what was heard.

    The embedded voice speaks a little otherwise each time, and at 8 kHz the recogniser, which was
    made for wide-band speech, may miss most of it: it listens three times, at three paces.
    """
    words = {"good", "morning", "you", "may", "ask", "me", "about", "time", "day"}
    quiet = silence(0.5, RATE)
    around = np.concatenate([quiet, audio, quiet])
    found = {word for pace in (0.95, 1.0, 1.05) for word in transcribe(around, int(RATE * pace))}
    return len(words & found) >= 4


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(carrier_api())
        telephone = settings.model_copy(
            update={
                "public_url": PUBLIC,
                "twilio_account_sid": ACCOUNT,
                "twilio_auth_token": SecretStr(TOKEN),
                "twilio_number": CALLED,
                "twilio_api_url": api.url,
                "max_calls": MAX_CALLS,
            }
        )
        server = await stack.enter_async_context(serve(telephone, engines, AGENT))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url))
        yield Place(server, TwilioNetwork(http, PUBLIC), api)


async def refused_upgrade(url: str, headers: dict[str, str]) -> int:
    """The status with which a socket is refused."""
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url, additional_headers=headers, proxy=None):
            pass
    return refusal.value.response.status_code


def test_the_codec_of_these_tests_is_g711() -> None:
    """Every code is its own sample's, and zero is the code that telephony is silent with."""
    codes = bytes(range(256))
    samples = from_mulaw(codes)
    again = to_mulaw(samples)
    assert [c for c in codes if again[c] != c] == [0x7F]  # The other zero.
    assert to_mulaw(np.zeros(1, np.int16)) == b"\xff"


async def test_a_call_is_answered_and_heard(place: Place, recording: Recording) -> None:
    """A greeting in words; what is said is understood and answered; who hangs up is let go."""
    async with await place.twilio.call() as caller:
        began = await caller.wait_for_speech()
        over = await caller.wait_for_silence(began, hold=1.0)
        call = await place.only_call()
        assert call.line.origin.transport == "twilio"
        assert call.line.origin.id == caller.call_id
        assert call.line.origin.caller == CALLER
        assert call.line.origin.called == CALLED
        assert not call.line.origin.outbound
        asked = await caller.say(recording("goforward", RATE))
        await caller.wait_for_speech(after=asked.end)
        assert "forward" in str(call.context.messages)
    await place.until_calls(0)
    assert understood(caller.sent(began - 0.5, over))
    # Who hangs up is not hung up on.
    assert place.api.asked == []


async def test_talked_over_the_agent_gives_way_at_once(place: Place, recording: Recording) -> None:
    """Twilio is told to forget what it has not played while the caller is still speaking."""
    async with await place.twilio.call() as caller:
        await caller.wait_for_speech()
        cut = await caller.say(recording("goforward", RATE))
        cleared = await caller.wait_for_clear(after=cut.start)
        assert cleared < cut.end
        assert await caller.wait_for_silence(cleared) - cleared < 0.1


async def test_the_agents_hang_up_waits_for_the_mark(place: Place) -> None:
    """The call ends over the REST API, after Twilio has said that the last word was played."""
    async with await place.twilio.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(HangUpFrame())
        ended = await caller.wait_for_end()
        # They are numbered within the call: a carrier learns nothing of others.
        assert caller.marks
        assert caller.marks == [f"mark-{number}" for number, _ in enumerate(caller.marks, 1)]
        assert not caller.frames[-1].audible
        assert level_db(caller.heard(ended - 1.5)) > AUDIBLE_DB
        await place.until_calls(0)
    (asked,) = place.api.asked
    assert asked.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{caller.call_id}.json"
    assert asked.form == {"Status": "completed"}
    assert asked.authorization == httpx.BasicAuth(ACCOUNT, TOKEN)._auth_header


async def test_a_mark_that_never_comes_back_holds_nothing_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A carrier that echoes no mark is waited for as long as it may take, and no longer."""
    monkeypatch.setattr(media, "MARK_SECONDS", 0.1)
    async with await place.twilio.call() as caller:
        caller.echoes_marks = False
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(HangUpFrame(goodbye=""))
        await caller.wait_for_end(limit=8)


class Stops(BaseObserver):
    """When the agent was said to have stopped speaking."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    async def on_push_frame(self, data: FramePushed) -> None:
        """Note the first that is told of it."""
        output = isinstance(data.source, media.MediaOutput)
        downstream = data.direction is FrameDirection.DOWNSTREAM
        if isinstance(data.frame, BotStoppedSpeakingFrame) and output and downstream:
            self.at.append(time.monotonic())


async def test_the_agent_has_stopped_when_the_carrier_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the last word was sent; where no mark comes back, `MARK_SECONDS` later."""
    monkeypatch.setattr(media, "MARK_SECONDS", 1.5)
    late: list[float] = []
    for echoes in (True, False):
        stops = Stops()
        async with await place.twilio.call() as caller:
            caller.echoes_marks = echoes
            (await place.only_call())._worker.add_observer(stops)
            over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
            await until(lambda stops=stops: stops.at)
            late.append(stops.at[0] - over)
            assert len(stops.at) == 1
        await place.until_calls(0)
    assert late[0] > -0.1
    assert 1.0 < late[1] - late[0] < 2.0


async def test_a_transfer_dials_and_leaves_the_call(place: Place) -> None:
    """The other end is connected with a number; the call is Twilio's and not hung up."""
    async with await place.twilio.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(TransferFrame(to="+4930123456"))
        await caller.wait_for_end()
        await place.until_calls(0)
        assert caller.marks
    (asked,) = place.api.asked
    assert asked.path.endswith(f"/Calls/{caller.call_id}.json")
    assert asked.form == {"Twiml": "<Response><Dial><Number>+4930123456</Number></Dial></Response>"}


async def test_a_transfer_that_fails_leaves_the_caller_with_the_agent(place: Place) -> None:
    """What is no number never reaches Twilio, and the call goes on."""
    async with await place.twilio.call() as caller:
        call = await place.only_call()
        over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
        await call._worker.queue_frame(TransferFrame(to="</Number><Number>+1"))
        await caller.wait_for_speech(after=over)
        assert place.api.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Twilio-Signature": ""},
        {"X-Twilio-Signature": "\u00e4".encode().decode("latin-1")},
        sign(PUBLIC + "/phone/twilio", webhook("CA" + "0" * 32)),
        sign(PUBLIC + "/phone/twilio", webhook("CA" + "1" * 32), token="another"),
        sign("http://127.0.0.1/phone/twilio", webhook("CA" + "1" * 32)),
    ],
    ids=["none", "empty", "not ASCII", "another call's", "another key's", "another address's"],
)
async def test_a_webhook_needs_twilios_signature(place: Place, headers: dict[str, str]) -> None:
    """Whoever is not Twilio gets no document, and no ticket is made."""
    fields = webhook("CA" + "1" * 32)
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = await place.twilio.http.post("/phone/twilio", data=fields, headers=encoded)
    assert response.status_code == 403
    assert len(response.json()["detail"].splitlines()) == 1


async def test_the_address_is_the_public_one_whatever_a_header_says(place: Place) -> None:
    """Neither `Host` nor a proxy's headers change what is signed or where the stream leads."""
    fields = webhook(sid("CA"))
    headers = sign(PUBLIC + "/phone/twilio", fields)
    spoofed = {
        "Host": "127.0.0.1:1",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
    }
    response = await place.twilio.post("/phone/twilio", fields, headers=headers | spoofed)
    assert stream_url(response).startswith("wss://agent.example.org/phone/twilio/media/")


async def test_a_signature_may_have_the_port(place: Place) -> None:
    """Twilio signs the address with its port at times."""
    fields = webhook(sid("CA"))
    headers = sign(PUBLIC + ":443/phone/twilio", fields)
    stream_url(await place.twilio.post("/phone/twilio", fields, headers=headers))


@pytest.mark.parametrize("path", ["/phone/nobody", "/phone/exotel", "/phone/nobody/events"])
async def test_a_carrier_that_is_not_set_up_is_not_there(place: Place, path: str) -> None:
    """A path of none, or of one that lacks its settings, says so in a line."""
    response = await place.twilio.http.post(path, data=webhook(sid("CA")))
    assert response.status_code == 404
    assert len(response.json()["detail"].splitlines()) == 1


async def test_a_socket_needs_its_ticket_and_its_signature(place: Place) -> None:
    """A wrong signature leaves the ticket good; a ticket opens one socket, once."""
    call_id = sid("CA")
    url = await place.twilio.ring(call_id)
    local = reached_at(place.server.url, url)
    assert await refused_upgrade(local + "x", sign(url + "x")) == 403
    assert await refused_upgrade(local.replace("twilio", "exotel"), sign(url)) == 403
    assert await refused_upgrade(local, {}) == 403
    assert await refused_upgrade(local, sign(url.replace("wss", "https", 1))) == 403
    async with TwilioCaller(local, call_id, headers=sign(url)) as caller:
        await caller.wait_for_speech()
        assert await refused_upgrade(local, sign(url)) == 403


async def test_a_ticket_goes_out_of_date(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is opened too late is refused."""
    monkeypatch.setattr(routes, "TICKET_SECONDS", 0.0)
    url = await place.twilio.ring(sid("CA"))
    assert await refused_upgrade(reached_at(place.server.url, url), sign(url)) == 403


async def test_a_webhook_that_is_played_again_does_no_harm(place: Place) -> None:
    """Before the call its first ticket is void; during the call and after it there is none."""
    call_id = sid("CA")
    first, second = await place.twilio.ring(call_id), await place.twilio.ring(call_id)
    assert first != second
    assert await refused_upgrade(reached_at(place.server.url, first), sign(first)) == 403
    async with place.twilio.caller(second, call_id) as caller:
        await caller.wait_for_speech()
        again = await place.twilio.post("/phone/twilio", webhook(call_id))
        assert again.status_code == 409
        assert len(place.server.calls) == 1
    await place.until_calls(0)
    again = await place.twilio.post("/phone/twilio", webhook(call_id))
    assert again.status_code == 409


BAD_STARTS = {
    "another call's start": [json.dumps({"event": "connected"}), "start:another"],
    "no start": [json.dumps({"event": "media", "media": {"payload": "AA=="}})],
    "a start without a stream": [json.dumps({"event": "start", "start": {"callSid": "x"}})],
    "a start that is a list": [json.dumps({"event": "start", "start": []})],
    "no JSON": ["hello"],
    "no object": ["[1]"],
    "deep JSON": ["[" * 50_000],
    "connected for ever": [json.dumps({"event": "connected"})] * 20,
    "a long message": [json.dumps({"event": "connected", "x": "y" * 100_000})],
    "half a character": ['{"event": "start", "start": {"callSid": "\\ud800", "streamSid": "x"}}'],
    "bytes": [b"\x00\x01"],
}


@pytest.mark.parametrize("messages", BAD_STARTS.values(), ids=BAD_STARTS)
async def test_a_socket_that_begins_wrongly_is_closed(
    place: Place, messages: list[str | bytes]
) -> None:
    """Nothing is built for it, whatever it says in place of its start."""
    call_id = sid("CA")
    url = await place.twilio.ring(call_id)
    caller = place.twilio.caller(url, call_id)
    stranger = place.twilio.caller(url, sid("CA"))
    async with connect(caller._url, additional_headers=sign(url), proxy=None) as socket:
        for message in messages:
            await socket.send(stranger.begin()[1] if message == "start:another" else message)
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1008
    assert len(place.server.calls) == 0


async def test_a_call_is_carried_by_one_socket(place: Place) -> None:
    """Of two sockets, where Twilio asked again before the first began, only that one is a call."""
    call_id = sid("CA")
    sockets = []
    for _ in range(2):
        url = await place.twilio.ring(call_id)
        caller = place.twilio.caller(url, call_id)
        sockets.append(await connect(caller._url, additional_headers=sign(url), proxy=None))
    for socket in sockets:
        for message in caller.begin():
            await socket.send(message)
        await place.until_calls(1)
    await asyncio.wait_for(sockets[1].wait_closed(), 5)
    assert sockets[1].close_code == 1008
    assert len(place.server.calls) == 1
    await sockets[0].close()
    await place.until_calls(0)


async def test_a_socket_that_says_nothing_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A media socket without a start is closed when the handshake has taken too long."""
    monkeypatch.setattr(media, "HANDSHAKE_SECONDS", 0.2)
    url = await place.twilio.ring(sid("CA"))
    local = reached_at(place.server.url, url)
    async with connect(local, additional_headers=sign(url), proxy=None) as socket:
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1008
    assert len(place.server.calls) == 0


async def test_a_full_server_is_busy(place: Place) -> None:
    """One call too many gets the busy tone; one for which there was room before is hung up."""
    async with AsyncExitStack() as calls:
        late = sid("CA")
        url = await place.twilio.ring(late)
        for _ in range(MAX_CALLS):
            await calls.enter_async_context(await place.twilio.call())
        await place.until_calls(MAX_CALLS)
        response = await place.twilio.post("/phone/twilio", webhook(sid("CA")))
        assert response.status_code == 200
        assert '<Reject reason="busy"/>' in response.text
        assert await refused_upgrade(reached_at(place.server.url, url), sign(url)) == 403
        await until(lambda: bool(place.api.asked))
        assert late in place.api.asked[0].path
        assert place.api.asked[0].form == {"Status": "completed"}
    await place.until_calls(0)


async def test_who_hangs_up_at_any_moment_leaves_nothing_behind(place: Place) -> None:
    """During the greeting, before it, with a stop or without one: no call, no task is left.

    A socket that closes without a stop may be the carrier's trouble: the telephone is hung up.
    """
    async with await place.twilio.call() as caller:
        await caller.wait_for_speech()
        await caller.vanish()
    await place.until_calls(0)
    await until(lambda: not [t for t in asyncio.all_tasks() if "call " in t.get_name()])
    before = len(asyncio.all_tasks())
    for wait in (0.0, 0.05, 0.3, 0.7):
        async with await place.twilio.call() as caller:
            await asyncio.sleep(wait)  # The moment, not a wait for anything.
            await caller.vanish()
        await place.until_calls(0)
        async with await place.twilio.call() as caller:
            await asyncio.sleep(wait)
        await place.until_calls(0)
    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert [asked.form for asked in place.api.asked] == [{"Status": "completed"}] * 5


async def test_keys_that_are_pressed_are_heard(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits on the keypad reach the conversation."""
    async with await place.twilio.call() as caller:
        await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
        call = await place.only_call()
        await caller.press("42#")
        await until(lambda: "42" in str(call.context.messages))


@pytest.mark.parametrize(
    "message",
    [json.dumps({"event": "media", "media": {"payload": "/" * 60_000}}), "nonsense"],
    ids=["audio", "junk"],
)
async def test_a_flood_ends_its_call_alone(place: Place, message: str) -> None:
    """A socket that sends more than any telephone could is closed, and hung up."""
    async with await place.twilio.call() as other, await place.twilio.call() as caller:
        await caller.wait_for_speech()
        for _ in range(40):
            if not caller.ended_at:
                await caller.send(message)
        await caller.wait_for_end(limit=5)
        assert not other.ended_at
        await place.until_calls(1)
    assert [asked.form for asked in place.api.asked] == [{"Status": "completed"}]
