"""Pipecat's eval harness as a caller: `pipecat eval run FILE --bot-url ws://HOST:PORT/eval`.

The harness speaks RTVI over the socket, in text or with speech, and is told more than callers are:
tools' arguments, for example. So the socket is offered only where `--eval` asks for it.
"""

import asyncio
import json

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from loguru import logger
from pipecat.evals.fastapi_transport import EvalFastAPIWebsocketTransport
from pipecat.evals.serializer import EvalConnectionFlags, EvalSerializer, parse_eval_connect
from pipecat.evals.transport import EvalTransportParams

from bot.call import Calls, TooManyCallsError
from bot.line import Line, Origin

FIRST_MESSAGE_SECONDS = 5.0
"""How long the harness may take to say who it is."""


class EvalLine(Line):
    """The harness's socket."""

    awaits_client = True
    can_transfer = True
    client_messages = frozenset({"raw-audio", "raw-audio-batch"})

    def __init__(self, websocket: WebSocket, flags: EvalConnectionFlags) -> None:
        """Take over a socket whose first message has been read.

        Args:
            websocket: The socket.
            flags: What that message asked for.
        """
        params = EvalTransportParams(
            audio_in_enabled=True, audio_out_enabled=True, serializer=EvalSerializer()
        )
        transport = EvalFastAPIWebsocketTransport(websocket, params, flags)
        super().__init__(transport, Origin("eval"))

    async def transfer(self, to: str) -> None:
        """Put nobody through: as far as the agent can tell, it works."""


def router(calls: Calls) -> APIRouter:
    """`WS /eval`: one call for each socket.

    A socket that does not begin as the harness does is closed with 1008, one for which there is no
    line with 1013, "try again later" (IANA's WebSocket close codes).

    Args:
        calls: Where the calls go.
    """
    api = APIRouter()

    @api.websocket("/eval")
    async def evaluate(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            flags = await _flags(websocket)
        except WebSocketDisconnect:
            return
        except (TimeoutError, KeyError, ValueError, RecursionError) as error:
            logger.debug("not an eval: {!r}", error)
            await websocket.close(1008, "this is for pipecat eval")
            return
        try:
            call = calls.start(lambda: EvalLine(websocket, flags))
        except TooManyCallsError:
            await websocket.close(1013, "all lines are busy")
            return
        await call.ended.wait()

    return api


async def _flags(websocket: WebSocket) -> EvalConnectionFlags:
    """What the harness's first message asks for.

    Raises:
        TimeoutError: There is none in time.
        KeyError: It is no text.
        ValueError: It is no such message.
        RecursionError: It is nested too deep.
        WebSocketDisconnect: It has hung up.
    """
    async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
        flags = parse_eval_connect(json.loads(await websocket.receive_text()))
    if flags is None:
        raise ValueError("it begins with something else")
    return flags
