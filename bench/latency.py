"""What a caller waits for: the greeting, and silence once it has begun to speak.

Measured at an aiortc caller in the benchmark's own process, over WebRTC on loopback. Both servers
run all the while and are called in turns, so that whatever else the machine does meets both.
"""

from collections.abc import Mapping

from bench.calls import BARGE_IN_LIMIT, barge_in, hear_greeting, load_clips
from bench.figures import Figure, Sample
from bench.sides import both
from tests.callers.webrtc import WebRTCCaller

GREETING_BOUND = 0.6
BARGE_IN_BOUND = 0.4
"""Seconds."""

MOMENTS = (1.1, 2.4, 1.7, 3.3, 0.9, 2.9, 1.4)
"""Seconds from a story's first sound to the barge-in, each taken in its turn."""

PER_CALL = 4
"""Barge-ins in one call."""


async def greeting(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """From before `POST /start` to the first audible frame of the greeting, models warm.

    Each side has a call beforehand that does not count.
    """
    measured: tuple[list[float], list[float]] = ([], [])
    with both(mind) as servers:
        for _ in range(4 if quick else 13):
            for server, seconds in zip(servers, measured, strict=True):
                async with WebRTCCaller(server.url) as caller:
                    seconds.append(await caller.wait_for_speech() - caller.dialled_at)
    ours, peer = (Sample.median(seconds[1:]) for seconds in measured)
    return [Figure("connect to first sound of the greeting", "s", ours, peer, GREETING_BOUND)]


async def interruption(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """From the caller's first sound over a story to the first silent frame that it hears.

    Each side is called for `PER_CALL` barge-ins at a time, with the same clips at the same moments.
    """
    clips = load_clips()
    measured: tuple[list[float], list[float]] = ([], [])
    with both(mind) as servers:
        for first in range(0, PER_CALL if quick else 3 * PER_CALL, PER_CALL):
            for server, seconds in zip(servers, measured, strict=True):
                async with WebRTCCaller(server.url) as caller:
                    await hear_greeting(caller)
                    for turn in range(first, first + PER_CALL):
                        clip, moment = clips[turn % len(clips)], MOMENTS[turn % len(MOMENTS)]
                        seconds.append(await barge_in(caller, clip, moment))
    ours, peer = (Sample.median(seconds) for seconds in measured)
    missed = sum(seconds >= BARGE_IN_LIMIT for seconds in measured[1])
    note = f"the stock bot talked on in {missed} of {peer.n}" if missed else ""
    return [Figure("barge-in to silence", "s", ours, peer, BARGE_IN_BOUND, note=note)]
