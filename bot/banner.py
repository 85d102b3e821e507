"""What the agent prints at start: what it fetches, what it runs with, where to open it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from bot.agent import Agent
from bot.engines import Engines
from services.tts.voices import Progress as FetchProgress

_console = Console(highlight=False, markup=False)


@contextmanager
def progress() -> Iterator[FetchProgress]:
    """A bar for each file that is fetched.

    Yields:
        A function to call with a file's name, the bytes had and the bytes in all; safe in threads.
    """
    columns = (
        TextColumn("fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as bars:
        tasks = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total or None)
            bars.update(tasks[name], completed=done, total=total or None)

        yield report


def show(engines: Engines, agent: Agent, listener: socket.socket) -> None:
    """Print what the agent runs with, and the address to open."""
    table = Table(title=f"{agent.name} is ready", title_justify="left", title_style="bold")
    for heading in ("", "with", "from", "better"):
        table.add_column(heading, overflow="fold")
    for part in engines.parts:
        table.add_row(part.role, f"{part.engine}: {part.model}", part.source, part.better)
    _console.print(table)
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    _console.print(f"Open http://{shown}:{port} and talk. Ctrl-C stops.")
