"""Where the figures go: a table on the terminal and `results.json`."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Figure, Sample

RESULTS = Path(__file__).with_name("results.json")

FILE_WIDTH = 120
"""Columns of the table where it is written to a file."""

PACKAGES = (
    "pipecat-ai",
    "aiortc",
    "av",
    "faster-whisper",
    "numpy",
    "onnxruntime",
    "piper-tts",
    "uvicorn",
)
"""Packages on which the figures depend."""


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table(title="Parley beside its peers", title_justify="left")
    table.add_column("figure")
    for heading in ("ours", "peer", "ratio", "must be", "n"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for figure in figures:
        of = " of peer" if figure.relative else f" {figure.unit}".rstrip()
        table.add_row(
            f"{figure.name}\n[dim]{figure.note}[/dim]" if figure.note else figure.name,
            _cell(figure.ours, figure.unit),
            f"{_cell(figure.peer, figure.unit)}\n[dim]{figure.peer_name}[/dim]"
            if figure.peer
            else "",
            f"{figure.ratio:.2f}" if figure.ratio is not None else "",
            f"≤ {figure.bound:g}{of}" if figure.bound is not None else "",
            str(figure.ours.n),
            {True: "[green]holds[/green]", False: "[red]missed[/red]", None: ""}[figure.holds],
        )
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def save(figures: Sequence[Figure], machine: dict[str, Any]) -> None:
    """Write `results.json`.

    Args:
        figures: All of them, from one run.
        machine: From `machine_facts`, taken before the first measurement.
    """
    results = {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
        "packages": {name: version(name) for name in PACKAGES},
        "figures": [figure.as_dict() for figure in figures],
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def machine_facts() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was; nothing that names the machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cell(sample: Sample, unit: str) -> str:
    spread = f"{_short(sample.low)} … {_short(sample.high)}"
    return f"{_short(sample.value)} {unit}".rstrip() + f"\n[dim]{spread}[/dim]"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
