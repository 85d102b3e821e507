"""The voice agent: `python bot/main.py --tts piper`, and the `bot` that Pipecat's runners drive."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python puts this file's folder first on the path, where our own module names
    # would hide others.
    sys.path[0] = str(Path(__file__).parents[1])

    # Before the libraries that look at it are imported.
    from services.process import limit_arenas, limit_library_threads

    limit_library_threads()
    limit_arenas()

import asyncio
import socket
from collections.abc import Sequence

from bot import banner, bot
from bot import settings as settings_module
from bot.settings import Settings, SettingsError
from services import catalog
from services.errors import EngineError
from services.settings import secrets_of

__all__ = ["bot", "main"]


def main(argv: Sequence[str]) -> int:
    """Run the agent until it is told to stop.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The exit code: 0 after a stop that was asked for, 2 for a setting that is wrong.
    """
    try:
        settings = settings_module.load(argv, catalog.choices())
        from services import serve

        serve.log_to_stderr(settings.log_level, secrets_of(settings))
        if settings.list:
            banner.show_choices(settings)
            return 0
        settings.check_access()
        with serve.listen(settings.host, settings.port) as listener:
            asyncio.run(_serve(settings, listener))
    except (SettingsError, EngineError) as error:
        print(f"parley: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(settings: Settings, listener: socket.socket) -> None:
    """Load the engines, print what they are, and take calls until SIGINT or SIGTERM."""
    from bot.agent import AgentFileError, load_agent
    from bot.call import Calls
    from bot.engines import load_engines
    from bot.records.folder import make_folder
    from bot.server import ways
    from bot.server.app import create_app
    from services import serve
    from services.process import freeze_garbage

    # Before models are loaded, which takes its time.
    ways.check_rooms(settings)
    if settings.record:
        make_folder(settings.record)
    try:
        agent = load_agent(settings.agent)
    except AgentFileError as error:
        raise SettingsError(f"--agent {error}") from None
    with serve.progress() as progress:
        engines = await asyncio.to_thread(load_engines, settings, agent, progress)
    try:
        await engines.open()
        freeze_garbage()
        calls = Calls(settings, engines, agent)
        await serve.serve(
            create_app(settings, engines, agent, calls),
            listener,
            ready=lambda: banner.show(settings, engines, agent, listener),
            drain=lambda: calls.drain(settings.drain_seconds, agent.shutting_down),
            proxies=settings.trusted_proxies,
        )
    finally:
        await engines.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
