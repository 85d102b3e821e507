"""What the benchmark's caller does, alike on both sides."""

import asyncio
import contextlib
import time

from bench.mind import QUESTION, STORY_REQUEST
from bench.sides import RECORDINGS
from tests.callers.audio import Samples, load_wav
from tests.callers.webrtc import SAMPLE_RATE, Spoken, WebRTCCaller

CLIPS = ("goforward", "something", "clubs", "illdisposed", "hearts", "numbers")
"""Recordings of three people, each of them said in its turn."""

GAP = 0.5
"""Seconds of silence that are more than a pause between two words or sentences."""

BARGE_IN_LIMIT = 4.0
"""Seconds after which an agent that talks on counts as not interrupted."""

TURN_LIMIT = 6.0
"""Seconds from the caller's last sound after which its turn is over on either side."""


def load_clips(rate: int = SAMPLE_RATE) -> list[Samples]:
    """The recordings, at the caller's rate in Hz."""
    return [load_wav(RECORDINGS / f"{name}.wav", rate) for name in CLIPS]


async def hear_greeting(caller: WebRTCCaller) -> None:
    """Hear the greeting to its end."""
    first = await caller.wait_for_speech()
    await caller.wait_for_silence(first, hold=GAP)


async def talk(caller: WebRTCCaller, clip: Samples) -> None:
    """Say something, then ask something in writing and hear the answer to its end.

    What is said takes the way of every turn: VAD, end of turn, recogniser. But a recogniser with
    random weights may hear nothing in it, and a turn that holds nothing has no answer.
    """
    spoken = await caller.say(clip)
    await _end_turn(caller, spoken)
    asked = time.monotonic()
    caller.send_text(QUESTION)
    answer = await _hear_answer(caller, asked)
    await caller.wait_for_silence(answer, hold=GAP)


async def start_story(caller: WebRTCCaller) -> float:
    """Ask in writing for a long story, and return when its first sound was heard."""
    asked = time.monotonic()
    caller.send_text(STORY_REQUEST)
    return await _hear_answer(caller, asked)


async def _end_turn(caller: WebRTCCaller, spoken: Spoken) -> None:
    """Return when the agent believes that the caller has finished, within `TURN_LIMIT` at most.

    Until then the agent takes whatever is said as part of that turn, and no speech interrupts it.
    """
    with contextlib.suppress(TimeoutError):
        await caller.wait_for_message(
            "user-stopped-speaking",
            after=spoken.end,
            limit=TURN_LIMIT + spoken.end - time.monotonic(),
        )


async def _hear_answer(caller: WebRTCCaller, asked: float) -> float:
    """When the answer to what was written is first heard; what was said before is cut short."""
    begins = await caller.wait_for_message("bot-started-speaking", after=asked)
    return await caller.wait_for_speech(after=begins.at)


async def barge_in(caller: WebRTCCaller, clip: Samples, moment: float) -> float:
    """Speak over a story.

    Args:
        caller: Whose agent is to tell one.
        clip: What to say.
        moment: Seconds from the story's first sound to about the barge-in: it comes when the agent
            is next audible.

    Returns:
        The seconds from the first sound of the clip to silence, at most `BARGE_IN_LIMIT`.
    """
    begun = await start_story(caller)
    await asyncio.sleep(begun + moment - time.monotonic())
    await caller.wait_for_speech(after=time.monotonic())
    spoken = await caller.say(clip)
    try:
        silent = await caller.wait_for_silence(spoken.start, hold=GAP, limit=BARGE_IN_LIMIT)
    except TimeoutError:
        return BARGE_IN_LIMIT
    await _end_turn(caller, spoken)
    return silent - spoken.start
