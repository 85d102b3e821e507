"""Reference clips that hold a tone."""

import wave
from pathlib import Path

import numpy as np


def write_clip(
    path: Path,
    *,
    seconds: float = 2.0,
    rate: int = 24000,
    channels: int = 1,
    width: int = 2,
    text: bytes | None = b"what is said",
) -> None:
    """A clip that holds a tone of 440 Hz, and its text."""
    times = np.arange(int(seconds * rate)) / rate
    tone = np.rint(8000 * np.sin(2 * np.pi * 440 * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        data = np.repeat(tone, channels).tobytes()
        file.writeframes(data if width == 2 else bytes(len(tone) * channels * width))
    if text is not None:
        path.with_suffix(".txt").write_bytes(text)
