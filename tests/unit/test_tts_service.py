"""Speech in a pipeline: what is played, what the context keeps, and what an engine may do."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.services.settings import TTSSettings
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from services.tts.local import SILENCE_LIMIT_S, LocalSpeech
from services.tts.service import SpeechTTSService, SpeechTTSSettings
from tests.fakes.gated_output import WRITE_SECS, GatedOutputTransport
from tests.fakes.pipeline import run_test
from tests.fakes.speech_engine import FakeSpeechEngine

RATE = 16000
TEN = "one two three four five six seven eight nine ten."


def service(
    engine: FakeSpeechEngine, silence_limit_s: float = SILENCE_LIMIT_S, **options: Any
) -> SpeechTTSService:
    """A call's voice, with a first clause of four words."""
    speech = LocalSpeech(engine, silence_limit_s=silence_limit_s)
    return SpeechTTSService(speech=speech, first_clause_words=4, **options)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other tasks or threads bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads and Pipecat's queues tell nobody.
            await asyncio.sleep(0.001)


class Call:
    """A pipeline of a service, an output and the context aggregators."""

    def __init__(self, engine: FakeSpeechEngine, **options: Any) -> None:
        self.engine = engine
        self.context = LLMContext()
        self.tts = service(engine, **options)
        self.output = GatedOutputTransport()
        self.heard: list[str] = []
        self.errors: list[ErrorFrame] = []
        self.turns: list[str] = []
        self.requests: list[str] = []
        pair = LLMContextAggregatorPair(
            self.context,
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )
        self.assistant = pair.assistant()
        self.worker = PipelineWorker(
            Pipeline([pair.user(), self.tts, self.output, self.assistant]),
            params=PipelineParams(audio_out_sample_rate=RATE),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
        )

        @self.assistant.event_handler("on_after_process_frame")
        async def after(_: object, frame: Frame) -> None:
            if isinstance(frame, TTSTextFrame):
                self.heard.append(frame.text)

        @self.assistant.event_handler("on_assistant_turn_stopped")
        async def stopped(_: object, message: Any) -> None:
            self.turns.append(message.content)

        @self.tts.event_handler("on_tts_request")
        async def request(_: object, _context: str, text: str) -> None:
            self.requests.append(text)

        @self.tts.event_handler("on_error")
        async def error(_: object, frame: ErrorFrame) -> None:
            self.errors.append(frame)

    async def reply(self, *texts: str, end: bool = True) -> None:
        """What a model writes."""
        await self.send(LLMFullResponseStartFrame())
        await self.send(*(LLMTextFrame(text) for text in texts))
        if end:
            await self.send(LLMFullResponseEndFrame())

    async def send(self, *frames: Frame) -> None:
        await self.worker.queue_frames(frames)

    async def play(self, secs: float, heard: str) -> None:
        """Play `secs` more, by which `heard` must have been heard since the call began."""
        await self.output.play(secs)
        await until(lambda: " ".join(self.heard) == heard)

    async def interrupt(self) -> None:
        """A barge-in, and all that comes of it."""
        turns = len(self.turns)
        await self.send(InterruptionFrame())
        await until(lambda: len(self.turns) > turns)

    def said(self) -> list[str]:
        """What the context holds of the agent's."""
        return [str(m["content"]) for m in self.context.messages if m["role"] == "assistant"]


@asynccontextmanager
async def call(engine: FakeSpeechEngine, **options: Any) -> AsyncIterator[Call]:
    """A running call, which is cancelled in the end."""
    running = Call(engine, **options)
    started = asyncio.Event()

    @running.worker.event_handler("on_pipeline_started")
    async def on_started(*_: object) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(running.worker)
    task = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(started.wait(), 10)
        yield running
    finally:
        await runner.cancel()
        await task


def audio(frames: Any) -> bytes:
    return b"".join(frame.audio for frame in frames if isinstance(frame, TTSAudioRawFrame))


def words(frames: Any) -> list[str]:
    return [frame.text for frame in frames if isinstance(frame, TTSTextFrame)]


async def speak(engine: FakeSpeechEngine, *frames: Frame, rate: int = RATE, **options: Any) -> Any:
    """The frames that a service pushes, without a transport."""
    return await run_test(
        service(engine, **options),
        frames_to_send=list(frames),
        pipeline_params=PipelineParams(audio_out_sample_rate=rate),
    )


# What the context keeps


@pytest.mark.parametrize("writes", [1, 2, 3, 5, 7, 8, 12, 13, 20])
async def test_the_context_holds_the_words_whose_end_was_played(writes: int) -> None:
    """After a barge-in the context holds just the words whose end was played, wherever it cuts."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply(TEN)
        heard = TEN.split()[: int(writes * WRITE_SECS / 0.1 + 1e-9)]
        await running.play(writes * WRITE_SECS, " ".join(heard))
        await running.interrupt()
        assert running.said() == ([" ".join(heard)] if heard else [])


async def test_the_words_of_the_second_sentence_follow_the_first() -> None:
    """Word times of each text start afresh; in a reply of several they still match the audio."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply("One two three. ", "Four five six. ", "Seven eight.")
        await running.play(0.48, "One two three. Four")
        await running.interrupt()
        assert running.said() == ["One two three. Four"]


async def test_a_pause_between_sentences_moves_no_word() -> None:
    """A sentence that the model writes long after the first was played is heard when it plays."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply("One two three. F", end=False)
        # What is left over of a write waits for the next sentence.
        await running.play(0.24, "One two")
        await running.send(LLMTextFrame("our five six."), LLMFullResponseEndFrame())
        await running.play(0.2, "One two three. Four")
        await running.interrupt()
        assert running.said() == ["One two three. Four"]


async def test_two_replies_and_a_spoken_text() -> None:
    """Replies and texts of their own each start a message that holds just what was heard of it."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply("One two three.")
        await running.send(TTSSpeakFrame("four five six"))
        await running.reply("Seven eight nine ten.")
        await running.play(0.84, "One two three. four five six Seven eight")
        await running.interrupt()
        assert running.said() == ["One two three.", "four five six", "Seven eight"]


async def test_after_an_interruption_the_next_reply_stands_alone() -> None:
    """Nothing of an interrupted reply is played or kept with the next."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply(TEN)
        await running.play(0.24, "one two")
        await running.interrupt()
        await running.reply("Eleven twelve thirteen.")
        await running.output.play_on()
        await until(lambda: len(running.turns) == 2)
        assert running.said() == ["one two", "Eleven twelve thirteen."]


async def test_a_spoken_text_outside_the_context_stays_outside() -> None:
    """`append_to_context=False` is honoured."""
    async with call(FakeSpeechEngine()) as running:
        await running.send(TTSSpeakFrame("please hold the line", append_to_context=False))
        await running.reply("One two.")
        await running.output.play_on()
        await until(lambda: running.turns)
        assert running.said() == ["One two."]


async def test_the_context_keeps_the_text_as_written() -> None:
    """Markdown and emoji are not spoken, and stay in the context in their places."""
    said = "**Great** \U0001f44d news, it is `five` \u2764\ufe0f, and [sunny](http://x.y)."
    async with call(FakeSpeechEngine()) as running:
        await running.reply(said, " Done \U0001f389")
        await running.output.play_on()
        await until(lambda: running.turns)
        spoken = " ".join(u.text for u in running.engine.utterances)
        assert spoken == "Great news, it is five, and sunny. Done"
        assert running.said() == [f"{said} Done \U0001f389"]
        assert running.heard == spoken.split()


async def test_text_with_nothing_to_say_does_not_reach_the_engine() -> None:
    """Emoji and bare marks are no utterance, no error, and never wear the service out."""
    engine = FakeSpeechEngine()
    frames = [TTSSpeakFrame(text) for text in ("\U0001f44d", "...", "\u2014", "\U0001f389!")]
    down, up = await speak(engine, *frames, TTSSpeakFrame("one"))
    assert [u.text for u in engine.utterances] == ["one"]
    assert words(down) == ["one"]
    assert not [frame for frame in up if isinstance(frame, ErrorFrame)]


# How it is spoken


async def test_the_first_clause_is_spoken_before_its_sentence_is_complete() -> None:
    """Speech starts while the model still writes the sentence."""
    async with call(FakeSpeechEngine()) as running:
        await running.reply("In the old town of Prague, there is a", end=False)
        await running.play(0.24, "In the")
        await running.send(LLMTextFrame(" clock."), LLMFullResponseEndFrame())
        await running.output.play_on()
        await until(lambda: running.turns)
        assert [u.text for u in running.engine.utterances] == [
            "In the old town of Prague,",
            "there is a clock.",
        ]
        assert running.said() == ["In the old town of Prague, there is a clock."]


async def test_speech_is_framed_by_its_start_and_stop() -> None:
    """One start, then audio and words, then one stop for a reply of several sentences."""
    down, _ = await speak(
        FakeSpeechEngine(),
        LLMFullResponseStartFrame(),
        LLMTextFrame("One two. Three four."),
        LLMFullResponseEndFrame(),
    )
    kinds = [type(f) for f in down if isinstance(f, TTSStartedFrame | TTSStoppedFrame)]
    assert kinds == [TTSStartedFrame, TTSStoppedFrame]
    assert words(down) == ["One", "two.", "Three", "four."]
    assert len({f.context_id for f in down if isinstance(f, TTSAudioRawFrame)}) == 1


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 48000])
async def test_resampling_keeps_every_sample_of_time(rate: int) -> None:
    """Whatever the rates, the audio lasts as long as the engine made it, and starts with sound."""
    text = "one two three four five"
    down, _ = await speak(FakeSpeechEngine(), TTSSpeakFrame(text), rate=rate)
    frames = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    assert {frame.sample_rate for frame in frames} == {rate}
    assert len(audio(frames)) / 2 / rate == pytest.approx(0.5, abs=2 / rate)
    assert words(down) == text.split()


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
async def test_resampling_does_not_move_words(rate: int) -> None:
    """A word follows the audio that holds its end, and the least a transport may hold back."""
    down, _ = await speak(FakeSpeechEngine(), TTSSpeakFrame("one two three four"), rate=rate)
    sent, ends = 0, []
    for frame in down:
        if isinstance(frame, TTSAudioRawFrame):
            sent += len(frame.audio) // 2
        elif isinstance(frame, TTSTextFrame):
            ends.append(sent / rate)
    assert ends[:3] == pytest.approx(
        [0.1 + WRITE_SECS, 0.2 + WRITE_SECS, 0.3 + WRITE_SECS], abs=1e-3
    )
    assert ends[3] == pytest.approx(0.4, abs=1e-3)


# Stopping


async def test_an_interruption_stops_the_engine_within_a_chunk() -> None:
    """The stop flag is set at once: the chunk being computed is the last."""
    engine = FakeSpeechEngine(gated=True)
    async with call(engine) as running:
        await running.reply(TEN)
        await until(lambda: engine.utterances)
        engine.permit(2)
        await running.output.play(0.04)
        await running.interrupt()
        engine.permit(100)
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped
        assert engine.utterances[0].chunks <= 2


async def test_the_text_after_an_interruption_waits_for_nothing() -> None:
    """It is spoken while an engine still computes a chunk of what was interrupted."""
    engine, free = FakeSpeechEngine(), threading.Event()
    engine.fail = lambda text, _: text == "One two." and not free.wait(10)
    async with call(engine) as running:
        await running.reply("One two.")
        await until(lambda: engine.utterances)
        await running.send(InterruptionFrame())
        await running.reply("Three four.")
        await running.output.play_on()
        await until(lambda: running.said() == ["Three four."])
        assert not engine.utterances[0].ended.is_set()
        free.set()
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped


async def test_an_interruption_stops_what_must_be_finished() -> None:
    """Text spoken at the end of a call, which nothing cancels, stops all the same."""
    engine = FakeSpeechEngine(gated=True)
    async with call(engine) as running:
        await running.reply("one two three four five", end=False)
        await running.send(EndFrame())
        await until(lambda: engine.utterances)
        # The worker takes nothing more after an EndFrame; a barge-in comes from within.
        await running.output.broadcast_interruption()
        await until(lambda: not running.tts.get_audio_contexts())
        engine.permit(100)
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped
        assert engine.utterances[0].chunks == 0


async def test_the_end_of_a_call_stops_the_engine() -> None:
    """A call that is cut off while it speaks leaves nothing that is computed."""
    engine = FakeSpeechEngine(gated=True)
    async with call(engine) as running:
        await running.reply(TEN)
        await until(lambda: engine.utterances)
        engine.permit(1)
        await running.output.play(0.04)
    engine.permit(100)
    await until(engine.utterances[0].ended.is_set)
    assert engine.utterances[0].stopped
    assert engine.utterances[0].chunks <= 1


async def test_the_event_loop_runs_while_the_engine_computes() -> None:
    """An engine busy with a chunk holds up nothing else."""
    engine = FakeSpeechEngine(gated=True)
    async with call(engine) as running:
        await running.reply(TEN)
        await until(lambda: engine.utterances)
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await asyncio.wait_for(turned.wait(), 5)
        assert not engine.utterances[0].ended.is_set()
        engine.permit(100)


# Failing


async def test_an_engine_error_is_reported_and_the_next_sentence_speaks() -> None:
    """A sentence that fails costs that sentence: an error, no word of it in the context."""
    engine = FakeSpeechEngine()
    engine.fail = lambda text, _: "broken" in text
    async with call(engine) as running:
        await running.reply("One two. ", "This is broken. ", "Three four.")
        await running.output.play_on()
        await until(lambda: running.turns)
        assert ["cannot say 'This is broken.'" in e.error for e in running.errors] == [True]
        assert not running.errors[0].fatal
        assert running.said() == ["One two. Three four."]
        assert running.tts.is_usable


async def test_an_engine_error_amid_a_sentence_keeps_what_was_heard() -> None:
    """The words spoken before an engine fails are in the context, those after are not."""
    engine = FakeSpeechEngine()
    engine.fail = lambda text, chunks: "broken" in text and chunks == 4
    async with call(engine) as running:
        await running.reply("One two three four broken six. ", "Seven eight.")
        await running.output.play_on()
        await until(lambda: running.turns)
        assert running.said() == ["One two three Seven eight."]


async def test_a_reply_that_fails_as_a_whole_ends_at_once() -> None:
    """Its context is closed, the call goes on, however often the engine fails."""
    engine = FakeSpeechEngine()
    engine.fail = lambda text, _: "broken" in text
    async with call(engine) as running:
        await running.output.play_on()
        for _ in range(5):
            await running.reply("All of this is broken.")
        await running.reply("One two.")
        await until(lambda: "One two." in running.said())
        assert running.said() == ["One two."]
        assert running.tts.is_usable


async def test_an_engine_that_hangs_has_failed() -> None:
    """No chunk within the limit is an error and stops the utterance."""
    engine = FakeSpeechEngine(gated=True)
    async with call(engine, silence_limit_s=0.01) as running:
        await running.reply(TEN)
        await until(lambda: running.errors)
        assert "no audio for 0.01 s" in running.errors[0].error
        engine.permit(100)
        # Where the limit was over before there was a thread, the engine was not asked.
        await until(lambda: all(utterance.ended.is_set() for utterance in engine.utterances))
        assert all(utterance.stopped for utterance in engine.utterances)


# Settings


async def test_a_voice_is_changed_in_mid_call() -> None:
    """The sentence after a change has the other voice, of another rate, in the same call."""
    engine = FakeSpeechEngine()
    tts = service(engine)
    down, up = await run_test(
        tts,
        frames_to_send=[
            TTSSpeakFrame("one two"),
            TTSUpdateSettingsFrame(delta=TTSSettings(voice="basso")),
            TTSSpeakFrame("three four"),
            TTSUpdateSettingsFrame(delta=SpeechTTSSettings(voice="alto", speed=2.0)),
            TTSSpeakFrame("five six"),
        ],
        pipeline_params=PipelineParams(audio_out_sample_rate=RATE),
    )
    assert [(u.voice, u.speed) for u in engine.utterances] == [
        ("alto", 1.0),
        ("basso", 1.0),
        ("alto", 2.0),
    ]
    assert words(down) == TEN.split()[:6]
    assert len(audio(down)) / 2 / RATE == pytest.approx(0.5, abs=0.001)
    assert tts.voice == "alto"
    assert not [frame for frame in up if isinstance(frame, ErrorFrame)]


async def test_an_unknown_voice_changes_nothing() -> None:
    """An unknown voice is an error, and the old voice speaks on."""
    async with call(FakeSpeechEngine()) as running:
        await running.send(TTSUpdateSettingsFrame(delta=TTSSettings(voice="nobody")))
        await until(lambda: running.errors)
        assert "there is no voice 'nobody', 'alto' goes on" in running.errors[0].error
        assert running.tts.is_usable
        await running.reply("One two.")
        await running.output.play_on()
        await until(lambda: running.turns)
        assert running.said() == ["One two."]
        assert running.engine.utterances[-1].voice == running.tts.voice == "alto"


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), 100.0, "fast", None])
async def test_an_impossible_speed_changes_nothing(speed: Any) -> None:
    """A speed out of range is an error; the rest of the update is applied."""
    engine = FakeSpeechEngine()
    _, up = await speak(
        engine,
        TTSUpdateSettingsFrame(delta=SpeechTTSSettings(voice="basso", speed=speed)),
        TTSSpeakFrame("one"),
    )
    assert [(u.voice, u.speed) for u in engine.utterances] == [("basso", 1.0)]
    assert [type(frame) for frame in up if isinstance(frame, ErrorFrame)] == [ErrorFrame]


def test_settings_are_complete() -> None:
    """Every field has a value, so that the base finds nothing missing."""
    engine = FakeSpeechEngine()
    tts = service(engine, settings=SpeechTTSSettings(voice="basso", speed=1.5))
    assert tts.settings.given_fields() == {
        "model": "fake",
        "voice": "basso",
        "language": "en-GB",
        "speed": 1.5,
    }
    assert tts.can_generate_metrics()
