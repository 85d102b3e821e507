"""Keeps other web pages from using a server that a person runs for themselves."""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.reach import LOOPBACK, origin_of


class Guard:
    """Refuses requests and sockets by the name they ask for and the page they come from.

    A page elsewhere that a person has open could otherwise reach a server on their machine or in
    their network: by asking for it as it is, or under a name of its own that it has resolve to
    127.0.0.1 or 10.0.0.5. Names are looked at where the server's own are known: on the loopback,
    and where it has a public address. Such a page needs a name with a dot that is no number, so
    that a server on a network answers to the others too, by which probes and neighbours know it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        allowed_origins: Iterable[str] = (),
        public_url: str | None = None,
        cure: str = "",
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers the others.
            host: The address that is listened on.
            allowed_origins: Web origins besides the server's own whose pages may use it.
            public_url: The address under which the world knows the server, if it does.
            cure: What allows one, for the message.
        """
        self._app = app
        self._loopback = host in LOOPBACK
        self._public = public_url is not None
        origins = {*allowed_origins, *([origin_of(public_url)] if public_url else [])}
        self._allowed = frozenset(origins)
        self._names = LOOPBACK | {urlsplit(origin).hostname for origin in origins}
        self._cure = cure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or socket."""
        reason = self._reason(Headers(scope=scope)) if scope["type"] != "lifespan" else ""
        if not reason:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await JSONResponse({"detail": reason}, status_code=403)(scope, receive, send)

    def _reason(self, headers: Headers) -> str:
        """Why it is refused; empty where it is not."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if not self._answers_to(_name(host)):
            return f"this name is not served{self._cure}"
        if origin and origin not in self._allowed and origin.partition("://")[2] != host:
            return f"this origin may not call{self._cure}"
        return ""

    def _answers_to(self, name: str | None) -> bool:
        """Whether the server may be asked for by this name."""
        if name in self._names or not (self._loopback or self._public):
            return True
        return not self._loopback and name is not None and ("." not in name or _is_number(name))


def _name(netloc: str) -> str | None:
    """The name in `name:port`; None where it is malformed."""
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _is_number(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
