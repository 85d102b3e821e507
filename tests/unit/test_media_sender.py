"""Nothing that was said before an interruption is told after it, whenever it comes."""

import asyncio

import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputAudioRawFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from bot.media_sender import use_media_sender
from tests.fakes.gated_output import WRITE_SECS, GatedOutputTransport

RATE = 16000


class Listener(FrameProcessor):
    """Notes what is told of the agent's speech."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[type[Frame]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            self.told.append(type(frame))
        await self.push_frame(frame, direction)


def speech(seconds: float) -> OutputAudioRawFrame:
    return TTSAudioRawFrame(bytes(2 * round(seconds * RATE)), RATE, 1)


@pytest.mark.parametrize("turns", range(12))
async def test_an_interruption_ends_what_is_said(turns: int) -> None:
    """However many turns of the event loop after a piece was written it comes; then we go on."""
    use_media_sender()
    output, listener = GatedOutputTransport(), Listener()
    worker = PipelineWorker(
        Pipeline([output, listener]), params=PipelineParams(audio_out_sample_rate=RATE)
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frame(speech(1))
    await output.play(WRITE_SECS)
    await output.play_on()
    for _ in range(turns):
        await asyncio.sleep(0)
    await output.process_frame(InterruptionFrame(), FrameDirection.DOWNSTREAM)
    for _ in range(100):
        await asyncio.sleep(0)
    before = len(listener.told)
    await worker.queue_frames([speech(1), TTSStoppedFrame(), EndFrame()])
    await running
    assert before == 2
    assert listener.told == 2 * [BotStartedSpeakingFrame, BotStoppedSpeakingFrame]
