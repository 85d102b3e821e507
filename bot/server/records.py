"""The records of calls, over HTTP; `web/record.html` is the page that shows them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from loguru import logger
from pydantic import BaseModel, ValidationError

from bot.call import Calls
from bot.records.folder import MAX_COLUMNS, RecordDamagedError, RecordInUseError, Records
from bot.records.record import TRANSCRIPT
from bot.server.openapi import answers

SWEEP_SECONDS = 3600.0
"""How often old records are looked for."""

PART_BYTES = 64 * 1024
"""How much of a file is read at once."""

NO_STORE = {"Cache-Control": "no-store"}
"""What was said is not to stay in a browser's or a proxy's cache."""

DAMAGED = "This record is damaged and cannot be shown; its sound may still be whole."
"""What is said of a record that cannot be read."""

T = TypeVar("T")


class Stretch(BaseModel):
    """A word or some words, and where they are, in seconds into the call."""

    text: str
    start: float
    end: float
    confidence: float | None = None


class Stage(BaseModel):
    """A part of a turn's latency."""

    key: str
    label: str
    ms: float


class Latency(BaseModel):
    """From the caller's last sound to the agent's first."""

    turn: int
    total_ms: float
    stages: list[Stage]


class LatencyThen(Latency):
    """A latency, and when it was over, in seconds into the call."""

    at: float


class Turn(BaseModel):
    """One side's contribution: the caller's segments, or the agent's words as they were played.

    Attributes:
        typed: Whether the caller wrote it.
        cut: Whether the agent was interrupted there.
        latency: That of the answer which begins with it.
    """

    side: Literal["caller", "agent"]
    start: float
    end: float
    text: str
    typed: bool = False
    cut: bool = False
    latency: Latency | None = None
    segments: list[Stretch] = []
    words: list[Stretch] = []


class Origin(BaseModel):
    """Where a call came from; of numbers, the last two digits."""

    transport: str
    line: str
    caller: str
    called: str
    outbound: bool


class RecordSummary(BaseModel):
    """What is known of a recorded call.

    Attributes:
        complete: Whether the record goes on to the call's end; None while that is to come.
    """

    id: str
    agent: str
    voice: str
    origin: Origin
    started: str
    ended: str | None = None
    seconds: float | None = None
    reason: str | None = None
    complete: bool | None = None
    latencies: list[LatencyThen] = []


class Recorded(RecordSummary):
    """A recorded call, and what was said in it."""

    in_progress: bool
    audio_seconds: float
    turns: list[Turn]


class Peaks(BaseModel):
    """How loud both sides were between two times: the loudest of each part, from 0 to 255."""

    start: float
    end: float
    caller: list[int]
    agent: list[int]


async def keep(records: Records | None) -> None:
    """Look for old records now and every hour, until cancelled; then write what is left to write.

    Args:
        records: The records of the process, if there are any.
    """
    if records is None:
        return
    try:
        while True:
            try:
                await asyncio.to_thread(records.sweep)
            except OSError as error:
                logger.warning("records: old ones cannot be looked for: {}", error)
            await asyncio.sleep(SWEEP_SECONDS)
    finally:
        await asyncio.to_thread(records.close)


def router(calls: Calls) -> APIRouter:
    """`GET /calls/{id}` is a record, and below it are its files; `DELETE` deletes all of it.

    Args:
        calls: The calls of the process.
    """
    api = APIRouter()

    async def ask(question: Callable[[Records], T]) -> T:
        """Ask the records, outside the event loop.

        Raises:
            HTTPException: 404, where there is no such record or none are kept; 409, where it is
                damaged.
        """
        if calls.records is None:
            raise HTTPException(404, "no calls are recorded here; --record DIR does that")
        try:
            return await asyncio.to_thread(question, calls.records)
        except FileNotFoundError:
            raise HTTPException(404, "there is no record of such a call") from None
        except RecordDamagedError as error:
            logger.warning("a record is damaged: {}", error)
            raise HTTPException(409, DAMAGED) from None

    @api.get("/calls/{call_id}", responses=answers(404, 409))
    async def record(call_id: str) -> Recorded:
        found = await ask(lambda records: records.read(call_id))
        try:
            return Recorded(**found)
        except ValidationError:
            raise HTTPException(409, DAMAGED) from None

    @api.delete("/calls/{call_id}", status_code=204, responses=answers(404, 409))
    async def delete(call_id: str) -> None:
        with suppress(RecordInUseError):
            if not _goes_on(calls, call_id):
                await ask(lambda records: records.delete(call_id))
                logger.info("call {}: its record is deleted, as was asked", call_id)
                return
        raise HTTPException(409, "this call goes on; delete its record when it has ended")

    @api.get("/calls/{call_id}/peaks", responses=answers(404, 409))
    async def peaks(
        call_id: str,
        start: Annotated[float, Query(ge=0, le=1e6)] = 0.0,
        end: Annotated[float, Query(ge=0, le=1e6)] = 1e6,
        columns: Annotated[int, Query(ge=1, le=MAX_COLUMNS)] = 1000,
    ) -> Peaks:
        found = await ask(lambda records: records.peaks(call_id, start, end, columns))
        return Peaks(**found)

    @api.get("/calls/{call_id}/{name}", response_class=FileResponse, responses=answers(404))
    async def file(
        request: Request,
        call_id: str,
        name: Literal["audio.wav", "transcript.json", "frames.jsonl", "settings.json", "call.json"],
    ) -> Response:
        folder = await ask(lambda records: records.folder(call_id))
        path = folder / name
        if not path.is_file():
            raise HTTPException(404, "that file is written when the call has ended")
        kind = {"audio.wav": "audio/wav", "frames.jsonl": "application/x-ndjson"}.get(name)
        # What was to go on with an older download (If-Range) begins anew where the file has grown.
        part = "range" in request.headers and "if-range" not in request.headers
        if part or (folder / TRANSCRIPT).is_file():
            return FileResponse(path, media_type=kind, headers=NO_STORE)
        # It grows while it is sent, and no more may be sent than was announced.
        size = path.stat().st_size
        headers = {**NO_STORE, "Content-Length": str(size)}
        return StreamingResponse(_beginning(path, size), media_type=kind, headers=headers)

    return api


def _beginning(path: Path, size: int) -> Iterator[bytes]:
    """So many bytes of a file, in parts."""
    with path.open("rb") as file:
        while part := file.read(min(size, PART_BYTES)):
            size -= len(part)
            yield part


def _goes_on(calls: Calls, call_id: str) -> bool:
    return any(call.id == call_id for call in calls)
