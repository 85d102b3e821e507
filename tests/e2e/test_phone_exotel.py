"""Calls over Exotel, by a caller written from Exotel's documentation."""

from base64 import b64encode
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from aiohttp import web

from bot.engines import Engines
from bot.line import LineError
from bot.settings import Settings
from processors.hang_up import TransferFrame
from tests.callers.phone_exotel import (
    ACCOUNT,
    API_KEY,
    API_TOKEN,
    CALLED,
    CALLER,
    FLOW,
    SECRET,
    ExotelNetwork,
    applet_query,
)
from tests.callers.phone_place import Place, phone_place

Exotel = Place[ExotelNetwork]


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Exotel]:
    async with phone_place(settings, engines, ExotelNetwork) as place:
        yield place


async def test_a_transfer_is_what_the_flow_dials(place: Exotel) -> None:
    """The socket closes after the last word, and the flow is told the number; no other call is."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        assert (await place.only_call()).line.origin.data == {"order": "17"}
        await place.queue(TransferFrame(to="+4930123456"))
        assert await place.network.go_on(caller) == ["+4930123456"]
        assert caller.marks
        # Exotel repeats what was not answered in time.
        assert await place.network.go_on(caller) == ["+4930123456"]
    await place.until_calls(0)
    async with await place.network.call() as other:
        await other.wait_for_speech()
        await (await place.only_call()).cancel()
        assert await place.network.go_on(other) == []
    assert place.api.asked == []


async def test_a_call_is_not_transferred_to_a_sip_address(place: Exotel) -> None:
    """The flow would dial nobody, so the call stays with the agent, which is told in a line."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        going = await place.only_call()
        assert going.line.can_transfer
        with pytest.raises(LineError, match=r"^exotel .*SIP.*$"):
            await going.line.transfer("sip:desk@example.org")
        assert not caller.ended_at
        await going.cancel()
        assert await place.network.go_on(caller) == []


async def test_someone_is_called(place: Exotel) -> None:
    """Exotel leads them into the flow, whose applet asks as for any call; it is known as ours."""
    call_id = uuid4().hex
    place.api.answer = lambda _: web.json_response({"Call": {"Sid": call_id}})
    wanted = {"carrier": "exotel", "to": CALLER, "data": {"why": "reminder"}}
    response = await place.http.post("/calls", json=wanted)
    assert response.status_code == 201, response.text
    asked = await place.asked()
    assert asked.path == f"/v1/Accounts/{ACCOUNT}/Calls/connect.json"
    assert asked.authorization == httpx.BasicAuth(API_KEY, API_TOKEN)._auth_header
    assert asked.form["From"] == CALLER
    assert asked.form["CallerId"] == CALLED
    assert asked.form["Url"].endswith(f"/{ACCOUNT}/exoml/start_voice/{FLOW}")
    async with await place.network.call(call_id) as callee:
        await callee.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert origin.outbound
        assert origin.data["why"] == "reminder"


async def test_no_sip_address_is_called(place: Exotel) -> None:
    """Exotel's documents know numbers alone: a line says so, and Exotel is not asked."""
    wanted = {"carrier": "exotel", "to": "sip:desk@example.org"}
    response = await place.http.post("/calls", json=wanted)
    assert response.status_code == 400
    assert response.json()["detail"] == "exotel calls numbers alone: write one like +4930123456"
    assert place.api.asked == []


async def test_an_applet_needs_the_secret(place: Exotel) -> None:
    """It stands at the address's end, or is the password of Basic authentication."""
    query = applet_query(uuid4().hex)
    wrong = SECRET[:-1]
    for path, password, status in (
        ("", None, 403),
        ("/", None, 404),
        ("/" + wrong, None, 403),
        ("/events", None, 403),
        ("", wrong, 403),
        ("", "\u00e4", 403),
        ("", SECRET, 200),
        ("/" + SECRET, None, 200),
        ("/connect", None, 403),
        ("/connect/" + wrong, None, 403),
        ("/connect", wrong, 403),
        ("/connect", SECRET, 200),
        ("/connect/" + SECRET, None, 200),
    ):
        headers = {}
        if password is not None:
            headers["Authorization"] = f"Basic {b64encode(f'parley:{password}'.encode()).decode()}"
        url = f"/phone/exotel{path}"
        response = await place.http.get(url, params=query, headers=headers)
        assert response.status_code == status, (path, password)


async def test_bad_credentials_are_refused(place: Exotel) -> None:
    """What is no Basic authentication is none."""
    for credentials in (b"!!!!", b"/////w==", b"x", b"\xe9"):
        headers = {b"Authorization": b"Basic " + credentials}
        response = await place.http.get("/phone/exotel", headers=headers)
        assert response.status_code == 403, credentials


async def test_a_full_server_lets_the_flow_go_on(
    place: Exotel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket is named, so that the applet has nothing to open."""
    monkeypatch.setattr(place.server.calls, "limit", 0)
    answer = await place.network.announce(uuid4().hex)
    assert answer.status_code == 503
    assert "url" not in answer.json()
