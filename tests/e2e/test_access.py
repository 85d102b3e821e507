"""A server that others can reach: who gets in, how often, and what its log says of them."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot.agent import Agent
from bot.engines import Engines
from bot.settings import Settings
from tests.callers.audio import save_wav
from tests.callers.browser import BrowserCaller
from tests.callers.local_server import LocalServer, serve
from tests.callers.recordings import Recording
from tests.callers.server import ROOT, AgentServer
from tests.callers.webrtc import SAMPLE_RATE, CallRefusedError, WebRTCCaller
from tests.e2e.conftest import FLAGS

KEY = "an-api-key-that-nobody-else-has"
OLD_KEY = "the-api-key-that-it-replaces"
TURN_SECRET = "what-the-relay-also-knows"
MIND_KEY = "sk-a-key-for-a-mind-elsewhere"
PUBLIC = "https://agent.example"
SHOP = "https://shop.example"

RELAY = "turn:relay.example:3478?transport=tcp"
"""One that the agent does not ask for its own address, so that it need not exist."""

BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def server() -> Iterator[AgentServer]:
    """A server that the world can reach, as far as it knows, and that tells all that it does."""
    flags = (
        *("--public-url", PUBLIC, "--allowed-origins", SHOP, "--log-level", "debug"),
        *("--turn-urls", RELAY, "--starts-per-minute", "4"),
    )
    secrets = {
        "PARLEY_API_KEY": f"{KEY},{OLD_KEY}",
        "PARLEY_TURN_SECRET": TURN_SECRET,
        "OPENAI_API_KEY": MIND_KEY,
    }
    with AgentServer(*FLAGS, *flags, env=secrets) as server:
        yield server


@pytest.fixture
async def http(server: AgentServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        yield client


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0"),
        (("--public-url", PUBLIC), "--public-url"),
    ],
)
def test_a_server_without_a_key_does_not_start_where_others_reach_it(
    flags: tuple[str, str], said: str
) -> None:
    """It stops with status 2 and one line that names the setting and both cures."""
    done = subprocess.run(
        [sys.executable, "bot/main.py", *FLAGS, *flags],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "PARLEY_API_KEY" in line
    assert "--insecure" in line


async def test_the_key_opens_what_starts_and_shows_calls(http: httpx.AsyncClient) -> None:
    """Without it there is a line that says what is missing; either of two keys will do."""
    for method, path in (("POST", "/start"), ("GET", "/calls"), ("POST", "/tokens")):
        refused = await http.request(method, path, json={})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "PARLEY_API_KEY" in refused.json()["detail"]
        for key in (KEY, OLD_KEY):
            headers = {"Authorization": f"Bearer {key}"}
            opened = await http.request(method, path, json={}, headers=headers)
            assert opened.status_code == 200, opened.text


async def test_health_and_the_page_are_open(http: httpx.AsyncClient) -> None:
    """A probe has no key, and the page asks for it."""
    for path in ("/health", "/api/agent", "/openapi.json"):
        assert (await http.get(path)).status_code == 200


async def test_a_call_with_the_key_and_a_call_with_a_token(
    server: AgentServer, http: httpx.AsyncClient
) -> None:
    """Who shows either gets through to the agent; nobody else does."""
    async with WebRTCCaller(server.url, headers=BEARER) as caller:
        await caller.wait_for_speech()
    token = (await http.post("/tokens", json={"seconds": 60}, headers=BEARER)).json()["token"]
    async with WebRTCCaller(server.url, headers={"Authorization": f"Bearer {token}"}) as caller:
        await caller.wait_for_speech()
    with pytest.raises(CallRefusedError) as refused:
        async with WebRTCCaller(server.url, headers={"Authorization": "Bearer made.up.token"}):
            pass
    assert refused.value.status == 401


async def test_a_token_ends_when_it_says(http: httpx.AsyncClient) -> None:
    """A second later it starts nothing any more; it never showed calls or made tokens."""
    made = (await http.post("/tokens", json={"seconds": 1}, headers=BEARER)).json()
    headers = {"Authorization": f"Bearer {made['token']}", "Origin": SHOP}
    assert (await http.get("/calls", headers=headers)).status_code == 401
    assert (await http.post("/tokens", headers=headers)).status_code == 401
    await asyncio.sleep(max(0.0, made["expires"] - time.time()))
    assert (await http.post("/start", json={}, headers=headers)).status_code == 401


async def test_a_page_of_an_allowed_origin_starts_calls_and_sees_none(
    http: httpx.AsyncClient,
) -> None:
    """The browser is told that it may ask, with a token too; another page's is told nothing."""
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
    allowed = {"Origin": SHOP, **asks, "Access-Control-Request-Headers": "authorization"}
    preflight = await http.request("OPTIONS", "/start", headers=allowed)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == SHOP
    started = await http.post("/start", json={}, headers={"Origin": SHOP})
    assert started.status_code == 200
    assert started.headers["access-control-allow-origin"] == SHOP
    assert (await http.get("/calls", headers={"Origin": SHOP})).status_code == 401
    evil = {"Origin": "https://evil.example"}
    for headers in (evil, evil | BEARER):
        refused = await http.post("/start", json={}, headers=headers)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    assert (await http.request("OPTIONS", "/start", headers=evil | asks)).status_code >= 400


async def test_the_public_address_is_a_name_of_the_server(http: httpx.AsyncClient) -> None:
    """Its own page calls from there with the key; a name that someone else made is not served."""
    own = {"Host": "agent.example", "Origin": PUBLIC}
    assert (await http.post("/start", json={}, headers=own | BEARER)).status_code == 200
    assert (await http.post("/start", json={}, headers=own)).status_code == 401
    evil = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert (await http.post("/start", json={}, headers=evil | BEARER)).status_code == 403


async def test_starts_from_one_address_are_limited(http: httpx.AsyncClient) -> None:
    """Soon there is a 429 that says when to come again; who has the key is not held up."""
    answers = [await http.post("/start", json={}, headers={"Origin": SHOP}) for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert {answer.status_code for answer in refused} == {429}
    assert 1 <= int(refused[-1].headers["retry-after"]) <= 15
    assert refused[-1].headers["access-control-expose-headers"] == "retry-after"
    for _ in range(8):
        assert (await http.post("/start", json={}, headers=BEARER)).status_code == 200


async def test_too_many_connections_are_closed_at_once(server: AgentServer) -> None:
    """The hundred-and-first of an address gets nothing; another address is served as ever."""
    port = server.port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(101)]
    closed = [asyncio.create_task(reader.read()) for reader, _ in held]
    done, _ = await asyncio.wait(closed, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert done
    for task in closed:
        task.cancel()
    await asyncio.gather(*closed, return_exceptions=True)
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=server.url, transport=transport) as other:
        assert (await other.get("/health", timeout=20)).status_code == 200
    for _, writer in held:
        writer.close()


async def test_relays_are_told_to_callers_alone(
    server: AgentServer, http: httpx.AsyncClient
) -> None:
    """Each start has a credential of its own, made from a secret that is nowhere in it."""
    configs = [(await http.post("/start", json={}, headers=BEARER)).json() for _ in range(2)]
    relays = [config["iceConfig"]["iceServers"][0] for config in configs]
    assert relays[0]["urls"] == [RELAY]
    assert relays[0]["username"] != relays[1]["username"]
    assert TURN_SECRET not in str(configs)
    for config, relay in zip(configs, relays, strict=True):
        assert config["sessionId"] not in relay["username"]


async def test_the_log_shows_no_secret(server: AgentServer, http: httpx.AsyncClient) -> None:
    """A run at the level debug, with calls, refusals and rubbish, leaves nothing whole in it."""
    token = (await http.post("/tokens", headers=BEARER)).json()["token"]
    number = "+441632960961"
    shown = {"Authorization": f"Bearer {token}"}
    async with WebRTCCaller(server.url, headers=BEARER) as caller:
        await caller.wait_for_speech()
        caller.send_text(f"My number is {number}, and my key is {KEY}.")
        await caller.wait_for_message("bot-output", after=caller.connected_at)
        caller.send_raw(f"rubbish {KEY}")
        caller.send_raw(f'{{"label":"rtvi-ai","type":"{number}","id":"{token}"}}')
    await http.get(f"/calls/{KEY}/{number}?token={token}")
    await http.get("/calls", headers=shown)
    await http.post("/api/offer", json={"sdp": KEY, "type": "offer"}, headers=BEARER)
    await http.put(f"/calls/{KEY}/voice", json={"voice": number}, headers=BEARER)
    log = server.log
    assert "DEBUG" in log
    assert "***" in log
    for secret in (KEY, OLD_KEY, TURN_SECRET, MIND_KEY, number, token):
        assert secret not in log
    assert not re.search(r"Bearer (?!\*)", log)
    assert "Traceback" not in log


@pytest.mark.browser
def test_the_page_asks_for_the_key_once(
    server: AgentServer, recording: Recording, tmp_path: Path
) -> None:
    """A wrong key is a problem that the page shows; the right one lasts for the tab's calls."""
    save_wav(tmp_path / "mouth.wav", [recording("goforward", SAMPLE_RATE)], SAMPLE_RATE)
    with BrowserCaller(server.url, tmp_path / "mouth.wav") as page:
        page.wait_for_state("idle")
        page.click("connect")
        assert "PARLEY_API_KEY" in page.answer("a-wrong-key-of-some-length")
        page.wait_for_state("error")
        assert "key" in page.text("error")
        page.click("connect")
        page.answer(KEY)
        page.wait_for_state("listening", "speaking")
        page.click("hangup")
        page.wait_for_state("ended")
        page.click("connect")
        page.wait_for_state("listening", "speaking")
        page.click("hangup")
        page.wait_for_state("ended")


@asynccontextmanager
async def serving(settings: Settings, engines: Engines, **given: Any) -> AsyncIterator[LocalServer]:
    """A server in the test's process that believes this machine's and another proxy."""
    known = Settings.model_validate(
        {
            **settings.model_dump(),
            "api_key": KEY,
            "allowed_origins": SHOP,
            "trusted_proxies": "127.0.0.1, 10.0.0.0/8",
            **given,
            "starts_per_minute": 1,
        }
    )
    async with serve(known, engines, Agent()) as server:
        yield server


@pytest.fixture
async def behind_proxies(settings: Settings, engines: Engines) -> AsyncIterator[LocalServer]:
    async with serving(settings, engines) as server:
        yield server


async def test_a_site_can_be_made_to_show_tokens(settings: Settings, engines: Engines) -> None:
    """With --require-token a page of an allowed origin is asked for one too, and can show it."""
    async with (
        serving(settings, engines, require_token=True) as server,
        httpx.AsyncClient(base_url=server.url, headers={"Origin": SHOP}) as client,
    ):
        refused = await client.post("/start", json={})
        assert refused.status_code == 401
        # The page can read why.
        assert refused.headers["access-control-allow-origin"] == SHOP
        token = (await client.post("/tokens", headers=BEARER)).json()["token"]
        shown = {"Authorization": f"Bearer {token}"}
        assert (await client.post("/start", json={}, headers=shown)).status_code == 200


async def test_callers_behind_a_proxy_are_told_apart(behind_proxies: LocalServer) -> None:
    """The last hop that is no proxy counts, whatever the caller wrote before it."""

    async def start(forwarded: str) -> int:
        headers = {"Origin": SHOP, "X-Forwarded-For": forwarded}
        return (await client.post("/start", json={}, headers=headers)).status_code

    async with httpx.AsyncClient(base_url=behind_proxies.url) as client:
        assert await start("192.0.2.1") == 200
        assert await start("192.0.2.1") == 429
        assert await start("192.0.2.2, 10.1.2.3") == 200
        assert await start("192.0.2.2") == 429
        assert await start("198.51.100.9, 192.0.2.1") == 429
        assert await start("127.0.0.1, 192.0.2.2, 10.9.9.9") == 429


async def test_nobody_else_is_believed(behind_proxies: LocalServer) -> None:
    """A caller who is no proxy is counted by its own address, whatever it says."""
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=behind_proxies.url, transport=transport) as client:
        statuses = [
            (
                await client.post(
                    "/start", json={}, headers={"Origin": SHOP, "X-Forwarded-For": f"192.0.2.{n}"}
                )
            ).status_code
            for n in range(50, 53)
        ]
    assert statuses == [200, 429, 429]
