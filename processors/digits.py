"""The keys that a caller presses: a turn of their own, or the answer to a tool that waits."""

import asyncio
from dataclasses import dataclass, field

from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    SystemFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.dtmf_aggregator import DTMFAggregator
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_stop import BaseUserTurnStopStrategy

PREFIX = "DTMF: "
"""What the text of a turn that was pressed begins with: Pipecat's own word for it."""

TERMINATOR = KeypadEntry.POUND
"""The key that says that there are no more."""

MAX_DIGITS = 32
"""Keys of one turn or answer: the longest card and account numbers have less than that."""

FIRST_SECONDS = 20.0
"""How long a tool waits for the first key; the question is still being spoken when that begins."""

NEXT_SECONDS = 5.0
"""How long a tool waits for another: people look from a card to the keypad and back."""


@dataclass
class DigitsRequestFrame(SystemFrame):
    """Asks for the keys that are pressed from now on; see `wait_for_digits`.

    Parameters:
        keys: Where they go.
        pressed: All of them so far.
        open: Whether they are still asked for.
        answered: Whether whoever asked has got the answer.
    """

    keys: asyncio.Queue[KeypadEntry] = field(default_factory=asyncio.Queue)
    pressed: list[KeypadEntry] = field(default_factory=list)
    open: bool = True
    answered: bool = False


async def wait_for_digits(
    llm: FrameProcessor,
    *,
    count: int = 0,
    first_seconds: float = FIRST_SECONDS,
    next_seconds: float = NEXT_SECONDS,
) -> str:
    """Wait, within a tool, for digits that the caller presses.

    What is pressed meanwhile is no turn. The first key hushes the agent, but not the tool that
    waits; the caller's voice ends it, as it ends any tool, and what was pressed by then begins the
    turn that the next keys make.

    Args:
        llm: What runs the tool: its `params.llm`.
        count: How many digits to wait for; 0 takes what comes before `TERMINATOR`.
        first_seconds: How long the first may take.
        next_seconds: How long each other may take.

    Returns:
        The digits, of 0 to 9 and `*`, without the terminator; fewer than `count`, or none, where
        the caller pressed no more.
    """
    request = DigitsRequestFrame()
    await llm.push_frame(request, FrameDirection.UPSTREAM)
    limit = first_seconds
    digits = ""
    try:
        while len(digits) < (count or MAX_DIGITS):
            async with asyncio.timeout(limit):
                key = await request.keys.get()
            if not digits:
                # Downstream of the LLM alone: an interruption that it saw would cancel the tool.
                await llm.push_frame(InterruptionFrame())
            limit = next_seconds
            if key == TERMINATOR:
                break
            digits += key.value
    except TimeoutError:
        pass
    finally:
        request.open = False
    request.answered = True
    return digits


class Digits(DTMFAggregator):
    """Gathers keys into turns, unless a `DigitsRequestFrame` asks for them.

    It stands before the caller's aggregator. The first key of a turn interrupts the agent, as a
    word of the caller would; a pause, or `TERMINATOR`, ends the turn.
    """

    def __init__(self, *, pause_seconds: float) -> None:
        """Create the processor.

        Args:
            pause_seconds: How long no key may be pressed for the turn to end without `TERMINATOR`.
        """
        super().__init__(timeout=pause_seconds, termination_digit=TERMINATOR, prefix=PREFIX)
        self._request: DigitsRequestFrame | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take keys and requests for them; pass everything else on.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        if isinstance(frame, DigitsRequestFrame):
            await FrameProcessor.process_frame(self, frame, direction)
            self._request = frame
            return
        if isinstance(frame, InputDTMFFrame) and (request := self._request):
            if request.open:
                await FrameProcessor.process_frame(self, frame, direction)
                request.pressed.append(frame.button)
                request.keys.put_nowait(frame.button)
                return
            self._request = None
            if not request.answered:
                for button in request.pressed:
                    await super().process_frame(InputDTMFFrame(button), direction)
            elif frame.button == TERMINATOR and TERMINATOR not in request.pressed:
                # Pressed out of habit after the last of as many digits as were asked for.
                return
        await super().process_frame(frame, direction)
        if len(self._aggregation) >= MAX_DIGITS:
            await self._flush_aggregation()


class DigitsTurnStop(BaseUserTurnStopStrategy):
    """Ends a turn that was pressed at once, where other strategies wait for speech to follow.

    Digits pressed while the caller speaks belong to the turn that is spoken.
    """

    def __init__(self) -> None:
        """Create the strategy."""
        super().__init__()
        self._speaking = False

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Follow the caller's speech, and end the turn after digits.

        Args:
            frame: The frame to look at.

        Returns:
            STOP where the turn has ended, so that no other strategy waits for its end.
        """
        if isinstance(frame, VADUserStartedSpeakingFrame):
            self._speaking = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._speaking = False
        elif (
            isinstance(frame, TranscriptionFrame)
            and frame.text.startswith(PREFIX)
            and not self._speaking
        ):
            await self.trigger_user_turn_stopped()
            return ProcessFrameResult.STOP
        return ProcessFrameResult.CONTINUE
