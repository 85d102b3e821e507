"""How late the server's event loop is while a call talks, and while another call joins it.

A timer in the server's loop asks to be called every few milliseconds and notes how late that was
(`bench.probe`). The caller is in the benchmark's own process. Models are warm.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench import probe
from bench.calls import barge_in, hear_greeting, load_clips, start_story, talk
from bench.figures import Figure, Sample
from bench.sides import both
from tests.callers.server import AgentServer
from tests.callers.webrtc import WebRTCCaller

BOUND = 20.0
"""Milliseconds."""

BETWEEN_SECONDS = 1.0
"""From one hang-up to the next call, so that what a call leaves to be done is done."""


async def loop_lag(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """The 99th percentile of the lateness in a call, and the worst of it while calls join.

    Both servers run all the while and are called in turns. The spread of the first is from the
    median to the worst; a value of the second is the worst lateness in one joining.
    """
    talking: tuple[list[float], list[float]] = ([], [])
    joining: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "ours"), Path(folder, "peer")
        with both(mind, files) as servers:
            for turn in range(1 if quick else 2):
                for server, file, late in zip(servers, files, talking, strict=True):
                    late.extend(_milliseconds(file, *await _talk(server, turn)))
            for server, file, late in zip(servers, files, joining, strict=True):
                joins = await _join(server, 1 if quick else 5)
                late.extend(max(_milliseconds(file, *join)) for join in joins)
    ours, peer = (
        Sample(statistics.quantiles(late, n=100)[98], statistics.median(late), max(late), len(late))
        for late in talking
    )
    return [
        Figure("event loop lag while a call talks, p99", "ms", ours, peer, BOUND),
        Figure(
            "event loop lag while another call joins, worst",
            "ms",
            Sample.median(joining[0]),
            Sample.median(joining[1]),
            None,
        ),
    ]


async def _talk(server: AgentServer, turn: int) -> tuple[float, float]:
    """Hear the greeting, talk, and interrupt a story.

    Returns:
        When the greeting was first heard, and when the call was about to be hung up.
    """
    clips = load_clips()
    async with WebRTCCaller(server.url) as caller:
        began = await caller.wait_for_speech()
        await hear_greeting(caller)
        await talk(caller, clips[turn])
        await barge_in(caller, clips[turn + 1], moment=4.0)
        return began, time.monotonic()


async def _join(server: AgentServer, times: int) -> list[tuple[float, float]]:
    """While a story is told to one caller, have others call one after another.

    Returns:
        For each of them when it dialled, and when it had heard the first of the greeting.
    """
    spans = []
    async with WebRTCCaller(server.url) as listener:
        await hear_greeting(listener)
        await start_story(listener)
        for _ in range(times):
            async with WebRTCCaller(server.url) as caller:
                spans.append((caller.dialled_at, await caller.wait_for_speech()))
            await asyncio.sleep(BETWEEN_SECONDS)
    return spans


def _milliseconds(file: Path, began: float, ended: float) -> list[float]:
    return [1000 * late for late in probe.read(file, began, ended)]
