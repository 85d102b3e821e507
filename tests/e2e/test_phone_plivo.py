"""Calls over Plivo, by a caller written from Plivo's documentation and signed by its own SDK."""

import json
from collections.abc import AsyncIterator
from uuid import uuid4
from xml.etree import ElementTree as ET

import httpx
import pytest
from aiohttp import web
from plivo import plivoxml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.engines import Engines
from bot.server.phone import carrier
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.phone import RATE
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_plivo import (
    ACCOUNT,
    CALLED,
    CALLER,
    TOKEN,
    PlivoNetwork,
    sign,
    stream,
    webhook,
)
from tests.callers.recordings import Recording

CALLS = f"/v1/Account/{ACCOUNT}/Call/"
"""The Call resource of the REST API."""


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Place]:
    async with phone_place(
        settings,
        engines,
        "plivo",
        plivo_auth_id=ACCOUNT,
        plivo_auth_token=TOKEN,
        plivo_number=f"+{CALLED}",
    ) as place:
        yield place


@pytest.fixture
def plivo(place: Place) -> PlivoNetwork:
    return PlivoNetwork(place.http, PUBLIC)


def same_xml(text: str, element: plivoxml.ResponseElement) -> bool:
    """Whether a document says what one made with Plivo's SDK does."""
    return ET.canonicalize(text) == ET.canonicalize(element.to_string(pretty=False))


async def test_a_call_is_greeted_and_interrupts(
    place: Place, plivo: PlivoNetwork, recording: Recording
) -> None:
    """The agent greets in words, and is silent at Plivo as soon as the caller speaks.

    Plivo says of a hang-up no more than that the socket closes.
    """
    async with await plivo.call() as caller:
        words = await place.interrupt(caller, recording("goforward", RATE))
        origin = (await place.only_call()).line.origin
        assert (origin.transport, origin.id) == ("plivo", caller.call_id)
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert not origin.outbound
    await place.until_calls(0)
    assert {"telephone", "agent", "hello"} & set(words), words
    hung_up = await place.asked()
    assert (hung_up.method, hung_up.path) == ("DELETE", f"{CALLS}{caller.call_id}/")
    assert hung_up.authorization == httpx.BasicAuth(ACCOUNT, TOKEN)._auth_header


async def test_the_documents_are_those_of_plivos_sdk(
    plivo: PlivoNetwork, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is streamed both ways in mu-law and stays alive; one too many is busy."""
    answer = await plivo.post("/phone/plivo", webhook(str(uuid4())))
    url = str(stream(answer).text)
    assert url.startswith("wss://agent.example.org/phone/plivo/media/")
    streamed = plivoxml.StreamElement(
        url, bidirectional=True, keepCallAlive=True, contentType="audio/x-mulaw;rate=8000"
    )
    assert same_xml(answer.text, plivoxml.ResponseElement().add(streamed))
    monkeypatch.setattr(place.server.calls, "limit", 0)
    busy = await plivo.post("/phone/plivo", webhook(str(uuid4())))
    hang_up = plivoxml.HangupElement(reason="busy")
    assert same_xml(busy.text, plivoxml.ResponseElement().add(hang_up))
    ours = await plivo.post("/phone/plivo", webhook(str(uuid4()), Direction="outbound"))
    assert same_xml(ours.text, plivoxml.ResponseElement().add(plivoxml.HangupElement()))


async def test_keys_that_are_pressed_are_heard(place: Place, plivo: PlivoNetwork) -> None:
    """Digits on the keypad reach the conversation."""
    async with await plivo.call() as caller:
        await caller.wait_for_speech()
        call = await place.only_call()
        await caller.press("42#")
        await place.until(lambda: "42" in str(call.context.messages))


async def test_the_agents_hang_up_waits_for_the_checkpoint(
    place: Place, plivo: PlivoNetwork
) -> None:
    """The call ends over the REST API, after Plivo has said that the last word was played."""
    async with await plivo.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(HangUpFrame())
        await caller.wait_for_end()
        assert caller.marks
    await place.until_calls(0)
    assert (await place.asked()).path == f"{CALLS}{caller.call_id}/"


async def test_a_transfer_is_asked_for(
    place: Place, plivo: PlivoNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plivo fetches who is to be dialled, at an address that does not tell, and may ask again."""
    async with await plivo.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(TransferFrame(to="+4930123456"))
        asked = await place.asked()
        assert (asked.method, asked.path) == ("POST", f"{CALLS}{caller.call_id}/")
        assert (asked.json["legs"], asked.json["aleg_method"]) == ("aleg", "POST")
        assert "30123456" not in asked.json["aleg_url"]
        path = asked.json["aleg_url"].removeprefix(PUBLIC)
        assert (await place.http.post(path)).status_code == 403
        told = webhook(caller.call_id, Event="Transfer")
        first, again = [await plivo.post(path, told) for _ in range(2)]
        monkeypatch.setattr(carrier, "TRANSFER_SECONDS", 0)
        late = await plivo.post(path, told)
        await caller.wait_for_end()
    await place.until_calls(0)
    dial = plivoxml.DialElement(caller_id=CALLED).add_number("+4930123456")
    assert same_xml(first.text, plivoxml.ResponseElement().add(dial))
    assert again.text == first.text
    assert "Dial" not in late.text
    assert len(place.api.asked) == 1


async def test_the_agent_calls_and_hangs_up_on_a_machine(place: Place, plivo: PlivoNetwork) -> None:
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
    url = str(stream(await plivo.post(path, webhook(call_id, **ends))).text)
    async with plivo.caller(url, call_id) as caller:
        await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert origin.outbound
        verdict = webhook(call_id, **ends, Event="MachineDetection", Machine="true")
        assert (await plivo.post("/phone/plivo/events", verdict)).is_success
        await caller.wait_for_end()
    await place.until_calls(0)
    assert [asked.method for asked in place.api.asked] == ["POST", "DELETE"]


async def test_the_agent_calls_a_sip_address(place: Place) -> None:
    """Plivo takes one where it takes a number."""
    place.api.answer = lambda _: web.json_response({"request_uuid": str(uuid4())}, status=201)
    wanted = {"carrier": "plivo", "to": "sip:john1234@phone.plivo.com"}
    assert (await place.http.post("/calls", json=wanted)).status_code == 201
    assert (await place.asked()).json["to"] == "sip:john1234@phone.plivo.com"


URL = f"{PUBLIC}/phone/plivo"
FIELDS = webhook("bad")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        sign(URL, FIELDS) | {"X-Plivo-Signature-V3": ""},
        sign(URL, FIELDS) | {"X-Plivo-Signature-V3": "rubbish,,"},
        sign(URL, FIELDS) | {"X-Plivo-Signature-V3-Nonce": "another"},
        sign(URL, FIELDS) | {"X-Plivo-Signature-V3-Nonce": ""},
        sign(URL, webhook("other")),
        sign(URL, FIELDS, token="another"),
        sign("http://127.0.0.1/phone/plivo", FIELDS),
        sign(URL + "/events", FIELDS),
    ],
    ids=[
        "none",
        "empty",
        "rubbish",
        "another nonce",
        "no nonce",
        "another form",
        "another key",
        "another address",
        "another path",
    ],
)
async def test_a_webhook_needs_plivos_signature(
    plivo: PlivoNetwork, headers: dict[str, str]
) -> None:
    """Whoever is not Plivo gets no document; the refusal is one line."""
    response = await plivo.post("/phone/plivo", FIELDS, headers=headers)
    assert response.status_code == 403
    assert len(response.json()["detail"].splitlines()) == 1


async def test_a_nonce_is_taken_once(place: Place, plivo: PlivoNetwork) -> None:
    """A webhook that is played again is refused, and the ticket of the first stays good."""
    call_id = str(uuid4())
    fields = webhook(call_id)
    headers = sign(URL, fields)
    url = str(stream(await plivo.post("/phone/plivo", fields, headers=headers)).text)
    assert (await plivo.post("/phone/plivo", fields, headers=headers)).status_code == 403
    async with plivo.caller(url, call_id) as caller:
        await caller.wait_for_speech()


async def test_a_socket_needs_its_ticket_and_its_start(place: Place, plivo: PlivoNetwork) -> None:
    """Plivo signs no socket: a ticket opens one, once, for the call that was signed for."""
    async with await plivo.call() as caller:
        await caller.wait_for_speech()
        for url in (caller._url, caller._url + "x"):
            with pytest.raises(InvalidStatus):
                async with connect(url, proxy=None):
                    pass
    async with plivo.caller(await plivo.ring(str(uuid4())), str(uuid4())) as stranger:
        await stranger.wait_for_end(limit=5)
        assert stranger.close_code == 1008
    late = plivo.caller(await plivo.ring(str(uuid4())), "x")
    async with connect(late._url, proxy=None) as socket:
        await socket.send(json.dumps({"event": "media", "media": {}}))
        await socket.wait_closed()
        assert socket.close_code == 1008
    await place.until_calls(0)
