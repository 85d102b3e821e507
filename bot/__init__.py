"""The voice agent application.

The package has the `bot` that Pipecat's runners look for: its development runner, `pipecat eval`,
and Pipecat Cloud, which imports it as `from bot import bot`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecat.runner.types import RunnerArguments


async def bot(runner_args: "RunnerArguments") -> None:
    """Carry one call for a runner of Pipecat's.

    Settings come from the environment and `.env`. The engines are loaded with the first call.

    Args:
        runner_args: What the runner made: a WebRTC connection, or a WebSocket of `pipecat eval`.
    """
    from bot.runner import carry

    await carry(runner_args)
