"""One call on a transport that a Pipecat runner made."""

import asyncio

from pipecat.evals.transport import EvalTransportParams
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams

from bot import settings as settings_module
from bot.agent import Agent, load_agent
from bot.call import Call
from bot.engines import Engines, load_engines
from bot.line import Line, Origin
from bot.settings import Settings
from services import catalog
from services.models import models
from services.process import freeze_garbage, limit_arenas, limit_library_threads

_TRANSPORTS = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "eval": lambda: EvalTransportParams(audio_in_enabled=True, audio_out_enabled=True),
}


def _shared() -> tuple[Settings, Agent, Engines]:
    """Settings, agent and engines, once a process: a runner calls `bot` for each call."""

    def load() -> tuple[Settings, Agent, Engines]:
        limit_library_threads()
        limit_arenas()
        settings = settings_module.load([], catalog.choices())
        agent = load_agent(settings.agent)
        engines = load_engines(settings, agent, lambda *_: None)
        freeze_garbage()
        return settings, agent, engines

    return models.get("bot", load)


async def carry(runner_args: RunnerArguments) -> None:
    """Carry one call to its end.

    Args:
        runner_args: What the runner made.
    """
    settings, agent, engines = await asyncio.to_thread(_shared)
    transport = await create_transport(runner_args, _TRANSPORTS)
    await Call(Line(transport, Origin("runner")), engines, agent, settings).run()
