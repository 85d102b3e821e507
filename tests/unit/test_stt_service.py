"""The STT service in a pipeline: what goes in, what comes out, and what the turn makes of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from pipecat.frames.frames import (
    ControlFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    UserAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
    UserTurnStoppedMessage,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import STTSettings
from pipecat.transcriptions.language import Language
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.utils.errors import ErrorCategory
from pipecat.workers.runner import WorkerRunner

from services.errors import EngineError
from services.stt.engine import Transcript
from services.stt.gate import Verdict
from services.stt.local import LocalHearing
from services.stt.service import BLANK, HearingSTTService
from tests.fakes.hearing_engine import FakeHearingEngine, heard

F = TypeVar("F", bound=Frame)

RATE = 16000
SECOND = b"\x00\x20\x00\xe0" * (RATE // 2)
"""A second of a loud square wave."""

TRAILING = RATE // 2 * 2
"""Bytes of the half second of silence that Pipecat puts after a segment, at 16 kHz."""


def speech(audio: bytes = SECOND, rate: int = RATE, user: str = "") -> list[Frame]:
    """A stretch of speech as the VAD marks it, its audio in 20 ms frames."""
    step = rate // 50 * 2
    frames: list[Frame] = [VADUserStartedSpeakingFrame()]
    for at in range(0, len(audio), step):
        part = audio[at : at + step]
        if user:
            frames.append(
                UserAudioRawFrame(audio=part, sample_rate=rate, num_channels=1, user_id=user)
            )
        else:
            frames.append(InputAudioRawFrame(audio=part, sample_rate=rate, num_channels=1))
    frames.append(VADUserStoppedSpeakingFrame())
    return frames


def ear(engine: FakeHearingEngine, **options: Any) -> HearingSTTService:
    """A call's ear for English, in no hurry."""
    hearing = LocalHearing(engine)
    return HearingSTTService(hearing=hearing, **{"language": "en", "limit": 10.0, **options})


class Mark(ControlFrame):
    """Follows another frame, to show that it is through."""


class Tap(FrameProcessor):
    """Passes everything on and wakes whoever waits for a frame of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []
        self._changed = asyncio.Condition()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        async with self._changed:
            self.seen.append(frame)
            self._changed.notify_all()
        await self.push_frame(frame, direction)

    def frames(self, kind: type[F]) -> list[F]:
        """The frames of a kind that it has seen."""
        return [frame for frame in self.seen if isinstance(frame, kind)]

    async def wait_for(self, kind: type[F], count: int = 1) -> list[F]:
        """The frames of a kind, once there are `count` of them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.frames(kind)) >= count)
        return self.frames(kind)


async def drive(
    processors: list[FrameProcessor],
    play: Callable[[PipelineWorker], Awaitable[None]],
    *,
    rate: int = RATE,
) -> None:
    """Run a pipeline while `play`, a coroutine function, sends frames; then cancel it."""
    worker = PipelineWorker(
        Pipeline(processors),
        params=PipelineParams(audio_in_sample_rate=rate),
        enable_rtvi=False,
        cancel_on_idle_timeout=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(_worker: PipelineWorker, _frame: Frame) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(started.wait(), 5)
        await asyncio.wait_for(play(worker), 10)
    finally:
        await runner.cancel()
        await running


async def hear(
    service: HearingSTTService, *utterances: Sequence[Frame], rate: int = RATE
) -> tuple[list[TranscriptionFrame], list[ErrorFrame]]:
    """Speak, each time once the last transcript is there; all transcripts and errors."""
    before, after = Tap(), Tap()

    async def play(worker: PipelineWorker) -> None:
        for count, frames in enumerate(utterances, start=1):
            await worker.queue_frames(frames)
            await after.wait_for(TranscriptionFrame, count)

    await drive([before, service, after], play, rate=rate)
    return after.frames(TranscriptionFrame), before.frames(ErrorFrame)


async def test_speech_becomes_one_final_transcript() -> None:
    """A stretch of speech reaches the engine whole and comes back as one finalized transcript."""
    engine = FakeHearingEngine(heard("Go forward ten meters."))
    transcripts, errors = await hear(ear(engine), speech(user="anna"))
    (frame,) = transcripts
    assert frame.text == "Go forward ten meters."
    assert frame.finalized
    assert frame.user_id == "anna"
    assert frame.language == Language.EN
    assert isinstance(frame.result, Verdict)
    assert frame.result.accepted
    assert not errors
    (request,) = engine.requests
    assert request.pcm == SECOND + bytes(TRAILING)
    assert request.language == "en"


async def test_telephone_audio_reaches_the_engine_at_its_rate() -> None:
    """At 8 kHz in the pipeline the engine still gets 16 kHz: twice the samples, the same length."""
    engine = FakeHearingEngine(heard("hello there"))
    second = b"\x00\x20\x00\x20\x00\xe0\x00\xe0" * 2000
    transcripts, _ = await hear(ear(engine), speech(second, 8000), rate=8000)
    assert transcripts[0].text == "hello there"
    assert len(engine.requests[0].pcm) == 2 * (len(second) + TRAILING // 2)


async def test_what_is_not_believed_leaves_a_blank() -> None:
    """A rejected transcript becomes a finalized blank that carries the reason."""
    engine = FakeHearingEngine(heard("Thanks for watching!", confidence=0.4, no_speech=0.9))
    transcripts, errors = await hear(ear(engine), speech())
    (frame,) = transcripts
    assert frame.text == BLANK
    assert frame.finalized
    assert isinstance(frame.result, Verdict)
    assert "hallucination" in str(frame.result.reason)
    assert not errors


async def test_silence_is_not_given_to_the_engine() -> None:
    """Audio without a sound is a blank at once; the engine is not asked."""
    engine = FakeHearingEngine(heard("Thank you."))
    transcripts, _ = await hear(ear(engine), speech(bytes(len(SECOND))))
    assert [frame.text for frame in transcripts] == [BLANK]
    assert not engine.requests


@pytest.mark.parametrize("fault", [EngineError("the model is gone"), RuntimeError("a bug")])
async def test_a_failing_engine_costs_one_utterance(fault: Exception) -> None:
    """An engine's failure is reported upstream and ends the turn; the next utterance is heard."""
    engine = FakeHearingEngine(fault, heard("still here"))
    service = ear(engine)
    transcripts, errors = await hear(service, speech(), speech())
    assert [frame.text for frame in transcripts] == [BLANK, "still here"]
    (error,) = errors
    assert str(fault) in error.error
    assert error.error.startswith("STT: ")
    assert error.category is ErrorCategory.UNKNOWN


async def test_an_engine_that_is_too_slow_is_told_to_stop() -> None:
    """Past the limit the utterance is given up: an error, a blank, and the stop flag is set."""
    engine = FakeHearingEngine(heard("too late"), gated=True)
    transcripts, errors = await hear(ear(engine, limit=0.05), speech())
    assert [frame.text for frame in transcripts] == [BLANK]
    assert "0.05 s" in errors[0].error
    # Where the limit was over before there was a thread, the engine was not asked.
    for request in engine.requests:
        assert request.stop.is_set()
        assert await asyncio.to_thread(request.ended.wait, 5)


async def test_endless_speech_keeps_its_end() -> None:
    """Of speech without a pause the latest seconds are recognised, and no more are kept."""
    engine = FakeHearingEngine(heard("the end"))
    audio = bytes(len(SECOND)) * 2 + SECOND
    await hear(ear(engine, max_segment=0.5), speech(audio))
    assert engine.requests[0].pcm == SECOND[: len(SECOND) // 2] + bytes(TRAILING)


async def test_language_can_change_during_a_call() -> None:
    """A settings frame changes what the engine is asked for; regions are left out."""
    engine = FakeHearingEngine(heard("eins"), heard("zwei", language="de"))
    tap = Tap()

    async def play(worker: PipelineWorker) -> None:
        await worker.queue_frames(speech())
        await tap.wait_for(TranscriptionFrame)
        # Audio overtakes settings, so wait until the settings are through.
        update = STTUpdateSettingsFrame(delta=STTSettings(language=Language.DE_AT))
        await worker.queue_frames([update, Mark()])
        await tap.wait_for(Mark)
        await worker.queue_frames(speech())
        await tap.wait_for(TranscriptionFrame, 2)

    await drive([ear(engine), tap], play)
    assert [request.language for request in engine.requests] == ["en", "de"]
    assert tap.frames(TranscriptionFrame)[1].language == Language.DE


async def test_no_language_lets_the_engine_tell() -> None:
    """With no language set the engine is asked for none, and the frame says what it found."""
    engine = FakeHearingEngine(heard("bonjour à tous", language="fr"))
    transcripts, _ = await hear(ear(engine, language=None), speech())
    assert engine.requests[0].language is None
    assert transcripts[0].language == Language.FR


async def test_a_transcript_is_not_final_while_the_caller_speaks_on() -> None:
    """A first part recognised during the second is not final; the second's transcript is."""
    engine = FakeHearingEngine(heard("go forward"), heard("ten meters"), gated=True)
    tap = Tap()

    async def play(worker: PipelineWorker) -> None:
        first, second = speech(), speech()
        await worker.queue_frames([*first, second[0]])
        await tap.wait_for(VADUserStartedSpeakingFrame, 2)
        engine.permit()
        (part,) = await tap.wait_for(TranscriptionFrame)
        assert not part.finalized
        await worker.queue_frames(second[1:])
        engine.permit()
        _, rest = await tap.wait_for(TranscriptionFrame, 2)
        assert rest.finalized

    await drive([ear(engine), tap], play)


async def test_a_call_that_ends_stops_the_engine() -> None:
    """Cancelling the pipeline during recognition sets the stop flag at once."""
    engine = FakeHearingEngine(heard("nobody listens"), gated=True)
    tap = Tap()

    async def play(worker: PipelineWorker) -> None:
        await worker.queue_frames(speech())
        assert await asyncio.to_thread(engine.wait_for_request, 1)

    await drive([ear(engine), tap], play)
    assert await asyncio.to_thread(engine.requests[0].ended.wait, 5)
    assert engine.requests[0].stop.is_set()
    assert not tap.frames(TranscriptionFrame)


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (heard("Thank you.", confidence=0.3, no_speech=0.8), None),
        (EngineError("the model is gone"), None),
        (heard("Go forward ten meters."), "Go forward ten meters."),
    ],
)
async def test_a_turn_ends_without_the_safety_net(
    answer: Transcript | Exception, content: str | None
) -> None:
    """Pipecat ends the turn on a blank as on words: empty, and long before its time limit."""
    engine = FakeHearingEngine(answer)
    aggregators = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            user_turn_strategies=UserTurnStrategies(
                start=[VADUserTurnStartStrategy()],
                stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.0)],
            ),
            # Longer than `drive` waits: only a transcript can end the turn in time.
            user_turn_stop_timeout=60.0,
            empty_user_turn=None,
        ),
    )
    turns: list[UserTurnStoppedMessage] = []
    timeouts: list[object] = []
    user = aggregators.user()

    @user.event_handler("on_user_turn_stopped")
    async def on_stopped(_user: object, _strategy: object, message: UserTurnStoppedMessage) -> None:
        turns.append(message)

    @user.event_handler("on_user_turn_stop_timeout")
    async def on_timeout(_user: object) -> None:
        timeouts.append(_user)

    tap = Tap()

    async def play(worker: PipelineWorker) -> None:
        await worker.queue_frames(speech())
        await tap.wait_for(UserStoppedSpeakingFrame)

    await drive([ear(engine), user, tap], play)
    assert [turn.content or None for turn in turns] == [content]
    assert not timeouts
