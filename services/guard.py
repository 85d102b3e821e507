"""Keeps other web pages from using a server that a person runs for themselves."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.reach import LOOPBACK


class Guard:
    """Refuses requests and sockets by the name they ask for and the page they come from.

    A page elsewhere that a person has open could otherwise reach a server on their machine: by
    asking for it as it is, or under a name of its own that it has resolve to 127.0.0.1.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, allowed_origins: Iterable[str] = (), cure: str = ""
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers the others.
            host: The address that is listened on.
            allowed_origins: Web origins besides the server's own whose pages may use it.
            cure: What allows one, for the message.
        """
        self._app = app
        self._loopback = host in LOOPBACK
        self._allowed = frozenset(allowed_origins)
        self._names = LOOPBACK | {urlsplit(origin).hostname for origin in self._allowed}
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
        if self._loopback and _name(host) not in self._names:
            return f"this name is not served{self._cure}"
        if origin and origin not in self._allowed and origin.partition("://")[2] != host:
            return f"this origin may not call{self._cure}"
        return ""


def _name(netloc: str) -> str | None:
    """The name in `name:port`; None where it is malformed."""
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
