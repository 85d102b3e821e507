"""What the agent prints: what could run here; at start, what it runs with and where to open it."""

import socket
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bot.settings import Settings
from services import catalog

if TYPE_CHECKING:
    from bot.agent import Agent
    from bot.engines import Engines

_console = Console(highlight=False, markup=False)


def show(settings: Settings, engines: "Engines", agent: "Agent", listener: socket.socket) -> None:
    """Print what the agent runs with, how callers can come, and the address to open."""
    from bot.server import ways

    table = Table(title=f"{agent.name} is ready", title_justify="left", title_style="bold")
    for heading in ("", "with", "from", "better"):
        table.add_column(heading, overflow="fold")
    for part in engines.parts:
        table.add_row(part.role, f"{part.engine}: {part.model}", part.source, part.better)
    _console.print(table)
    lacking = ways.lacks(settings)
    open_ways = [way for way, lacks in lacking.items() if not lacks]
    _console.print(f"Callers come over: {', '.join(open_ways)}. --list says what others lack.")
    for way in ways.begun(settings):
        if lacking[way]:
            _console.print(f"Not over {way}: {lacking[way]}", soft_wrap=True)
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    shown = f"[{shown}]" if ":" in shown else shown
    _console.print(f"Open http://{shown}:{port} and talk. Ctrl-C stops.")


def show_choices(settings: Settings) -> None:
    """Print every engine and every way in, whether it can be used here, and what it lacks.

    Args:
        settings: The settings in force: each may lack one of them.
    """
    from bot.server import ways

    table = Table(title_justify="left", title_style="bold")
    for heading in ("", "setting", "here", "lacks"):
        table.add_column(heading, overflow="fold")
    kinds = (("speaks", "tts", catalog.TTS), ("hears", "stt", catalog.STT))
    for role, flag, rows in (*kinds, ("thinks", "llm", catalog.LLM)):
        for row in rows:
            lacks = row.lacks(settings)
            table.add_row(role, f"--{flag} {row.name}", "no" if lacks else "yes", lacks)
            role = ""  # noqa: PLW2901
        table.add_section()
    answers, calls = ways.lacks(settings), ways.lacks_for_dialling(settings)
    for role, lacking in (("answers", answers), ("calls", calls)):
        for way, lacks in lacking.items():
            table.add_row(role, way, "no" if lacks else "yes", lacks)
            role = ""  # noqa: PLW2901
        table.add_section()
    _console.print(table)
