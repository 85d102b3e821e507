"""Sound as the callers see it: 16-bit mono samples, how loud they are, and where speech begins.

Everything here is plain numpy on `int16` arrays of shape `[samples]`; levels are in dBFS, that is
decibels below the loudest square wave, so 0 is the maximum and -100 stands for digital silence.
"""

import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soxr
from pocketsphinx import Decoder

Samples: TypeAlias = npt.NDArray[np.int16]

FLOOR_DB = -100.0
"""Level of a stretch in which every sample is zero."""

AUDIBLE_DB = -50.0
"""Level above which a 20 ms frame counts as sound. Opus decodes digital silence to well below
-80 dBFS, and the quietest sound inside a spoken word stays above -45."""

SPEECH_BELOW_PEAK_DB = 25.0
"""How far below a recording's loudest window its speech still counts as speech. The breath and
room noise around the words of the recordings that the tests play lies 30 dB and more below."""

WINDOW_SECONDS = 0.01
"""Length of the windows in which a recording's level is taken."""


def level_db(samples: Samples) -> float:
    """The RMS level of a stretch of samples, in dBFS."""
    if not len(samples):
        return FLOOR_DB
    power = float(np.mean(np.square(samples.astype(np.float32) / 32768)))
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power > 0 else FLOOR_DB


def silence(seconds: float, rate: int) -> Samples:
    """Digital silence, `seconds` long at `rate` samples a second."""
    return np.zeros(round(seconds * rate), np.int16)


def resample(samples: Samples, source_rate: int, rate: int) -> Samples:
    """The same sound at `rate` samples a second."""
    if source_rate == rate:
        return samples
    return np.asarray(soxr.resample(samples, source_rate, rate), np.int16)


def load_wav(path: Path | str, rate: int) -> Samples:
    """Read a 16-bit WAV file and bring it to `rate`; of several channels, the first.

    Raises:
        ValueError: The file's samples are not 16 bits wide.
    """
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise ValueError(f"{path}: samples are {8 * file.getsampwidth()} bits wide, not 16")
        interleaved = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return resample(interleaved[:: file.getnchannels()], file.getframerate(), rate)


def save_wav(path: Path | str, parts: Iterable[Samples], rate: int) -> None:
    """Write the parts, one after another, as a 16-bit mono WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        for part in parts:
            file.writeframes(part.astype("<i2").tobytes())


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the speech in a recording lies.

    Attributes:
        start: Index of the first sample that belongs to speech.
        end: Index after the last one.
    """

    start: int
    end: int


def speech_extent(samples: Samples, rate: int) -> Extent:
    """Find the speech in a recording: all that lies between its first and last loud window.

    Raises:
        ValueError: The recording is silent throughout.
    """
    window = round(WINDOW_SECONDS * rate)
    levels = [level_db(samples[i : i + window]) for i in range(0, len(samples), window)]
    peak = max(levels, default=FLOOR_DB)
    if peak < AUDIBLE_DB:
        raise ValueError("there is no speech in the recording")
    loud = [i for i, level in enumerate(levels) if level > peak - SPEECH_BELOW_PEAK_DB]
    return Extent(loud[0] * window, min(len(samples), (loud[-1] + 1) * window))


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame of audio that reached a caller.

    Attributes:
        at: `time.monotonic()` when it was decoded.
        samples: The frame's samples, shape `[samples]`.
        level: Its RMS level in dBFS.
    """

    at: float
    samples: Samples
    level: float

    @property
    def audible(self) -> bool:
        """Whether a person would hear something."""
        return self.level > AUDIBLE_DB


def first_sound(frames: Iterable[Heard], after: float = 0.0) -> float | None:
    """When the first audible frame after `after` came, or None while there is none."""
    return next((f.at for f in frames if f.at >= after and f.audible), None)


def fell_silent(frames: Iterable[Heard], after: float, hold: float) -> float | None:
    """When sound that was heard at or after `after` stopped and stayed away for `hold` seconds.

    Args:
        frames: What was heard, in order, without holes: silence counts only as frames of it.
        after: `time.monotonic()` from which to look.
        hold: Seconds of silence that tell the end of speech from a pause within it.

    Returns:
        The arrival of the silence's first frame, which is the first frame of all if nothing has
        been heard since `after`; None while there is sound or too short a silence to tell.
    """
    began: float | None = None
    for frame in frames:
        if frame.at < after:
            continue
        if frame.audible:
            began = None
        elif began is None:
            began = frame.at
        elif frame.at - began >= hold:
            return began
    return None


def transcribe(samples: Samples, rate: int) -> list[str]:
    """The words that a recogniser of its own hears in a recording.

    It holds the interpreter for as long as it works: not to be called while a call goes on.
    """
    decoder = Decoder(samprate=16000, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(resample(samples, rate, 16000).tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return str(found.hypstr).split() if found else []
