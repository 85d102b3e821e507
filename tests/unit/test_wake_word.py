"""Until the wake word is said nobody hears the caller; afterwards everybody does, for a while."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    LLMMessagesAppendFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frameworks.rtvi.frames import RTVIServerMessageFrame
from pipecat.tests.utils import SleepFrame

from bot.agent import Agent
from bot.engines import load_engines
from bot.settings import Settings, SettingsError
from processors.wake_word import ANSWER_S, HELD_S, WakeWord
from services.audio import Resampler
from services.tts import voices
from services.tts.piper import PiperEngine
from services.wake import WakeWords
from tests.fakes.pipeline import run_test

RATE = 16000
FRAME_S = 0.02
SECONDS = 5.0
WORD = b"\x01\x00" * int(RATE * 0.08)
"""What the fake takes for the wake word."""


class FakeListener:
    """Hears the word wherever a sample is 1."""

    def __init__(self) -> None:
        assert current_thread() is not main_thread()

    def hear(self, pcm: bytes) -> Sequence[object]:
        """The word, if it is there."""
        assert current_thread() is not main_thread()
        return ["word"] if 1 in np.frombuffer(pcm, "<i2") else []


def wake_word(listen: Callable[[], Any] = FakeListener) -> WakeWord:
    """A processor with short texts."""
    return WakeWord(listen, seconds=SECONDS, greeting="Hello.", woken="Yes?")


def audio(pcm: bytes, rate: int = RATE) -> list[Frame]:
    """Samples as a transport brings them."""
    size = int(rate * FRAME_S) * 2
    return [InputAudioRawFrame(pcm[at : at + size], rate, 1) for at in range(0, len(pcm), size)]


def silence(seconds: float, level: int = 0, rate: int = RATE) -> list[Frame]:
    """Frames of one level."""
    return audio(level.to_bytes(2, "little") * int(seconds * rate), rate)


def seconds_of(frames: Sequence[Frame], level: int, rate: int = RATE) -> float:
    """How much of a level came through."""
    pcm = b"".join(frame.audio for frame in frames if isinstance(frame, InputAudioRawFrame))
    return round(int((np.frombuffer(pcm, "<i2") == level).sum()) / rate, 2)


async def run(processor: WakeWord, *frames: Sequence[Frame] | Frame) -> list[Frame]:
    """What comes out behind the processor."""
    flat = [f for part in frames for f in (part if isinstance(part, list) else [part])]
    down, _ = await run_test(processor, frames_to_send=flat)
    return list(down)


def told(frames: Sequence[Frame]) -> list[bool]:
    """What clients were told."""
    return [f.data["awake"] for f in frames if isinstance(f, RTVIServerMessageFrame)]


def said(frames: Sequence[Frame]) -> list[str]:
    """What the agent said of its own accord."""
    return [f.text for f in frames if isinstance(f, TTSSpeakFrame)]


async def test_asleep_nothing_is_heard() -> None:
    """However long the caller talks: no audio passes, and the agent does not greet."""
    processor = wake_word()
    down = await run(processor, silence(20, level=2))
    assert down == []
    assert processor.state() == {"type": "wake", "awake": False}


async def test_the_word_wakes_and_what_follows_is_heard() -> None:
    """All that follows the word passes, and of what was before it only its very end."""
    down = await run(wake_word(), silence(1, level=2), audio(WORD), silence(1, level=3))
    assert told(down) == [True]
    assert seconds_of(down, 3) == 1.0
    assert seconds_of(down, 2) <= HELD_S


async def test_the_word_alone_is_answered() -> None:
    """With the greeting the first time, and in short the next."""
    pause = silence(SECONDS + 0.1)
    down = await run(wake_word(), audio(WORD), silence(1), pause, audio(WORD), silence(1))
    assert told(down) == [True, False, True]
    assert said(down) == ["Hello.", "Yes?"]
    greeted = next(at for at, frame in enumerate(down) if isinstance(frame, TTSSpeakFrame))
    assert seconds_of(down[:greeted], 0) == pytest.approx(ANSWER_S, abs=0.1)


async def test_who_goes_on_speaking_gets_no_answer_to_the_word() -> None:
    """The agent does not talk into "hey Jarvis, what time is it"."""
    down = await run(
        wake_word(),
        *(audio(WORD), silence(0.3, level=3), UserStartedSpeakingFrame(), SleepFrame(0.05)),
        *(silence(1, level=3), UserStoppedSpeakingFrame(), SleepFrame(0.05), silence(2)),
    )
    assert said(down) == []
    assert seconds_of(down, 3) == 1.3


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (UserStartedSpeakingFrame, UserStoppedSpeakingFrame),
        (BotStartedSpeakingFrame, BotStoppedSpeakingFrame),
    ],
)
async def test_nobody_falls_asleep_while_somebody_speaks(
    begins: type[Frame], ends: type[Frame]
) -> None:
    """The silence counts from the end of the last turn, whosever it was."""
    awake = [*audio(WORD), begins(), SleepFrame(0.05), *silence(3 * SECONDS), ends()]
    down = await run(wake_word(), awake, SleepFrame(0.05), silence(SECONDS - 0.1))
    assert told(down) == [True]
    down = await run(wake_word(), awake, SleepFrame(0.05), silence(SECONDS + 0.1))
    assert told(down) == [True, False]


@pytest.mark.parametrize(
    "frame",
    [
        LLMMessagesAppendFrame([{"role": "user", "content": "hello"}], run_llm=True),
        InputDTMFFrame(KeypadEntry.ONE),
        BotStartedSpeakingFrame(),
    ],
    ids=["text", "key", "agent"],
)
async def test_what_else_wakes(frame: Frame) -> None:
    """Who writes or presses a key means the agent; and who is spoken to may answer."""
    processor = wake_word()

    def frames() -> Iterator[Frame]:
        yield from [*silence(1), frame]
        # Audio overtakes text.
        while not processor.awake:
            yield SleepFrame(0.01)
        yield from silence(1, level=3)

    down, _ = await run_test(processor, frames_to_send=frames())
    assert told(down) == [True]
    assert seconds_of(down, 3) == 1.0
    assert said(down) == []


async def test_a_new_silence_is_listened_to_afresh() -> None:
    """The word of the last time wakes nobody: each sleep has a listener of its own."""
    made: list[FakeListener] = []

    def listen() -> FakeListener:
        made.append(FakeListener())
        return made[-1]

    pause = silence(SECONDS + 1)
    await run(wake_word(listen), audio(WORD), pause, audio(WORD), pause)
    assert len(made) == 3


@pytest.fixture(scope="module")
def say() -> Callable[..., bytes]:
    """Says something with the embedded voice, always alike, at any rate."""
    engine = PiperEngine(
        "",  # type: ignore[arg-type]
        default_voice=voices.embedded_name(16000),
        noise_scale=0.0,
        noise_w_scale=0.0,
        offline=True,
    )

    def speak(text: str, rate: int) -> bytes:
        chunks = list(engine.speak(text, "", 1.0, Event()))
        resampler = Resampler(chunks[0].sample_rate, rate)
        return b"".join(resampler.push(chunk.pcm) for chunk in chunks) + resampler.flush()

    return speak


@pytest.mark.parametrize("rate", [8000, 16000])
async def test_the_real_model_hears_the_real_word(say: Callable[..., bytes], rate: int) -> None:
    """At a telephone's rate as at a browser's; noise and other speech wake nobody."""
    listen = partial(WakeWords().listen, ["hey_jarvis"])
    noise = np.random.default_rng(1).integers(-3000, 3000, 3 * rate, "<i2").tobytes()
    other = say("what time is it", rate)
    down = await run(wake_word(listen), audio(noise + other, rate), silence(1, rate=rate))
    assert told(down) == []
    question = say("hey jarvis, what time is it", rate)
    down = await run(wake_word(listen), silence(1, rate=rate), audio(question, rate))
    assert told(down) == [True]
    passed = b"".join(f.audio for f in down if isinstance(f, InputAudioRawFrame))
    assert len(other) * 0.8 < len(passed) < len(question) * 0.75


def test_an_unknown_word_is_one_line() -> None:
    """The setting is named, and the words that there are."""
    settings = Settings(
        tts="piper", stt="pocketsphinx", llm="builtin", offline=True, wake_word="hey you"
    )
    with pytest.raises(SettingsError, match="--wake-word: there is no wake word 'hey_you': there"):
        load_engines(settings, Agent(), lambda *_: None)
