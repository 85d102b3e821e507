"""A carrier's REST API on loopback, which notes what it is asked and answers as it is told."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        method: Its HTTP method.
        path: Its path.
        authorization: The header of that name; empty where there is none.
        body: Its body.
    """

    method: str
    path: str
    authorization: str
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of its form."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def json(self) -> Any:
        """What its JSON says."""
        return json.loads(self.body)


def _agree(_: Asked) -> web.Response:
    return web.json_response({})


@dataclass
class CarrierApi:
    """What is asked and answered.

    Attributes:
        url: Its address.
        asked: Every request, in order.
        answer: Makes the answer to one; an empty object unless a test has another.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], web.Response] = _agree


@asynccontextmanager
async def carrier_api() -> AsyncIterator[CarrierApi]:
    """Serve on a free loopback port until the block ends."""
    api = CarrierApi()

    async def note(request: web.Request) -> web.Response:
        asked = Asked(
            request.method,
            request.path,
            request.headers.get("Authorization", ""),
            await request.read(),
        )
        api.asked.append(asked)
        return api.answer(asked)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", note)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
