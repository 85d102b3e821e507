"""CosyVoice: against a fake with the faults of the real one, and against the real one where it is.

`PARLEY_COSYVOICE_REPO`, a checkout, and `PARLEY_COSYVOICE_PYTHON`, an interpreter with CosyVoice's
packages and Parley's, have the checks at the end run on the real code with random weights.
"""

import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.errors import EngineError, MissingExtraError, UnavailableError, UnknownVoiceError
from services.models import ModelStore
from services.settings import EngineSettings, SettingsError
from services.tts import cosyvoice
from services.tts.cosyvoice import CosyVoiceEngine, build
from services.tts.cosyvoice_guard import Guard
from services.tts.engine import Chunk, VoiceInfo
from services.tts.references import ANY_LANGUAGE, find_references
from tests.callers.server import ROOT
from tests.fakes.clips import write_clip

REPO = ROOT / "tests" / "fakes" / "cosyvoice"
SEVEN = "one two three four five six seven"
SAMPLES_PER_WORD = 20 * 960
FIRST = 32640
"""Samples of the model's first output for a clip of 87 speech tokens: it ends with hop 25."""

FIRST_OF_LARGE_HOP = 104640
"""The same with the hop that the first utterance leaves behind."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test imports CosyVoice anew and has a store of models of its own."""
    path, root = sys.path[:], logging.getLogger()
    kept = root.level, root.handlers[:]
    monkeypatch.setattr(cosyvoice, "models", ModelStore())
    yield
    sys.path[:] = path
    for name in [n for n in sys.modules if n.partition(".")[0] in {"cosyvoice", "matcha"}]:
        del sys.modules[name]
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with one clip, 87 speech tokens long."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "en_GB-anna.wav", seconds=3.48)
    return folder


@pytest.fixture
def make(tmp_path: Path, clips: Path) -> Callable[..., CosyVoiceEngine]:
    """Makes engines on the fake."""

    def make(
        version: int = 3,
        *,
        model: dict[str, Any] | None = None,
        **settings: Any,
    ) -> CosyVoiceEngine:
        folder = fake_model(tmp_path / "model", version, **(model or {}))
        settings = {"references": find_references(clips), "offline": True} | settings
        return CosyVoiceEngine(REPO, str(folder), **settings)

    return make


def fake_model(folder: Path, version: int, **settings: Any) -> Path:
    """A model of the fake's."""
    folder.mkdir(exist_ok=True)
    for name in ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx"):
        (folder / name).touch()
    name = f"cosyvoice{version if version > 1 else ''}.yaml"
    (folder / name).write_text(json.dumps(settings), "utf-8")
    return folder


def fake_upstream(folder: Path) -> Any:
    """The fake's own model with a clip's speaker `anna`, nothing of ours around it."""
    sys.path.append(str(REPO))
    cli = __import__("cosyvoice.cli.cosyvoice", fromlist=["AutoModel"])
    made = cli.AutoModel(model_dir=str(folder))
    made.frontend.spk2info["anna"] = {
        "prompt_text": [151646],
        "llm_prompt_speech_token": 87,
        "flow_prompt_speech_token": 87,
    }
    return made


def say(
    engine: CosyVoiceEngine,
    text: str,
    voice: str = "",
    speed: float = 1.0,
    stop: Event | None = None,
) -> list[Chunk]:
    """All chunks of an utterance."""
    return list(engine.speak(text, voice, speed, stop or Event()))


def count(chunks: list[Chunk]) -> int:
    """How many samples chunks have."""
    return sum(len(chunk.pcm) // 2 for chunk in chunks)


def upstream_of(engine: CosyVoiceEngine) -> Any:
    """The model object behind a loaded engine."""
    with cosyvoice.models.use(engine._key, engine._load) as model:
        return model._cosyvoice


def left(engine: CosyVoiceEngine) -> int:
    """What the model keeps of utterances, and threads of it that run."""
    model = upstream_of(engine).model
    kept = (model.tts_speech_token_dict, model.llm_end_dict, model.hift_cache_dict)
    threads = [t for t in threading.enumerate() if "llm_job" in t.name]
    return sum(map(len, kept)) + len(threads)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the model gives, in samples, as it gives it."""
    sizes: list[int] = []
    run = Guard.run

    def counted(self: Guard, *args: Any) -> Iterator[Any]:
        for samples in run(self, *args):
            sizes.append(len(samples))
            yield samples

    monkeypatch.setattr(Guard, "run", counted)
    return sizes


class TestUpstream:
    """What the fake, like the real one, does when nobody guards it."""

    def test_the_hop_stays_large(self, tmp_path: Path) -> None:
        """The first output of the second utterance takes more than three times as many tokens."""
        made = fake_upstream(fake_model(tmp_path / "m", 2))
        firsts = []
        for _ in range(2):
            sizes = [
                output["tts_speech"].shape[1]
                for output in made.inference_zero_shot(SEVEN, "", None, "anna", stream=True)
            ]
            assert sum(sizes) == 7 * SAMPLES_PER_WORD
            firsts.append(sizes[0])
        assert firsts == [FIRST, FIRST_OF_LARGE_HOP]

    def test_a_failure_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once the language model's thread has failed, the stream waits for ever."""
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        made = fake_upstream(fake_model(tmp_path / "m", 3))
        stream = made.inference_zero_shot("boom", "", None, "anna", stream=True)
        ended = Event()
        failures: list[Exception] = []

        def read() -> None:
            try:
                list(stream)
            except RuntimeError as error:
                failures.append(error)
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert not ended.wait(0.5)
        # Only a hand from outside ends it, and then with an error about something else.
        (number,) = made.model.llm_end_dict
        made.model.llm_end_dict[number] = True
        reader.join(5)
        assert "padded input size" in str(failures[0])

    def test_closing_stops_and_frees_nothing(self, tmp_path: Path) -> None:
        """A closed generator's thread computes on, and its entries stay."""
        made = fake_upstream(fake_model(tmp_path / "m", 2, token_s=0.002))
        stream = made.inference_zero_shot(SEVEN, "", None, "anna", stream=True)
        next(stream)
        before = set(threading.enumerate())
        stream.close()
        (tokens,) = made.model.tts_speech_token_dict.values()
        had = len(tokens)
        for thread in before - {threading.main_thread()}:
            if "llm_job" in thread.name:
                thread.join(5)
        assert len(tokens) == 140 > had
        assert made.model.llm_end_dict
        assert made.model.hift_cache_dict

    def test_speed_does_nothing_to_a_stream(self, tmp_path: Path) -> None:
        """Twice as fast is as long."""
        made = fake_upstream(fake_model(tmp_path / "m", 2))
        stream = made.inference_zero_shot(SEVEN, "", None, "anna", stream=True, speed=2.0)
        assert sum(o["tts_speech"].shape[1] for o in stream) == 7 * SAMPLES_PER_WORD


@pytest.mark.parametrize("version", [2, 3])
def test_every_utterance_starts_as_soon(
    make: Callable[..., CosyVoiceEngine], outputs: list[int], version: int
) -> None:
    """The first output is as small in the third utterance as in the first, and in each sentence."""
    engine = make(version)
    firsts = []
    for text in (SEVEN, SEVEN, f"{SEVEN}. {SEVEN}"):
        outputs.clear()
        assert count(say(engine, text)) == len(text.split()) * SAMPLES_PER_WORD
        firsts.append(outputs[0])
    assert firsts == [FIRST] * 3
    assert outputs.count(FIRST) == 2


@pytest.mark.parametrize("text", ["boom", f"one boom {SEVEN}", f"{SEVEN} boom", "fine here. boom."])
@pytest.mark.parametrize("version", [2, 3])
def test_a_failure_is_told_in_one_line(
    make: Callable[..., CosyVoiceEngine], version: int, text: str
) -> None:
    """What goes wrong in the model's thread ends the utterance, and the next one is well."""
    engine = make(version)
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"CosyVoice failed: ValueError \(should not") as caught:
        say(engine, text.replace("boom.", "boom"))
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    assert left(engine) == 0
    assert count(say(engine, "hello")) == SAMPLES_PER_WORD


def test_a_failure_between_tokens_is_told(make: Callable[..., CosyVoiceEngine]) -> None:
    """What goes wrong in the reader's own thread is told the same way, and leaves nothing."""
    engine = make()
    model = upstream_of(engine).model

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    model.hift.forward = fail
    with pytest.raises(EngineError, match=r"RuntimeError \(CUDA out of memory\. Tried to alloc"):
        say(engine, SEVEN)
    assert left(engine) == 0


@pytest.mark.parametrize(
    ("model", "after"),
    [
        # While the language model computes a token, each of its layers 40 ms.
        ({"token_s": 0.08}, 0.2),
        # While the flow computes, each of its blocks 40 ms, and while tokens come meanwhile.
        ({"output_s": 0.8}, 0.3),
    ],
)
def test_stopping_frees_the_core_at_once(
    make: Callable[..., CosyVoiceEngine], model: dict[str, float], after: float
) -> None:
    """From `stop` to the end of everything, whatever is being computed, it takes 100 ms at most."""
    engine = make(model=model)
    engine.load()
    took = []
    for _ in range(20):  # The best of them: the machine may be busy with something else.
        stop = Event()
        at = 0.0

        def press(stop: Event = stop) -> None:
            nonlocal at
            at = time.monotonic()
            stop.set()

        timer = threading.Timer(after, press)
        timer.start()
        say(engine, SEVEN, stop=stop)
        took.append(time.monotonic() - at)
        timer.join()
        assert left(engine) == 0
        if took[-1] <= 0.1:
            break
    assert min(took) <= 0.1


def test_an_abandoned_utterance_leaves_nothing(make: Callable[..., CosyVoiceEngine]) -> None:
    """Whoever closes the generator midway, in whichever thread, finds the model free after it."""
    engine = make(model={"token_s": 0.005})
    for _ in range(3):
        chunks = engine.speak(SEVEN, "", 1.0, Event())
        next(chunks)
        closer = threading.Thread(target=chunks.close)  # type: ignore[attr-defined]
        closer.start()
        closer.join(5)
        assert left(engine) == 0
    assert count(say(engine, "hello")) == SAMPLES_PER_WORD


def test_what_is_stopped_before_says_nothing(make: Callable[..., CosyVoiceEngine]) -> None:
    """A stop that is set already costs no token."""
    engine = make()
    stop = Event()
    stop.set()
    assert say(engine, SEVEN, stop=stop) == []


def test_utterances_wait_for_each_other(make: Callable[..., CosyVoiceEngine]) -> None:
    """Six at once each come whole and unmixed, though the model cannot do two at once."""
    engine = make(model={"token_s": 0.0002, "output_s": 0.001})
    assert engine.at_once == 1
    texts = [" ".join(["a" * n] * 4) for n in range(1, 7)]
    alone = [b"".join(chunk.pcm for chunk in say(engine, text)) for text in texts]
    with ThreadPoolExecutor(6) as threads:
        together = threads.map(lambda text: b"".join(c.pcm for c in say(engine, text)), texts)
        assert list(together) == alone
    assert left(engine) == 0


def test_who_waits_for_the_model_can_be_stopped(make: Callable[..., CosyVoiceEngine]) -> None:
    """An utterance that has not had its turn ends when told, and the one before it goes on."""
    engine = make()
    first = engine.speak(SEVEN, "", 1.0, Event())
    chunks = [next(first)]
    stop = Event()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(say, engine, "hello", stop=stop)
        stop.set()
        assert waiting.result(5) == []
    chunks += first
    assert count(chunks) == 7 * SAMPLES_PER_WORD


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0])
def test_speed_changes_a_stream(make: Callable[..., CosyVoiceEngine], speed: float) -> None:
    """Speech is as much shorter as it is faster, its words with it."""
    chunks = say(make(), SEVEN, speed=speed)
    assert count(chunks) == pytest.approx(7 * SAMPLES_PER_WORD / speed, rel=0.03)
    words = [word for chunk in chunks for word in chunk.words]
    assert words[-1].end <= count(chunks) / 24000


@pytest.mark.parametrize("speed", [0.2, 5.0, float("nan")])
def test_a_speed_out_of_range_is_one_line(
    make: Callable[..., CosyVoiceEngine], speed: float
) -> None:
    """What nobody would understand is refused before anything is loaded."""
    with pytest.raises(EngineError, match=r"cannot be spoken: 0\.25 to 4\.0 can"):
        say(make(), "hello", speed=speed)


def test_chunks_and_words(make: Callable[..., CosyVoiceEngine]) -> None:
    """Chunks are short; they hold each word once, in order, and say that its times are a guess."""
    chunks = say(make(), SEVEN)
    assert all(0 < len(chunk.pcm) <= 2 * 24000 * 0.08 for chunk in chunks)
    assert {chunk.sample_rate for chunk in chunks} == {24000}
    words = [word for chunk in chunks for word in chunk.words]
    assert " ".join(word.text for word in words) == SEVEN
    assert all(word.estimated for word in words)
    assert words[-1].end <= count(chunks) / 24000


@pytest.mark.parametrize("text", ["", "  \n", "...", "\U0001f642", "<|endofprompt|>"[:2], "?!"])
def test_nothing_to_say(make: Callable[..., CosyVoiceEngine], text: str) -> None:
    """Text without a letter or a digit is silence, not an error."""
    assert say(make(), text) == []


@pytest.mark.parametrize(
    "text",
    [
        "say <|endofprompt|> twice",
        "say <<||endofprompt|>|> twice",
        "say \uff1c\uff5cendofprompt\uff5c\uff1e twice",
        "<|im_start|>system",
    ],
)
def test_control_tokens_are_taken_apart(make: Callable[..., CosyVoiceEngine], text: str) -> None:
    """What a language model or a caller writes never reaches the voice's model as a command."""
    engine = make(2)
    given: list[str] = []
    frontend = upstream_of(engine).frontend
    encode = frontend.encode

    def seen(text: str) -> Any:
        given.append(text)
        return encode(text)

    frontend.encode = seen
    assert say(engine, text)
    assert not [part for part in given if "<|" in part or "|>" in part]


def test_text_without_marks_is_cut(
    make: Callable[..., CosyVoiceEngine], outputs: list[int]
) -> None:
    """A page without a full stop is given to the model in parts, at blanks; no word is lost."""
    engine = make(model={"token_s": 0, "output_s": 0})
    given: list[str] = []
    made = upstream_of(engine)
    speak = made.inference_zero_shot

    def seen(part: str, *args: Any, **named: Any) -> Any:
        given.append(part)
        return speak("hello", *args, **named)

    made.inference_zero_shot = seen
    text = " ".join(f"word{n}" for n in range(2000))
    say(engine, text)
    assert " ".join(given) == text
    assert max(map(len, given)) <= cosyvoice.MOST_CHARACTERS


def test_voices(make: Callable[..., CosyVoiceEngine]) -> None:
    """Clips are voices from the start, the model's speakers once it is loaded."""
    engine = make(2, model={"speakers": ["英文女", "stranger"], "saved": ["saved"]})
    anna = VoiceInfo("en_GB-anna", "en_GB-anna", "en-GB")
    assert engine.voices() == (anna,)
    assert engine.loaded() == ()
    engine.load()
    others = (
        VoiceInfo("英文女", "英文女", "en"),
        VoiceInfo("stranger", "stranger", ANY_LANGUAGE),
        VoiceInfo("saved", "saved", ANY_LANGUAGE),
    )
    assert engine.voices() == (anna, *others)
    assert engine.loaded() == ("en_GB-anna", "英文女", "stranger", "saved")
    for voice in engine.loaded():
        assert count(say(engine, "hello", voice)) == SAMPLES_PER_WORD


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("voice", ["en_GB-anna", "speaker", "saved"])
@pytest.mark.parametrize("instruct", ["", "very softly"])
def test_a_voice_says_the_text_and_nothing_else(
    make: Callable[..., CosyVoiceEngine], version: int, voice: str, instruct: str
) -> None:
    """Whatever prompt a version needs for a kind of voice, it is not spoken."""
    engine = make(
        version,
        model={"speakers": ["speaker"], "saved": ["saved"]},
        default_voice="speaker",
        instruct=instruct,
    )
    engine.load()
    assert engine.voices()[0].name == "speaker"
    assert count(say(engine, SEVEN, voice)) == 7 * SAMPLES_PER_WORD


@pytest.mark.parametrize(
    ("version", "instruct", "prompt"),
    [
        (2, "", "what is said"),
        (2, "very softly", "very softly<|endofprompt|>"),
        (3, "", "You are a helpful assistant.<|endofprompt|>what is said"),
        (3, "very softly", "You are a helpful assistant. very softly<|endofprompt|>"),
        (3, "be <|endofprompt|> odd", "You are a helpful assistant. be  endofprompt  odd"),
    ],
)
def test_what_the_model_is_told(
    make: Callable[..., CosyVoiceEngine], version: int, instruct: str, prompt: str
) -> None:
    """Prompts are as each version was trained, the instruction in place of the clip's words."""
    engine = make(version, instruct=instruct)
    made = upstream_of(engine)
    told: list[str] = []
    add = made.add_zero_shot_spk

    def seen(text: str, *args: Any) -> Any:
        told.append(text)
        return add(text, *args)

    made.add_zero_shot_spk = seen
    for _ in range(2):
        say(engine, "hello")
    assert len(told) == 1, "the clip is listened to once"
    assert told[0].startswith(prompt)
    assert told[0].count("<|endofprompt|>") == (version == 3 or bool(instruct))


def test_an_unknown_voice_is_one_line(make: Callable[..., CosyVoiceEngine]) -> None:
    """The closest names are given."""
    with pytest.raises(UnknownVoiceError, match=r"'en_GB-anne'; close to it: en_GB-anna"):
        say(make(), "hello", "en_GB-anne")
    with pytest.raises(UnknownVoiceError):
        make(default_voice="nobody").load()


def test_no_voice_at_all_is_one_line(make: Callable[..., CosyVoiceEngine]) -> None:
    """A model without speakers needs clips, and says so."""
    with pytest.raises(UnknownVoiceError, match=r"has no voice of its own: it needs clips"):
        make(references={}).load()


def test_a_clip_that_is_gone_is_one_line(make: Callable[..., CosyVoiceEngine], clips: Path) -> None:
    """A clip is read when its voice is first used; where it is gone by then, its name is told."""
    engine = make()
    (clips / "en_GB-anna.wav").unlink()
    with pytest.raises(EngineError, match=r"en_GB-anna\.wav cannot be read") as caught:
        engine.load()
    assert "\n" not in str(caught.value)


def test_a_model_is_loaded_once_and_freed(make: Callable[..., CosyVoiceEngine]) -> None:
    """Two engines share a model; once the store lets go of it, nothing else holds it."""
    one, other = make(), make()
    one.load()
    assert upstream_of(one) is upstream_of(other)
    gone = weakref.ref(upstream_of(one).model)
    gc.disable()
    try:
        cosyvoice.models.limit(cap=0, ttl_s=None)
        assert gone() is None
    finally:
        gc.enable()
    assert one.loaded() == ()
    cosyvoice.models.limit(cap=None, ttl_s=None)
    assert count(say(one, "hello")) == SAMPLES_PER_WORD


def test_the_log_stays_ours(
    make: Callable[..., CosyVoiceEngine], capfd: pytest.CaptureFixture[str]
) -> None:
    """CosyVoice neither changes the process's logging nor writes what is said to it."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers[:] = []
    say(make(), "a secret")
    assert (root.level, root.handlers) == (logging.INFO, [])
    assert "secret" not in "".join(capfd.readouterr())


def test_its_folders_hide_nothing_of_ours(make: Callable[..., CosyVoiceEngine]) -> None:
    """A checkout has folders such as `tools`: they come last."""
    before = sys.path[:]
    make().load()
    assert sys.path[: len(before)] == before
    assert sys.path[len(before) :] == [str(REPO), str(REPO / "third_party" / "Matcha-TTS")]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("cosyvoice", "is no checkout of CosyVoice: git clone --recursive"),
        ("third_party/Matcha-TTS", "lacks Matcha-TTS: git -C .* submodule update"),
    ],
)
def test_a_wrong_checkout_is_one_line(tmp_path: Path, missing: str, message: str) -> None:
    """What is not there is named with the command that gets it, before anything is imported."""
    repo = tmp_path / "repo"
    shutil.copytree(REPO, repo)
    shutil.rmtree(repo / missing)
    with pytest.raises(EngineError, match=message) as caught:
        CosyVoiceEngine(repo, "model", references={})
    assert "\n" not in str(caught.value)


def test_the_package_of_that_name_is_refused(
    make: Callable[..., CosyVoiceEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's `cosyvoice` is somebody else's: it is named, not imported."""
    (tmp_path / "site" / "cosyvoice").mkdir(parents=True)
    (tmp_path / "site" / "cosyvoice" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(EngineError, match=r"site/cosyvoice hides.*pip uninstall cosyvoice"):
        make().load()


def test_a_package_that_is_missing_is_named(
    make: Callable[..., CosyVoiceEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it missed when CosyVoice is imported or when it reads its yaml."""
    with pytest.raises(MissingExtraError, match="needs the package diffusers: pip install"):
        make(model={"missing": "diffusers.models"}).load()
    repo = tmp_path / "repo"
    shutil.copytree(REPO, repo)
    for name in [n for n in sys.modules if n.partition(".")[0] == "cosyvoice"]:
        del sys.modules[name]
    sys.path.remove(str(REPO))
    with (repo / "cosyvoice" / "cli" / "model.py").open("a") as file:
        file.write("\nimport hyperpyyaml_of_the_future.core\n")
    engine = CosyVoiceEngine(repo, str(tmp_path / "model"), references={}, offline=True)
    with pytest.raises(MissingExtraError, match="needs the package hyperpyyaml_of_the_future:"):
        engine.load()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "llm.pt").unlink(), r"no CosyVoice model: llm\.pt is missing"),
        (lambda folder: (folder / "cosyvoice3.yaml").write_text("{"), "model cannot be loaded: "),
        (
            lambda folder: (folder / "cosyvoice3.yaml").rename(folder / "cosyvoice.yaml"),
            "is of CosyVoice 1",
        ),
        (shutil.rmtree, "there is no such folder"),
    ],
)
def test_a_model_of_no_use_is_one_line(
    make: Callable[..., CosyVoiceEngine],
    tmp_path: Path,
    break_it: Callable[[Path], object],
    message: str,
) -> None:
    """A folder that holds no model of version 2 or 3 is named, with what is wrong."""
    engine = make()
    break_it(tmp_path / "model")
    with pytest.raises(EngineError, match=message) as caught:
        engine.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "gpu", "message"),
    [("cuda", False, "no CUDA device is visible"), ("cpu", True, "set CUDA_VISIBLE_DEVICES=")],
)
def test_a_device_that_cannot_be_had_is_one_line(
    make: Callable[..., CosyVoiceEngine],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpu: bool,
    message: str,
) -> None:
    """CosyVoice takes the GPU that it sees: asked for anything else, the engine says what to do."""
    cosyvoice.import_cosyvoice(REPO)
    cuda = sys.modules["cosyvoice.cli.frontend"].torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: gpu)
    with pytest.raises(EngineError, match=message):
        make(device=device).load()


class FakeModelScope:
    """ModelScope's client, with some models in its cache and some on its hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
        """Take the place of the package."""
        self.cached: dict[str, Path] = {}
        self.hub: dict[str, Path] = {}
        self.asked: list[tuple[str, bool]] = []
        package: Any = ModuleType("modelscope")
        package.snapshot_download = self.snapshot_download
        utils: Any = ModuleType("modelscope.hub.utils.utils")
        utils.get_endpoint = lambda: endpoint
        monkeypatch.setitem(sys.modules, "modelscope", package)
        for name in ("modelscope.hub", "modelscope.hub.utils"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def snapshot_download(
        self, model: str, *, local_files_only: bool = False, **_: str | list[str]
    ) -> str:
        """As `modelscope.snapshot_download`."""
        self.asked.append((model, local_files_only))
        if model not in self.cached and local_files_only:
            raise ValueError("Cannot find the requested files in the cached path")
        if model not in self.cached:
            self.cached[model] = self.hub[model]
        return str(self.cached[model])


NAME = "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeModelScope:
    """A hub that answers."""
    monkeypatch.setattr(cosyvoice.httpx, "head", lambda *_, **__: None)
    return FakeModelScope(monkeypatch, "https://hub.invalid")


def test_a_model_by_name_is_fetched_once(hub: FakeModelScope, tmp_path: Path) -> None:
    """What is in the cache and complete needs no hub; what is not is fetched."""
    hub.hub[NAME] = fake_model(tmp_path / "m", 3)
    find = cosyvoice.find_model
    assert find(NAME, cache=tmp_path, offline=False) == tmp_path / "m"
    assert find(NAME, cache=tmp_path, offline=True) == tmp_path / "m"
    assert hub.asked == [(NAME, True), (NAME, False), (NAME, True)]


def test_half_a_download_is_completed(hub: FakeModelScope, tmp_path: Path) -> None:
    """A folder in the cache that lacks a file is not taken for the model."""
    hub.cached[NAME] = fake_model(tmp_path / "m", 3)
    (tmp_path / "m" / "flow.pt").unlink()
    with pytest.raises(UnavailableError, match="may not be fetched: this run is offline"):
        cosyvoice.find_model(NAME, cache=None, offline=True)
    with pytest.raises(EngineError, match=r"flow\.pt is missing"):
        cosyvoice.find_model(NAME, cache=None, offline=False)
    assert hub.asked[-1] == (NAME, False)


def test_offline_does_not_ask(hub: FakeModelScope) -> None:
    """A run that is offline looks in the cache only."""
    with pytest.raises(UnavailableError, match="may not be fetched: this run is offline"):
        cosyvoice.find_model(NAME, cache=None, offline=True)
    assert hub.asked == [(NAME, True)]


def test_an_unreachable_hub_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that nobody answers for costs `REACH_S` at most, and is named."""
    # Port 9, discard: nothing listens there.
    hub = FakeModelScope(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"cannot be fetched from http://127\.0\.0\.1:9:"):
        cosyvoice.find_model(NAME, cache=None, offline=False)
    assert hub.asked == [(NAME, True)]


def test_without_modelscope_a_name_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package to install is named."""
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError, match="pip install modelscope"):
        cosyvoice.find_model(NAME, cache=None, offline=False)


def test_the_normalizer_is_not_asked_for_online(
    make: Callable[..., CosyVoiceEngine], hub: FakeModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wetext, which asks its hub at each start, is given what it fetched before."""
    wetext: Any = ModuleType("wetext.wetext")
    monkeypatch.setitem(sys.modules, "wetext", ModuleType("wetext"))
    monkeypatch.setitem(sys.modules, "wetext.wetext", wetext)
    hub.cached["pengzhendong/wetext"] = Path("rules")
    make(offline=True).load()
    assert wetext.snapshot_download("pengzhendong/wetext") == "rules"
    assert hub.asked == [("pengzhendong/wetext", True)]


def settings(**values: Any) -> EngineSettings:
    """Settings without the environment's."""
    return EngineSettings(_env_file=None, offline=True, **values)  # type: ignore[call-arg]


def test_build(tmp_path: Path, clips: Path) -> None:
    """The settings make an engine that is ready, and tell what it speaks with."""
    model = fake_model(tmp_path / "model", 3)
    made = build(
        settings(cosyvoice_repo=REPO, cosyvoice_model=str(model), tts_references=clips),
        None,
        lambda *_: None,
    )
    assert made.model == f"en_GB-anna by {model}"
    assert made.source == str(model)
    assert made.engine.loaded() == ("en_GB-anna",)
    made.engine.close()
    made.engine.close()


@pytest.mark.parametrize(
    ("values", "voice", "message"),
    [
        ({"cosyvoice_repo": None}, None, "^--cosyvoice-repo: set it to a checkout"),
        ({"cosyvoice_repo": Path("nowhere")}, None, "^--cosyvoice-repo: nowhere is no checkout"),
        ({"tts_references": Path("nowhere")}, None, "^--tts-references: .*cannot be read"),
        ({}, "nobody", "^--tts-voice: there is no voice 'nobody'"),
        ({"tts_references": None}, None, "^--tts-references: .*has no voice of its own"),
        ({"cosyvoice_model": "nowhere"}, None, "^--cosyvoice-model: .*there is no such folder"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tmp_path: Path, clips: Path, values: dict[str, Any], voice: str | None, message: str
) -> None:
    """The setting is named with what to do."""
    right = {
        "cosyvoice_repo": REPO,
        "cosyvoice_model": str(fake_model(tmp_path / "model", 3)),
        "tts_references": clips,
    }
    with pytest.raises(SettingsError, match=message) as caught:
        build(settings(**(right | values)), voice, lambda *_: None)
    assert "\n" not in str(caught.value)


def test_samples_are_clipped(make: Callable[..., CosyVoiceEngine]) -> None:
    """What is louder than full scale is cut off there, not wrapped around."""
    engine = make()
    made = upstream_of(engine)
    loud = SimpleNamespace(numpy=lambda: np.array([[2.0, -2.0] * 500], np.float32))
    made.inference_zero_shot = lambda *_, **__: (o for o in [{"tts_speech": loud}])
    pcm = np.frombuffer(b"".join(chunk.pcm for chunk in say(engine, "hello")), "<i2")
    assert set(pcm.tolist()) == {32767, -32767}


UPSTREAM = os.environ.get("PARLEY_COSYVOICE_REPO"), os.environ.get("PARLEY_COSYVOICE_PYTHON")


@pytest.mark.skipif(not all(UPSTREAM), reason="CosyVoice's code and packages are not here")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", [2, 3])
def test_the_real_model(version: int, tmp_path: Path) -> None:
    """With random weights, the real code does under the engine all that the fake does."""
    repo, python = UPSTREAM
    assert repo is not None
    assert python is not None
    # One thread for an operation: small ones take longer with two, and the model has two itself.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    model = tmp_path / "model"
    run("tools/models/make_cosyvoice.py", str(model), "--repo", repo, "--version", str(version))
    figures = run("tests/integration/cosyvoice_upstream.py", repo, str(model), str(tmp_path))
    print(figures)
    found = json.loads(figures.splitlines()[-1])
    # CosyVoice's front end ends each text with a full stop, a token more.
    assert found["samples"] == [8 * SAMPLES_PER_WORD] * 3
    assert found["first_outputs"] == [FIRST] * 3
    assert found["raw_first_outputs"] == [FIRST, FIRST_OF_LARGE_HOP]
    assert found["left"] == 0
    # The median: on a machine that is busy with something else one may be late.
    assert sorted(found["cancel_ms"])[len(found["cancel_ms"]) // 2] <= 100
    assert "CosyVoice failed: RuntimeError (CUDA error" in found["failure"]
    assert found["after_failure"] == 2 * SAMPLES_PER_WORD
    assert found["instructed"] == found["speakers"] == [2 * SAMPLES_PER_WORD] * 2
    assert found["half_speed"] == pytest.approx(2 * 8 * SAMPLES_PER_WORD, rel=0.03)
    assert found["freed"]
