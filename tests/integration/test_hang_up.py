"""The goodbye is heard to its last sample before the pipeline ends."""

from collections.abc import AsyncGenerator

import pytest
from pipecat.frames.frames import (
    EndFrame,
    EndWorkerFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

from bot.agent import end_call
from processors.hang_up import HangUp, HangUpFrame
from services.llm.responder import ResponderLLMService
from tests.fakes.pipeline import run_test
from tests.fakes.text_call import TextCall

RATE = 16000
SECONDS = 0.5


class Voice(TTSService):
    """Speaks half a second of a constant level for each sentence."""

    def __init__(self) -> None:
        super().__init__(
            sample_rate=RATE,
            push_start_frame=True,
            push_stop_frames=True,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self.sentences: list[str] = []

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        self.sentences.append(text.strip())
        level = len(self.sentences).to_bytes(2, "little")
        yield TTSAudioRawFrame(level * int(RATE * SECONDS), RATE, 1, context_id=context_id)


class Speaker(BaseOutputTransport):
    """Keeps what is played, and knows what was heard when the pipeline ended."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_sample_rate=RATE))
        self.played = b""
        self.played_before_the_end: bytes | None = None

    async def start(self, frame: Frame) -> None:
        await super().start(frame)  # type: ignore[arg-type]
        await self.set_transport_ready(frame)  # type: ignore[arg-type]

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.played += frame.audio
        return True

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, EndFrame):
            self.played_before_the_end = self.played
        await super().push_frame(frame, direction)


def levels(audio: bytes) -> dict[int, float]:
    """Seconds of each level other than silence."""
    samples = [int.from_bytes(audio[i : i + 2], "little") for i in range(0, len(audio), 2)]
    return {level: samples.count(level) / RATE for level in set(samples) - {0}}


async def test_the_goodbye_is_played_before_the_end() -> None:
    """The agent's own words of farewell reach the transport whole before the pipeline ends."""
    voice, speaker = Voice(), Speaker()
    async with TextCall(ResponderLLMService(), [end_call], after=[voice, speaker]) as call:
        await call.tell("goodbye")
        await call.ended()
    assert voice.sentences == ["Goodbye!", "It was nice talking to you."]
    assert speaker.played_before_the_end is not None
    assert levels(speaker.played_before_the_end) == {1: SECONDS, 2: SECONDS}


async def test_a_hang_up_asked_for_by_the_application() -> None:
    """Queued with words, the hang-up says them, whatever the model said last, and ends the call."""
    voice, speaker = Voice(), Speaker()
    async with TextCall(ResponderLLMService(), after=[voice, speaker]) as call:
        await call.ask("one plus one")
        await call.worker.queue_frame(HangUpFrame(goodbye="Our time is up."))
        await call.ended()
    assert voice.sentences == ["1 plus 1 is 2.", "Our time is up."]
    assert levels(speaker.played_before_the_end or b"") == {1: SECONDS, 2: SECONDS}


START, END = LLMFullResponseStartFrame, LLMFullResponseEndFrame


@pytest.mark.parametrize(
    ("frames", "goodbyes", "order"),
    [
        ([HangUpFrame()], ["Bye."], [TTSSpeakFrame, EndWorkerFrame]),
        ([HangUpFrame(goodbye="So long.")], ["So long."], [TTSSpeakFrame, EndWorkerFrame]),
        ([HangUpFrame(goodbye="")], [], [EndWorkerFrame]),
        (
            [START(), HangUpFrame(), END()],
            ["Bye."],
            [START, END, TTSSpeakFrame, EndWorkerFrame],
        ),
        (
            [START(), LLMTextFrame("Ciao."), HangUpFrame(), LLMTextFrame(" A presto."), END()],
            [],
            [START, LLMTextFrame, LLMTextFrame, END, EndWorkerFrame],
        ),
        (
            [START(), LLMTextFrame("Ciao."), END(), HangUpFrame(), HangUpFrame()],
            [],
            [START, LLMTextFrame, END, EndWorkerFrame],
        ),
        (
            [START(), LLMTextFrame(" \n"), END(), HangUpFrame()],
            ["Bye."],
            [START, LLMTextFrame, END, TTSSpeakFrame, EndWorkerFrame],
        ),
    ],
)
async def test_the_order_of_a_hang_up(
    frames: list[Frame], goodbyes: list[str], order: list[type[Frame]]
) -> None:
    """The end follows the model's answer, and a fixed goodbye, once, an answer without words."""
    down, _ = await run_test(
        HangUp(goodbye="Bye."), frames_to_send=frames, expected_down_frames=order
    )
    spoken = [frame for frame in down if isinstance(frame, TTSSpeakFrame)]
    assert [frame.text for frame in spoken] == goodbyes
    assert not any(frame.interruptible for frame in spoken)


class Interrupter(FrameProcessor):
    """Interrupts when it meets the text that says so."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame) and frame.text == "interrupt":
            await self.broadcast_interruption()
        else:
            await self.push_frame(frame, direction)


async def test_an_interruption_does_not_lose_the_hang_up() -> None:
    """When the answer that asked for it is interrupted before its end, the call still ends."""
    frames = [START(), LLMTextFrame("Good"), HangUpFrame(), LLMTextFrame("interrupt")]
    pipeline = Pipeline([HangUp(goodbye="Bye."), Interrupter()])
    down, _ = await run_test(pipeline, frames_to_send=frames)
    assert EndWorkerFrame in [type(frame) for frame in down]
