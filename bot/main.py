"""The voice agent: `python bot/main.py --tts piper`, and the `bot` that Pipecat's runners drive."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python puts this file's folder first on the path, where our own module names
    # would hide others.
    sys.path[0] = str(Path(__file__).parents[1])

    # Before the libraries that look at it are imported.
    from bot.process import tune

    tune()

import asyncio
import socket
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from loguru import logger

from bot import bot
from bot import settings as settings_module
from bot.settings import Settings, SettingsError
from services import catalog
from services.errors import EngineError

if TYPE_CHECKING:
    import loguru

__all__ = ["bot", "main"]

MAX_LOG_CHARACTERS = 2000
"""The longest message that is logged: some quote what a caller sent."""


def main(argv: Sequence[str]) -> int:
    """Run the agent until it is told to stop.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The exit code: 0 after a stop that was asked for, 2 for a setting that is wrong.
    """
    try:
        settings = settings_module.load(argv, catalog.choices())
        _log_to_stderr(settings.log_level)
        with _listen(settings) as listener:
            asyncio.run(_serve(settings, listener))
    except (SettingsError, EngineError) as error:
        print(f"parley: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _log_to_stderr(level: str) -> None:
    """Log to the terminal, Pipecat's own steps only where the level is debug."""
    logger.remove()
    logger.configure(patcher=_shorten)
    logger.add(
        sys.stderr,
        level=level.upper(),
        format="{time:HH:mm:ss.SSS} {level: <7} {name}: {message}",
        filter=None if level == "debug" else {"pipecat": "WARNING"},
        # It writes variables' values, secrets among them.
        diagnose=False,
        backtrace=False,
    )


def _shorten(record: "loguru.Record") -> None:
    record["message"] = record["message"][:MAX_LOG_CHARACTERS]


def _listen(settings: Settings) -> socket.socket:
    """Take the address before models are loaded, so that a port in use costs no wait."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        # Without it another process could bind the same port. Who connects waits for the models.
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"--port {settings.port} on --host {settings.host}: {str(error.strerror).lower()}; "
            "choose another, or --port 0 for a free one"
        ) from None
    return listener


async def _serve(settings: Settings, listener: socket.socket) -> None:
    """Load the engines, print what they are, and take calls until SIGINT or SIGTERM."""
    import uvicorn

    from bot import banner
    from bot.agent import AgentFileError, load_agent
    from bot.call import Calls
    from bot.engines import load_engines
    from bot.process import freeze_garbage
    from bot.server.app import create_app

    try:
        agent = load_agent(settings.agent)
    except AgentFileError as error:
        raise SettingsError(f"--agent {error}") from None
    with banner.progress() as progress:
        engines = await asyncio.to_thread(load_engines, settings, agent, progress)
    freeze_garbage()
    calls = Calls(settings.max_calls)
    app = create_app(settings, engines, agent, calls)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Server(uvicorn.Server):
        """Leaves the first signal to the calls, which end before the server does."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if stop.is_set():
                super().handle_exit(sig, frame)
            loop.call_soon_threadsafe(stop.set)

    server = Server(
        uvicorn.Config(
            app,
            loop="asyncio",  # uvloop forks to spawn, which deadlocks against BLAS's own handlers.
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    http = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="signal")
    try:
        banner.show(engines, agent, listener)
        await asyncio.wait({http, stopping}, return_when=asyncio.FIRST_COMPLETED)
        draining = asyncio.create_task(calls.drain(settings.drain_seconds, agent.shutting_down))
        await asyncio.wait({http, draining}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await asyncio.gather(http, draining)
    finally:
        stopping.cancel()
        await engines.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
