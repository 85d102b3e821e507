"""The page, and who it says answers."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from bot.agent import Agent
from bot.engines import Engines
from services.tts.engine import VoiceInfo

PAGE = Path(__file__).parents[2] / "web" / "dist"
"""The built page."""


class Speaks(BaseModel):
    """What the agent speaks with."""

    engine: str
    voice: str
    voices: list[VoiceInfo]


class Model(BaseModel):
    """What the agent hears or thinks with."""

    engine: str
    model: str


class About(BaseModel):
    """Who answers, and with what."""

    name: str
    greeting: str
    tts: Speaks
    stt: Model
    llm: Model


def router(engines: Engines, agent: Agent) -> APIRouter:
    """The route of `GET /api/agent`.

    Args:
        engines: What the agent speaks, hears and thinks with.
        agent: Who answers.
    """
    api = APIRouter()

    @api.get("/api/agent", response_model=About)
    async def about() -> dict[str, Any]:
        return {"name": agent.name, "greeting": agent.greeting, **engines.about()}

    return api


def mount_page(app: FastAPI) -> None:
    """Serve the page at `/`, where it has been built."""
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
