"""What a telephone's caller waits for: that the carrier is told to stop playing.

Both servers are called as Twilio calls them, on loopback, at 8 kHz, and in turns.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx

from bench.calls import BARGE_IN_LIMIT, load_clips
from bench.figures import Figure, Sample
from bench.sides import both
from tests.callers.phone import RATE, PhoneCaller
from tests.callers.phone_twilio import ACCOUNT, TOKEN, TwilioCaller, TwilioNetwork, sid

PUBLIC = "https://bench.example.org"
"""Where our server believes to be: its carrier signs for this address."""

TWILIO = {
    "TWILIO_ACCOUNT_SID": ACCOUNT,
    "TWILIO_AUTH_TOKEN": TOKEN,
    "PARLEY_PUBLIC_URL": PUBLIC,
    "PARLEY_API_KEY": "bench" * 4,
}
"""What both sides find in their environment."""

BOUND = 0.25
"""Seconds."""

MOMENTS = (0.4, 1.3, 0.8, 1.7, 0.6, 1.1)
"""Seconds from a greeting's first sound to the barge-in, each taken in its turn."""

Dial = Callable[[], Awaitable[PhoneCaller]]


async def clear(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """From the caller's first sound over the greeting to the carrier's `clear`, a call each.

    Each side has a call beforehand that does not count.
    """
    clips = load_clips(RATE)
    measured: tuple[list[float], list[float]] = ([], [])
    with both({**mind, **TWILIO}) as (ours, peer):
        async with httpx.AsyncClient(base_url=ours.url) as http:

            async def dial_peer() -> PhoneCaller:
                return TwilioCaller(f"ws://127.0.0.1:{peer.port}/ws", sid("CA"))

            dials: tuple[Dial, Dial] = (TwilioNetwork(http, PUBLIC).call, dial_peer)
            for turn in range(1 + (4 if quick else 12)):
                clip, moment = clips[turn % len(clips)], MOMENTS[turn % len(MOMENTS)]
                for dial, seconds in zip(dials, measured, strict=True):
                    async with await dial() as caller:
                        await caller.wait_for_speech()
                        await asyncio.sleep(moment)
                        spoken = await caller.say(clip)
                        try:
                            cleared = await caller.wait_for_clear(spoken.start, BARGE_IN_LIMIT)
                        except TimeoutError:
                            cleared = spoken.start + BARGE_IN_LIMIT
                        seconds.append(cleared - spoken.start)
    mine, theirs = (Sample.median(seconds[1:]) for seconds in measured)
    return [Figure("telephone: barge-in to the carrier's clear", "s", mine, theirs, BOUND)]
