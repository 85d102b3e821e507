"""The page at a worker's address: type a sentence and hear it."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response

PAGE = Path(__file__).with_name("page.html")
"""One file that needs nothing from elsewhere."""


def page_router() -> APIRouter:
    """`GET /`: the page, for anybody: it asks for the token where the worker does."""
    api = APIRouter()
    page = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def show() -> Response:
        return Response(page, media_type="text/html", headers=headers)

    return api


def _policy(page: str) -> str:
    """What the page may do: run its own script and style, and ask its own worker."""
    sources = {
        kind: " ".join(map(_hash, re.findall(f"<{kind}[^>]*>(.*?)</{kind}>", page, re.DOTALL)))
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
        "connect-src 'self'; media-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


def _hash(source: str) -> str:
    """How a policy names a script or style within a page (https://www.w3.org/TR/CSP3/)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
