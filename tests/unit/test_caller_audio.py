"""The instruments by which callers tell sound from silence, on signals whose answers are known."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.callers.audio import (
    FLOOR_DB,
    Heard,
    Samples,
    fell_silent,
    first_sound,
    level_db,
    load_wav,
    resample,
    save_wav,
    silence,
    speech_extent,
)

RATE = 16000
FRAME = 0.02


def tone(seconds: float, amplitude: float = 0.5, rate: int = RATE) -> Samples:
    t = np.arange(round(seconds * rate)) / rate
    return np.asarray(32767 * amplitude * np.sin(2 * np.pi * 440 * t), np.int16)


def heard(pattern: Iterable[tuple[float, float]]) -> list[Heard]:
    """Frames of 20 ms from time 0 on: stretches of (seconds, level in dBFS)."""
    levels = [level for seconds, level in pattern for _ in range(round(seconds / FRAME))]
    empty = silence(FRAME, RATE)
    return [Heard(i * FRAME, empty, level) for i, level in enumerate(levels)]


def test_a_level_is_decibels_below_full_scale() -> None:
    """A full sine is 3 dB below a full square wave, half of it 6 dB less, and nothing is -100."""
    assert level_db(tone(1.0, 1.0)) == pytest.approx(-3.01, abs=0.02)
    assert level_db(tone(1.0, 0.5)) == pytest.approx(-9.03, abs=0.02)
    assert level_db(silence(1.0, RATE)) == FLOOR_DB
    assert level_db(silence(0.0, RATE)) == FLOOR_DB


def test_speech_is_found_within_its_noise() -> None:
    """The extent is that of the loud part, to one window, whatever hiss surrounds it."""
    rng = np.random.default_rng(1)
    clip = np.concatenate([silence(0.5, RATE), tone(0.3), silence(0.2, RATE), tone(0.1)])
    clip = np.concatenate([clip, silence(0.4, RATE)])
    noisy = clip + rng.normal(0, 60, len(clip)).astype(np.int16)
    extent = speech_extent(noisy.astype(np.int16), RATE)
    assert extent.start / RATE == pytest.approx(0.5, abs=0.011)
    assert extent.end / RATE == pytest.approx(1.1, abs=0.011)


def test_a_silent_recording_has_no_speech() -> None:
    """There is no guessing where nothing can be heard."""
    with pytest.raises(ValueError, match="no speech"):
        speech_extent(silence(1.0, RATE), RATE)


def test_silence_counts_once_it_has_lasted() -> None:
    """A pause shorter than `hold` is part of the speech; the end is where the silence began."""
    frames = heard([(0.2, -90), (0.4, -20), (0.2, -90), (0.4, -20), (0.6, -90)])
    assert fell_silent(frames, after=0.3, hold=0.3) == pytest.approx(1.2)
    assert fell_silent(frames, after=0.3, hold=0.1) == pytest.approx(0.6)
    assert fell_silent(frames, after=0.3, hold=0.9) is None
    assert fell_silent(frames[:40], after=0.3, hold=0.3) is None


def test_the_first_sound_is_looked_for_from_a_time_on() -> None:
    """Sound before that time does not count, and sound that goes on through it does."""
    frames = heard([(0.2, -90), (0.2, -20), (0.2, -90), (0.2, -20)])
    assert first_sound(frames) == pytest.approx(0.2)
    assert first_sound(frames, after=0.3) == pytest.approx(0.3)
    assert first_sound(frames, after=0.41) == pytest.approx(0.6)
    assert first_sound(frames, after=0.81) is None


def test_a_recording_survives_a_file_and_another_rate(tmp_path: Path) -> None:
    """Parts are joined in order, and resampling keeps pitch, level and length."""
    path = tmp_path / "a.wav"
    save_wav(path, [silence(0.1, RATE), tone(0.4)], RATE)
    assert np.array_equal(load_wav(path, RATE)[round(0.1 * RATE) :], tone(0.4))
    up = resample(tone(0.4), RATE, 48000)
    assert len(up) == pytest.approx(0.4 * 48000, abs=2)
    assert level_db(up) == pytest.approx(level_db(tone(0.4)), abs=0.1)
    crossings = sum(a < 0 <= b for a, b in pairwise(up.tolist()))
    assert crossings == pytest.approx(440 * 0.4, abs=1)
