"""Reference clips: recordings whose speaker an engine that clones voices imitates.

A voice is two files in one folder: `NAME.wav`, a few seconds of one person speaking, and
`NAME.txt`, the words that are said in it, in UTF-8. A name that starts with a language tag, as
Piper's voices do (`de-anna`, `en_US-joe`), says what the voice speaks.
"""

import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from services.errors import EngineError

SHORTEST_S = 1.0
"""Seconds of a clip at least: less does not show a voice."""

LONGEST_S = 30.0
"""Seconds of a clip at most. CosyVoice's speech tokenizer refuses more (`cosyvoice.cli.frontend`),
and a longer prompt makes every utterance slower."""

LOWEST_RATE = 16000
"""Samples a second of a clip at least: CosyVoice, for one, refuses a telephone's
(`cosyvoice.utils.file_utils`)."""

ANY_LANGUAGE = "mul"
"""The language of a voice whose name tells none: ISO 639's code for several languages."""

_TAG = re.compile(r"(?P<language>[a-z]{2,3}(?:[_-][A-Z]{2})?)-.")


@dataclass(frozen=True, slots=True)
class Reference:
    """A clip, and what is said in it.

    Attributes:
        name: The voice's name: the file's name without its ending.
        audio: The clip: 16-bit PCM WAV, `SHORTEST_S` to `LONGEST_S` long.
        text: The words in the clip, on one line.
    """

    name: str
    audio: Path
    text: str

    @property
    def language(self) -> str:
        """BCP 47 tag at the start of the name, `ANY_LANGUAGE` where there is none."""
        tag = _TAG.match(self.name)
        return tag["language"].replace("_", "-") if tag else ANY_LANGUAGE

    def samples(self, sample_rate: int) -> NDArray[np.float32]:
        """The clip, mixed to one channel and resampled.

        Args:
            sample_rate: Samples a second that are wanted.

        Returns:
            Samples in -1 to 1, shape (n,).

        Raises:
            EngineError: The file cannot be read any more.
        """
        pcm, rate = _read(self.audio)
        mono = (pcm.astype(np.float32) / 32768).mean(axis=1)
        result: NDArray[np.float32] = soxr.resample(mono, rate, sample_rate)
        return result


def find_references(folder: Path | None) -> dict[str, Reference]:
    """The clips of a folder by name, sorted; other files are passed over.

    Args:
        folder: Where the clips are; None for no clips.

    Raises:
        EngineError: The folder cannot be read, or a clip in it is not a 16-bit PCM WAV, is too
            short, too long or too coarse, or its text is missing, empty or not UTF-8.
    """
    if folder is None:
        return {}
    try:
        clips = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    except OSError as error:
        raise EngineError(
            f"the folder of reference clips {folder} cannot be read: {error.strerror}"
        ) from error
    return {clip.stem: _reference(clip) for clip in clips}


def _reference(clip: Path) -> Reference:
    pcm, rate = _read(clip)
    seconds = len(pcm) / rate
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise EngineError(
            f"the reference clip {clip} lasts {seconds:.1f} s: "
            f"{SHORTEST_S:g} to {LONGEST_S:g} s are of use"
        )
    if rate < LOWEST_RATE:
        raise EngineError(
            f"the reference clip {clip} has {rate} samples a second: {LOWEST_RATE} are the least"
        )
    return Reference(clip.stem, clip, _text(clip))


def _text(clip: Path) -> str:
    path = clip.with_suffix(".txt")
    try:
        # Windows' editors put a byte order mark before UTF-8.
        text = " ".join(path.read_text("utf-8-sig").split())
    except OSError as error:
        raise EngineError(
            f"the reference clip {clip} needs the words that are said in it, in {path.name}"
        ) from error
    except UnicodeDecodeError as error:
        raise EngineError(f"the text {path} is not UTF-8") from error
    if not text:
        raise EngineError(f"the text {path} is empty: it holds the words that are said in the clip")
    return text


def _read(clip: Path) -> tuple[NDArray[np.int16], int]:
    """A clip's samples, shape (n, channels), and their rate."""
    try:
        with wave.open(str(clip), "rb") as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            # One more second than is of use: a header may promise hours.
            data = file.readframes(int(rate * (LONGEST_S + 1))) if width == 2 else b""
    except (OSError, EOFError, wave.Error) as error:
        raise EngineError(
            f"the reference clip {clip} cannot be read as WAV ({error or 'it ends too early'}): "
            "save it as 16-bit PCM"
        ) from error
    if width != 2 or rate <= 0:
        raise EngineError(
            f"the reference clip {clip} has {8 * width} bits a sample: save it as 16-bit PCM"
        )
    whole = len(data) // (2 * channels) * channels
    return np.frombuffer(data, "<i2", whole).reshape(-1, channels), rate
