"""Calls over Plivo, by a caller written from Plivo's documentation and signed by its own SDK."""

from collections.abc import AsyncIterator
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web
from plivo import plivoxml

from bot.engines import Engines
from bot.server.phone import carrier
from bot.settings import Settings
from processors.hang_up import TransferFrame
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_plivo import (
    CALLED,
    CALLER,
    CALLS,
    PlivoNetwork,
    sign,
    webhook,
)

Plivo = Place[PlivoNetwork]


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Plivo]:
    async with phone_place(settings, engines, PlivoNetwork) as place:
        yield place


def same_xml(text: str, element: plivoxml.ResponseElement) -> bool:
    """Whether a document says what one made with Plivo's SDK does."""
    return ET.canonicalize(text) == ET.canonicalize(element.to_string(pretty=False))


async def test_the_documents_are_those_of_plivos_sdk(
    place: Plivo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is streamed both ways in mu-law and stays alive; one too many is busy."""
    answer = await place.network.announce(str(uuid4()))
    url = place.network.socket_in(answer)
    assert url.startswith("wss://agent.example.org/phone/plivo/media/")
    streamed = plivoxml.StreamElement(
        url, bidirectional=True, keepCallAlive=True, contentType="audio/x-mulaw;rate=8000"
    )
    assert same_xml(answer.text, plivoxml.ResponseElement().add(streamed))
    monkeypatch.setattr(place.server.calls, "limit", 0)
    busy = await place.network.announce(str(uuid4()))
    hang_up = plivoxml.HangupElement(reason="busy")
    assert same_xml(busy.text, plivoxml.ResponseElement().add(hang_up))
    ours = await place.network.announce(str(uuid4()), Direction="outbound")
    assert same_xml(ours.text, plivoxml.ResponseElement().add(plivoxml.HangupElement()))


async def test_a_transfer_is_asked_for(place: Plivo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plivo fetches who is to be dialled, at an address that does not tell, and may ask again."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await place.queue(TransferFrame(to="+4930123456"))
        asked = await place.asked()
        assert (asked.method, asked.path) == ("POST", f"{CALLS}{caller.call_id}/")
        assert (asked.json["legs"], asked.json["aleg_method"]) == ("aleg", "POST")
        assert "30123456" not in asked.json["aleg_url"]
        path = asked.json["aleg_url"].removeprefix(PUBLIC)
        assert (await place.http.post(path)).status_code == 403
        told = webhook(caller.call_id, Event="Transfer")
        first, again = [await place.network.post(path, told) for _ in range(2)]
        placed = {**told, "Direction": "outbound", "From": CALLED, "To": CALLER}
        ours = await place.network.post(path, placed)
        monkeypatch.setattr(carrier, "TRANSFER_SECONDS", 0)
        late = await place.network.post(path, told)
        await caller.wait_for_end()
    await place.until_calls(0)
    dial = plivoxml.DialElement(caller_id=CALLED).add_number("+4930123456")
    assert same_xml(first.text, plivoxml.ResponseElement().add(dial))
    # Whoever called whom, the number is ours.
    assert again.text == ours.text == first.text
    assert "Dial" not in late.text
    assert len(place.api.asked) == 1


async def test_the_agent_calls_and_hangs_up_on_a_machine(place: Plivo) -> None:
    """A call is placed from our number; Plivo's own name for it, told later, is the call's."""
    place.api.answer = lambda _: web.json_response(
        {"message": "call fired", "request_uuid": str(uuid4()), "api_id": "x"}, status=201
    )
    placed = await place.http.post("/calls", json={"carrier": "plivo", "to": f"+{CALLER}"})
    assert placed.status_code == 201, placed.text
    asked = await place.asked()
    wanted = asked.json
    assert asked.path == CALLS
    assert (wanted["from"], wanted["to"], wanted["answer_method"]) == (CALLED, CALLER, "POST")
    assert wanted["machine_detection"] == "true"
    assert wanted["machine_detection_url"] == f"{PUBLIC}/phone/plivo/events"

    call_id = str(uuid4())
    ends = {"From": CALLED, "To": CALLER, "Direction": "outbound", "CallStatus": "in-progress"}
    path = wanted["answer_url"].removeprefix(PUBLIC)
    url = place.network.socket_in(await place.network.post(path, webhook(call_id, **ends)))
    async with place.network.caller(url, call_id) as caller:
        await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert origin.outbound
        verdict = webhook(call_id, **ends, Event="MachineDetection", Machine="true")
        assert (await place.network.post("/phone/plivo/events", verdict)).is_success
        await caller.wait_for_end()
    await place.until_calls(0)
    assert [asked.method for asked in place.api.asked] == ["POST", "DELETE"]


async def test_the_agent_calls_a_sip_address(place: Plivo) -> None:
    """Plivo takes one where it takes a number."""
    place.api.answer = lambda _: web.json_response({"request_uuid": str(uuid4())}, status=201)
    wanted = {"carrier": "plivo", "to": "sip:john1234@phone.plivo.com"}
    assert (await place.http.post("/calls", json=wanted)).status_code == 201
    assert (await place.asked()).json["to"] == "sip:john1234@phone.plivo.com"


URL = f"{PUBLIC}/phone/plivo"
FIELDS = webhook("bad")


async def test_a_webhook_needs_plivos_signature(place: Plivo) -> None:
    """Whoever is not Plivo gets no document; the refusal is one line."""
    forged = {
        "none": {},
        "empty": sign(URL, FIELDS) | {"X-Plivo-Signature-V3": ""},
        "rubbish": sign(URL, FIELDS) | {"X-Plivo-Signature-V3": "rubbish,,"},
        "another nonce": sign(URL, FIELDS) | {"X-Plivo-Signature-V3-Nonce": "another"},
        "no nonce": sign(URL, FIELDS) | {"X-Plivo-Signature-V3-Nonce": ""},
        "another form": sign(URL, webhook("other")),
        "another key": sign(URL, FIELDS, token="another"),
        "another address": sign("http://127.0.0.1/phone/plivo", FIELDS),
        "another path": sign(URL + "/events", FIELDS),
    }
    for what, headers in forged.items():
        response = await place.network.post("/phone/plivo", FIELDS, headers=headers)
        assert response.status_code == 403, what
        assert len(response.json()["detail"].splitlines()) == 1, what
