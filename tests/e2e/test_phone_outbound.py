"""Calls that the agent places: asked for over HTTP, answered by people and by machines."""

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web

from bot.agent import Agent
from bot.engines import Engines
from bot.server.phone.media import PhoneLine
from bot.settings import Settings
from tests.callers.phone_place import MESSAGE, Place, phone_place, understood
from tests.callers.phone_twilio import (
    ACCOUNT,
    CALLED,
    TOKEN,
    TwilioCaller,
    TwilioNetwork,
    sid,
    webhook,
)
from tests.fakes.carrier_api import Asked

PUBLIC = "https://agent.example.org/voice"

CALLEE = "+4930123456"

AGENT = Agent(greeting="Hello.", voicemail=MESSAGE)

Open = Callable[..., Any]
"""Opens a place, with other settings than usual by name."""


@pytest.fixture
def open_place(settings: Settings, engines: Engines) -> Open:
    return partial(phone_place, settings, engines, TwilioNetwork, AGENT, public_url=PUBLIC)


async def place_call(place: Place[TwilioNetwork], **fields: Any) -> tuple[str, Asked]:
    """Ask for a call; return Twilio's name of it, and what Twilio was asked for."""
    call_id = sid("CA")
    place.api.answer = lambda _: web.json_response({"sid": call_id}, status=201)
    wanted = {"carrier": "twilio", "to": CALLEE, **fields}
    response = await place.http.post("/calls", json=wanted)
    assert response.status_code == 201, response.text
    assert response.json() == {"carrier": "twilio", "id": call_id}
    return call_id, place.api.asked[-1]


def outbound(call_id: str) -> dict[str, str]:
    """What Twilio posts when someone answers a call that it was asked for."""
    return webhook(
        call_id, Direction="outbound-api", From=CALLED, To=CALLEE, CallStatus="in-progress"
    )


async def answered(place: Place[TwilioNetwork], call_id: str, asked: Asked) -> TwilioCaller:
    """The call, once someone has answered it."""
    path = asked.form["Url"].removeprefix(PUBLIC)
    url = place.network.socket_in(await place.network.post(path, outbound(call_id)))
    return place.network.caller(url, call_id)


async def detect(place: Place[TwilioNetwork], call_id: str, asked: Asked, who: str) -> None:
    """Have Twilio's machine detection say who answered."""
    path = asked.form["AsyncAmdStatusCallback"].removeprefix(PUBLIC)
    fields = {
        "CallSid": call_id,
        "AccountSid": ACCOUNT,
        "AnsweredBy": who,
        "MachineDetectionDuration": "2400",
    }
    response = await place.network.post(path, fields)
    assert response.is_success


async def test_a_person_is_called_and_talked_to(open_place: Open) -> None:
    """What was asked for is asked of Twilio, and the call knows whom it called, and why."""
    async with open_place() as place:
        call_id, asked = await place_call(place, data={"order": "17"})
        assert asked.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
        assert asked.authorization == httpx.BasicAuth(ACCOUNT, TOKEN)._auth_header
        form = asked.form
        assert (form["To"], form["From"]) == (CALLEE, CALLED)
        assert form["Url"].startswith(f"{PUBLIC}/phone/twilio/")
        assert form["MachineDetection"] == "Enable"
        assert form["AsyncAmd"] == "true"
        async with await answered(place, call_id, asked) as callee:
            await callee.wait_for_speech()
            origin = (await place.only_call()).line.origin
            assert origin.outbound
            assert (origin.caller, origin.called) == (CALLEE, CALLED)
            assert origin.data == {"order": "17"}
            await detect(place, call_id, asked, "human")
            assert origin.data == {"order": "17", "answered_by": "human"}
            assert not callee.ended_at


async def test_a_sip_address_is_called(open_place: Open) -> None:
    """Twilio takes one where it takes a number."""
    async with open_place() as place:
        _, asked = await place_call(place, to="sip:desk@example.org;transport=tls")
        assert asked.form["To"] == "sip:desk@example.org;transport=tls"


async def test_a_machine_is_hung_up_on(open_place: Open) -> None:
    """A voicemail hears no message unless there is to be one."""
    async with open_place() as place:
        call_id, asked = await place_call(place)
        async with await answered(place, call_id, asked) as callee:
            call = await place.only_call()
            await callee.wait_for_speech()
            await detect(place, call_id, asked, "machine_start")
            await callee.wait_for_end(limit=5)
            assert call.line.origin.data["answered_by"] == "machine"
        await place.until_calls(0)
        assert place.api.asked[-1].form == {"Status": "completed"}


async def test_a_machine_is_left_a_message(open_place: Open) -> None:
    """The message is said when the machine's greeting is over, to its end; then it is hung up."""
    async with open_place(voicemail="message") as place:
        call_id, asked = await place_call(place)
        assert asked.form["MachineDetection"] == "DetectMessageEnd"
        async with await answered(place, call_id, asked) as callee:
            over = await callee.wait_for_silence(await callee.wait_for_speech(), hold=0.5)
            await detect(place, call_id, asked, "machine_end_beep")
            began = await callee.wait_for_speech(after=await callee.wait_for_clear(after=over))
            # Told again, it goes on with what it says.
            cleared = len(callee.clears)
            await detect(place, call_id, asked, "machine_end_silence")
            ended = await callee.wait_for_end()
            assert len(callee.clears) == cleared
        await place.until_calls(0)
        assert understood(callee.sent(began - 0.5, ended))


async def test_a_machine_may_be_talked_to(open_place: Open) -> None:
    """Nobody looks for one where that is not wanted."""
    async with open_place(voicemail="ignore") as place:
        _, asked = await place_call(place)
        assert "MachineDetection" not in asked.form


async def test_a_machine_that_is_known_at_once_is_hung_up_on(open_place: Open) -> None:
    """What is told before the media socket has begun is not forgotten, and nobody greeted."""
    async with open_place() as place:
        call_id, asked = await place_call(place)
        caller = await answered(place, call_id, asked)
        await detect(place, call_id, asked, "machine_start")
        async with caller:
            await caller.wait_for_end(limit=8)
            assert not any(frame.audible for frame in caller.frames)
        await place.until_calls(0)


async def test_a_call_that_nobody_placed_is_not_answered(open_place: Open) -> None:
    """An address that is not of a call we placed leads nowhere, whoever signs for it."""
    async with open_place() as place:
        _, asked = await place_call(place)
        path = urlsplit(asked.form["Url"]).path.removeprefix("/voice")
        response = await place.network.post(path + "x", outbound(sid("CA")))
        assert response.status_code == 404
        response = await place.network.post(path, outbound(sid("CA")), headers={})
        assert response.status_code == 403


async def test_a_full_server_places_no_call_and_answers_none(open_place: Open) -> None:
    """When no line is free, who asks is told when to ask again, and who answers is let go."""
    async with open_place(max_calls=1) as place:
        call_id, asked = await place_call(place)
        async with await place.network.call() as caller:
            await caller.wait_for_speech()
            response = await place.http.post("/calls", json={"carrier": "twilio", "to": CALLEE})
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            path = asked.form["Url"].removeprefix(PUBLIC)
            response = await place.network.post(path, outbound(call_id))
            assert "<Hangup/>" in response.text


BAD_WISHES = [
    ({"carrier": "twilio", "to": "030123456"}, 422),
    ({"carrier": "twilio", "to": "+0123456789"}, 422),
    ({"carrier": "twilio", "to": "+49 30 123456"}, 422),
    ({"carrier": "twilio", "to": "sip:x"}, 422),
    ({"carrier": "twilio", "to": f"sip:x@{'a' * 600}"}, 422),
    ({"carrier": "twilio", "to": "+1234567890123456"}, 422),
    ({"carrier": "twilio"}, 422),
    ({"carrier": "pigeon", "to": CALLEE}, 400),
    ({"carrier": "exotel", "to": CALLEE}, 400),
    ({"carrier": "twilio", "to": CALLEE, "voice": "nobody"}, 400),
    ({"carrier": "twilio", "to": CALLEE, "data": {"a": "x" * 600}}, 422),
    ({"carrier": "twilio", "to": CALLEE, "data": {str(i): "" for i in range(40)}}, 422),
    ({"carrier": "twilio", "to": CALLEE, "data": {"a": 7}}, 422),
]


async def test_a_bad_wish_is_refused_in_a_line(open_place: Open) -> None:
    """Nothing is asked of the carrier."""
    async with open_place() as place:
        for wanted, status in BAD_WISHES:
            response = await place.http.post("/calls", json=wanted)
            assert response.status_code == status, (wanted, response.text)
            detail = response.json()["detail"]
            assert isinstance(detail, str)
            assert len(detail.splitlines()) == 1
            assert "Value error" not in detail
        assert place.api.asked == []


async def test_a_wish_that_is_no_json_is_refused_in_a_line(open_place: Open) -> None:
    """What is wrong is said of the body, in words, and not of a place in it."""
    async with open_place() as place:
        response = await place.http.post(
            "/calls", content=b"carrier=twilio", headers={"content-type": "application/json"}
        )
        assert response.status_code == 422
        assert response.json() == {"detail": "body: JSON decode error"}


@pytest.mark.parametrize("answer", ["error", "elsewhere", "nonsense", "no call", "away"])
async def test_a_carrier_that_does_not_place_the_call(open_place: Open, answer: str) -> None:
    """What goes wrong at the carrier is told in a line without a number or a secret."""
    changes = {"twilio_api_url": "http://127.0.0.1:9"} if answer == "away" else {}
    async with open_place(**changes) as place:
        if answer == "error":
            place.api.answer = lambda _: web.json_response({"code": 21211}, status=400)
        elif answer == "elsewhere":
            place.api.answer = lambda _: web.json_response({"sid": sid("CA")}, status=302)
        elif answer == "nonsense":
            place.api.answer = lambda _: web.Response(text="<html>")
        elif answer == "no call":
            place.api.answer = lambda _: web.json_response({"sid": ""})
        response = await place.http.post("/calls", json={"carrier": "twilio", "to": CALLEE})
        assert response.status_code == 502
        detail = response.json()["detail"]
        assert "twilio" in detail
        assert CALLEE[1:] not in detail
        assert TOKEN not in detail


async def test_the_line_notes_who_answered_in_what_its_origin_says(open_place: Open) -> None:
    """A line's origin is what records and tools look at."""
    async with open_place() as place, await place.network.call() as caller:
        await caller.wait_for_speech()
        line = (await place.only_call()).line
        assert isinstance(line, PhoneLine)
        line.answered_by("human")
        assert line.origin.data["answered_by"] == "human"
