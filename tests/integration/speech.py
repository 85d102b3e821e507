"""Real speech as engines take it."""

from services.stt.engine import SAMPLE_RATE
from tests.callers.recordings import recording
from tests.callers.server import ROOT

__all__ = ["ROOT", "spoken"]


def spoken(name: str) -> bytes:
    """A recording by name: 16-bit mono samples at `SAMPLE_RATE`."""
    return recording(name, SAMPLE_RATE).tobytes()
