"""The calls in progress, and those recorded, for whoever runs the agent."""

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field, ValidationError

from bot.call import Calls
from bot.server.openapi import answers
from bot.server.records import RecordSummary
from services.errors import UnknownVoiceError


class VoiceRequest(BaseModel):
    """The voice that a call is to have."""

    voice: Annotated[str, Field(min_length=1, max_length=200)]


class Voice(BaseModel):
    """The voice that a call has."""

    voice: str


class CallState(Voice):
    """A call in progress."""

    id: str


class CallList(BaseModel):
    """The calls in progress; where calls are recorded, the latest records as well."""

    calls: list[CallState]
    records: list[RecordSummary] | None = None


def router(calls: Calls) -> APIRouter:
    """`GET /calls` lists them; `PUT /calls/{id}/voice` has one speak with another voice.

    Args:
        calls: The calls of the process.
    """
    api = APIRouter()

    @api.get("/calls", response_model_exclude_none=True)
    async def in_progress(limit: Annotated[int, Query(ge=0, le=500)] = 50) -> CallList:
        listed = CallList(calls=[CallState(id=call.id, voice=call.voice) for call in calls])
        if calls.records:
            latest = await asyncio.to_thread(calls.records.latest, limit)
            listed.records = []
            for about in latest:
                # One that is damaged does not hide the others.
                with suppress(ValidationError):
                    listed.records.append(RecordSummary.model_validate(about))
        return listed

    @api.put("/calls/{call_id}/voice", responses=answers(400, 404))
    async def set_voice(call_id: str, request: VoiceRequest) -> Voice:
        call = next((call for call in calls if call.id == call_id), None)
        if call is None:
            raise HTTPException(404, "there is no such call")
        try:
            await call.set_voice(request.voice)
        except UnknownVoiceError as error:
            raise HTTPException(400, str(error)) from None
        return Voice(voice=call.voice)

    return api
