"""The one resampler: whole, in time, and without seams."""

import numpy as np
import pytest
from numpy.typing import NDArray

from services.audio import Resampler

RATES = [
    (22050, 24000),
    (16000, 24000),
    (24000, 16000),
    (24000, 8000),
    (44100, 24000),
    (16000, 48000),
]


def sine(rate: int, seconds: float = 1.0) -> NDArray[np.int16]:
    """440 Hz at a third of full scale."""
    time = np.arange(round(rate * seconds)) / rate
    samples: NDArray[np.int16] = np.rint(10000 * np.sin(2 * np.pi * 440 * time)).astype("<i2")
    return samples


def stream(resampler: Resampler, pcm: bytes, step: int) -> bytes:
    """What comes of `pcm` in pieces of `step` bytes."""
    pieces = [resampler.push(pcm[start : start + step]) for start in range(0, len(pcm), step)]
    return b"".join(pieces) + resampler.flush()


@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
def test_audio_is_as_long_and_sounds_the_same(in_rate: int, out_rate: int) -> None:
    """A tone comes out as the same tone at the new rate, in place, to the last sample."""
    out = stream(Resampler(in_rate, out_rate), sine(in_rate).tobytes(), 2 * in_rate * 80 // 1000)
    samples = np.frombuffer(out, "<i2").astype(float)
    assert len(samples) == out_rate
    # The tone is cut off at both ends, which no filter can render.
    middle = slice(out_rate // 20, -out_rate // 20)
    assert np.abs(samples - sine(out_rate))[middle].max() < 10


@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
def test_no_seams(in_rate: int, out_rate: int) -> None:
    """Into what pieces audio is cut, single samples and empty ones included, moves no sample.

    Only the dither that rounding to 16 bits adds differs: one step, two where it turns a sign.
    """
    pcm = np.random.default_rng(1).integers(-9000, 9000, 5000).astype("<i2").tobytes()
    resampler = Resampler(in_rate, out_rate)
    whole = np.frombuffer(stream(resampler, pcm, len(pcm)), "<i2").astype(int)
    pieces = [resampler.push(pcm[:2000]), resampler.push(b""), resampler.push(pcm[2000:])]
    for other in (
        b"".join(pieces) + resampler.flush(),
        stream(resampler, pcm, 2 * 333),
        stream(resampler, pcm, 2),
    ):
        samples = np.frombuffer(other, "<i2")
        assert len(samples) == len(whole)
        assert np.abs(samples - whole).max() <= 2


@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
def test_little_is_held_back(in_rate: int, out_rate: int) -> None:
    """Of each 80 ms most comes at once: a caller waits for what the filter holds."""
    resampler = Resampler(in_rate, out_rate)
    pcm = sine(in_rate, 0.08).tobytes()
    given = came = 0.0
    for _ in range(50):
        given += len(pcm) / 2 / in_rate
        came += len(resampler.push(pcm)) / 2 / out_rate
        assert given - came < 0.08


@pytest.mark.parametrize("length", [0, 1, 2, 10])
@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
def test_next_to_nothing(in_rate: int, out_rate: int, length: int) -> None:
    """Less than a filter's length comes out whole, to the sample."""
    out = stream(Resampler(in_rate, out_rate), bytes(2 * length), 2)
    assert abs(len(out) / 2 - length * out_rate / in_rate) <= 1


def test_equal_rates_pass() -> None:
    """Nothing is computed, nothing is held back."""
    resampler = Resampler(24000, 24000)
    pcm = sine(24000).tobytes()
    assert resampler.push(pcm) is pcm
    assert resampler.flush() == b""


@pytest.mark.parametrize("out_rate", [24000, 16000])
def test_half_a_sample_is_an_error(out_rate: int) -> None:
    """Also where rates agree: whoever sends it has lost count, and what follows is noise."""
    with pytest.raises(ValueError, match="3 bytes"):
        Resampler(24000, out_rate).push(b"abc")


def test_loud_audio_is_limited_not_wrapped() -> None:
    """A square wave at full scale overshoots in any filter, and stays on its side of zero."""
    square = np.where(np.arange(4800) % 48 < 24, 32767, -32768).astype("<i2")
    out = np.frombuffer(stream(Resampler(24000, 48000), square.tobytes(), 480), "<i2")
    middle = out[960:-960].reshape(-1, 96)
    assert (middle[:, 8:40] > 20000).all()
    assert (middle[:, 56:88] < -20000).all()
