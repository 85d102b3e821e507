"""The tone that says that all lines are busy, as a sound file, for carriers that have none."""

import numpy as np
from pipecat.audio.utils import pcm_to_wav

RATE = 8000
"""Samples a second."""

FREQUENCY = 425.0
"""Hz. With `HALF_SECONDS` it is the busy tone of many countries in ITU-T's list "Various Tones Used
in National Networks According to ITU-T Recommendation E.180", within the limits of E.180/Q.35.
"""

HALF_SECONDS = 0.5
"""How long it sounds, and how long it is silent then."""

PEAK = 7200
"""Of 32767: some -10 dBm0."""


def _wav() -> bytes:
    """The tone and the silence after it, once."""
    half = int(RATE * HALF_SECONDS)
    tone = PEAK * np.sin(2 * np.pi * FREQUENCY / RATE * np.arange(half))
    samples = np.concatenate([tone, np.zeros(half)]).astype("<i2")
    return pcm_to_wav(samples.tobytes(), RATE)


WAV = _wav()
"""The file, to be played again and again."""
