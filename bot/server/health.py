"""Whether calls can be taken."""

from fastapi import APIRouter, Response

from bot.call import Calls


def router(calls: Calls) -> APIRouter:
    """`GET /health`: 200 while calls are taken, 503 while the process is about to stop.

    A process that is full is healthy: it answers the next call itself. The models are loaded before
    the server listens, so there is no answer at all until calls can be taken.
    """
    api = APIRouter()

    @api.api_route("/health", methods=["GET", "HEAD"])
    async def health(response: Response) -> dict[str, str | int]:
        response.status_code = 503 if calls.draining else 200
        status = "draining" if calls.draining else "ready"
        return {"status": status, "calls": len(calls), "max_calls": calls.limit}

    return api
