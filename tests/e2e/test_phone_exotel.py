"""Calls over Exotel, by a caller written from Exotel's documentation."""

from base64 import b64encode
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from bot.agent import Agent
from bot.engines import Engines
from bot.line import LineError
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.local_server import LocalServer, serve
from tests.callers.phone import RATE
from tests.callers.phone_exotel import CALLED, CALLER, SECRET, ExotelFlow, applet_query
from tests.callers.recordings import Recording
from tests.e2e.test_phone_twilio import GREETING, understood, until
from tests.fakes.carrier_api import CarrierApi, carrier_api

PUBLIC = "https://agent.example.org"

AGENT = Agent(greeting=GREETING)


@pytest.fixture
async def api() -> AsyncIterator[CarrierApi]:
    async with carrier_api() as api:
        yield api


@pytest.fixture
async def telephone(
    settings: Settings, engines: Engines, api: CarrierApi
) -> AsyncIterator[LocalServer]:
    ours = settings.model_copy(
        update={
            "public_url": PUBLIC,
            "exotel_secret": SecretStr(SECRET),
            "exotel_api_key": SecretStr("the-key"),
            "exotel_api_token": SecretStr("the-token"),
            "exotel_account_sid": "acme1",
            "exotel_number": CALLED,
            "exotel_flow": "4711",
            "exotel_api_url": api.url,
            "max_calls": 1,
        }
    )
    async with serve(ours, engines, AGENT) as telephone:
        yield telephone


@pytest.fixture
async def http(telephone: LocalServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=telephone.url) as client:
        yield client


@pytest.fixture
def flow(http: httpx.AsyncClient) -> ExotelFlow:
    return ExotelFlow(http)


async def test_a_call_is_greeted_and_can_be_interrupted(
    telephone: LocalServer, flow: ExotelFlow, recording: Recording
) -> None:
    """The greeting in words, in messages as Exotel wants them; who talks over it is let speak."""
    async with await flow.call() as caller:
        began = await caller.wait_for_speech()
        over = await caller.wait_for_silence(began, hold=1.0)
        origin = next(iter(telephone.calls)).line.origin
        assert (origin.transport, origin.id) == ("exotel", caller.call_id)
        assert (origin.caller, origin.called) == (CALLER, CALLED)
        assert origin.data == {"order": "17"}
    await until(lambda: len(telephone.calls) == 0)
    async with await flow.call() as second:
        await second.wait_for_speech()
        cut = await second.say(recording("goforward", RATE))
        await second.wait_for_clear(after=cut.start)
    await until(lambda: len(telephone.calls) == 0)
    assert understood(caller.sent(began - 0.5, over))
    assert all(3200 <= size <= 100_000 and size % 320 == 0 for size in caller.sizes)


async def test_the_agents_hang_up_closes_the_socket_after_the_mark(
    telephone: LocalServer, flow: ExotelFlow, api: CarrierApi
) -> None:
    """Exotel has no other way to end a call; its flow then finds nobody to dial, and hangs up."""
    async with await flow.call() as caller:
        await caller.wait_for_speech()
        await next(iter(telephone.calls))._worker.queue_frame(HangUpFrame(goodbye=""))
        assert await flow.go_on(caller) == []
        assert caller.marks
    assert api.asked == []


async def test_a_transfer_is_what_the_flow_dials(
    telephone: LocalServer, flow: ExotelFlow, api: CarrierApi
) -> None:
    """The socket closes after the last word, and the flow is told the number; no other call is."""
    async with await flow.call() as caller:
        await caller.wait_for_speech()
        (going,) = telephone.calls
        await going._worker.queue_frame(TransferFrame(to="+4930123456"))
        assert await flow.go_on(caller) == ["+4930123456"]
        assert caller.marks
        # Exotel repeats what was not answered in time.
        assert await flow.go_on(caller) == ["+4930123456"]
    await until(lambda: len(telephone.calls) == 0)
    async with await flow.call() as other:
        await other.wait_for_speech()
        await next(iter(telephone.calls)).cancel()
        assert await flow.go_on(other) == []
    assert api.asked == []


async def test_a_call_is_not_transferred_to_a_sip_address(
    telephone: LocalServer, flow: ExotelFlow
) -> None:
    """The flow would dial nobody, so the call stays with the agent, which is told in a line."""
    async with await flow.call() as caller:
        await caller.wait_for_speech()
        (going,) = telephone.calls
        assert going.line.can_transfer
        with pytest.raises(LineError, match=r"^exotel .*SIP.*$"):
            await going.line.transfer("sip:desk@example.org")
        assert not caller.ended_at
        await going.cancel()
        assert await flow.go_on(caller) == []


@pytest.mark.parametrize(
    ("path", "password", "status"),
    [
        ("", None, 403),
        ("/", None, 404),
        ("/" + SECRET[:-1], None, 403),
        ("/events", None, 403),
        ("", SECRET[:-1], 403),
        ("", "\u00e4", 403),
        ("", SECRET, 200),
        ("/" + SECRET, None, 200),
        ("/connect", None, 403),
        ("/connect/" + SECRET[:-1], None, 403),
        ("/connect", SECRET[:-1], 403),
        ("/connect", SECRET, 200),
        ("/connect/" + SECRET, None, 200),
    ],
)
async def test_an_applet_needs_the_secret(
    http: httpx.AsyncClient, path: str, password: str | None, status: int
) -> None:
    """It stands at the address's end, or is the password of Basic authentication."""
    headers = {}
    if password is not None:
        headers["Authorization"] = f"Basic {b64encode(f'parley:{password}'.encode()).decode()}"
    query = applet_query(uuid4().hex)
    response = await http.get(f"/phone/exotel{path}", params=query, headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize("credentials", ["!!!!", "/////w==", "x"])
async def test_bad_credentials_are_refused(http: httpx.AsyncClient, credentials: str) -> None:
    """What is no Basic authentication is none."""
    headers = {"Authorization": f"Basic {credentials}"}
    assert (await http.get("/phone/exotel", headers=headers)).status_code == 403


async def test_a_full_server_lets_the_flow_go_on(http: httpx.AsyncClient, flow: ExotelFlow) -> None:
    """No socket is named, so that the applet has nothing to open."""
    async with await flow.call() as caller:
        await caller.wait_for_speech()
        query = applet_query(uuid4().hex)
        response = await http.get(f"/phone/exotel/{SECRET}", params=query)
        assert response.status_code == 503
        assert "url" not in response.json()


async def test_someone_is_called(
    telephone: LocalServer, http: httpx.AsyncClient, flow: ExotelFlow, api: CarrierApi
) -> None:
    """Exotel leads them into the flow, whose applet asks as for any call; it is known as ours."""
    call_id = uuid4().hex
    api.answer = lambda _: web.json_response({"Call": {"Sid": call_id}})
    wanted = {"carrier": "exotel", "to": CALLER, "data": {"why": "reminder"}}
    response = await http.post("/calls", json=wanted)
    assert response.status_code == 201, response.text
    (asked,) = api.asked
    assert asked.path == "/v1/Accounts/acme1/Calls/connect.json"
    assert asked.authorization == httpx.BasicAuth("the-key", "the-token")._auth_header
    assert asked.form["From"] == CALLER
    assert asked.form["CallerId"] == CALLED
    assert asked.form["Url"].endswith("/acme1/exoml/start_voice/4711")
    async with await flow.call(call_id) as callee:
        await callee.wait_for_speech()
        origin = next(iter(telephone.calls)).line.origin
        assert origin.outbound
        assert origin.data["why"] == "reminder"


async def test_no_sip_address_is_called(http: httpx.AsyncClient, api: CarrierApi) -> None:
    """Exotel's documents know numbers alone: a line says so, and Exotel is not asked."""
    wanted = {"carrier": "exotel", "to": "sip:desk@example.org"}
    response = await http.post("/calls", json=wanted)
    assert response.status_code == 400
    assert response.json()["detail"] == "exotel calls numbers alone: write one like +4930123456"
    assert api.asked == []
