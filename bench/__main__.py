"""`python -m bench`: measure every figure, print the table, write `bench/results.json`.

    python -m bench --only loop-lag barge-in
    python -m bench --quick

Either flag prints the table alone: the file is always one whole run.
Exits with 0 whether or not the figures hold: a benchmark reports, tests judge.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from loguru import logger

from bench import report
from bench.figures import Figure
from bench.first_audio import first_audio
from bench.handover import kill, swap
from bench.latency import greeting, interruption
from bench.loop_lag import loop_lag
from bench.memory import left_behind, live
from bench.mind import PacedModel
from bench.sides import FULL_SIZE_VOICE, RECORDINGS, WHISPER
from bench.telephone import clear
from bench.workers import cancel, eight_at_once, remote_first_audio

Measure = Callable[[Mapping[str, str], bool], Awaitable[list[Figure]]]
"""Takes the variables by which a server finds its language model, and whether to be quick."""

BENCHMARKS: dict[str, Measure] = {
    "first-audio": first_audio,
    "greeting": greeting,
    "barge-in": interruption,
    "telephone-clear": clear,
    "loop-lag": loop_lag,
    "live-memory": live,
    "memory-left": left_behind,
    "remote-first-audio": remote_first_audio,
    "worker-cancel": cancel,
    "worker-swap": swap,
    "worker-kill": kill,
    "eight-at-once": eight_at_once,
}

LIMIT_SECONDS = 300
"""What one benchmark may take before it is given up."""


def main(argv: Sequence[str]) -> int:
    """Measure, and report.

    Returns:
        The exit code: 0, or 1 for a benchmark that could not be carried out.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    args = parser.parse_args(argv)
    for needed in (FULL_SIZE_VOICE, WHISPER, RECORDINGS):
        if not needed.exists():
            print(f"bench: {needed.name} is not there; `make bench` makes it", file=sys.stderr)
            return 1
    # Servers are to start as they would for a user.
    for variable in [v for v in os.environ if v.startswith(("MALLOC_", "OMP_", "OPENBLAS_"))]:
        del os.environ[variable]
    logger.remove()
    machine = report.machine_facts()
    figures, failed = asyncio.run(_measure(args.only, args.quick))
    report.show(figures)
    if not (args.quick or failed) and set(args.only) == set(BENCHMARKS):
        report.save(figures, machine)
    return 1 if failed else 0


async def _measure(names: Sequence[str], quick: bool) -> tuple[list[Figure], bool]:
    """The figures of some benchmarks, and whether any could not be carried out."""
    figures: list[Figure] = []
    failed = False
    async with PacedModel() as mind:
        for name in names:
            began = time.monotonic()
            try:
                async with asyncio.timeout(LIMIT_SECONDS):
                    figures += await BENCHMARKS[name](mind.environment, quick)
            except Exception as error:  # One that fails does not take the others with it.
                failed = True
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return figures, failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
