"""Models that tests share. `tools/models` makes them; `make test` sees to that."""

from pathlib import Path

import pytest

from tests.callers.server import ROOT

MODELS = ROOT / ".cache" / "models"


def _model(name: str) -> Path:
    path = MODELS / name
    assert path.is_file(), f"{path} is missing: make it with the scripts in tools/models"
    return path


@pytest.fixture(scope="session")
def small_piper_voice() -> Path:
    """A voice of the standard structure with tiny layers and random weights, without noise."""
    return _model("piper-small.onnx")


@pytest.fixture(scope="session")
def full_size_piper_voice() -> Path:
    """A voice as large as a real one, with random weights."""
    return _model("piper-medium.onnx")


@pytest.fixture(scope="session")
def small_piper_speakers() -> Path:
    """The same with three speakers, `speaker0` to `speaker2`."""
    return _model("piper-small-speakers.onnx")


@pytest.fixture(scope="session")
def tiny_whisper() -> Path:
    """The folder of a tiny Whisper with random weights, as faster-whisper loads it."""
    return _model("whisper-tiny-random/model.bin").parent
