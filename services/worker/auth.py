"""Who may use a worker: whoever knows its token."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import HTTPException, WebSocketException
from starlette.requests import HTTPConnection


def require_token(token: str | None) -> Callable[[HTTPConnection], Awaitable[None]]:
    """A FastAPI dependency that lets through those who send `Authorization: Bearer TOKEN`.

    A WebSocket is refused before it is accepted, which its client sees as a 403.

    Args:
        token: What they must send; None or empty to let everybody through.
    """

    async def check(connection: HTTPConnection) -> None:
        if not token:
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        # Header values are decoded as Latin-1, whatever bytes came.
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("latin-1"), token.encode()
        ):
            return
        detail = "the token is wrong" if given else "send the token: Authorization: Bearer TOKEN"
        if connection.scope["type"] == "websocket":
            raise WebSocketException(1008, detail)
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    return check
