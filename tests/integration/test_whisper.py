"""The real faster-whisper: on a tiny random model, and on outputs that real models gave."""

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Barrier, Event, Lock
from types import SimpleNamespace
from typing import Any
from weakref import ref

import faster_whisper
import pytest
from faster_whisper.transcribe import Segment as WhisperSegment
from huggingface_hub import constants
from pipecat.frames.frames import (
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from services.errors import EngineError, UnavailableError
from services.models import ModelStore
from services.settings import EngineSettings, SettingsError
from services.stt import whisper as whisper_module
from services.stt.engine import SAMPLE_RATE
from services.stt.local import LocalHearing
from services.stt.service import BLANK, HearingSTTService
from services.stt.whisper import WhisperEngine, choose_device, find_model
from tests.fakes.model_hub import FakeModelHub
from tests.fakes.pipeline import run_test
from tests.integration.speech import spoken

BASE = "Systran/faster-whisper-base"


@pytest.fixture(scope="module")
def engine(tiny_whisper: Path) -> WhisperEngine:
    """The tiny model on the CPU."""
    return whisper(tiny_whisper)


def whisper(model: Path | str, cache: Path = Path("unused"), **settings: str) -> WhisperEngine:
    """An engine on the CPU that may ask the hub."""
    settings = {"device": "cpu", "compute_type": "auto"} | settings
    return WhisperEngine(str(model), cache=cache, offline=False, **settings)


@contextmanager
def model_hub(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[FakeModelHub]:
    """A hub that is taken for the public one."""
    with FakeModelHub(BASE, files) as hub:
        # A busy machine's hub may be slow to answer.
        monkeypatch.setattr(whisper_module, "REACH_S", 60.0)
        # What HF_ENDPOINT sets, read once when the package is imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


class RecordedModel:
    """Gives what a real model gave once, as lazily as faster-whisper does."""

    supported_languages = ("en", "it")

    def __init__(self, *outputs: tuple[str, float, float]) -> None:
        """Take the outputs: text, mean log probability, no-speech probability."""
        self.outputs = outputs
        self.given = 0

    def transcribe(self, _samples: Any, **options: Any) -> tuple[Iterator[WhisperSegment], Any]:
        """What `WhisperModel.transcribe` returns."""
        return self._segments(), SimpleNamespace(language=options["language"] or "en")

    def _segments(self) -> Iterator[WhisperSegment]:
        for number, (text, logprob, no_speech) in enumerate(self.outputs):
            self.given += 1
            yield WhisperSegment(
                id=number,
                seek=0,
                start=2.0 * number,
                end=2.0 * number + 2.0,
                text=text,
                tokens=[],
                avg_logprob=logprob,
                compression_ratio=1.0,
                no_speech_prob=no_speech,
                words=None,
                temperature=0.0,
            )


def recorded(
    monkeypatch: pytest.MonkeyPatch, engine: WhisperEngine, *outputs: tuple[str, float, float]
) -> RecordedModel:
    """Let `engine` run a recorded model instead of its own."""
    model = RecordedModel(*outputs)
    monkeypatch.setattr(engine, "_model", lambda: nullcontext(model))
    return model


@pytest.mark.parametrize("seconds", [0.0, 0.5, 5.0, 31.0])
def test_any_length_can_be_recognised(engine: WhisperEngine, seconds: float) -> None:
    """From nothing to more than one window: segments in order, with sane scores."""
    pcm = (spoken("dashwood") * 5)[: int(seconds * SAMPLE_RATE) * 2]
    transcript = engine.transcribe(pcm, "en", Event())
    for segment in transcript.segments:
        assert segment.start <= segment.end
        assert 0.0 <= segment.confidence <= 1.0
        assert 0.0 <= segment.no_speech <= 1.0
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    if seconds:
        assert transcript.language == "en"


def test_silence_and_no_language(engine: WhisperEngine) -> None:
    """Digital silence in an unnamed language is no error."""
    assert engine.transcribe(bytes(SAMPLE_RATE * 2), None, Event()).language == "en"


def test_an_unknown_language_is_one_line(engine: WhisperEngine) -> None:
    """An English-only model asked for German says so, rather than inventing English."""
    cure = r"whisper-tiny-random' hears English only, not 'de': choose a model without \.en$"
    with pytest.raises(EngineError, match=cure):
        engine.load("de")
    with pytest.raises(EngineError, match=cure):
        engine.transcribe(bytes(SAMPLE_RATE), "de", Event())


def test_a_language_that_no_model_knows_is_one_line(
    engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of several languages says which they are."""
    recorded(monkeypatch, engine)
    with pytest.raises(EngineError, match=r"know the language 'tlh'; it knows en, it$"):
        engine.load("tlh")


def test_the_model_is_loaded_once(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines of the same settings, used by two threads at once, cost one model."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_whisper, copy)
    loads: list[str] = []
    real = faster_whisper.WhisperModel

    def counted(path: str, **options: Any) -> Any:
        loads.append(path)
        return real(path, **options)

    monkeypatch.setattr(faster_whisper, "WhisperModel", counted)
    both = Barrier(2)

    def use(_number: int) -> None:
        engine = whisper(copy)
        both.wait(10)
        engine.load("en")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(use, range(2)))
    assert loads == [str(copy)]


def test_an_evicted_model_frees_its_memory(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the limits say so the model is gone; the next utterance loads it anew."""
    store = ModelStore()
    monkeypatch.setattr("services.stt.whisper.models", store)
    engine = whisper(tiny_whisper)
    engine.load("en")
    with engine._model() as model:
        alive = ref(model)
        store.limit(0, None)
        assert store.resident()
    del model
    assert store.resident() == ()
    assert alive() is None
    engine.load("en")


def test_a_built_engine_hears(tiny_whisper: Path, tmp_path: Path) -> None:
    """`build` takes the settings, loads the model and tells where it is."""
    settings = EngineSettings(
        cache=tmp_path, whisper_model=str(tiny_whisper), whisper_device="cpu", offline=True
    )
    loaded = whisper_module.build(settings, "en", lambda *_: None)
    assert loaded.source == str(tiny_whisper)
    assert loaded.model.startswith(f"{tiny_whisper.name} (cpu, ")
    loaded.engine.transcribe(bytes(SAMPLE_RATE), "en", Event())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"whisper_model": "enormous"}, "--whisper-model: Whisper model 'enormous'"),
        ({"whisper_compute_type": "int3"}, "--whisper-compute-type: "),
        ({"whisper_model": "a/b/c"}, "--whisper-model: "),
    ],
)
def test_a_wrong_setting_is_blamed(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    """One line that begins with the flag."""
    settings = EngineSettings(cache=tmp_path, whisper_device="cpu", offline=True, **given)
    with pytest.raises(SettingsError) as caught:
        whisper_module.build(settings, "en", lambda *_: None)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_utterances_do_not_fight_over_the_cores(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On eight cores two utterances are recognised at once; the others wait, and none is lost."""
    monkeypatch.setattr("services.stt.whisper._cores", lambda: 8)
    engine = whisper(tiny_whisper)
    lock, running, most = Lock(), 0, 0

    class Busy(RecordedModel):
        def _segments(self) -> Iterator[WhisperSegment]:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            yield from super()._segments()
            with lock:
                running -= 1

    model = Busy(("hello there", -0.2, 0.0))
    monkeypatch.setattr(engine, "_model", lambda: nullcontext(model))
    assert engine.at_once == 2
    with ThreadPoolExecutor(8) as threads:
        texts = list(
            threads.map(lambda _: engine.transcribe(bytes(3200), "en", Event()).text, range(8))
        )
    assert texts == ["hello there"] * 8
    assert 1 <= most <= 2


def test_stop_ends_recognition_at_a_segment(
    engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once stop is set no further segment is computed, and what there is is returned."""
    stop = Event()
    model = recorded(monkeypatch, engine, ("one", -0.1, 0.0), ("two", -0.1, 0.0))
    segments = model._segments

    def stopping() -> Iterator[WhisperSegment]:
        for segment in segments():
            stop.set()
            yield segment

    monkeypatch.setattr(model, "_segments", stopping)
    assert engine.transcribe(bytes(3200), "en", stop).text == "one"
    assert model.given == 1
    assert engine.transcribe(bytes(3200), "en", stop).segments == ()
    assert model.given == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "tpu"}, "use auto, cpu or cuda"),
        ({"device": "cpu", "compute_type": "int3"}, "'int3': this cpu has auto"),
        ({"model": "enormous"}, "'enormous'.*the sizes are tiny.en"),
        ({"model": "./nowhere"}, "no such folder"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tiny_whisper: Path, setting: dict[str, Any], message: str
) -> None:
    """A setting that cannot be met is named with what can, before anything is loaded."""
    with pytest.raises(EngineError, match=message) as caught:
        whisper(**{"model": tiny_whisper, **setting})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "asked", "chosen"),
    [
        (0, ("auto", "auto"), ("cpu", "int8")),
        (1, ("auto", "auto"), ("cuda", "float16")),
        (1, ("cpu", "auto"), ("cpu", "int8")),
        (1, ("cuda", "int8_float16"), ("cuda", "int8_float16")),
    ],
)
def test_auto_takes_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: tuple[str, str], chosen: tuple[str, str]
) -> None:
    """A GPU is used where there is one, in half precision; a CPU computes in bytes."""
    types = {"cpu": {"int8", "float32"}, "cuda": {"float16", "float32", "int8_float16"}}
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: gpus)
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", types.__getitem__)
    assert choose_device(*asked) == chosen


def test_cuda_without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a GPU that is not there says so and what to ask for instead."""
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 0)
    with pytest.raises(EngineError, match=r"'cuda'.*use auto or cpu"):
        choose_device("cuda", "auto")


def test_a_damaged_model_is_one_line(tmp_path: Path) -> None:
    """A folder that is no model fails with its name when it is loaded."""
    (tmp_path / "model.bin").write_bytes(b"nonsense")
    engine = whisper(tmp_path)
    with pytest.raises(EngineError, match="cannot be loaded"):
        engine.load("en")


def test_an_unreachable_hub_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody at the hub's address the model is unavailable, not wrong."""
    # Port 9, discard: nothing listens there.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="within 3 s"):
        find_model("base", tmp_path, offline=False)


def test_a_hub_that_says_nothing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that takes the connection and stays silent counts as unreachable, too."""
    with model_hub(monkeypatch, {}) as hub:
        monkeypatch.setattr(whisper_module, "REACH_S", 0.2)
        hub.silent.set()
        with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
            find_model("base", tmp_path, offline=False)


def test_offline_does_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is offline sends no request."""
    with model_hub(monkeypatch, {}) as hub:
        with pytest.raises(UnavailableError, match="offline"):
            find_model("base", tmp_path, offline=True)
        assert hub.requests == []


def test_a_model_is_fetched_once(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub has is downloaded, checked and used; the next start needs no hub."""
    files = {path.name: path.read_bytes() for path in tiny_whisper.iterdir()}
    with model_hub(monkeypatch, files):
        engine = whisper("base", tmp_path)
        assert engine.fetched
        engine.load("en")
    assert find_model("base", tmp_path, offline=False) == (engine.path, False)


def test_a_damaged_download_is_not_kept(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that do not match their published hash are refused, and fetched anew next time."""
    files = {path.name: path.read_bytes() for path in tiny_whisper.iterdir()}
    with model_hub(monkeypatch, files) as hub:
        hub.digests["model.bin"] = "0" * 64
        with pytest.raises(UnavailableError, match="damaged"):
            find_model("base", tmp_path, offline=False)
        hub.digests.clear()
        path, fetched = find_model("base", tmp_path, offline=False)
        assert fetched
        assert (path / "model.bin").read_bytes() == files["model.bin"]


def test_a_model_that_the_hub_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown id is the user's mistake; a refusal of a known size is somebody in between."""
    with model_hub(monkeypatch, {}):
        with pytest.raises(EngineError, match="no such public model") as caught:
            find_model("nobody/nothing", tmp_path, offline=False)
        assert not isinstance(caught.value, UnavailableError)
        with pytest.raises(UnavailableError, match="answers 404"):
            find_model("small", tmp_path, offline=False)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        # OpenAI's API reference, and openai/openai-python issue 245.
        (
            [(" The beach was a popular spot on a hot summer day.", -0.286, 0.0099)],
            "The beach was a popular spot on a hot summer day.",
        ),
        (
            [(" Testing, testing, this is going to be a new audio recording.", -0.402, 0.163)],
            "Testing, testing, this is going to be a new audio recording.",
        ),
        # SYSTRAN/faster-whisper issue 621.
        ([(" Sottotitoli creati dalla comunità Amara.org", -0.378, 0.878)], BLANK),
        ([(" Sottotitoli creati dalla comunità Amara.org", -0.307, 0.977)], BLANK),
        # Speech, and a credit invented in the pause after it.
        (
            [
                (" The beach was a popular spot on a hot summer day.", -0.286, 0.0099),
                (" Sottotitoli creati dalla comunità Amara.org", -0.307, 0.977),
            ],
            "The beach was a popular spot on a hot summer day.",
        ),
    ],
)
async def test_recorded_outputs_in_a_pipeline(
    engine: WhisperEngine,
    monkeypatch: pytest.MonkeyPatch,
    outputs: list[tuple[str, float, float]],
    text: str,
) -> None:
    """Real outputs go through engine, gate and service: speech passes, credits do not."""
    recorded(monkeypatch, engine, *outputs)
    audio = InputAudioRawFrame(audio=spoken("goforward"), sample_rate=SAMPLE_RATE, num_channels=1)
    frames = [VADUserStartedSpeakingFrame(), audio, VADUserStoppedSpeakingFrame()]
    down, _ = await run_test(
        HearingSTTService(hearing=LocalHearing(engine), language="en", limit=10.0),
        frames_to_send=frames,
    )
    (transcript,) = [frame for frame in down if isinstance(frame, TranscriptionFrame)]
    assert transcript.text == text


def test_scores_are_probabilities(engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidence is the exponential of the mean log probability; text comes without its blanks."""
    recorded(monkeypatch, engine, (" Hello there.", -0.5, 0.25))
    (segment,) = engine.transcribe(bytes(3200), "it", Event()).segments
    assert segment.text == "Hello there."
    assert segment.confidence == pytest.approx(math.exp(-0.5))
    assert segment.no_speech == 0.25
