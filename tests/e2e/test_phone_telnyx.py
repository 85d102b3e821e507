"""Calls over Telnyx, by a caller written from Telnyx's documentation."""

import time
from collections.abc import AsyncIterator
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web
from nacl.signing import SigningKey

from bot.engines import Engines
from bot.line import LineError
from bot.settings import Settings
from processors.hang_up import TransferFrame
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_telnyx import (
    ACCOUNT,
    APPLICATION,
    CALLED,
    CALLER,
    TelnyxNetwork,
    sign,
    stream,
    webhook,
)

Telnyx = Place[TelnyxNetwork]


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Telnyx]:
    async with phone_place(settings, engines, TelnyxNetwork, voicemail="message") as place:
        yield place


async def test_the_stream_is_mu_law_both_ways(place: Telnyx) -> None:
    """The TeXML asks for PCMU in and out, at the public address, without a query."""
    answer = stream(await place.network.announce(place.network.new_id()))
    assert answer.pop("url").startswith("wss://agent.example.org/phone/telnyx/media/")
    assert answer == {
        "track": "inbound_track",
        "codec": "PCMU",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
    }


async def test_a_codec_that_was_not_asked_for_is_refused(place: Telnyx) -> None:
    """Telnyx keeps a call's codec where it cannot change it: A-law will do, and no other."""
    network = place.network
    call_id = network.new_id()
    async with network.caller(await network.ring(call_id), call_id, "AMR-WB") as caller:
        await caller.wait_for_end(limit=5)
        assert caller.close_code == 1008
    call_id = network.new_id()
    async with network.caller(await network.ring(call_id), call_id, "PCMA") as caller:
        await caller.wait_for_speech()


async def test_a_call_that_has_ended_is_no_error(place: Telnyx) -> None:
    """Telnyx's refusal of a hang-up counts unless it says that the call is over."""
    async with await place.network.call() as caller:
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


async def test_a_transfer_dials_and_leaves_the_call(place: Telnyx) -> None:
    """The call gets TeXML that dials, from the number that was called; it is not hung up."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await place.queue(TransferFrame(to="+4930123456"))
        await caller.wait_for_end()
    await place.until_calls(0)
    asked = await place.asked()
    assert asked.path == f"/v2/texml/Accounts/{ACCOUNT}/Calls/{caller.call_id}"
    dial = ET.fromstring(asked.form["Texml"]).find("./Dial")
    assert dial is not None
    assert dial.attrib == {"callerId": CALLED}
    assert [(child.tag, child.text) for child in dial] == [("Number", "+4930123456")]


async def test_the_agent_calls_and_speaks_to_a_machine_after_its_greeting(place: Telnyx) -> None:
    """A call is placed from the TeXML application; the machine hears a message, then it ends."""
    call_id = place.network.new_id()
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
    url = place.network.socket_in(await place.network.post(path, answered))
    async with place.network.caller(url, call_id) as caller:
        began = await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called, origin.outbound) == (CALLER, CALLED, True)
        for verdict, ended in (("machine_start", False), ("machine_end_beep", True)):
            body = webhook(call_id, AnsweredBy=verdict, MachineDetectionDuration="2500")
            assert (await place.network.post("/phone/telnyx/events", body)).status_code == 200
            assert origin.data.get("answered_by") == ("machine" if ended else None)
        ended_at = await caller.wait_for_end()
        assert ended_at > began
    await place.until_calls(0)
    assert [asked.path for asked in place.api.asked[1:]] == [f"/v2/calls/{call_id}/actions/hangup"]


async def test_a_call_of_ours_that_is_too_many_is_hung_up(
    place: Telnyx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls a full server hears the busy tone; whom it calls is hung up on."""
    call_id = place.network.new_id()
    place.api.answer = lambda _: web.json_response({"call_sid": call_id, "status": "queued"})
    await place.http.post("/calls", json={"carrier": "telnyx", "to": CALLER})
    path = (await place.asked()).json["Url"].removeprefix(PUBLIC)
    monkeypatch.setattr(place.server.calls, "limit", 0)
    busy = await place.network.announce(place.network.new_id())
    assert '<Reject reason="busy"/>' in busy.text
    assert "<Hangup/>" in (await place.network.post(path, webhook(call_id))).text


BODY = webhook("v3:bad")


async def test_a_webhook_needs_telnyxs_signature(place: Telnyx) -> None:
    """Whoever is not Telnyx gets no document; the refusal is one line."""
    forged = {
        "none": {},
        "empty": sign(BODY) | {"telnyx-signature-ed25519": ""},
        "rubbish": sign(BODY) | {"telnyx-signature-ed25519": "not base64!"},
        "no time": sign(BODY) | {"telnyx-timestamp": "soon"},
        "another time": sign(BODY) | {"telnyx-timestamp": str(int(time.time()) + 1)},
        "another body": sign(webhook("v3:other")),
        "another key": sign(BODY, key=SigningKey(b"somebody else signs with this...")),
        "expired": sign(BODY, time.time() - 310),
        "from the future": sign(BODY, time.time() + 900),
    }
    for what, headers in forged.items():
        for path in ("/phone/telnyx", "/phone/telnyx/events"):
            response = await place.network.post(path, BODY, headers=headers)
            assert response.status_code == 403, what
            assert len(response.json()["detail"].splitlines()) == 1, what
