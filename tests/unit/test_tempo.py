"""Speech made faster and slower."""

from collections.abc import Iterator

import numpy as np
import pytest

from services.tts.tempo import at_speed

RATE = 24000
PITCH = 220


def tone(seconds: float) -> bytes:
    at = np.arange(round(seconds * RATE)) / RATE
    return (8000 * np.sin(2 * np.pi * PITCH * at)).astype("<i2").tobytes()


def pitch(pcm: bytes) -> float:
    """The strongest frequency in `pcm`, in hertz."""
    samples = np.frombuffer(pcm, "<i2")
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * RATE / len(samples)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.0, 1.3, 2.0, 4.0])
def test_the_length_changes_and_the_pitch_stays(speed: float) -> None:
    """Over the whole range of speeds the audio is as long as asked, at the pitch that it had."""
    pieces = [tone(4.0)[at : at + 3840] for at in range(0, 4 * RATE * 2, 3840)]
    heard = b"".join(at_speed(pieces, RATE, speed))
    assert len(heard) / 2 / RATE == pytest.approx(4.0 / speed, abs=0.1)
    assert pitch(heard) == pytest.approx(PITCH, abs=2)


@pytest.mark.parametrize("speed", [0.5, 1.5])
def test_audio_comes_while_it_goes_in(speed: float) -> None:
    """Less than 0.2 s of what went in is held back."""
    given = heard = 0.0

    def pieces() -> Iterator[bytes]:
        nonlocal given
        for _ in range(50):
            assert heard >= (given - 0.2) / speed
            given += 0.04
            yield tone(0.04)

    for pcm in at_speed(pieces(), RATE, speed):
        heard += len(pcm) / 2 / RATE
    assert given == pytest.approx(2.0)


def test_the_usual_speed_changes_nothing() -> None:
    """At 1.0 every sample passes at once."""
    assert list(at_speed([tone(0.05), tone(0.01)], RATE, 1.0)) == [tone(0.05), tone(0.01)]


def test_no_audio_is_none() -> None:
    """A stream without samples ends without samples."""
    assert list(at_speed([], RATE, 2.0)) == []
    assert list(at_speed([b""], RATE, 2.0)) == []
