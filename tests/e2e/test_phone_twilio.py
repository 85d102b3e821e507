"""Calls over Twilio, by a caller written from Twilio's documentation and signed by its own SDK."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import numpy as np
import pytest
from pipecat.frames.frames import BotStoppedSpeakingFrame
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot.agent import Agent
from bot.engines import Engines
from bot.server.phone import media, routes
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.phone import RATE, from_mulaw, reached_at, to_mulaw
from tests.callers.phone_place import MESSAGE, PUBLIC, Place, phone_place, understood
from tests.callers.phone_twilio import TwilioNetwork, sid, sign, webhook
from tests.callers.recordings import Recording

AGENT = Agent(greeting=MESSAGE, goodbye="Goodbye.")

MAX_CALLS = 2

Twilio = Place[TwilioNetwork]


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Twilio]:
    limit = MAX_CALLS
    async with phone_place(settings, engines, TwilioNetwork, AGENT, max_calls=limit) as place:
        yield place


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


async def test_a_call_is_answered_and_heard(place: Twilio, recording: Recording) -> None:
    """A greeting in words; what is said is understood and answered."""
    async with await place.network.call() as caller:
        began = await caller.wait_for_speech()
        over = await caller.wait_for_silence(began, hold=1.0)
        call = await place.only_call()
        asked = await caller.say(recording("goforward", RATE))
        await caller.wait_for_speech(after=asked.end)
        assert "forward" in str(call.context.messages)
    assert understood(caller.sent(began - 0.5, over))


async def test_a_mark_that_never_comes_back_holds_nothing_up(
    place: Twilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A carrier that echoes no mark is waited for as long as it may take, and no longer."""
    monkeypatch.setattr(media, "MARK_SECONDS", 0.1)
    async with await place.network.call() as caller:
        caller.echoes_marks = False
        await caller.wait_for_speech()
        await place.queue(HangUpFrame(goodbye=""))
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
    place: Twilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the last word was sent; where no mark comes back, `MARK_SECONDS` later."""
    monkeypatch.setattr(media, "MARK_SECONDS", 4.0)
    late: list[float] = []
    for echoes in (True, False):
        stops = Stops()
        async with await place.network.call() as caller:
            caller.echoes_marks = echoes
            (await place.only_call())._worker.add_observer(stops)
            over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
            await place.until(lambda stops=stops: stops.at)
            late.append(stops.at[0] - over)
            assert len(stops.at) == 1
        await place.until_calls(0)
    assert late[0] > -0.1
    assert 2.5 < late[1] - late[0] < 5.5


async def test_a_transfer_dials_and_leaves_the_call(place: Twilio) -> None:
    """The other end is connected with a number; the call is Twilio's and not hung up."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await place.queue(TransferFrame(to="+4930123456"))
        await caller.wait_for_end()
        await place.until_calls(0)
        assert caller.marks
    (asked,) = place.api.asked
    assert asked.path.endswith(f"/Calls/{caller.call_id}.json")
    assert asked.form == {"Twiml": "<Response><Dial><Number>+4930123456</Number></Dial></Response>"}


async def test_a_transfer_that_fails_leaves_the_caller_with_the_agent(place: Twilio) -> None:
    """What is no number never reaches Twilio, and the call goes on."""
    async with await place.network.call() as caller:
        over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
        await place.queue(TransferFrame(to="</Number><Number>+1"))
        await caller.wait_for_speech(after=over)
        assert place.api.asked == []


async def test_a_webhook_needs_twilios_signature(place: Twilio) -> None:
    """Whoever is not Twilio gets no document, and no ticket is made."""
    url, fields = PUBLIC + "/phone/twilio", webhook("CA" + "1" * 32)
    forged = {
        "none": {},
        "empty": {"X-Twilio-Signature": ""},
        "not ASCII": {"X-Twilio-Signature": "\u00e4".encode().decode("latin-1")},
        "another call's": sign(url, webhook("CA" + "0" * 32)),
        "another key's": sign(url, fields, token="another"),
        "another address's": sign("http://127.0.0.1/phone/twilio", fields),
    }
    for what, headers in forged.items():
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = await place.http.post("/phone/twilio", data=fields, headers=encoded)
        assert response.status_code == 403, what
        assert len(response.json()["detail"].splitlines()) == 1, what


async def test_the_address_is_the_public_one_whatever_a_header_says(place: Twilio) -> None:
    """Neither `Host` nor a proxy's headers change what is signed or where the stream leads."""
    fields = webhook(sid("CA"))
    headers = sign(PUBLIC + "/phone/twilio", fields)
    spoofed = {
        "Host": "127.0.0.1:1",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
    }
    answer = await place.network.post("/phone/twilio", fields, headers=headers | spoofed)
    url = place.network.socket_in(answer)
    assert url.startswith("wss://agent.example.org/phone/twilio/media/")


async def test_a_signature_may_have_the_port(place: Twilio) -> None:
    """Twilio signs the address with its port at times."""
    fields = webhook(sid("CA"))
    headers = sign(PUBLIC + ":443/phone/twilio", fields)
    place.network.socket_in(await place.network.post("/phone/twilio", fields, headers=headers))


async def test_what_was_signed_for_one_address_is_good_for_no_other(place: Twilio) -> None:
    """Neither with a line's end in it nor where the form's first field is taken for its end."""
    fields = dict(sorted(webhook(sid("CA")).items()))
    headers = sign(PUBLIC + "/phone/twilio/events", fields)
    (name, value), *rest = fields.items()
    for path, form in (("ev%0Aents", fields), (f"events{name}{value}", dict(rest))):
        response = await place.network.post(f"/phone/twilio/{path}", form, headers=headers)
        assert response.status_code == 404, path


async def test_a_carrier_that_is_not_set_up_is_not_there(place: Twilio) -> None:
    """A path of none, or of one that lacks its settings, says so in a line."""
    for path in ("/phone/nobody", "/phone/exotel", "/phone/nobody/events"):
        response = await place.http.post(path, data=webhook(sid("CA")))
        assert response.status_code == 404, path
        assert len(response.json()["detail"].splitlines()) == 1, path


async def test_a_socket_needs_its_signature(place: Twilio) -> None:
    """A wrong signature, or another carrier's path, leaves the ticket good."""
    call_id = sid("CA")
    url = await place.network.ring(call_id)
    local = reached_at(place.server.url, url)
    assert await refused_upgrade(local.replace("twilio", "exotel"), sign(url)) == 403
    assert await refused_upgrade(local, {}) == 403
    assert await refused_upgrade(local, sign(url.replace("wss", "https", 1))) == 403
    async with place.network.caller(url, call_id) as caller:
        await caller.wait_for_speech()


async def test_a_ticket_goes_out_of_date(place: Twilio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is opened too late is refused."""
    monkeypatch.setattr(routes, "TICKET_SECONDS", 0.0)
    url = await place.network.ring(sid("CA"))
    assert await refused_upgrade(reached_at(place.server.url, url), sign(url)) == 403


async def test_a_webhook_that_is_played_again_does_no_harm(place: Twilio) -> None:
    """Before the call its first ticket is void; during the call and after it there is none."""
    call_id = sid("CA")
    first, second = await place.network.ring(call_id), await place.network.ring(call_id)
    assert first != second
    assert await refused_upgrade(reached_at(place.server.url, first), sign(first)) == 403
    async with place.network.caller(second, call_id) as caller:
        await caller.wait_for_speech()
        again = await place.network.announce(call_id)
        assert again.status_code == 409
        assert len(place.server.calls) == 1
    await place.until_calls(0)
    again = await place.network.announce(call_id)
    assert again.status_code == 409


BAD_STARTS = {
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


async def test_a_socket_that_begins_wrongly_is_closed(place: Twilio) -> None:
    """Nothing is built for it, whatever it says in place of its start."""
    for what, messages in BAD_STARTS.items():
        url = await place.network.ring(sid("CA"))
        local = reached_at(place.server.url, url)
        async with connect(local, additional_headers=sign(url), proxy=None) as socket:
            for message in messages:
                await socket.send(message)
            await asyncio.wait_for(socket.wait_closed(), 5)
            assert socket.close_code == 1008, what
        assert len(place.server.calls) == 0, what


async def test_a_call_is_carried_by_one_socket(place: Twilio) -> None:
    """Of two sockets, where Twilio asked again before the first began, only that one is a call."""
    call_id = sid("CA")
    sockets = []
    for _ in range(2):
        url = await place.network.ring(call_id)
        caller = place.network.caller(url, call_id)
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
    place: Twilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A media socket without a start is closed when the handshake has taken too long."""
    monkeypatch.setattr(media, "HANDSHAKE_SECONDS", 0.2)
    url = await place.network.ring(sid("CA"))
    local = reached_at(place.server.url, url)
    async with connect(local, additional_headers=sign(url), proxy=None) as socket:
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1008
    assert len(place.server.calls) == 0


async def test_a_full_server_is_busy(place: Twilio) -> None:
    """One call too many gets the busy tone; one for which there was room before is hung up."""
    async with AsyncExitStack() as calls:
        late = sid("CA")
        url = await place.network.ring(late)
        for _ in range(MAX_CALLS):
            await calls.enter_async_context(await place.network.call())
        await place.until_calls(MAX_CALLS)
        response = await place.network.announce(sid("CA"))
        assert response.status_code == 200
        assert '<Reject reason="busy"/>' in response.text
        assert await refused_upgrade(reached_at(place.server.url, url), sign(url)) == 403
        await place.until(lambda: place.api.asked)
        assert late in place.api.asked[0].path
        assert place.api.asked[0].form == {"Status": "completed"}
    await place.until_calls(0)


async def test_who_hangs_up_at_any_moment_leaves_nothing_behind(place: Twilio) -> None:
    """During the greeting, before it, with a stop or without one: no call, no task is left.

    A socket that closes without a stop may be the carrier's trouble: the telephone is hung up.
    """
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await caller.vanish()
    await place.until_calls(0)
    await place.until(lambda: not [t for t in asyncio.all_tasks() if "call " in t.get_name()])
    before = len(asyncio.all_tasks())
    for wait in (0.0, 0.05, 0.3, 0.7):
        async with await place.network.call() as caller:
            await asyncio.sleep(wait)  # The moment, not a wait for anything.
            await caller.vanish()
        await place.until_calls(0)
        async with await place.network.call() as caller:
            await asyncio.sleep(wait)
        await place.until_calls(0)
    await place.until(lambda: len(asyncio.all_tasks()) <= before)
    assert [asked.form for asked in place.api.asked] == [{"Status": "completed"}] * 5


@pytest.mark.parametrize(
    "message",
    [json.dumps({"event": "media", "media": {"payload": "/" * 60_000}}), "nonsense"],
    ids=["audio", "junk"],
)
async def test_a_flood_ends_its_call_alone(place: Twilio, message: str) -> None:
    """A socket that sends more than any telephone could is closed, and hung up."""
    async with await place.network.call() as other, await place.network.call() as caller:
        await caller.wait_for_speech()
        with suppress(ConnectionClosed):
            for _ in range(40):
                await caller.send(message)
        await caller.wait_for_end(limit=5)
        assert not other.ended_at
        await place.until_calls(1)
    assert [asked.form for asked in place.api.asked] == [{"Status": "completed"}]
