"""Whether calls can be taken."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from bot.call import Calls
from bot.engines import Engines


class Health(BaseModel):
    """Whether calls are taken, how many there are, and how many there may be."""

    status: Literal["ready", "draining", "no worker"]
    calls: int
    max_calls: int


def router(calls: Calls, engines: Engines) -> APIRouter:
    """`GET /health`: 200 while calls are taken, 503 while the process stops or has no worker.

    A process that is full is healthy: it answers the next call itself. The models are loaded before
    the server listens, so there is no answer at all until calls can be taken.
    """
    api = APIRouter()

    unwell: dict[int | str, dict[str, Any]] = {
        503: {"model": Health, "description": "No call can be taken."}
    }

    @api.head("/health", responses=unwell, include_in_schema=False)
    @api.get("/health", responses=unwell)
    async def health(response: Response) -> Health:
        status: Literal["ready", "draining", "no worker"] = "ready"
        if calls.draining:
            status = "draining"
        elif not engines.ready:
            status = "no worker"
        response.status_code = 200 if status == "ready" else 503
        return Health(status=status, calls=len(calls), max_calls=calls.limit)

    return api
