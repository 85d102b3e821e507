"""What engines with one model share: turns, voices, speed, failure."""

import time
import wave
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from services.errors import EngineError, UnavailableError, UnknownVoiceError
from services.models import ModelStore
from services.tts.engine import Chunk, VoiceInfo
from services.tts.references import Reference, find_references
from services.tts.torch_engine import Samples, TorchEngine, to_pcm

RATE = 16000
FRAME = RATE // 10
ALTO = VoiceInfo("alto", "Alto", "en")
BASSO = VoiceInfo("basso", "Basso", "de")


@dataclass
class Toy:
    """A model: a frame of silence for each word."""

    prepared: list[tuple[str, str]] = field(default_factory=list)
    frames: int = 0
    at_work: int = 0
    most_at_work: int = 0
    fail: Callable[[int], Exception | None] = lambda frame: None
    wait: Callable[[], object] = lambda: None


class ToyEngine(TorchEngine[Toy]):
    name = "toy"

    def __init__(self, toy: Toy, **settings: Any) -> None:
        given: dict[str, Any] = {
            "model": "m",
            "device": "cpu",
            "references": {},
            "built_in": (ALTO, BASSO),
            "language": "en",
            "default_voice": None,
        }
        super().__init__(**{**given, **settings})
        self.toy = toy
        self.loads = 0

    def _load_model(self) -> tuple[Toy, int]:
        self.loads += 1
        return self.toy, RATE

    def _prepare(self, model: Toy, voice: VoiceInfo, reference: Reference | None) -> str:
        model.prepared.append((voice.name, reference.text if reference else ""))
        return voice.name

    def _synthesize(
        self, model: Toy, state: str, voice: VoiceInfo, text: str, speed: float, stop: Event
    ) -> Generator[Samples, None, None]:
        assert state == voice.name
        model.at_work += 1
        model.most_at_work = max(model.at_work, model.most_at_work)
        try:
            for number, _ in enumerate(text.split()):
                model.wait()
                if error := model.fail(number):
                    raise error
                model.frames += 1
                yield np.full(FRAME, 0.1 * number, np.float32)
        finally:
            model.at_work -= 1


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store of the test's own."""
    fresh = ModelStore()
    monkeypatch.setattr("services.tts.torch_engine.models", fresh)
    return fresh


def speak(engine: ToyEngine, text: str, voice: str = "", speed: float = 1.0) -> list[Chunk]:
    return list(engine.speak(text, voice, speed, Event()))


def seconds(chunks: list[Chunk]) -> float:
    return sum(len(chunk.pcm) for chunk in chunks) / 2 / RATE


def clip(folder: Path, name: str, text: str) -> None:
    with wave.open(str(folder / f"{name}.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 32000))
    (folder / f"{name}.txt").write_text(text)


def test_it_speaks() -> None:
    """The model's samples come in chunks of at most 80 ms, every word once, and estimated."""
    chunks = speak(ToyEngine(Toy()), "one two three")
    pcm = b"".join(chunk.pcm for chunk in chunks)
    assert pcm == b"".join(to_pcm(np.full(FRAME, 0.1 * n, np.float32)) for n in range(3))
    assert all(0 < len(chunk.pcm) <= 2 * RATE * 8 // 100 for chunk in chunks)
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == ["one", "two", "three"]
    assert all(word.estimated for word in words)


@pytest.mark.parametrize("text", ["", "  \n", "…", "— !"])
def test_nothing_to_say_loads_nothing(text: str) -> None:
    """Text without a letter or digit is no work."""
    engine = ToyEngine(Toy())
    assert speak(engine, text) == []
    assert engine.loads == 0


def test_speed_is_made_of_the_audio() -> None:
    """Where the model has no pace, its audio is made shorter or longer."""
    text = "word " * 20
    engine = ToyEngine(Toy())
    assert seconds(speak(engine, text)) == pytest.approx(2.0)
    assert seconds(speak(engine, text, speed=2.0)) == pytest.approx(1.0, abs=0.1)
    assert seconds(speak(engine, text, speed=0.5)) == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("speed", [0.0, -1.0, 0.2, 4.5, float("nan"), float("inf")])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    """A speed that nobody understands is an error of one line."""
    with pytest.raises(EngineError, match=r"0\.25 to 4\.0"):
        speak(ToyEngine(Toy()), "hello", speed=speed)


def test_an_unknown_voice_is_refused() -> None:
    """A voice that is not there is named, with what is close to it, before anything is loaded."""
    engine = ToyEngine(Toy())
    with pytest.raises(UnknownVoiceError, match=r"'alt'.*alto"):
        speak(engine, "hello", "alt")
    with pytest.raises(UnknownVoiceError, match="nobody"):
        ToyEngine(Toy(), default_voice="nobody")
    assert engine.loads == 0


def test_clips_are_voices(tmp_path: Path) -> None:
    """Clips come before the model's voices, in the language of their name or of the engine."""
    clip(tmp_path, "zoe", "Hello there.")
    clip(tmp_path, "de-anna", "Guten Tag.")
    engine = ToyEngine(Toy(), references=find_references(tmp_path))
    assert [(voice.name, voice.language) for voice in engine.voices()] == [
        ("de-anna", "de"),
        ("zoe", "en"),
        ("alto", "en"),
        ("basso", "de"),
    ]
    speak(engine, "hello", "zoe")
    speak(engine, "hello")
    assert engine.toy.prepared == [("zoe", "Hello there."), ("de-anna", "Guten Tag.")]


def test_the_default_voice_is_the_first() -> None:
    """The voice of the settings leads the list, and speaks where none is asked for."""
    engine = ToyEngine(Toy(), default_voice="basso")
    assert [voice.name for voice in engine.voices()] == ["basso", "alto"]
    speak(engine, "hello")
    assert engine.toy.prepared == [("basso", "")]


def test_without_any_voice_it_is_no_engine() -> None:
    """A model without voices and no clip is an error at the start."""
    with pytest.raises(EngineError, match="needs reference clips"):
        ToyEngine(Toy(), built_in=())


def test_a_voice_is_prepared_once(store: ModelStore) -> None:
    """What the model made of a voice is kept with the model, and goes with it."""
    engine = ToyEngine(Toy())
    for voice in ("alto", "basso", "alto"):
        speak(engine, "hello", voice)
    assert [name for name, _ in engine.toy.prepared] == ["alto", "basso"]
    assert engine.loaded() == ("basso", "alto")
    store.limit(0, None)
    assert engine.loaded() == ()
    speak(engine, "hello", "alto")
    assert engine.loads == 2


def test_the_voices_kept_are_bounded() -> None:
    """With more voices than are kept, the one used longest ago is prepared anew."""
    many = tuple(VoiceInfo(f"v{n}", f"V{n}", "en") for n in range(20))
    engine = ToyEngine(Toy(), built_in=many)
    for voice in many:
        speak(engine, "hello", voice.name)
    assert engine.loaded() == tuple(voice.name for voice in many[4:])


def test_load_speaks_to_nobody() -> None:
    """Loading takes a voice up to its first sound, and no further."""
    engine = ToyEngine(Toy())
    engine.load("basso")
    assert engine.loaded() == ("basso",)
    assert engine.toy.frames == 1
    assert engine.toy.at_work == 0


def test_stop_ends_it_within_a_chunk() -> None:
    """Once stop is set no chunk follows, and the model is free."""
    engine, stop = ToyEngine(Toy()), Event()
    chunks = engine.speak("word " * 100, "", 1.0, stop)
    next(chunks)
    stop.set()
    assert list(chunks) == []
    assert engine.toy.at_work == 0
    assert engine.toy.frames == 1
    assert list(engine.speak("hello", "", 1.0, stop)) == []


def test_leaving_early_frees_the_model() -> None:
    """A reader that goes away leaves the model to the next, at once."""
    engine = ToyEngine(Toy())
    chunks = engine.speak("word " * 100, "", 1.0, Event())
    next(chunks)
    chunks.close()
    assert engine.toy.at_work == 0
    assert len(speak(engine, "hello")) > 0


def test_one_utterance_at_a_time() -> None:
    """However many speak at once, the model has one to do, and all are spoken."""
    engine = ToyEngine(Toy(wait=lambda: time.sleep(0.001)))
    with ThreadPoolExecutor(6) as threads:
        spoken = list(threads.map(lambda _: seconds(speak(engine, "a b c d e")), range(6)))
    assert spoken == [pytest.approx(0.5)] * 6
    assert engine.toy.most_at_work == 1
    assert engine.loads == 1


def test_who_waits_leaves_when_told_to() -> None:
    """An utterance that waits for another ends as soon as it is not wanted, without a sound."""
    engine, stop = ToyEngine(Toy()), Event()
    holder = engine.speak("one two three", "", 1.0, Event())
    next(holder)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: list(engine.speak("four", "", 1.0, stop)))
        assert not waiting.done()
        stop.set()
        assert waiting.result(timeout=5) == []
    assert len(list(holder)) > 0


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (RuntimeError("bad\n  shape"), "toy cannot speak: bad shape"),
        (ValueError(), "toy cannot speak: ValueError"),
        (UnavailableError("not here"), "not here"),
    ],
)
def test_a_failure_is_one_line(raised: Exception, message: str) -> None:
    """Whatever the model raises ends that utterance with one line; the next is spoken."""
    toy = Toy(fail=lambda frame: raised if frame == 1 else None)
    engine = ToyEngine(toy)
    heard: list[Chunk] = []
    with pytest.raises(EngineError, match=message):
        heard.extend(engine.speak("one two three", "", 1.0, Event()))
    assert seconds(heard) <= 0.1
    toy.fail = lambda frame: None
    assert seconds(speak(engine, "one two three")) == pytest.approx(0.3)


def test_a_failure_after_stop_is_none() -> None:
    """What goes wrong in an utterance that nobody wants any more is nobody's concern."""
    stop = Event()
    engine = ToyEngine(Toy(wait=stop.set, fail=lambda frame: RuntimeError("cut short")))
    assert list(engine.speak("one", "", 1.0, stop)) == []


def test_a_model_that_cannot_be_loaded_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that fails leaves nothing behind; the next utterance loads anew."""
    engine = ToyEngine(Toy())

    def failing() -> tuple[Toy, int]:
        raise UnavailableError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_load_model", failing)
        with pytest.raises(UnavailableError, match="no network"):
            speak(engine, "hello")
    assert seconds(speak(engine, "hello")) == pytest.approx(0.1)


def test_loud_samples_are_clipped() -> None:
    """What is louder than full scale is full scale, and never wraps around."""
    loud = np.array([2.0, -2.0, 0.0, 1.0], np.float32)
    assert np.frombuffer(to_pcm(loud), "<i2").tolist() == [32767, -32767, 0, 32767]
