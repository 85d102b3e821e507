"""`GET /widget.js`: the script that puts the agent on any page, and what it loads for Daily."""

import gzip
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from bot.server.web import PAGE

FILES = ("widget.js", "widget-daily.js")
"""The built scripts."""

MAX_AGE_SECONDS = 300
"""How long a browser may go without asking whether there is a newer one."""


def router(folder: Path = PAGE) -> APIRouter:
    """The routes of the widget's scripts; none for one that has not been built.

    Any page may load them, even one that is isolated from other origins: they are no secret, and
    what a page may then ask for is checked where it asks.

    Args:
        folder: Where the scripts are; each is read once.
    """
    api = APIRouter()
    for name in FILES:
        if (file := folder / name).is_file():
            answer = _serve(file.read_bytes())
            api.add_api_route(f"/{name}", answer, methods=["GET", "HEAD"], include_in_schema=False)
    return api


def _serve(plain: bytes) -> Callable[[Request], Awaitable[Response]]:
    """What answers requests for a script."""
    packed = gzip.compress(plain, mtime=0)
    name = sha256(plain).hexdigest()[:16]
    headers = {
        # Browsers ask it of a module, and of a script with `integrity`.
        "Access-Control-Allow-Origin": "*",
        "Cache-Control": f"public, max-age={MAX_AGE_SECONDS}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Vary": "Accept-Encoding",
    }

    async def answer(request: Request) -> Response:
        wants_packed = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{name}-gzip"' if wants_packed else f'"{name}"'
        said = headers | {"ETag": tag}
        known = request.headers.get("if-none-match", "")
        if known == "*" or tag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=said)
        if wants_packed:
            said["Content-Encoding"] = "gzip"
        return Response(packed if wants_packed else plain, 200, said, "text/javascript")

    return answer
