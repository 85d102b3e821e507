"""Relays: credentials that a real one takes, for as long as they say, and a call through it."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aioice import turn
from aioice.stun import TransactionFailed
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from pydantic import SecretStr

from bot.server.turn import IceServers, credential
from bot.settings import Settings
from tests.callers.coturn import CoturnServer
from tests.callers.server import ROOT

SECRET = "what-relay-and-agent-share"
URLS = "turn:turn.example:3478, turns:turn.example:5349?transport=tcp"


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, turn_secret=SecretStr(SECRET), **given)


@pytest.fixture(scope="module")
def relay() -> Iterator[CoturnServer]:
    with CoturnServer(SECRET) as relay:
        yield relay


def test_a_credential_is_made_as_coturn_says() -> None:
    """The name begins with the expiry, and the password is base64(HMAC-SHA1(secret, name))."""
    before = time.time()
    config = IceServers(settings(turn_urls=URLS, turn_seconds=90)).for_caller()
    assert config
    (server,) = config.iceServers
    assert server.urls == ["turn:turn.example:3478", "turns:turn.example:5349?transport=tcp"]
    assert server.username
    expiry, _, name = server.username.partition(":")
    assert before + 88 <= int(expiry) <= time.time() + 90
    assert name
    digest = hmac.new(SECRET.encode(), server.username.encode(), hashlib.sha1).digest()
    assert server.credential == base64.b64encode(digest).decode()


def test_every_caller_has_a_credential_of_its_own() -> None:
    """Two callers cannot be taken for one, nor one's relay be closed with the other's name."""
    servers = IceServers(settings(turn_urls=URLS))
    names = {config.iceServers[0].username for _ in range(9) if (config := servers.for_caller())}
    assert len(names) == 9


def test_a_caller_is_told_of_stun_too_and_of_nothing_where_there_is_nothing() -> None:
    """STUN servers come without a name; with no server at all there is no configuration."""
    assert IceServers(settings()).for_caller() is None
    config = IceServers(settings(stun_servers="stun:s.example:1", turn_urls=URLS)).for_caller()
    assert config
    stun, relay = config.iceServers
    assert stun.model_dump(exclude_none=True) == {"urls": ["stun:s.example:1"]}
    assert relay.credential


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, []),
        ({"stun_servers": "stun:s.example:1", "turn_urls": URLS}, ["stun:s.example:1"]),
        ({"turn_urls": URLS}, ["stun:turn.example:3478"]),
        ({"turn_urls": "turn:t.example:1?transport=udp"}, ["stun:t.example:1"]),
        ({"turn_urls": "turn:t.example?transport=tcp, turns:t.example"}, []),
    ],
)
def test_the_agent_asks_a_relay_for_its_address(given: dict[str, str], asked: list[str]) -> None:
    """Where no STUN server is named, a relay that speaks UDP is asked, without a credential."""
    servers = IceServers(settings(**given)).for_agent()
    assert [server.urls for server in servers] == asked
    assert all(server.credential is None for server in servers)


async def allocate(relay: CoturnServer, username: str, password: str) -> None:
    """Ask a relay for a port, and give it back."""
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", relay.port),
        username=username,
        password=password,
    )
    transport.close()


@pytest.mark.coturn
async def test_a_relay_takes_the_credential_until_it_expires(relay: CoturnServer) -> None:
    """Coturn takes what was made with its secret; not what expired, was changed or made up."""
    config = IceServers(settings(turn_urls=relay.url)).for_caller()
    assert config
    (server,) = config.iceServers
    assert server.username
    assert server.credential
    await allocate(relay, server.username, server.credential)
    expired = f"{int(time.time()) - 1}:somebody"
    later = f"{int(time.time()) + 9999}:somebody"
    for name, password in (
        (expired, credential(SECRET, expired)),
        (later, server.credential),
        (later, credential("another-secret", later)),
    ):
        with pytest.raises(TransactionFailed, match="401"):
            await allocate(relay, name, password)


@pytest.mark.coturn
async def test_media_goes_through_the_relay(relay: CoturnServer) -> None:
    """A caller who has nothing but the relay is connected with an agent that uses none."""
    servers = IceServers(settings(turn_urls=relay.url))
    config = servers.for_caller()
    assert config
    given = [RTCIceServer(**server.model_dump()) for server in config.iceServers]
    caller = RTCPeerConnection(
        RTCConfiguration(iceServers=given, iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    )
    agent = RTCPeerConnection(RTCConfiguration(iceServers=servers.for_agent()))
    try:
        channel = caller.createDataChannel("chat")
        agent.on("datachannel", lambda far: far.on("message", far.send))
        await caller.setLocalDescription(await caller.createOffer())
        candidates = [
            line
            for line in caller.localDescription.sdp.splitlines()
            if line.startswith("a=candidate")
        ]
        assert candidates
        assert all(" typ relay " in line for line in candidates)
        await agent.setRemoteDescription(copy(caller.localDescription))
        await agent.setLocalDescription(await agent.createAnswer())
        await caller.setRemoteDescription(copy(agent.localDescription))
        echo: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel.on("message", echo.set_result)
        channel.on("open", lambda: channel.send("hello"))
        assert await asyncio.wait_for(echo, 20) == "hello"
    finally:
        await asyncio.gather(caller.close(), agent.close())


@pytest.mark.coturn
async def test_the_relay_of_the_documents_leads_into_no_network_of_ours() -> None:
    """As docs/security.md has it, coturn sends nothing to private, shared or link-local addresses.

    The last are those of a cloud's metadata, which whoever reads them may act with.
    """
    text = (ROOT / "docs" / "security.md").read_text()
    config = text.partition("# /etc/turnserver.conf\n")[2].partition("```")[0]
    with CoturnServer("THE-SECRET", config) as relay:
        name = f"{int(time.time()) + 60}:somebody"
        transport, _ = await turn.create_turn_endpoint(
            asyncio.DatagramProtocol,
            server_addr=("127.0.0.1", relay.port),
            username=name,
            password=credential("THE-SECRET", name),
        )
        bind = transport._TurnTransport__inner_protocol.channel_bind
        await bind(0x4000, ("192.0.2.1", 80))
        private = ("10.0.0.1", "100.64.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1")
        for number, address in enumerate(private, 0x4001):
            with pytest.raises(TransactionFailed, match="403"):
                await bind(number, (address, 80))
        transport.close()


def copy(description: RTCSessionDescription) -> RTCSessionDescription:
    """A description as it comes over the wire."""
    return RTCSessionDescription(description.sdp, description.type)
