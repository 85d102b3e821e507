"""The calls in progress, for whoever runs the agent."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from bot.call import Calls
from services.errors import UnknownVoiceError


class VoiceRequest(BaseModel):
    """The voice that a call is to have."""

    voice: Annotated[str, Field(min_length=1, max_length=200)]


def router(calls: Calls) -> APIRouter:
    """`GET /calls` lists them; `PUT /calls/{id}/voice` has one speak with another voice.

    Args:
        calls: The calls of the process.
    """
    api = APIRouter()

    @api.get("/calls")
    async def in_progress() -> dict[str, Any]:
        return {"calls": [{"id": call.id, "voice": call.voice} for call in calls]}

    @api.put("/calls/{call_id}/voice")
    async def set_voice(call_id: str, request: VoiceRequest) -> dict[str, str]:
        call = next((call for call in calls if call.id == call_id), None)
        if call is None:
            raise HTTPException(404, "there is no such call")
        try:
            await call.set_voice(request.voice)
        except UnknownVoiceError as error:
            raise HTTPException(400, str(error)) from None
        return {"voice": call.voice}

    return api
