"""Long audio in pieces that an engine that hears can cope with, cut where nobody speaks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.stt.engine import SAMPLE_RATE

if TYPE_CHECKING:
    from services.detectors import SharedSileroVADAnalyzer

LONGEST_S = 30.0
"""Whisper's window; what is longer would be cut there anyhow, in mid-word."""

EARLIEST_S = 20.0
"""Where a piece is cut at the earliest: with less around them, words are recognised less well."""

SPEECH = 0.5
"""Silero's probability of speech from which its authors take a window for speech."""

_LONGEST = 2 * round(LONGEST_S * SAMPLE_RATE)
_EARLIEST = 2 * round(EARLIEST_S * SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of audio.

    Attributes:
        pcm: Signed 16-bit little-endian mono samples at `SAMPLE_RATE`, `LONGEST_S` at most.
        start: Seconds from the audio's beginning to its own.
    """

    pcm: bytes
    start: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.pcm) / 2 / SAMPLE_RATE


def cut(audio: Iterable[bytes]) -> Iterator[Piece]:
    """Cut audio into pieces, each in the longest pause between `EARLIEST_S` and `LONGEST_S`.

    Costs about 0.1 s of processor time a piece. Audio of up to `LONGEST_S` is one piece.

    Args:
        audio: Samples as in `Piece.pcm`, in parts of any length.
    """
    detector: SharedSileroVADAnalyzer | None = None
    waiting = bytearray()
    done = 0
    for part in audio:
        waiting += part
        while len(waiting) > _LONGEST:
            if detector is None:
                detector = _detector()
            end = _pause(bytes(waiting[:_LONGEST]), detector)
            yield Piece(bytes(waiting[:end]), done / 2 / SAMPLE_RATE)
            del waiting[:end]
            done += end
    if waiting:
        yield Piece(bytes(waiting), done / 2 / SAMPLE_RATE)


def _detector() -> "SharedSileroVADAnalyzer":
    # Pipecat comes with it, which a worker without long recordings does not need.
    from services.detectors import SharedSileroVADAnalyzer

    detector = SharedSileroVADAnalyzer()
    detector.set_sample_rate(SAMPLE_RATE)
    return detector


def _pause(pcm: bytes, detector: "SharedSileroVADAnalyzer") -> int:
    """The byte of `pcm` at which to cut it."""
    window = 2 * detector.num_frames_required()
    starts = range(_EARLIEST, len(pcm) - window + 1, window)
    speech = [np.ravel(detector.voice_confidence(pcm[at : at + window]))[0] for at in starts]
    longest = run = end = 0
    for index, probability in enumerate(speech):
        run = run + 1 if probability < SPEECH else 0
        if run > longest:
            longest, end = run, index + 1
    if not longest:
        end = speech.index(min(speech)) + 1
        longest = 1
    middle = end - (longest + 1) // 2
    return starts[middle] + window // 4 * 2
