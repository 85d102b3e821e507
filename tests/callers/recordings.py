"""People who speak: the recordings that `tools/models/fetch_recordings.py` fetches."""

from collections.abc import Callable

from tests.callers.audio import Samples, load_wav
from tests.callers.server import ROOT

RECORDINGS = ROOT / ".cache" / "speech"
"""The folder they lie in."""

Recording = Callable[[str, int], Samples]
"""What `recording` is, for tests that take it as a fixture."""


def recording(name: str, rate: int) -> Samples:
    """What is said in the recording `name`, at `rate` samples a second."""
    path = RECORDINGS / f"{name}.wav"
    assert path.is_file(), f"{path} is missing: run python tools/models/fetch_recordings.py"
    return load_wav(path, rate)
