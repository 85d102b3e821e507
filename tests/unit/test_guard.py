"""Pages elsewhere, and names that others made point here, do not reach a server of one's own."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.guard import Guard

ELSEWHERE = "https://elsewhere.example"
SHOP = "https://shop.example"


async def ask(
    kind: str,
    name: str | None = None,
    origin: str | None = None,
    *,
    host: str = "127.0.0.1",
    allowed: Sequence[str] = (),
    public: str | None = None,
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the application was reached, and what was answered in its place."""
    reached = False

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal reached
        reached = True

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> Any:
        raise AssertionError("nothing has to be read")

    headers = [(b"host", name), (b"origin", origin)]
    guard = Guard(
        application, host=host, allowed_origins=allowed, public_url=public, cure="; allow it"
    )
    scope = {"type": kind, "headers": [(k, v.encode("latin-1")) for k, v in headers if v]}
    await guard(scope, receive, send)
    assert reached is not bool(sent)
    return reached, sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("localhost", True),
        ("LOCALHOST:7860", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("shop.example", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("192.168.1.7:7860", False),
        ("[::1", False),
        ("\xff\xfe", False),
        (None, False),
    ],
)
async def test_a_server_on_loopback_answers_to_its_names(
    kind: str, name: str | None, served: bool
) -> None:
    """Its own names are served and those of the origins allowed; no other, however it is put."""
    assert (await ask(kind, name, allowed=[SHOP]))[0] is served


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("name", ["evil.example", "192.168.1.7:7860", None])
async def test_a_server_on_a_network_answers_to_any_name(kind: str, name: str | None) -> None:
    """Nobody knows under which names a server that all can reach is known."""
    assert (await ask(kind, name, host="0.0.0.0"))[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("origin", "served"),
    [
        (None, True),
        ("http://localhost:7860", True),
        ("https://localhost:7860", True),
        (SHOP, True),
        (ELSEWHERE, False),
        ("http://localhost", False),
        ("http://localhost:7861", False),
        (f"{SHOP}.evil.example", False),
        ("http://shop.example", False),
        ("null", False),
        ("localhost:7860", False),
    ],
)
async def test_pages_of_its_own_and_of_allowed_origins_may_call(
    kind: str, host: str, origin: str | None, served: bool
) -> None:
    """Wherever it listens, no other page is served; what is no page says no origin."""
    reached, _ = await ask(kind, "localhost:7860", origin, host=host, allowed=[SHOP])
    assert reached is served


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("name", "served", "nearby"),
    [
        ("agent.example", True, False),
        ("AGENT.example:8443", True, False),
        ("localhost:7860", True, False),
        ("shop.example", True, False),
        ("bot:7860", False, True),
        ("10.0.0.5:7860", False, True),
        ("0.0.0.0:7860", False, True),
        ("[fd00::5]:7860", False, True),
        ("evil.example", False, False),
        ("10.0.0.5.evil.example", False, False),
        ("agent.example.evil.example", False, False),
        ("1.2.3", False, False),
        ("[::1", False, False),
        (None, False, False),
    ],
)
async def test_a_server_with_a_public_address_answers_to_that(
    kind: str, name: str | None, served: bool, nearby: bool
) -> None:
    """Wherever it listens; on a network also to numbers and to names that no stranger can have."""
    public = "https://agent.example/below"
    on_network = await ask(kind, name, host="0.0.0.0", allowed=[SHOP], public=public)
    assert on_network[0] is (served or nearby)
    assert (await ask(kind, name, allowed=[SHOP], public=public))[0] is served


@pytest.mark.parametrize(
    ("public", "origin"),
    [
        ("https://agent.example", "https://agent.example"),
        ("https://Agent.Example:443/below", "https://agent.example"),
        ("http://agent.example:8080", "http://agent.example:8080"),
        ("http://[fd00::5]:80", "http://[fd00::5]"),
    ],
)
async def test_its_own_page_may_call_from_there(public: str, origin: str) -> None:
    """Also where a proxy asks for the server under another name than the browser did."""
    for host in ("127.0.0.1", "0.0.0.0"):
        assert (await ask("http", "localhost:7860", origin, host=host, public=public))[0]
        assert not (await ask("http", "localhost:7860", ELSEWHERE, host=host, public=public))[0]


async def test_a_refusal_says_why() -> None:
    """A request gets 403 and one line with the cure, a socket is closed before it was accepted."""
    _, (start, body) = await ask("http", "localhost", ELSEWHERE)
    assert start["status"] == 403
    assert json.loads(body["body"]) == {"detail": "this origin may not call; allow it"}
    _, (closed,) = await ask("websocket", "evil.example")
    assert closed["type"] == "websocket.close"
    assert closed["reason"] == "this name is not served; allow it"


async def test_starting_and_stopping_pass() -> None:
    """What is no request has neither name nor origin."""
    assert (await ask("lifespan"))[0]
