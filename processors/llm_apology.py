"""What the caller hears when the language model fails: an apology instead of silence."""

from pipecat.frames.frames import ErrorFrame, Frame, LLMContextFrame, TTSSpeakFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.utils.errors import ErrorCategory


class LLMApology(FrameProcessor):
    """Apologises aloud, once for each run of the language model that ends in an error.

    It stands right before the LLM, where the LLM's errors come by upstream; its apology follows
    whatever part of the answer was already on its way. The error itself travels on.

    It is not a retry: the caller's words stay in the context, and the next turn runs the model on
    them again. Nor does it speak for a tool that failed: the model is told of that and answers.
    """

    def __init__(self, *, apology: str, out_of_order: str) -> None:
        """Create the processor.

        Args:
            apology: What to say when asking again may help: a timeout, a dropped connection.
            out_of_order: What to say when it cannot: a refused key, an unknown model.
        """
        super().__init__()
        self._apology = apology
        self._out_of_order = out_of_order
        self._apologised = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Follow contexts down to the LLM, and its errors up.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            self._apologised = False
        elif (
            isinstance(frame, ErrorFrame)
            and isinstance(frame.processor, LLMService)
            and frame.category is not ErrorCategory.APPLICATION
            and not self._apologised
        ):
            self._apologised = True
            permanent = frame.category is not None and frame.category.is_permanent
            await self.push_frame(TTSSpeakFrame(self._out_of_order if permanent else self._apology))
