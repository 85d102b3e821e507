"""The agent's side of a hang-up or a transfer: say goodbye, let it be heard, end the call."""

from dataclasses import dataclass, field

from pipecat.frames.frames import (
    ControlFrame,
    EndWorkerFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputDTMFFrame,
    TTSSpeakFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor


@dataclass
class HangUpFrame(ControlFrame):
    """Asks for the call to end once a goodbye has been heard.

    Parameters:
        goodbye: What to say first. None says the processor's own goodbye, unless the model's
            answer in progress has words of its own; an empty text says nothing more.
        reason: Why the call ends; carried by the `EndWorkerFrame`.
    """

    interruptible: bool = field(default=False, init=False)
    goodbye: str | None = None
    reason: str = "goodbye"


@dataclass
class TransferFrame(ControlFrame):
    """Asks for the call to be transferred once what the agent has said was heard.

    It reaches the pipeline's end in its order, where the call has its line transferred.

    Parameters:
        to: A number in E.164, or a SIP address.
    """

    interruptible: bool = field(default=False, init=False)
    to: str = ""


class HangUp(FrameProcessor):
    """Turns a `HangUpFrame` into a goodbye and an `EndWorkerFrame` behind it.

    A `TransferFrame` and keys to press, too, are held until the answer that they came in is
    complete.

    It stands between the LLM and the TTS, where it sees whether the model, which asked to hang up
    with a tool call, has said anything in the same answer. Whatever it pushes follows that answer;
    the TTS and the output transport keep the order, so that the pipeline ends after the last word
    was played. A fixed goodbye cannot be interrupted, and nobody talks the agent out of a hang-up:
    talking over the model's own goodbye ends the call there.
    """

    def __init__(self, *, goodbye: str) -> None:
        """Create the processor.

        Args:
            goodbye: What to say when the model leaves without a word; empty to say nothing.
        """
        super().__init__()
        self._goodbye = goodbye
        self._answering = False
        self._said_something = False
        self._wanted: HangUpFrame | None = None
        self._held: list[Frame] = []
        self._hung_up = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Follow the model's answer and hang up after it.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, HangUpFrame):
            self._wanted = frame
        elif isinstance(frame, (TransferFrame, OutputDTMFFrame)):
            self._held.append(frame)
        else:
            await self.push_frame(frame, direction)
        if isinstance(frame, LLMFullResponseStartFrame):
            self._answering, self._said_something = True, False
        elif isinstance(frame, LLMTextFrame):
            self._said_something = self._said_something or bool(frame.text.strip())
        elif isinstance(frame, (LLMFullResponseEndFrame, InterruptionFrame)):
            self._answering = False
        if self._held and not self._answering:
            held, self._held = self._held, []
            for late in held:
                await self.push_frame(late)
        if self._wanted and not self._answering and not self._hung_up:
            self._hung_up = True
            await self._hang_up(self._wanted)

    async def _hang_up(self, wanted: HangUpFrame) -> None:
        goodbye = wanted.goodbye
        if goodbye is None:
            goodbye = "" if self._said_something else self._goodbye
        if goodbye.strip():
            speech = TTSSpeakFrame(goodbye)
            speech.interruptible = False
            await self.push_frame(speech)
        await self.push_frame(EndWorkerFrame(reason=wanted.reason))
