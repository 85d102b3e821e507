"""`POST /start`, after the conventions of Pipecat's clients, for every transport.

What the transports share stands here too: how a caller is told that all lines are busy, and that
there is no such voice.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict

from bot.call import Calls, TooManyCallsError
from bot.engines import Engines
from bot.server.openapi import answers
from bot.server.turn import IceConfig

RETRY_SECONDS = 10
"""When a caller who was turned away may try again."""


class StartBody(BaseModel):
    """What a session may ask for.

    Attributes:
        voice: A voice other than the agent's own.
    """

    voice: str | None = None


class StartRequest(BaseModel):
    """`POST /start`, as Pipecat's clients send it; any other fields are ignored."""

    transport: str = "webrtc"
    body: StartBody = StartBody()


class Started(BaseModel):
    """What a client needs in order to connect, after Pipecat's conventions.

    Attributes:
        sessionId: The session; with WebRTC, who knows it may make its offer, once and soon.
        iceConfig: The servers that help WebRTC's media through.
    """

    # Rooms have their own fields besides.
    model_config = ConfigDict(extra="allow")

    sessionId: str  # noqa: N815 - the names are the clients'.
    iceConfig: IceConfig | None = None  # noqa: N815


class Starter(Protocol):
    """What a transport does with `POST /start`.

    Attributes:
        lacks: What the transport lacks before it can be used, in one line that names the setting;
            empty when it lacks nothing.
    """

    lacks: str

    async def start(self, body: StartBody) -> dict[str, Any]:
        """Let a caller in.

        Args:
            body: What was asked for; its voice is one of the engines'.

        Returns:
            What the client needs in order to connect; `sessionId` is always there.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
            HTTPException: It cannot be done; the detail is one line.
        """
        ...


def busy(calls: Calls) -> HTTPException:
    """What a caller is told who cannot be let in: 503, and when to try again."""
    return HTTPException(
        503,
        f"all {calls.limit} lines are busy; try again in {RETRY_SECONDS} seconds",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def check_voice(engines: Engines, voice: str | None) -> None:
    """Refuse a voice that is not there.

    Raises:
        HTTPException: 400, with the names of those that are.
    """
    if voice is not None and not engines.has_voice(voice):
        names = ", ".join(v.name for v in engines.voices())
        raise HTTPException(400, f"there is no voice {voice[:80]!r}; there are: {names}")


def router(starters: Mapping[str, Starter], calls: Calls, engines: Engines) -> APIRouter:
    """The route of `POST /start`.

    Args:
        starters: What answers it, by the transport's name.
        calls: The calls of the process.
        engines: What the agent speaks, hears and thinks with.
    """
    api = APIRouter()

    @api.post(
        "/start",
        response_model=Started,
        response_model_exclude_none=True,
        responses=answers(400, 502, 503),
    )
    async def start(request: StartRequest | None = None) -> dict[str, Any]:
        request = request or StartRequest()
        starter = starters.get(request.transport)
        if starter is None:
            raise HTTPException(
                400,
                f"there is no transport {request.transport[:40]!r}; there are: "
                + ", ".join(starters),
            )
        if starter.lacks:
            raise HTTPException(400, starter.lacks)
        check_voice(engines, request.body.voice)
        try:
            return await starter.start(request.body)
        except TooManyCallsError:
            raise busy(calls) from None

    return api
