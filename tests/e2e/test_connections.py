"""A connection lives as long as its call, and only who may call gets one."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.jitterbuffer import JitterBuffer
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

from bot.agent import Agent
from bot.call import Call
from bot.engines import Engines
from bot.server import webrtc
from bot.server.webrtc import hear_sooner
from bot.settings import Settings
from tests.callers.local_server import LocalServer, serve
from tests.callers.webrtc import WebRTCCaller


@pytest.fixture
async def local_server(settings: Settings, engines: Engines) -> AsyncIterator[LocalServer]:
    async with serve(settings, engines, Agent()) as server:
        yield server


@pytest.fixture
async def impatient(settings: Settings, engines: Engines) -> AsyncIterator[LocalServer]:
    """A server that soon gives up on a caller whose media do not come."""
    quick = settings.model_copy(update={"connect_seconds": 0.5})
    async with serve(quick, engines, Agent()) as server:
        yield server


@pytest.fixture
async def peer() -> AsyncIterator[RTCPeerConnection]:
    """A caller's side of a connection, ready to offer audio and data."""
    peer = RTCPeerConnection()
    peer.addTransceiver("audio")
    peer.createDataChannel("chat")
    await peer.setLocalDescription(await peer.createOffer())
    yield peer
    await peer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds, looked at again and again for half a minute at most."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nobody tells.
            await asyncio.sleep(0.05)


def calls_in_memory() -> int:
    """The calls that nothing has let go of."""
    gc.collect()
    return sum(isinstance(thing, Call) for thing in gc.get_objects())


async def test_who_never_connects_cannot_come_late(
    impatient: LocalServer, peer: RTCPeerConnection
) -> None:
    """When a call has ended for want of a caller, its connection takes no candidates any more."""
    url = impatient.url
    lines = peer.localDescription.sdp.splitlines(keepends=True)
    candidates = [line for line in lines if line.startswith("a=candidate")]
    offer = "".join(line for line in lines if line not in candidates)
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/api/offer", json={"sdp": offer, "type": "offer"})
        assert answer.status_code == 200, answer.text
        assert len(impatient.calls) == 1
        await until(lambda: not len(impatient.calls))
        late = await client.patch(
            f"{url}/api/offer",
            json={
                "pc_id": answer.json()["pc_id"],
                "candidates": [
                    {"candidate": line[2:].strip(), "sdp_mid": "0", "sdp_mline_index": 0}
                    for line in candidates
                ],
            },
        )
    assert late.status_code == 404


async def test_a_restarted_connection_is_one_connection(
    local_server: LocalServer, peer: RTCPeerConnection
) -> None:
    """A restart moves the call to its new connection; the old id is nobody's, and nothing stays."""
    url = local_server.url
    offer = {"sdp": peer.localDescription.sdp, "type": "offer"}
    async with httpx.AsyncClient() as client:
        first = (await client.post(f"{url}/api/offer", json=offer)).json()
        again = {**offer, "pc_id": first["pc_id"], "restart_pc": True}
        second = await client.post(f"{url}/api/offer", json=again)
        assert second.status_code == 200, second.text
        assert second.json()["pc_id"] != first["pc_id"]
        assert len(local_server.calls) == 1
        stale = await client.post(f"{url}/api/offer", json=again)
        assert stale.status_code == 404
        await asyncio.gather(*(call.cancel() for call in local_server.calls))
        await until(lambda: not len(local_server.calls))
        gone = await client.post(
            f"{url}/api/offer", json={**again, "pc_id": second.json()["pc_id"]}
        )
        assert gone.status_code == 404
    await until(lambda: calls_in_memory() == 0)


async def test_a_session_waits_only_so_long(
    local_server: LocalServer, peer: RTCPeerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose offer comes too late has no session any more, whether or not another has begun."""
    monkeypatch.setattr(webrtc, "SESSION_SECONDS", 0.0)
    async with httpx.AsyncClient(base_url=local_server.url) as client:
        session = (await client.post("/start", json={})).json()["sessionId"]
        offer = {"sdp": peer.localDescription.sdp, "type": "offer"}
        late = await client.post(f"/sessions/{session}/api/offer", json=offer)
    assert late.status_code == 404
    assert len(local_server.calls) == 0


async def test_an_offer_without_a_session_is_a_call(
    local_server: LocalServer, peer: RTCPeerConnection
) -> None:
    """`/api/offer` alone is enough for a caller to be connected."""
    async with httpx.AsyncClient() as client:
        offer = {"sdp": peer.localDescription.sdp, "type": "offer"}
        answer = (await client.post(f"{local_server.url}/api/offer", json=offer)).json()
        await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await until(lambda: peer.connectionState == "connected")


async def test_callers_are_heard_without_packets_in_hand(peer: RTCPeerConnection) -> None:
    """The buffer that aiortc's receiver has, and reads from, is replaced by one that waits less."""
    connection = SmallWebRTCConnection()
    await connection.initialize(peer.localDescription.sdp, "offer")
    (receiver,) = [t.receiver for t in connection.pc.getTransceivers() if t.kind == "audio"]
    before = receiver._RTCRtpReceiver__jitter_buffer
    hear_sooner(connection)
    after = receiver._RTCRtpReceiver__jitter_buffer
    assert isinstance(before, JitterBuffer)
    assert after.capacity < before.capacity
    assert after._prefetch < before._prefetch
    await connection.disconnect()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{url}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860", "Origin": "http://evil.example:7860"}, 403),
        ({"Host": "["}, 403),
    ],
)
async def test_foreign_pages_and_names_are_refused(
    local_server: LocalServer, headers: dict[str, str], status: int
) -> None:
    """A page of another origin, or a name made to resolve here, gets nothing of a local agent."""
    sent = {name: value.replace("{url}", local_server.url) for name, value in headers.items()}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{local_server.url}/start", json={}, headers=sent)
    assert answer.status_code == status
    assert status == 200 or "--allowed-origins" in answer.json()["detail"]


async def test_what_a_caller_may_not_send_is_dropped(local_server: LocalServer) -> None:
    """A client cannot have the server fetch files or answer for its tools; the call goes on."""
    async with WebRTCCaller(local_server.url) as caller:
        await caller.wait_for_words(1)
        for kind in ("send-file", "raw-audio", "llm-function-call-result", "append-to-context"):
            caller.send(
                kind, {"file": {"format": "x", "source": {"type": "url", "url": "http://x"}}}
            )
        caller.send_text("what is two plus two")
        await caller.wait_for_message("bot-output", lambda data: "4" in data["text"])
        assert not [m for m in caller.messages if m.type in ("error", "error-response")]
