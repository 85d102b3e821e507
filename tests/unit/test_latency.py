"""A turn's latency as it is told to a client."""

from pipecat.observers.user_bot_latency_observer import (
    LatencyBreakdown,
    LatencyContribution,
    LatencyOwnerKind,
    MeasuredFrom,
)

from processors.latency import turn_latency


def breakdown(measured_from: MeasuredFrom, **seconds: float) -> LatencyBreakdown:
    """A breakdown of contributions by key."""
    parts = [
        LatencyContribution(
            key=key,
            label=key.replace("_", " "),
            owner="someone",
            owner_kind=LatencyOwnerKind.SERVICE,
            start_time=0.0,
            duration_secs=duration,
        )
        for key, duration in seconds.items()
    ]
    return LatencyBreakdown(
        contributions=parts, measured_from=measured_from, total_secs=sum(seconds.values())
    )


def test_stages_keep_their_order_and_sum_to_the_total() -> None:
    """Each contribution is one stage, in order of time, and nothing of the total is lost."""
    message = turn_latency(
        breakdown(
            MeasuredFrom.USER_SILENCE,
            endpointing_wait=0.2,
            transcription=0.3,
            turn_detection=0.01,
            llm_inference=0.1,
            sentence_aggregation=0.05,
            speech_synthesis=0.02,
            something_else=0.003,
        ),
        turn=3,
    )
    assert message is not None
    assert message["turn"] == 3
    keys = [stage["key"] for stage in message["stages"]]
    assert keys == ["vad", "stt", "turn", "llm", "llm", "tts", "other"]
    assert sum(stage["ms"] for stage in message["stages"]) == message["total_ms"] == 683.0


def test_a_greeting_is_no_turn() -> None:
    """Speech that answers nobody has no latency to show."""
    greeting = breakdown(MeasuredFrom.CLIENT_CONNECTED, first_request=0.1)
    assert turn_latency(greeting, turn=1) is None
