"""`GET /widget.js`: the script that puts the agent on any page."""

import gzip
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from bot.server.web import PAGE

FILE = PAGE / "widget.js"
"""The built script."""

MAX_AGE_SECONDS = 300
"""How long a browser may go without asking whether there is a newer one."""


def router(file: Path = FILE) -> APIRouter:
    """The route of the widget; none where it has not been built.

    Any page may load the script, even one that is isolated from other origins: it is no secret, and
    what a page may then ask for is checked where it asks.

    Args:
        file: The script, read once.
    """
    api = APIRouter()
    if not file.is_file():
        return api
    plain = file.read_bytes()
    packed = gzip.compress(plain, mtime=0)
    name = sha256(plain).hexdigest()[:16]
    headers = {
        "Cache-Control": f"public, max-age={MAX_AGE_SECONDS}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Vary": "Accept-Encoding",
    }

    @api.api_route("/widget.js", methods=["GET", "HEAD"], include_in_schema=False)
    async def widget(request: Request) -> Response:
        wants_packed = "gzip" in request.headers.get("accept-encoding", "")
        tag = f'"{name}-gzip"' if wants_packed else f'"{name}"'
        answer = headers | {"ETag": tag}
        known = request.headers.get("if-none-match", "")
        if known == "*" or tag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=answer)
        if wants_packed:
            answer["Content-Encoding"] = "gzip"
        return Response(packed if wants_packed else plain, 200, answer, "text/javascript")

    return api
