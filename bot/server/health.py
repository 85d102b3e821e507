"""Whether calls can be taken."""

from fastapi import APIRouter, Response

from bot.call import Calls
from bot.engines import Engines


def router(calls: Calls, engines: Engines) -> APIRouter:
    """`GET /health`: 200 while calls are taken, 503 while the process stops or has no worker.

    A process that is full is healthy: it answers the next call itself. The models are loaded before
    the server listens, so there is no answer at all until calls can be taken.
    """
    api = APIRouter()

    @api.api_route("/health", methods=["GET", "HEAD"])
    async def health(response: Response) -> dict[str, str | int]:
        status = "draining" if calls.draining else "ready" if engines.ready else "no worker"
        response.status_code = 200 if status == "ready" else 503
        return {"status": status, "calls": len(calls), "max_calls": calls.limit}

    return api
