"""A worker's HTTP application: its health, its sockets, OpenAI's speech API and the page."""

from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI, Response, WebSocket
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.guard import Guard
from services.worker.auth import require_token
from services.worker.host import Host
from services.worker.openai_api import openai_router
from services.worker.page import page_router
from services.worker.protocol import Lease
from services.worker.websocket import Sockets


def create_app(
    host: Host, sockets: Sockets, lease: Callable[[], Lease], *, token: str | None, address: str
) -> FastAPI:
    """The application, around engines that are loaded.

    Args:
        host: What speaks and hears.
        sockets: The worker's sockets.
        lease: What the worker is at this moment.
        token: What whoever uses it has to show; None where it is open.
        address: The address that is listened on.
    """
    app = FastAPI(title="Parley worker", openapi_url=None)
    checked = [Depends(require_token(token))]
    app.include_router(_health_router(host, lease))
    app.include_router(openai_router(host), dependencies=checked)
    app.include_router(page_router())

    @app.websocket("/", dependencies=checked)
    async def serve(websocket: WebSocket) -> None:
        await sockets.serve(websocket)

    app.add_middleware(Guard, host=address)
    return app


def _health_router(host: Host, lease: Callable[[], Lease]) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Whether it takes utterances; a worker that is full is ready, one that drains is not."""
        now = lease()
        state = now.model_dump(
            include={"engine", "hears", "resident", "capacity", "calls", "draining", "version"}
        )
        return JSONResponse(state, status_code=503 if host.admission.draining else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        """What is counted, for Prometheus."""
        return Response(generate_latest(host.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
