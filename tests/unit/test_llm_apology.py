"""A language model's failure is heard once, and nobody else's is."""

from pipecat.frames.frames import ErrorFrame, Frame, LLMContextFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.errors import ErrorCategory

from processors.llm_apology import LLMApology
from services.llm.responder import ResponderLLMService
from tests.fakes.pipeline import run_test


class Failing(FrameProcessor):
    """Sends errors upstream for each context that it gets."""

    def __init__(self, *errors: ErrorFrame) -> None:
        super().__init__()
        self._errors = errors

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            for error in self._errors:
                await self.push_frame(error, FrameDirection.UPSTREAM)
        await self.push_frame(frame, direction)


async def said(*errors: ErrorFrame) -> tuple[list[str], int]:
    """What is said when a model runs into these errors, and how many of them travel on."""
    pipeline = Pipeline([LLMApology(apology="sorry", out_of_order="broken"), Failing(*errors)])
    down, up = await run_test(pipeline, frames_to_send=[LLMContextFrame(LLMContext())])
    lines = [frame.text for frame in down if isinstance(frame, TTSSpeakFrame)]
    return lines, sum(isinstance(frame, ErrorFrame) for frame in up)


def failure(category: ErrorCategory, processor: FrameProcessor | None = None) -> ErrorFrame:
    """A model's error, unless another processor is named."""
    return ErrorFrame("no", processor=processor or ResponderLLMService(), category=category)


async def test_a_run_that_fails_is_apologised_for_once() -> None:
    """Several errors in one run are one apology, and all of them travel on."""
    errors = [failure(ErrorCategory.CONNECTIVITY), failure(ErrorCategory.UNKNOWN)]
    assert await said(*errors) == (["sorry"], 2)


async def test_a_permanent_failure_does_not_ask_to_try_again() -> None:
    """Where the category says that trying again is no use, so does the agent."""
    assert await said(failure(ErrorCategory.AUTHENTICATION)) == (["broken"], 1)


async def test_the_errors_of_others_are_not_the_models() -> None:
    """A tool's failure, and that of another processor, travel on without an apology."""
    other = failure(ErrorCategory.CONNECTIVITY, LLMApology(apology="", out_of_order=""))
    assert await said(failure(ErrorCategory.APPLICATION), other) == ([], 2)
