"""Each turn's latency, stage by stage, as a page can draw it."""

from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.observers.user_bot_latency_observer import (
    LatencyBreakdown,
    MeasuredFrom,
    UserBotLatencyObserver,
)

_STAGES = {
    "endpointing_wait": ("vad", "Silence heard"),
    "transcription": ("stt", "Speech to text"),
    "turn_detection": ("turn", "Turn end"),
    "llm_inference": ("llm", "First words"),
    "llm_tool_call": ("llm", "Tool call"),
    "function_handler": ("llm", "Tool"),
    "sentence_aggregation": ("llm", "First clause"),
    "speech_synthesis": ("tts", "Text to speech"),
    "output_transport": ("other", "Output"),
}
"""Pipecat's contributions by the stage that a person thinks in. The rest is `other`."""


def turn_latency(breakdown: LatencyBreakdown, turn: int) -> dict[str, Any] | None:
    """The message that tells a client of one turn's latency.

    Args:
        breakdown: From the caller's last sound to the agent's first.
        turn: The turn's number, from 1.

    Returns:
        `{"type": "turn-latency", "turn", "total_ms", "stages": [{"key", "label", "ms"}]}`, the
        stages in order of time and summing to the total; None for speech that answers no turn, such
        as the greeting.
    """
    if breakdown.measured_from is not MeasuredFrom.USER_SILENCE or not breakdown.contributions:
        return None
    stages = [
        {
            "key": _STAGES.get(part.key, ("other", part.label))[0],
            "label": _STAGES.get(part.key, ("other", part.label.capitalize()))[1],
            "ms": round(part.duration_secs * 1000, 1),
        }
        for part in breakdown.contributions
    ]
    return {
        "type": "turn-latency",
        "turn": turn,
        "total_ms": round(breakdown.total_secs * 1000, 1),
        "stages": stages,
    }


def latency_observer(
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> UserBotLatencyObserver:
    """An observer that gives each turn's latency to `send`, in the shape of `turn_latency`.

    The pipeline's metrics must be enabled: the stages come from them.
    """
    observer = UserBotLatencyObserver()
    turns = 0

    @observer.event_handler("on_latency_breakdown")
    async def on_breakdown(_: UserBotLatencyObserver, breakdown: LatencyBreakdown) -> None:
        nonlocal turns
        message = turn_latency(breakdown, turns + 1)
        if message:
            turns += 1
            await send(message)

    return observer
