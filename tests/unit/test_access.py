"""Who may start calls and see them, how often, and what a log says of it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.routing import Match, Route

from bot.line import mask_number
from bot.server import access
from bot.server.access import Access, Keys, Need, StartLimit, need, starts
from bot.settings import Settings, SettingsError
from services.reach import as_seen, network_of, within_networks
from services.serve import without_secrets
from services.settings import secrets_of

KEY = "an-api-key-of-some-length"
OTHER = "another-api-key-of-some-length"
SHOP = "https://shop.example"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PARLEY_"):
            monkeypatch.delenv(name)


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    return Clock()


# Keys and tokens


def test_any_of_the_keys_will_do_and_nothing_else() -> None:
    """Each key is one, so that one can replace another; no part of one, nor both, nor nothing."""
    keys = Keys([KEY, OTHER])
    assert keys.is_key(KEY.encode())
    assert keys.is_key(OTHER.encode())
    for wrong in (b"", KEY[:-1].encode(), f"{KEY},{OTHER}".encode(), b"\xff\x00"):
        assert not keys.is_key(wrong)
    assert not Keys([])
    assert not Keys([]).is_key(b"")


def test_a_token_is_good_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken by any process with the key that made it, up to the second that it names."""
    before = time.time()
    token, expires = Keys([KEY]).sign(60)
    elsewhere = Keys([OTHER, KEY])
    assert before + 60 <= expires <= time.time() + 61
    assert elsewhere.is_token(token.encode())
    monkeypatch.setattr(access.time, "time", lambda: expires)
    assert not elsewhere.is_token(token.encode())


def test_a_token_dies_with_its_key() -> None:
    """Where the key is no longer known, neither are its tokens."""
    token, _ = Keys([KEY]).sign(60)
    assert not Keys([OTHER]).is_token(token.encode())


def test_a_token_cannot_be_made_up_or_changed() -> None:
    """No other expiry, no other random part, no other signature, and nothing that is none."""
    keys = Keys([KEY])
    token, expires = keys.sign(60)
    body, _, signature = token.rpartition(".")
    forged = [
        token.replace(str(expires), str(expires + 1), 1),
        f"{body}x.{signature}",
        f"{body}.{signature[:-1]}",
        f"{body}.{signature}=",
        f"{body}.",
        body,
        signature,
        KEY,
        "",
        ".",
        "..",
        "x.y.z",
        "9" * 5000,
    ]
    for text in forged:
        assert not keys.is_token(text.encode()), text
    assert not keys.is_token(b"\xff.\xfe.\xfd")


def test_a_token_is_no_key_and_a_key_no_token() -> None:
    """What starts calls does not show them, and tokens do not make tokens."""
    keys = Keys([KEY])
    token, _ = keys.sign(60)
    assert not keys.is_key(token.encode())
    assert not keys.is_token(KEY.encode())


# Limits


def test_one_address_has_its_starts_and_then_waits(clock: Clock) -> None:
    """A minute's worth at once, then one for each share of a minute; others are not held up."""
    limit = StartLimit(6, 100, clock)
    assert [limit.take("192.0.2.1") for _ in range(6)] == [0] * 6
    assert limit.take("192.0.2.1") == pytest.approx(10)
    assert limit.take("192.0.2.2") == 0
    clock.now += 9.9
    assert limit.take("192.0.2.1") == pytest.approx(0.1)
    clock.now += 0.1
    assert limit.take("192.0.2.1") == 0
    assert limit.take("192.0.2.1") == pytest.approx(10)


def test_all_addresses_together_have_a_limit(clock: Clock) -> None:
    """However many addresses there are; who is refused uses nothing up."""
    limit = StartLimit(3, 5, clock)
    waits = [limit.take(f"192.0.2.{n}") for n in range(10)]
    assert waits[:5] == [0] * 5
    assert min(waits[5:]) == pytest.approx(12)
    clock.now += 12
    assert limit.take("192.0.2.9") == 0


def test_time_does_not_save_up_starts(clock: Clock) -> None:
    """After an hour there is a minute's worth, not an hour's."""
    limit = StartLimit(2, 100, clock)
    limit.take("192.0.2.1")
    clock.now += 3600
    assert [bool(limit.take("192.0.2.1")) for _ in range(3)] == [False, False, True]


def test_the_table_of_addresses_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of addresses takes no more memory; who comes again is not the one forgotten."""
    monkeypatch.setattr(access, "MAX_ADDRESSES", 50)
    limit = StartLimit(1, 10_000, clock)
    for n in range(200):
        limit.take(f"10.0.0.{n}")
        limit.take("192.0.2.1")
    assert limit.addresses == 50
    assert limit.take("192.0.2.1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
        ("x" * 500, "x" * 64),
    ],
)
def test_a_peer_is_an_address_or_an_ipv6_network(address: str, network: str) -> None:
    """Any IPv6 host has 2⁶⁴ addresses to choose from, which count as one."""
    assert network_of(address) == network


def test_networks_hold_addresses() -> None:
    """An address is in its network, whichever family the socket speaks; a name is in none."""
    networks = ["10.0.0.0/8", "2001:db8::/32"]
    assert within_networks("10.1.2.3", networks)
    assert within_networks("::ffff:10.1.2.3", networks)
    assert within_networks("2001:db8::1", networks)
    for address in ("11.0.0.1", "2001:db9::1", "proxy", ""):
        assert not within_networks(address, networks)


def test_a_proxy_is_known_however_the_socket_names_it() -> None:
    """An IPv4 proxy is believed on a socket of both families, too, and nobody beside it."""
    networks = [ip_network(network) for network in as_seen(["10.0.0.0/8", "fd00::/8"])]

    def known(address: str) -> bool:
        return any(ip_address(address) in network for network in networks)

    assert known("10.1.2.3")
    assert known("::ffff:10.1.2.3")
    assert known("fd00::1")
    assert not known("::ffff:11.1.2.3")
    assert not known("::10.1.2.3")


# What is let through


async def ask(guard: dict[str, Any], method: str, path: str, **headers: str) -> int:
    """The status that a request is answered with; 200 where it reaches the application."""
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        sent.append({"status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing has to be read")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "client": ("192.0.2.1", 1),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
    }
    await Access(application, **{"limit": None, **guard})(scope, receive, send)
    return int(sent[0]["status"])


OPEN_PATHS = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/api/agent"),
    ("GET", "/assets/index.js"),
    ("GET", "/widget.js"),
    ("GET", "/widget-daily.js"),
    ("POST", "/sessions/abc/api/offer"),
    ("PATCH", "/sessions/abc/api/offer"),
    ("POST", "/phone/twilio/answer"),
    ("POST", "/daily/dialin"),
    ("POST", "/livekit/webhook"),
    ("GET", "/callsigns"),
    ("GET", "/starting"),
]
START_PATHS = [("POST", "/start"), ("POST", "/api/offer"), ("PATCH", "/api/offer")]
KEY_PATHS = [
    ("GET", "/calls"),
    ("GET", "/calls/"),
    ("POST", "/calls\n"),
    ("HEAD", "/calls"),
    ("POST", "/calls"),
    ("DELETE", "/calls/abc"),
    ("PUT", "/calls/abc/voice"),
    ("GET", "/calls/abc/audio.wav"),
    ("POST", "/tokens"),
    ("GET", "/eval"),
]


@pytest.mark.parametrize(("method", "path"), OPEN_PATHS + START_PATHS + KEY_PATHS)
async def test_without_a_key_to_ask_for_everything_is_open(method: str, path: str) -> None:
    """A server on the loopback asks nobody for anything."""
    assert await ask({"keys": Keys([])}, method, path) == 200


@pytest.mark.parametrize(("method", "path"), OPEN_PATHS)
async def test_what_has_a_proof_of_its_own_needs_no_key(method: str, path: str) -> None:
    """Health, the page, sessions and signed webhooks are open on a server with a key."""
    assert await ask({"keys": Keys([KEY])}, method, path) == 200


@pytest.mark.parametrize(("method", "path"), START_PATHS + KEY_PATHS)
async def test_what_starts_or_shows_calls_needs_the_key(method: str, path: str) -> None:
    """The key opens it, as any Bearer is spelled; no other value, scheme or place does."""
    guard = {"keys": Keys([OTHER, KEY])}
    for good in (f"Bearer {KEY}", f"bearer  {KEY}", f"BEARER {OTHER} "):
        assert await ask(guard, method, path, authorization=good) == 200
    for bad in ("", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer", "Bearer \xff\xfe", "Bearer ."):
        assert await ask(guard, method, path, authorization=bad) == 401
    assert await ask(guard, method, path, **{"x-api-key": KEY}) == 401
    assert await ask(guard, method, path) == 401


def test_no_spelling_of_a_path_leads_past_the_check() -> None:
    """Whatever stands in or around a path: what a route takes for it is asked the same."""
    odd = [*map(chr, range(0x180)), "\u2028", "\u2029", "\ufeff", "//", "/.", "\n\n", "\r\n"]
    for path in ("/start", "/api/offer", "/calls", "/eval", "/tokens"):
        route = Route(path, endpoint=Keys, methods=["POST"])
        for text in odd:
            inside = path[:3] + text + path[3:]
            for spelling in (path + text, text + path, f"{path}/{text}", inside):
                scope = {"type": "http", "method": "POST", "path": spelling, "headers": []}
                if route.matches(scope)[0] is Match.FULL:
                    assert need(spelling) is need(path) is not Need.NOTHING, repr(spelling)
                    assert starts("POST", spelling) is starts("POST", path)


@pytest.mark.parametrize("kind", ["token", "origin"])
async def test_tokens_and_allowed_origins_start_calls_and_show_none(kind: str) -> None:
    """A page may start calls with a token or from an allowed origin, and nothing more."""
    guard = {"keys": Keys([KEY]), "keyless_origins": [SHOP]}
    shown = {"authorization": f"Bearer {Keys([KEY]).sign(60)[0]}"}
    if kind == "origin":
        shown = {"origin": SHOP}
    for method, path in START_PATHS:
        assert await ask(guard, method, path, **shown) == 200
    for method, path in KEY_PATHS:
        assert await ask(guard, method, path, **shown) == 401


async def test_other_origins_start_no_calls() -> None:
    """Neither a foreign page nor our own without the key; a wrong key is not helped by either."""
    guard = {"keys": Keys([KEY]), "keyless_origins": [SHOP]}
    for origin in ("https://evil.example", "null", "", SHOP + ".evil.example", "http://localhost"):
        assert await ask(guard, "POST", "/start", origin=origin) == 401
    wrong = {"origin": SHOP, "authorization": "Bearer wrong"}
    assert await ask(guard, "POST", "/start", **wrong) == 401


async def test_starts_are_counted_and_nothing_else(clock: Clock) -> None:
    """Where the limit is reached, the next start is refused; the key's own are not counted."""
    limit = StartLimit(2, 100, clock)
    guard = {"keys": Keys([KEY]), "limit": limit, "keyless_origins": [SHOP]}
    page = {"origin": SHOP}
    assert await ask(guard, "POST", "/start") == 401
    assert await ask(guard, "PATCH", "/api/offer", **page) == 200
    assert await ask(guard, "POST", "/sessions/abc/api/offer", **page) == 200
    assert await ask(guard, "POST", "/start", **page) == 200
    assert await ask(guard, "POST", "/api/offer/", **page) == 200
    assert await ask(guard, "POST", "/start", **page) == 429
    for _ in range(5):
        assert await ask(guard, "POST", "/start", authorization=f"Bearer {KEY}") == 200


# Settings


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({}, ""),
        ({"host": "localhost"}, ""),
        ({"host": "::1"}, ""),
        ({"host": "0.0.0.0"}, "--host 0.0.0.0: "),
        ({"host": "::"}, "--host ::: "),
        ({"host": "192.168.1.7"}, "--host 192.168.1.7: "),
        ({"public_url": "https://agent.example"}, "--public-url: "),
        ({"host": "0.0.0.0", "insecure": True}, ""),
        ({"host": "0.0.0.0", "api_key": KEY}, ""),
        ({"host": "0.0.0.0", "insecure": True, "require_token": True}, "--require-token: "),
        ({"require_token": True, "api_key": KEY}, ""),
        ({"turn_urls": ["turn:turn.example"]}, "--turn-urls and PARLEY_TURN_SECRET"),
    ],
)
def test_a_server_that_others_reach_needs_a_key(given: dict[str, Any], refused: str) -> None:
    """It does not start without one unless it is told to; the line names setting and cure."""
    checked = settings(**given)
    if not refused:
        checked.check_access()
        return
    with pytest.raises(SettingsError) as error:
        checked.check_access()
    assert str(error.value).startswith(refused)
    assert "PARLEY_" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": SecretStr("short")},
        {"api_key": SecretStr(f"{KEY},short")},
        {"api_key": SecretStr(f"{KEY},")},
        {"allowed_origins": "*"},
        {"allowed_origins": "shop.example"},
        {"allowed_origins": f"{SHOP}/path"},
        {"allowed_origins": f"{SHOP}:port"},
        {"allowed_origins": "http://[::1"},
        {"trusted_proxies": "*"},
        {"trusted_proxies": "proxy"},
        {"turn_urls": "stun:turn.example"},
        {"turn_urls": "turn:turn.example:port"},
    ],
)
def test_what_would_let_too_many_in_is_refused(given: dict[str, Any]) -> None:
    """Keys that can be guessed, and wildcards, are no settings."""
    with pytest.raises(ValueError, match=next(iter(given))):
        settings(**given)


def test_settings_are_brought_into_the_form_that_is_compared() -> None:
    """Origins as browsers write them, and single addresses as networks."""
    origins = f"{SHOP.upper()}/, {SHOP}:443, http://[::1]:8080"
    made = settings(allowed_origins=origins, trusted_proxies="10.0.0.1, fd00::/8")
    assert made.allowed_origins == [SHOP, SHOP, "http://[::1]:8080"]
    assert made.trusted_proxies == ["10.0.0.1/32", "fd00::/8"]


def test_starts_are_limited_where_others_can_start_them() -> None:
    """On the loopback there is nobody to hold back."""
    assert access.limit_of(settings()) is None
    assert access.limit_of(settings(api_key=KEY)) is not None
    assert access.limit_of(settings(host="0.0.0.0", insecure=True)) is not None


# Logs


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+441632960961", "***61"),
        ("12345", "***45"),
        ("1234", "***"),
        ("", "***"),
        ("anonymous", "***"),
        ("sip:alice@example.org", "***"),
    ],
)
def test_a_number_shows_two_digits_at_most(number: str, shown: str) -> None:
    """Whatever a carrier calls a caller, a log can tell two calls apart and not who called."""
    assert mask_number(number) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the secret is hush-hush", "the secret is ***"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("'authorization': 'bearer abc'", "'authorization': 'bearer ***'"),
        ("joined https://x.example/room?t=abc&b=1", "joined https://x.example/room?t=***&b=1"),
        ("GET /a?access_token=abc#x", "GET /a?access_token=***#x"),
        ("eyJhbGciOi.eyJzdWIi.c2ln-_x, then", "***, then"),
        ("from +441632960961 to 441632960962.", "from ***61 to ***62."),
        ('{"from":"+15005550006"}', '{"from":"***06"}'),
        ("POST /calls?to=%2B15005550006&a=1", "POST /calls?to=%2B***06&a=1"),
        ("POST /calls?to=%2b15005550006&a=1", "POST /calls?to=%2b***06&a=1"),
        ("room parley-_+15105550123_a1B2", "room parley-_***23_a1B2"),
        ("sip_15105550123 joined", "sip_***23 joined"),
        ("dial +49 (0)151 1234-5678 now", "dial ***78 now"),
        ("From: <sip:+1-202-555-0123@example>", "From: <sip:***23@example>"),
        ("+49.30.12345678, +4930/12 34 56", "***78, ***56"),
        ("to +441632960961 200 OK", "to ***61 200 OK"),
        ("at 2026-11-22 03:00:00 +0100, 4 + 1234 ms", "at 2026-11-22 03:00:00 +0100, 4 + 1234 ms"),
        ("took 0.12345678901234 s at 12:00:00.123", "took 0.12345678901234 s at 12:00:00.123"),
        ("call 3f2a4b5c6d7e8f90123456789012345a", "call 3f2a4b5c6d7e8f90123456789012345a"),
        ("port 7860, 16000 Hz, 1048576 bytes", "port 7860, 16000 Hz, 1048576 bytes"),
    ],
)
def test_a_line_of_the_log_shows_no_secret(text: str, shown: str) -> None:
    """Secrets, tokens and numbers are starred; what helps to find a fault stays."""
    assert without_secrets(text, ["hush-hush"]) == shown


LOGGING = """
import logging
from loguru import logger
from services import serve
serve.log_to_stderr("debug", ["hush-hush"])
logger.debug("a line with hush-hush")
try:
    raise ValueError("hush-hush went wrong")
except ValueError:
    logger.exception("an error")
    logging.getLogger("uvicorn.error").exception("hush-hush in %s", "a library")
"""


def test_whatever_is_logged_and_however_shows_no_secret() -> None:
    """Messages, errors with where they came from, and what libraries log the standard way."""
    done = subprocess.run(
        [sys.executable, "-c", LOGGING], capture_output=True, text=True, timeout=60, check=True
    )
    assert "hush" not in done.stderr
    assert "DEBUG   __main__: a line with ***" in done.stderr
    assert "ERROR   uvicorn.error: *** in a library" in done.stderr
    assert done.stderr.count("ValueError: *** went wrong") == 2


def test_every_secret_of_the_settings_is_known_to_the_log() -> None:
    """Each key by itself, since that is how one would come to stand in a line."""
    made = settings(api_key=f"{KEY},{OTHER}", turn_secret="turn-secret", turn_urls="turn:t.example")
    assert set(secrets_of(made)) >= {KEY, OTHER, "turn-secret"}
