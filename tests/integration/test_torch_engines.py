"""Pocket, Sesame and XTTS on models with random weights, in the environment that has torch.

`torch_probe.py` runs each engine there once; here its reports are read. Pocket and Sesame run the
real packages. XTTS runs a fake of coqui-tts, whose install is large, unless `PARLEY_XTTS_PYTHON`
names the interpreter of an environment that has the package, and `PARLEY_XTTS_MODEL` what
`tools/models/make_xtts.py` made there.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from services.tts.estimate import CHUNK_MS
from services.tts.remote import RemoteSpeech
from services.worker.leases import FixedWorkers
from services.worker.pool import WorkerPool
from tests.callers.server import ROOT, WorkerServer
from tests.fakes.clips import write_clip
from tests.integration.conftest import MODELS

LIMIT_S = 100
ENGINES = ("pocket", "sesame", "xtts")

PYTHON = ROOT / ".venv-models" / "bin" / "python"

Report = dict[str, Any]


@cache
def report_of(name: str, scratch: Path) -> Report:
    """What the probe says of an engine; it runs once."""
    python, model = str(PYTHON), scratch / "model"
    if name == "pocket":
        model = MODELS / "pocket-tiny-random" / "pocket.yaml"
    elif name == "sesame":
        model = MODELS / "csm-tiny-random"
    elif "PARLEY_XTTS_PYTHON" in os.environ:
        python, model = os.environ["PARLEY_XTTS_PYTHON"], Path(os.environ["PARLEY_XTTS_MODEL"])
    if name != "xtts":
        assert model.exists(), f"{model} is missing: make it with the scripts in tools/models"
    run = subprocess.run(
        [python, "-m", "tests.integration.torch_probe", name, str(model)],
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(scratch), "TTS_HOME": str(scratch)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    report: Report = json.loads(run.stdout.splitlines()[-1])
    return report


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a downloaded model in it."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(params=ENGINES)
def report(request: pytest.FixtureRequest, scratch: Path) -> Report:
    """What the probe says of each engine."""
    return report_of(request.param, scratch)


@pytest.fixture
def pocket(scratch: Path) -> Report:
    return report_of("pocket", scratch)


@pytest.fixture
def sesame(scratch: Path) -> Report:
    return report_of("sesame", scratch)


@pytest.fixture
def xtts(scratch: Path) -> Report:
    return report_of("xtts", scratch)


def assert_one_line(failure: Report, kind: str, *parts: str) -> None:
    """The failure is of that kind, on one line that holds these parts."""
    assert kind in failure["kinds"], failure
    assert "\n" not in failure["message"]
    for part in parts:
        assert part in failure["message"]


def test_it_speaks(report: Report) -> None:
    """Audio at the model's rate in chunks of at most 80 ms; every word once, in order, a guess."""
    for spoken, words in ((report["spoken"], ["One,", "two."]), (report["other"], ["Yes."])):
        assert spoken["rates"] == [24000]
        assert spoken["longest_ms"] <= CHUNK_MS
        assert spoken["shortest"] > 0
        assert spoken["loud"]
        assert [word for word, _, _, _ in spoken["words"]] == words
        assert all(
            0 <= start <= end <= spoken["seconds"] and estimated
            for _, start, end, estimated in spoken["words"]
        )
    assert report["nothing"] == 0


def test_speed_shortens_it(report: Report) -> None:
    """At twice the speed the same utterance lasts half as long."""
    assert report["fast"] == pytest.approx(report["spoken"]["seconds"] / 2, abs=0.1)


def test_loading_takes_the_first_voice(report: Report) -> None:
    """A clip is the first voice; nothing is in memory before `load`, and it is after."""
    assert report["before"] == []
    assert report["voices"][0] == ["en-anna", "en"]
    assert report["after"] == ["en-anna"]


def test_stop_ends_it(report: Report) -> None:
    """No chunk follows once stop is set, and the model is free soon, threads and all."""
    assert report["cancel"]["chunks"] == 0
    # A frame of these models on a core that may be busy; the default limits are far above.
    assert report["cancel"]["seconds"] < 8
    assert report["cancel_early"] < 10
    assert report["waiting"] == 0
    assert report["threads"] == 0


def test_several_callers_share_it(report: Report) -> None:
    """Those who ask while it speaks are spoken for in turn, also after five who left early."""
    assert all(seconds >= 1.0 for seconds in report["together"])


def test_a_model_that_fails_is_one_line(report: Report) -> None:
    """An error inside the model ends the utterance with one line, and the next one is spoken."""
    for failure in (report["broken"], report.get("decoder broken", report["broken"])):
        assert_one_line(failure, "EngineError", "cannot speak: out of memory")
        assert failure["next"] > 0


def test_bad_requests_are_one_line(report: Report) -> None:
    """A voice that is not there, and a speed that cannot be, are named."""
    assert_one_line(report["unknown voice"], "UnknownVoiceError", "'nobody'")
    assert_one_line(report["too fast"], "EngineError", "speed of 9")


def test_what_it_is_made_with_is_checked(report: Report) -> None:
    """A model that is not there or damaged, and a GPU that is not there, are one line each."""
    assert_one_line(report["no model"], "EngineError", "model './nowhere'")
    assert_one_line(report["damaged"], "EngineError", "cannot be loaded")
    assert_one_line(report["cuda"], "SettingsError", "--tts-device", "use auto or cpu")


@pytest.mark.parametrize("name", ENGINES)
def test_a_wrong_setting_is_named(name: str, scratch: Path) -> None:
    """A model, a voice or a folder that is not there is blamed on the setting that names it."""
    model, voice, clips = report_of(name, scratch)["settings"]
    assert_one_line(model, "SettingsError", f"--{name}-model: ")
    assert_one_line(voice, "SettingsError", "--tts-voice: there is no voice 'nobody'")
    assert_one_line(clips, "SettingsError", "--tts-references: ")


def test_offline_fetches_nothing(report: Report) -> None:
    """Without the weights here, an offline run fails at once and says so."""
    assert_one_line(report["offline"], "UnavailableError", "Hugging Face cache")
    assert report["offline"]["seconds"] < 10


def test_the_settings_build_it(pocket: Report, sesame: Report, xtts: Report) -> None:
    """`build` gives the engine loaded, with the voice that was asked for."""
    assert pocket["built"][:2] == ["pocket", "en-anna"]
    assert sesame["built"][:2] == ["sesame", "speaker-1"]
    assert xtts["built"][:2] == ["xtts", "Alan Turing"]


def test_sesame_decodes_in_parts_what_it_would_at_once(sesame: Report) -> None:
    """Decoded by frame, by uneven parts or whole, the audio is the codec's own, up to rounding."""
    for decoded in sesame["decoded"]:
        ours, whole = decoded["samples"]
        assert ours == whole
        assert decoded["error"] < 1e-4 * decoded["loud"]


def test_sesame_refuses_an_empty_folder(sesame: Report) -> None:
    """A folder without a model in it is named."""
    assert_one_line(sesame["empty"], "EngineError", "cannot be loaded")


def test_pocket_needs_a_clip_for_a_model_without_voices(pocket: Report) -> None:
    """A model that is not Kyutai's has no voices, and weights without cloning take no clip."""
    assert_one_line(pocket["no clip"], "EngineError", "needs reference clips")
    assert_one_line(pocket["no cloning"], "EngineError", "en-anna", "hf auth login")


def test_xtts_asks_for_its_terms(xtts: Report) -> None:
    """Weights for non-commercial use are not fetched before somebody agrees to that."""
    assert_one_line(xtts["terms"], "UnavailableError", "COQUI_TOS_AGREED=1", "non-commercial")


def test_xtts_says_what_is_wrong_with_a_folder(xtts: Report) -> None:
    """Missing files, damaged voices and a language that the model lacks are named."""
    assert_one_line(xtts["empty"], "EngineError", "model.pth")
    assert_one_line(xtts["damaged voices"], "EngineError", "cannot be read")
    assert_one_line(xtts["language"], "EngineError", "'tlh'", "de, en")


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_package_is_one_line(name: str) -> None:
    """In an environment without torch the engine's module says which extra to install."""
    code = f"import services.tts.{name}"
    run = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    last = run.stderr.splitlines()[-1]
    assert "MissingExtraError" in last
    assert f"pip install 'parley[{name}]'" in last


async def test_who_speaks_through_a_worker_needs_no_torch(tmp_path: Path) -> None:
    """The engine runs in the environment that has it; here there are words and audio."""
    write_clip(tmp_path / "somebody.wav")
    flags = (
        *("--engine", "pocket", "--offline", "--tts-references", str(tmp_path)),
        *("--pocket-model", str(MODELS / "pocket-tiny-random" / "pocket.yaml")),
    )
    with WorkerServer(*flags, python=(str(PYTHON),)) as worker:
        pool = WorkerPool(FixedWorkers([worker.address]), None)
        pool.start()
        speech = RemoteSpeech(pool, first_audio_limit_s=20)
        chunks = [chunk async for chunk in speech.speak("Hello there.", "pocket/somebody", 1.0)]
        await speech.close()
    assert [word.text for chunk in chunks for word in chunk.words] == ["Hello", "there."]
    assert sum(len(chunk.pcm) for chunk in chunks) > 0
