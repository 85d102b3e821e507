"""Calls over Telnyx, by a caller written from Telnyx's documentation."""

import time
from collections.abc import AsyncIterator
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web
from nacl.signing import SigningKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.engines import Engines
from bot.line import LineError
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.phone import RATE
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_telnyx import (
    ACCOUNT,
    CALLED,
    CALLER,
    PUBLIC_KEY,
    TelnyxNetwork,
    call_name,
    sign,
    stream,
    webhook,
)
from tests.callers.recordings import Recording

API_KEY = "KEY0123456789ABCDEF"
APPLICATION = "1293384261075731499"


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Place]:
    async with phone_place(
        settings,
        engines,
        "telnyx",
        telnyx_public_key=PUBLIC_KEY,
        telnyx_api_key=API_KEY,
        telnyx_application=APPLICATION,
        telnyx_number=CALLED,
        voicemail="message",
    ) as place:
        yield place


@pytest.fixture
def telnyx(place: Place) -> TelnyxNetwork:
    return TelnyxNetwork(place.http, PUBLIC)


async def test_a_call_is_greeted_and_interrupts(
    place: Place, telnyx: TelnyxNetwork, recording: Recording
) -> None:
    """The agent greets in words, and is silent at Telnyx as soon as the caller speaks.

    Telnyx's `stop` ends the call, which is then not hung up.
    """
    async with await telnyx.call() as caller:
        words = await place.interrupt(caller, recording("goforward", RATE))
        origin = (await place.only_call()).line.origin
        assert (origin.transport, origin.id) == ("telnyx", caller.call_id)
        assert (origin.caller, origin.called, origin.outbound) == (CALLER, CALLED, False)
    await place.until_calls(0)
    assert {"telephone", "agent", "hello"} & set(words), words
    assert place.api.asked == []


async def test_the_stream_is_mu_law_both_ways(telnyx: TelnyxNetwork) -> None:
    """The TeXML asks for PCMU in and out, at the public address, without a query."""
    answer = stream(await telnyx.post("/phone/telnyx", webhook(call_name())))
    assert answer.pop("url").startswith("wss://agent.example.org/phone/telnyx/media/")
    assert answer == {
        "track": "inbound_track",
        "codec": "PCMU",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
    }


async def test_a_codec_that_was_not_asked_for_is_refused(
    place: Place, telnyx: TelnyxNetwork
) -> None:
    """Telnyx keeps a call's codec where it cannot change it: A-law will do, and no other."""
    call_id = call_name()
    async with telnyx.caller(await telnyx.ring(call_id), call_id, "AMR-WB") as caller:
        await caller.wait_for_end(limit=5)
        assert caller.close_code == 1008
    call_id = call_name()
    async with telnyx.caller(await telnyx.ring(call_id), call_id, "PCMA") as caller:
        await caller.wait_for_speech()


async def test_keys_that_are_pressed_are_heard(place: Place, telnyx: TelnyxNetwork) -> None:
    """Digits on the keypad reach the conversation."""
    async with await telnyx.call() as caller:
        await caller.wait_for_speech()
        call = await place.only_call()
        await caller.press("42#")
        await place.until(lambda: "42" in str(call.context.messages))


async def test_the_agents_hang_up_waits_for_the_mark(place: Place, telnyx: TelnyxNetwork) -> None:
    """The call ends over the REST API, after Telnyx has said that the last word was played."""
    async with await telnyx.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(HangUpFrame())
        await caller.wait_for_end()
        assert caller.marks
    await place.until_calls(0)
    asked = await place.asked()
    assert asked.method == "POST"
    assert asked.path == f"/v2/calls/{caller.call_id}/actions/hangup"
    assert asked.authorization == f"Bearer {API_KEY}"


async def test_a_call_that_has_ended_is_no_error(place: Place, telnyx: TelnyxNetwork) -> None:
    """Telnyx's refusal of a hang-up counts unless it says that the call is over."""
    async with await telnyx.call() as caller:
        await caller.wait_for_speech()
        carrier = (await place.only_call()).line._carrier  # type: ignore[attr-defined]
        place.api.answer = lambda _: web.json_response(
            {"errors": [{"code": "90018", "title": "Call has already ended"}]}, status=422
        )
        await carrier.hang_up("v3:gone")
        place.api.answer = lambda _: web.json_response(
            {"errors": [{"code": "90015", "title": "Invalid call control ID"}]}, status=422
        )
        with pytest.raises(LineError, match="422"):
            await carrier.hang_up("v3:wrong")


async def test_a_transfer_dials_and_leaves_the_call(place: Place, telnyx: TelnyxNetwork) -> None:
    """The call gets TeXML that dials, from the number that was called; it is not hung up."""
    async with await telnyx.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(TransferFrame(to="+4930123456"))
        await caller.wait_for_end()
    await place.until_calls(0)
    asked = await place.asked()
    assert asked.path == f"/v2/texml/Accounts/{ACCOUNT}/Calls/{caller.call_id}"
    dial = ET.fromstring(asked.form["Texml"]).find("./Dial")
    assert dial is not None
    assert dial.attrib == {"callerId": CALLED}
    assert [(child.tag, child.text) for child in dial] == [("Number", "+4930123456")]


async def test_the_agent_calls_and_speaks_to_a_machine_after_its_greeting(
    place: Place, telnyx: TelnyxNetwork
) -> None:
    """A call is placed from the TeXML application; the machine hears a message, then it ends."""
    call_id = call_name()
    place.api.answer = lambda _: web.json_response({"call_sid": call_id, "status": "queued"})
    sip = {"carrier": "telnyx", "to": "sip:desk@example.org"}
    refused = await place.http.post("/calls", json=sip)
    assert (refused.status_code, place.api.asked) == (400, [])
    placed = await place.http.post("/calls", json={"carrier": "telnyx", "to": CALLER})
    assert placed.status_code == 201, placed.text
    assert placed.json() == {"carrier": "telnyx", "id": call_id}
    asked = await place.asked()
    wanted = asked.json
    assert asked.path == f"/v2/texml/calls/{APPLICATION}"
    assert (wanted["From"], wanted["To"], wanted["Method"]) == (CALLED, CALLER, "POST")
    assert (wanted["MachineDetection"], wanted["AsyncAmd"]) == ("DetectMessageEnd", True)
    assert wanted["AsyncAmdStatusCallback"] == f"{PUBLIC}/phone/telnyx/events"

    answered = webhook(call_id, From=CALLED, To=CALLER, CallStatus="in-progress")
    path = wanted["Url"].removeprefix(PUBLIC)
    url = stream(await telnyx.post(path, answered))["url"]
    async with telnyx.caller(url, call_id) as caller:
        began = await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called, origin.outbound) == (CALLER, CALLED, True)
        for verdict, ended in (("machine_start", False), ("machine_end_beep", True)):
            body = webhook(call_id, AnsweredBy=verdict, MachineDetectionDuration="2500")
            assert (await telnyx.post("/phone/telnyx/events", body)).status_code == 200
            assert origin.data.get("answered_by") == ("machine" if ended else None)
        ended_at = await caller.wait_for_end()
        assert ended_at > began
    await place.until_calls(0)
    assert [asked.path for asked in place.api.asked[1:]] == [f"/v2/calls/{call_id}/actions/hangup"]


async def test_a_call_of_ours_that_is_too_many_is_hung_up(
    place: Place, telnyx: TelnyxNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls a full server hears the busy tone; whom it calls is hung up on."""
    call_id = call_name()
    place.api.answer = lambda _: web.json_response({"call_sid": call_id, "status": "queued"})
    await place.http.post("/calls", json={"carrier": "telnyx", "to": CALLER})
    path = (await place.asked()).json["Url"].removeprefix(PUBLIC)
    monkeypatch.setattr(place.server.calls, "limit", 0)
    assert (
        '<Reject reason="busy"/>' in (await telnyx.post("/phone/telnyx", webhook(call_name()))).text
    )
    assert "<Hangup/>" in (await telnyx.post(path, webhook(call_id))).text


BODY = webhook("v3:bad")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        sign(BODY) | {"telnyx-signature-ed25519": ""},
        sign(BODY) | {"telnyx-signature-ed25519": "not base64!"},
        sign(BODY) | {"telnyx-timestamp": "soon"},
        sign(BODY) | {"telnyx-timestamp": str(int(time.time()) + 1)},
        sign(webhook("v3:other")),
        sign(BODY, key=SigningKey(b"somebody else signs with this...")),
        sign(BODY, time.time() - 310),
        sign(BODY, time.time() + 900),
    ],
    ids=[
        "none",
        "empty",
        "rubbish",
        "no time",
        "another time",
        "another body",
        "another key",
        "expired",
        "from the future",
    ],
)
async def test_a_webhook_needs_telnyxs_signature(
    telnyx: TelnyxNetwork, headers: dict[str, str]
) -> None:
    """Whoever is not Telnyx gets no document; the refusal is one line."""
    for path in ("/phone/telnyx", "/phone/telnyx/events"):
        response = await telnyx.post(path, BODY, headers=headers)
        assert response.status_code == 403
        assert len(response.json()["detail"].splitlines()) == 1


async def test_a_webhook_is_taken_once(place: Place, telnyx: TelnyxNetwork) -> None:
    """One that is played again is refused, and the ticket of the first stays good."""
    call_id = call_name()
    body = webhook(call_id)
    headers = sign(body)
    url = stream(await telnyx.post("/phone/telnyx", body, headers=headers))["url"]
    assert (await telnyx.post("/phone/telnyx", body, headers=headers)).status_code == 403
    async with telnyx.caller(url, call_id) as caller:
        await caller.wait_for_speech()


async def test_a_socket_needs_its_ticket_once(place: Place, telnyx: TelnyxNetwork) -> None:
    """Telnyx signs no socket: without its ticket there is none, and a ticket is for one call."""
    async with await telnyx.call() as caller:
        await caller.wait_for_speech()
        for url in (caller._url, caller._url + "x"):
            with pytest.raises(InvalidStatus):
                async with connect(url, proxy=None):
                    pass
    async with telnyx.caller(await telnyx.ring(call_name()), call_name()) as stranger:
        await stranger.wait_for_end(limit=5)
        assert stranger.close_code == 1008
    await place.until_calls(0)
