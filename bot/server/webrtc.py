"""Calls over WebRTC, after the conventions of Pipecat's clients.

`POST /start` opens a session, `POST /sessions/{id}/api/offer` begins its call with an SDP offer,
and `PATCH` on the same path adds ICE candidates. `/api/offer` does without a session.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import aioice.ice
from aiortc.jitterbuffer import JitterBuffer
from aiortc.sdp import SessionDescription
from fastapi import APIRouter, HTTPException
from loguru import logger
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import (
    IceCandidate,
    SmallWebRTCPatchRequest,
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pydantic import AliasChoices, BaseModel, Field

from bot.call import Calls, TooManyCallsError
from bot.engines import Engines
from bot.line import Line, Origin
from bot.server.openapi import answers
from bot.server.start import StartBody, busy, check_voice
from bot.server.turn import IceServers
from bot.settings import Settings

SESSION_SECONDS = 60.0
"""How long a session waits for its offer."""

MAX_SESSIONS = 256
"""Sessions that may wait for their offers at once."""

MAX_CANDIDATES = 64
"""ICE candidates that one request may add."""

JITTER_PACKETS = 8
"""Packets of a caller's audio, 20 ms each, within which a late one is still put in its place."""


# A caller that vanishes stops answering ICE's consent checks (RFC 7675). aioice gives up after six
# unanswered ones, five seconds apart, and has no parameter for it: a line would stay taken for half
# a minute. Three, two seconds apart (give or take a fifth) and waited for half a second each, end
# the call within nine seconds.
aioice.ice.CONSENT_INTERVAL = 2
aioice.ice.CONSENT_FAILURES = 3


class Answer(BaseModel):
    """The answer to an SDP offer, and what the connection is called."""

    sdp: str
    type: str
    pc_id: str


class Taken(BaseModel):
    """That candidates were taken."""

    status: str = "success"


class OfferRequest(BaseModel):
    """An SDP offer; with the `pc_id` of a running call, a renegotiation of it."""

    sdp: str = Field(min_length=1, max_length=128 * 1024)
    type: str = Field(pattern="^offer$")
    pc_id: str | None = None
    restart_pc: bool | None = None
    request_data: Any = Field(
        default=None, validation_alias=AliasChoices("request_data", "requestData")
    )


class Candidate(BaseModel):
    """One ICE candidate."""

    candidate: str = Field(max_length=4096)
    sdp_mid: str
    sdp_mline_index: int


class CandidatesRequest(BaseModel):
    """ICE candidates of a call that has begun."""

    pc_id: str
    candidates: list[Candidate] = Field(max_length=MAX_CANDIDATES)


class Session:
    """What was asked for at `/start`, and the connection that came of it.

    Attributes:
        body: What was asked for.
        opened: When, on the clock of `time.monotonic`.
        offered: Whether its offer has come.
        pc_id: The connection that answers the offer.
    """

    def __init__(self, body: StartBody) -> None:
        """Open a session that waits for its offer.

        Args:
            body: What it asked for.
        """
        self.body = body
        self.opened = time.monotonic()
        self.offered = False
        self.pc_id: str | None = None


class WebLine(Line):
    """A WebRTC connection."""

    def __init__(
        self,
        connection: SmallWebRTCConnection,
        close: Callable[[SmallWebRTCConnection], Awaitable[None]],
        *,
        awaits_client: bool,
    ) -> None:
        """Take over a connection that has been offered.

        Args:
            connection: The connection.
            close: Lets go of it.
            awaits_client: Whether there is a data channel, for an RTVI client.
        """
        hear_sooner(connection)
        params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
        super().__init__(SmallWebRTCTransport(connection, params), Origin("webrtc"))
        self.awaits_client = awaits_client
        self._connection = connection
        self._close = close

    async def close(self) -> None:
        """Let go of the connection."""
        await self._close(self._connection)


class Offers:
    """Turns SDP offers into calls."""

    lacks = ""

    def __init__(self, settings: Settings, engines: Engines, calls: Calls) -> None:
        """Take offers for one process.

        Args:
            settings: The settings in force.
            engines: What the agent speaks, hears and thinks with.
            calls: Where the calls go.
        """
        self._ice_servers = IceServers(settings)
        self._engines = engines
        self._calls = calls
        self._sessions: dict[str, Session] = {}
        # The connections of calls that go on, by their present id.
        self._connections: dict[str, SmallWebRTCConnection] = {}
        self._handler = SmallWebRTCRequestHandler(ice_servers=self._ice_servers.for_agent())

    async def start(self, body: StartBody) -> dict[str, Any]:
        """Open a session that waits for its offer.

        Args:
            body: What was asked for; its voice is one of the engines'.

        Returns:
            Its `sessionId`, and the ICE servers where there are any.

        Raises:
            TooManyCallsError: The process is full, or too many sessions wait.
        """
        self._drop_stale_sessions()
        waiting = sum(not session.offered for session in self._sessions.values())
        if self._calls.full or waiting >= MAX_SESSIONS:
            raise TooManyCallsError
        session_id = uuid4().hex
        self._sessions[session_id] = Session(body)
        return {"sessionId": session_id, "iceConfig": self._ice_servers.for_caller()}

    async def offer(self, request: OfferRequest, session_id: str | None = None) -> dict[str, str]:
        """Begin the call that an offer asks for, or renegotiate one that goes on.

        Returns:
            The answer: `sdp`, `type` and `pc_id`.

        Raises:
            HTTPException: 400 for an offer that cannot be answered, 404 for an unknown session or
                connection, 409 for a second offer, 503 when the process is full.
        """
        session = self._session(session_id) if session_id else None
        has_data = _check_offer(request.sdp)
        if request.pc_id:
            return await self._renegotiate(request, request.pc_id, session)
        if session and session.offered:
            raise HTTPException(409, "this session has its call already; open another")
        body = session.body if session else self._body(request.request_data)
        if self._calls.full:
            raise busy(self._calls)
        if session:
            session.offered = True
        try:
            answer = await self._begin(request, body, awaits_client=has_data)
        except HTTPException:
            if session:
                session.offered = False
            raise
        if session:
            session.pc_id = answer["pc_id"]
        return answer

    async def add_candidates(
        self, request: CandidatesRequest, session_id: str | None = None
    ) -> None:
        """Add ICE candidates to a call that has begun.

        Raises:
            HTTPException: 404 for an unknown connection, 400 for a candidate that cannot be read.
        """
        self._check_connection(request.pc_id, self._session(session_id) if session_id else None)
        candidates = [
            IceCandidate(c.candidate, c.sdp_mid, c.sdp_mline_index) for c in request.candidates
        ]
        try:
            await self._handler.handle_patch_request(
                SmallWebRTCPatchRequest(pc_id=request.pc_id, candidates=candidates)
            )
        except Exception as error:
            raise HTTPException(400, "an ICE candidate cannot be read") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._handler.close()

    async def _begin(
        self, request: OfferRequest, body: StartBody, *, awaits_client: bool
    ) -> dict[str, str]:
        """Answer an offer with a call."""
        failure: HTTPException | None = None

        async def begin(connection: SmallWebRTCConnection) -> None:
            # The handler logs what is raised here and answers all the same, so keep it for later.
            nonlocal failure
            try:
                self._calls.start(
                    lambda: WebLine(connection, self._close, awaits_client=awaits_client),
                    body.voice,
                )
            except TooManyCallsError:
                failure = busy(self._calls)
            except Exception:
                logger.exception("a call could not be built")
                failure = HTTPException(500, "the call could not be begun; the log says why")
            else:
                self._connections[connection.pc_id] = connection
                return
            await connection.disconnect()

        answer = await self._answer(request, begin)
        if failure:
            self._forget(answer["pc_id"])
            raise failure
        return answer

    async def _renegotiate(
        self, request: OfferRequest, pc_id: str, session: Session | None
    ) -> dict[str, str]:
        """Answer an offer of a caller whose call goes on."""
        connection = self._check_connection(pc_id, session)
        gone = False

        async def begin(fresh: SmallWebRTCConnection) -> None:
            # The caller's connection has closed, and its call is about to end.
            nonlocal gone
            gone = True
            await fresh.disconnect()

        try:
            answer = await self._answer(request, begin)
        except HTTPException:
            if request.restart_pc:
                # Its old peer is closed already: nothing is left that could carry the call.
                await connection.disconnect()
            raise
        if gone:
            self._forget(answer["pc_id"])
            raise HTTPException(404, "that connection has closed; send an offer without pc_id")
        if answer["pc_id"] != pc_id:
            hear_sooner(connection)
            self._forget(pc_id)
            self._connections[answer["pc_id"]] = connection
            if session:
                session.pc_id = answer["pc_id"]
        return answer

    async def _answer(
        self,
        request: OfferRequest,
        begin: Callable[[SmallWebRTCConnection], Awaitable[None]],
    ) -> dict[str, str]:
        """Have Pipecat's handler answer an offer."""
        try:
            answer = await self._handler.handle_web_request(
                SmallWebRTCRequest(
                    sdp=request.sdp,
                    type=request.type,
                    pc_id=request.pc_id,
                    restart_pc=request.restart_pc,
                ),
                begin,
            )
        except Exception as error:
            logger.debug("an offer could not be answered: {!r}", error)
            answer = None
        if answer is None:
            raise HTTPException(400, "the offer cannot be answered; is its SDP whole?")
        self._ice_servers.check(answer["sdp"])
        return answer

    async def _close(self, connection: SmallWebRTCConnection) -> None:
        """Let go of an ended call's connection, which may never have connected.

        Pipecat's transport closes only what is connected, and a caller could connect later.
        """
        await connection.disconnect()
        self._forget(connection.pc_id)

    def _forget(self, pc_id: str) -> None:
        self._connections.pop(pc_id, None)
        # The handler drops a connection when it closes, but under its latest id alone, and keeps
        # one that was refused.
        self._handler._pcs_map.pop(pc_id, None)

    def _check_connection(self, pc_id: str, session: Session | None) -> SmallWebRTCConnection:
        connection = self._connections.get(pc_id)
        if connection is None or (session and session.pc_id != pc_id):
            raise HTTPException(404, "there is no such connection; send an offer without pc_id")
        return connection

    def _session(self, session_id: str) -> Session:
        self._drop_stale_sessions()
        session = self._sessions.get(session_id)
        if session is None:
            raise HTTPException(404, "there is no such session; POST /start opens one")
        return session

    def _body(self, data: object) -> StartBody:
        voice = data.get("voice") if isinstance(data, dict) else None
        body = StartBody(voice=voice if isinstance(voice, str) else None)
        check_voice(self._engines, body.voice)
        return body

    def _drop_stale_sessions(self) -> None:
        """Forget sessions whose offer is overdue, and those whose call is over."""
        overdue = time.monotonic() - SESSION_SECONDS
        for session_id, session in list(self._sessions.items()):
            ended = session.pc_id is not None and session.pc_id not in self._connections
            if ended or (not session.offered and session.opened < overdue):
                del self._sessions[session_id]


def hear_sooner(connection: SmallWebRTCConnection) -> None:
    """Have a connection pass the caller's audio on with the next packet.

    aiortc's receiver keeps four packets in hand, 80 ms by which every turn and every barge-in is
    noticed later. It also releases one packet for one that comes, so that after a lost packet it
    stays behind by as many as it can hold, 320 ms for the rest of the call. Neither has a
    parameter, so the buffer is replaced, as Pipecat's connection does for video.
    """
    for transceiver in connection.pc.getTransceivers():
        if transceiver.kind == "audio":
            buffer = JitterBuffer(capacity=JITTER_PACKETS)
            transceiver.receiver._RTCRtpReceiver__jitter_buffer = buffer  # type: ignore[attr-defined]


def _check_offer(sdp: str) -> bool:
    """Whether an offer has a data channel.

    Raises:
        HTTPException: 400, when it is no SDP or offers no audio.
    """
    try:
        media = SessionDescription.parse(sdp).media
    except Exception as error:
        raise HTTPException(400, "the SDP cannot be read") from error
    kinds = [m.kind for m in media]
    # The audio comes first in what Pipecat's clients offer, and its transport relies on it.
    if not kinds or kinds[0] != "audio":
        raise HTTPException(400, "the SDP offers no audio as its first medium")
    return "application" in kinds


def router(offers: Offers) -> APIRouter:
    """The routes of offers and candidates.

    Args:
        offers: What takes them.
    """
    api = APIRouter()

    @api.post("/api/offer", response_model=Answer, responses=answers(400, 404, 500, 503))
    async def offer(request: OfferRequest) -> dict[str, str]:
        return await offers.offer(request)

    @api.patch("/api/offer", responses=answers(400, 404))
    async def candidates(request: CandidatesRequest) -> Taken:
        await offers.add_candidates(request)
        return Taken()

    @api.post(
        "/sessions/{session_id}/api/offer",
        response_model=Answer,
        responses=answers(400, 404, 409, 500, 503),
    )
    async def session_offer(session_id: str, request: OfferRequest) -> dict[str, str]:
        return await offers.offer(request, session_id)

    @api.patch("/sessions/{session_id}/api/offer", responses=answers(400, 404))
    async def session_candidates(session_id: str, request: CandidatesRequest) -> Taken:
        await offers.add_candidates(request, session_id)
        return Taken()

    return api
