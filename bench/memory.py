"""What a call costs in memory while it lasts, and what it leaves behind.

Measured is the resident memory of the server's process and its children, which the kernel counts
page by page. Servers start with the C library's own settings for its allocator; what ours then
sets for itself is part of what it is. A call is looked at when it has talked, that is after the
greeting and a spoken turn with its answer, so that every model has run. One server runs at a time.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import pairwise

from bench.calls import hear_greeting, load_clips, talk
from bench.figures import Figure, Sample
from bench.sides import SIDES
from tests.callers.server import AgentServer
from tests.callers.webrtc import WebRTCCaller

MIB = 2**20 / 1e6
"""Megabytes."""

LIVE_BOUND = 30.0
LEFT_BOUND = 20.0
"""Megabytes."""

LIVE_CALLS = 4
CALLS_IN_A_ROW = 6

STEADY_SECONDS = 2.0
STEADY_MB = 0.5
SETTLE_LIMIT = 8.0
"""Memory has settled once it moved by less than `STEADY_MB` in `STEADY_SECONDS`; after
`SETTLE_LIMIT` seconds it is taken as it is."""


async def live(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """How much the second and each further live call adds: the mean, and the least and the most."""
    samples = []
    for side in SIDES:
        with side(mind) as server:
            levels = await _while_calls_join(server, 2 if quick else LIVE_CALLS)
        added = [after - before for before, after in pairwise(levels)]
        samples.append(Sample.of(sum(added) / len(added), added))
    ours, peer = samples
    return [Figure("memory of each further live call", "MB", ours, peer, LIVE_BOUND)]


async def left_behind(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """How much more there is after the last of some calls in a row than after the first."""
    calls = 2 if quick else CALLS_IN_A_ROW
    samples = []
    for side in SIDES:
        with side(mind) as server:
            levels = [await _after_a_call(server, turn) for turn in range(calls)]
        beyond = [level - levels[0] for level in levels[1:]]
        samples.append(Sample.of(beyond[-1], beyond))
    ours, peer = samples
    name = f"memory after {calls} calls in a row, beyond that after the first"
    return [Figure(name, "MB", ours, peer, LEFT_BOUND)]


async def _while_calls_join(server: AgentServer, calls: int) -> list[float]:
    """Memory with one live call, with two and so on, in megabytes."""
    clips = load_clips()
    levels = []
    async with AsyncExitStack() as live:
        for turn in range(calls):
            caller = await live.enter_async_context(WebRTCCaller(server.url))
            await hear_greeting(caller)
            await talk(caller, clips[turn])
            levels.append(await _settled(server))
    return levels


async def _after_a_call(server: AgentServer, turn: int) -> float:
    """Memory after a call, in megabytes."""
    async with WebRTCCaller(server.url) as caller:
        await hear_greeting(caller)
        await talk(caller, load_clips()[turn])
    return await _settled(server)


async def _settled(server: AgentServer) -> float:
    """Memory once it has settled, in megabytes."""
    limit = time.monotonic() + SETTLE_LIMIT
    level, since = server.resident_mib() * MIB, time.monotonic()
    while time.monotonic() < min(since + STEADY_SECONDS, limit):
        await asyncio.sleep(0.1)
        now = server.resident_mib() * MIB
        if abs(now - level) > STEADY_MB:
            level, since = now, time.monotonic()
    return level
