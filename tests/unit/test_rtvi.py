"""What callers are told who talk RTVI, and nobody knows."""

import pytest
from pipecat.frames.frames import ErrorFrame, OutputTransportMessageUrgentFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.errors import ErrorCategory

from processors.rtvi import CallerRTVIProcessor
from tests.fakes.pipeline import run_test


@pytest.mark.parametrize(
    ("category", "told"), [(ErrorCategory.APPLICATION, []), (ErrorCategory.UNKNOWN, ["secret"])]
)
async def test_what_a_tool_raised_is_for_its_author(
    category: ErrorCategory, told: list[str]
) -> None:
    """The caller hears the model's answer to it; other failures are told, and all travel on."""
    down, up = await run_test(
        CallerRTVIProcessor(),
        frames_to_send=[ErrorFrame("secret", category=category)],
        frames_to_send_direction=FrameDirection.UPSTREAM,
    )
    messages = [f.message for f in down if isinstance(f, OutputTransportMessageUrgentFrame)]
    assert [m["data"]["error"] for m in messages if m["type"] == "error"] == told
    assert [f.error for f in up if isinstance(f, ErrorFrame)] == ["secret"]
