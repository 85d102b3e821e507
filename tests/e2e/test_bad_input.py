"""Requests that are wrong, by accident or on purpose: refused in a line, and nothing is left."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from tests.callers.server import AgentServer
from tests.callers.webrtc import WebRTCCaller

TOO_LARGE = 10 * 1024 * 1024

JSON = {"content-type": "application/json"}

HEADER = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
"""The beginning of an SDP, before its media."""

SESSION = "/sessions/{session}/api/offer"
"""The path of a session that waits for its offer."""


async def offer_of(*media: str) -> str:
    """The SDP of an offer of these media: `audio`, `video`, or `data` for a data channel."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        for medium in media:
            if medium == "data":
                pc.createDataChannel("chat")
            else:
                pc.addTransceiver(medium)
        await pc.setLocalDescription(await pc.createOffer())
        return str(pc.localDescription.sdp)
    finally:
        await pc.close()


@dataclass(frozen=True)
class Bad:
    """A request that must be refused.

    Attributes:
        what: What is wrong with it.
        path: Where it goes; `{session}` is filled in.
        body: Its body: bytes as they are, anything else as JSON, where the texts `audio-sdp`,
            `video-sdp` and `data-sdp` stand for offers of those media.
        method: Its HTTP method.
        status: The status that it gets, where it has to be one in particular.
    """

    what: str
    path: str
    body: Any
    method: str = "POST"
    status: int | None = None


def offer(sdp: Any, **fields: Any) -> dict[str, Any]:
    return {"sdp": sdp, "type": "offer", **fields}


def candidate(text: Any) -> dict[str, Any]:
    return {"candidate": text, "sdp_mid": "0", "sdp_mline_index": 0}


BAD_REQUESTS = [
    Bad("start: not JSON", "/start", b"{not json"),
    Bad("start: not UTF-8", "/start", b'{"transport":"\xff\xfe"}'),
    Bad("start: a list", "/start", [1, 2, 3]),
    Bad("start: a number", "/start", 7),
    Bad("start: nested too deep", "/start", b"[" * 100_000),
    Bad("start: an unknown transport", "/start", {"transport": "carrier-pigeon"}),
    Bad("start: the body is text", "/start", {"transport": "webrtc", "body": "hello"}),
    Bad("start: an unknown voice", "/start", {"body": {"voice": "nobody"}}, status=400),
    Bad(
        "start: the voice is a path", "/start", {"body": {"voice": "../../etc/passwd"}}, status=400
    ),
    Bad("start: the voice is a list", "/start", {"body": {"voice": ["a"]}}),
    Bad("start: ten megabytes", "/start", b" " * TOO_LARGE, status=413),
    Bad("offer: not JSON", SESSION, b"v=0"),
    Bad("offer: not UTF-8", SESSION, b'{"sdp":"\xff\xfe","type":"offer"}'),
    Bad("offer: empty", SESSION, b""),
    Bad("offer: no sdp", SESSION, {"type": "offer"}),
    Bad("offer: no type", SESSION, {"sdp": "audio-sdp"}),
    Bad("offer: an unknown type", SESSION, {"sdp": "audio-sdp", "type": "wish"}),
    Bad("offer: an answer", SESSION, {"sdp": "audio-sdp", "type": "answer"}),
    Bad("offer: null", SESSION, offer(None)),
    Bad("offer: sdp is a number", SESSION, offer(5)),
    Bad("offer: sdp is empty", SESSION, offer("")),
    Bad("offer: sdp is prose", SESSION, offer("please call me")),
    Bad("offer: sdp is half", SESSION, offer(HEADER + "m=")),
    Bad(
        "offer: sdp has no media",
        SESSION,
        offer(HEADER),
    ),
    Bad("offer: no ICE, no DTLS", SESSION, offer(HEADER + "m=audio 9 RTP/AVP 0\r\n")),
    Bad("offer: video only", SESSION, offer("video-sdp")),
    Bad("offer: data only", SESSION, offer("data-sdp")),
    Bad("offer: a thousand media", SESSION, offer(HEADER + "m=audio 9 RTP/AVP 0\r\n" * 1000)),
    Bad("offer: ten megabytes of SDP", SESSION, offer("a=x\r\n" * (TOO_LARGE // 5)), status=413),
    Bad("offer: an unknown connection", SESSION, offer("audio-sdp", pc_id="nobody"), status=404),
    Bad("offer: an unknown session", "/sessions/nobody/api/offer", offer("audio-sdp"), status=404),
    Bad("offer: without a session, prose", "/api/offer", offer("please call me")),
    Bad(
        "offer: without a session, an unknown voice",
        "/api/offer",
        offer("audio-sdp", request_data={"voice": "nobody"}),
    ),
    Bad("patch: not JSON", "/api/offer", b"{", "PATCH"),
    Bad("patch: no candidates", "/api/offer", {"pc_id": "nobody"}, "PATCH"),
    Bad("patch: candidates are text", "/api/offer", {"pc_id": "x", "candidates": "y"}, "PATCH"),
    Bad(
        "patch: an unknown connection",
        SESSION,
        {"pc_id": "nobody", "candidates": [candidate("")]},
        "PATCH",
        404,
    ),
]


@pytest.fixture
async def http(server: AgentServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        yield client


async def send(http: httpx.AsyncClient, bad: Bad) -> httpx.Response:
    """Send a bad request, to a session of its own where it needs one."""
    path = bad.path
    if "{session}" in path:
        started = await http.post("/start", json={"transport": "webrtc"})
        path = path.format(session=started.json()["sessionId"])
    if isinstance(bad.body, bytes):
        return await http.request(bad.method, path, content=bad.body, headers=JSON)
    body = bad.body
    if isinstance(body, dict) and isinstance(body.get("sdp"), str):
        medium = body["sdp"].removesuffix("-sdp")
        if medium in ("audio", "video", "data"):
            body = {**body, "sdp": await offer_of(medium)}
    return await http.request(bad.method, path, json=body)


def assert_refused(response: httpx.Response, status: int | None = None) -> None:
    """A refusal is a client error and one line of JSON that a person can read."""
    assert response.is_client_error, response.text[:400]
    assert status is None or response.status_code == status
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    assert len(detail.splitlines()) == 1
    assert len(detail) < 400


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.what)
async def test_a_bad_request_is_refused_in_one_line(
    server: AgentServer, http: httpx.AsyncClient, bad: Bad
) -> None:
    """A client error says what is wrong, no call comes of it, and the server does not stumble."""
    assert_refused(await send(http, bad), bad.status)
    assert await asyncio.to_thread(server.calls) == 0
    assert "Traceback" not in server.log


async def test_a_body_that_does_not_say_its_length_is_limited_too(http: httpx.AsyncClient) -> None:
    """A body in chunks is refused once it has grown too large."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(TOO_LARGE // 65536):
            yield b" " * 65536

    assert_refused(await http.post("/start", content=chunks(), headers=JSON), 413)


async def test_bad_requests_leave_room_for_calls(
    server: AgentServer, http: httpx.AsyncClient
) -> None:
    """After all of them, twice over and at once, a call works as ever."""
    for _ in range(2):
        await asyncio.gather(*(send(http, bad) for bad in BAD_REQUESTS))
    await asyncio.to_thread(server.wait_for_calls, 0)
    async with WebRTCCaller(server.url) as caller:
        await caller.wait_for_speech()


async def test_a_session_has_one_call(server: AgentServer, http: httpx.AsyncClient) -> None:
    """A second offer for a session is refused, and its call goes on."""
    async with WebRTCCaller(server.url) as caller:
        path = f"/sessions/{caller.session}/api/offer"
        again = await http.post(path, json=offer(await offer_of("audio", "data")))
        assert_refused(again, 409)
        assert await asyncio.to_thread(server.calls) == 1
        caller.send_text("Hello!")
        await caller.wait_for_message("bot-output", after=caller.connected_at)


@pytest.mark.parametrize(
    "text",
    ["rubbish", "candidate:", "candidate:1 1 udp x 1.2.3.4 5 typ host", "candidate:" + "9" * 9999],
    ids=["rubbish", "nothing", "no number", "endless"],
)
async def test_a_bad_candidate_does_no_harm(
    server: AgentServer, http: httpx.AsyncClient, text: str
) -> None:
    """An ICE candidate that cannot be read is refused, and the call goes on."""
    async with WebRTCCaller(server.url) as caller:
        path = f"/sessions/{caller.session}/api/offer"
        told = {"pc_id": caller.pc_id, "candidates": [candidate(text)]}
        assert_refused(await http.patch(path, json=told))
        await caller.wait_for_speech()


async def test_bad_messages_do_not_end_the_call(server: AgentServer) -> None:
    """Whatever comes over the data channel, the agent goes on answering what it understands."""
    rtvi = {"label": "rtvi-ai", "id": "1"}
    messages = [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        "[" * 20_000,
        json.dumps({"type": 7}),
        json.dumps({"label": "other", "type": "client-ready"}),
        json.dumps({**rtvi, "type": "nonsense"}),
        json.dumps({**rtvi, "type": "send-text"}),
        json.dumps({**rtvi, "type": "send-text", "data": {"content": 7}}),
        json.dumps({**rtvi, "type": "send-text", "data": {"content": "half a pair: \ud800"}}),
        json.dumps({**rtvi, "type": "client-message", "data": {"t": "set-voice"}}),
        json.dumps({**rtvi, "type": "client-message", "data": {"t": "set-voice", "d": [1]}}),
        json.dumps({**rtvi, "type": "client-ready", "data": {"version": "x"}}),
        json.dumps({"type": "signalling", "message": {"type": "trackStatus"}}),
        "x" * 60_000,
    ]
    async with WebRTCCaller(server.url) as caller:
        await caller.wait_for_message("bot-ready")
        for message in messages:
            caller.send_raw(message)
        caller.send_raw(b"\x00\xff\xfe")
        refused = await caller.request("nonsense", {})
        assert refused.type == "error-response"
        sent = caller.messages[-1].at
        caller.send_text("What is 7 times 6?")
        told = await caller.wait_for_message(
            "bot-output", lambda d: "42" in d["text"] or "forty" in d["text"], after=sent
        )
        await caller.wait_for_speech(after=told.at)
