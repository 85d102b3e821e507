"""Who may start calls and see them, and how often.

A server that asks for a key (PARLEY_API_KEY) opens three ways to start a call: the key itself, a
start token that was made with it and soon expires, and a page of an allowed origin. Only the key
shows calls and makes tokens. What has a proof of its own is open: a session by its id, a carrier's
or a room's webhook by its signature. So are health and the page. docs/security.md has the whole.
"""

import hashlib
import hmac
import math
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from secrets import token_urlsafe

from loguru import logger
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.settings import Settings
from bot.token_bucket import TokenBucket
from services.reach import network_of
from services.settings import revealed

MAX_ADDRESSES = 10_000
"""Addresses whose starts are counted at once; who was longest away is forgotten first."""


class Need(IntEnum):
    """What has to be shown for a request."""

    NOTHING = 0
    START = 1
    """The key, a start token, or an allowed origin."""
    KEY = 2


_NEEDS = {
    "/start": Need.START,
    "/api/offer": Need.START,
    "/calls": Need.KEY,
    "/eval": Need.KEY,
    "/tokens": Need.KEY,
}


def need(path: str) -> Need:
    """What a path, or what lies below it, asks for."""
    # The patterns of Starlette's routes end in `$`, which lets a line feed (%0A) pass behind it.
    path = path.rstrip("\n")
    for prefix, needed in _NEEDS.items():
        if path == prefix or path.startswith(prefix + "/"):
            return needed
    return Need.NOTHING


def starts(method: str, path: str) -> bool:
    """Whether a request is one that starts a call, of which there may be so many a minute."""
    return method == "POST" and path.rstrip("/\n") in ("/start", "/api/offer", "/calls")


class Keys:
    """The API keys, and the start tokens that are made with them.

    A token is `expiry.nonce.signature`: seconds since 1970, a random text, and HMAC-SHA256 over
    both. What signs is derived from a key, so that every process with the key takes the token.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """Know the keys.

        Args:
            keys: Any of them will do; the first one signs.
        """
        self._keys = [key.encode() for key in keys]
        self._signers = [_hmac(key, b"parley start token") for key in self._keys]

    def __bool__(self) -> bool:
        """Whether there is a key to ask for."""
        return bool(self._keys)

    def is_key(self, given: bytes) -> bool:
        """Whether this is one of the keys; it takes as long whichever it is."""
        return True in [hmac.compare_digest(given, key) for key in self._keys]

    def sign(self, seconds: float) -> tuple[str, int]:
        """A new token.

        Args:
            seconds: How long it is good for.

        Returns:
            The token, and when it expires, in seconds since 1970.
        """
        expiry = math.ceil(time.time() + seconds)
        body = f"{expiry}.{token_urlsafe(12)}"
        return f"{body}.{_signature(self._signers[0], body.encode()).decode()}", expiry

    def is_token(self, given: bytes) -> bool:
        """Whether this is a token of one of the keys, and good at this moment."""
        body, _, signature = given.rpartition(b".")
        expected = [_signature(signer, body) for signer in self._signers]
        if True not in [hmac.compare_digest(signature, each) for each in expected]:
            return False
        return time.time() < int(body.partition(b".")[0])


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def _signature(signer: bytes, body: bytes) -> bytes:
    return urlsafe_b64encode(_hmac(signer, body)).rstrip(b"=")


class StartLimit:
    """How many calls may be started: so many a minute, by one address and by all.

    Token buckets that hold a minute's worth, so that several at once are no matter.
    """

    def __init__(
        self, of_one: int, of_all: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with full buckets.

        Args:
            of_one: Starts a minute for one address.
            of_all: Starts a minute for all of them.
            clock: What tells the time, in seconds.
        """
        self._of_one = of_one
        self._clock = clock
        self._all = TokenBucket(of_all, of_all / 60, clock)
        self._each: OrderedDict[str, TokenBucket] = OrderedDict()

    @property
    def addresses(self) -> int:
        """How many are remembered."""
        return len(self._each)

    def take(self, address: str) -> float:
        """Take one start.

        Args:
            address: Who starts.

        Returns:
            0 where it was there to take; otherwise the seconds until one is.
        """
        peer = network_of(address)
        one = self._each.pop(peer, None) or TokenBucket(
            self._of_one, self._of_one / 60, self._clock
        )
        self._each[peer] = one
        if len(self._each) > MAX_ADDRESSES:
            self._each.popitem(last=False)
        wait = max(one.wait(), self._all.wait())
        if not wait:
            one.take()
            self._all.take()
        return wait


@dataclass(frozen=True)
class _Refusal:
    """Why a request is not let through."""

    status: int
    detail: str
    headers: dict[str, str]


class Access:
    """Lets requests through that show what their path asks for, as often as they may."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        limit: StartLimit | None,
        keyless_origins: Collection[str] = (),
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers those that are let through.
            keys: The keys; none leaves the server open.
            limit: How often calls may be started without a key; None for any number.
            keyless_origins: Web origins whose pages may start calls. A page cannot lie about its
                origin, other programs can: it is `limit` that holds those.
        """
        self._app = app
        self._keys = keys
        self._limit = limit
        self._keyless = frozenset(keyless_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or socket."""
        refusal = self._refusal(scope) if scope["type"] != "lifespan" else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})
        else:
            answer = JSONResponse({"detail": refusal.detail}, refusal.status, refusal.headers)
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> _Refusal | None:
        path, method = scope["path"], scope.get("method", "GET")
        needed = need(path)
        if needed is Need.NOTHING:
            return None
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("",))[0]
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Header values are decoded as Latin-1, whatever bytes came.
        shown = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        if self._keys and self._keys.is_key(shown):
            return None
        if self._keys and not self._is_admitted(needed, shown, headers):
            logger.info("401 for {} {!r} from {}", method, path, address)
            what = "the key or token is wrong, or has expired" if given else "this needs a key"
            detail = f"{what}: Authorization: Bearer PARLEY_API_KEY"
            return _Refusal(401, detail, {"WWW-Authenticate": "Bearer"})
        if self._limit and starts(method, path) and (wait := self._limit.take(address)):
            logger.info("429 for {} {!r} from {}", method, path, address)
            seconds = math.ceil(wait)
            detail = f"too many calls are being started; try again in {seconds} s"
            return _Refusal(429, detail, {"Retry-After": str(seconds)})
        return None

    def _is_admitted(self, needed: Need, shown: bytes, headers: Headers) -> bool:
        """Whether a call may be started without the key."""
        if needed is not Need.START:
            return False
        return self._keys.is_token(shown) if shown else headers.get("origin") in self._keyless


def keys_of(settings: Settings) -> Keys:
    """The keys that the settings name."""
    return Keys([key for key in revealed(settings.api_key).split(",") if key])


def limit_of(settings: Settings) -> StartLimit | None:
    """How often calls may be started; None where only this machine can."""
    if not (settings.exposed or settings.api_key):
        return None
    return StartLimit(settings.starts_per_minute, settings.total_starts_per_minute)
