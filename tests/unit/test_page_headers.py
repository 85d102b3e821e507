"""Every answer of the agent says what a page of it may do."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from bot.server.app import CONTENT_SECURITY_POLICY, PageHeaders


@pytest.mark.parametrize("path", ["/", "/nothing"])
async def test_every_answer_carries_them(path: str) -> None:
    """Errors too, beside the headers that the answer has."""
    page = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    transport = httpx.ASGITransport(app=PageHeaders(page))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as http:
        headers = (await http.get(path)).headers
    assert headers.get_list("content-security-policy") == [CONTENT_SECURITY_POLICY]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-type"].startswith("text/plain")


def test_a_socket_passes() -> None:
    """What is said over a WebSocket has no headers, and is left as it is."""

    async def greet(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    with TestClient(PageHeaders(greet)).websocket_connect("/") as socket:
        assert socket.receive_text() == "hello"
