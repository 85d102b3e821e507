"""Changes how fast speech is and leaves its pitch: for models that know one pace only."""

from collections.abc import Iterable, Iterator

from services.audio import Filters

_SLOWEST_STEP = 0.5
# What FFmpeg's atempo takes at least; slower needs two of them, one behind the other.


def at_speed(pieces: Iterable[bytes], sample_rate: int, speed: float) -> Iterator[bytes]:
    """Change the speed of an utterance as its audio comes.

    FFmpeg's `atempo` (overlapping windows, lined up by their correlation) holds back some 160 ms
    of audio. At a speed of 1.0 audio passes as it is, and nothing is held back.

    Args:
        pieces: Signed 16-bit mono samples, whole ones.
        sample_rate: Samples a second.
        speed: 2.0 makes speech twice as fast, half as long; 0.25 to 4.0.

    Yields:
        What each piece makes available, where it makes any.
    """
    if speed == 1.0:
        yield from pieces
        return
    steps = [speed] if speed >= _SLOWEST_STEP else [speed**0.5] * 2
    filters = Filters(sample_rate, [("atempo", {"tempo": f"{step:.6f}"}) for step in steps])
    for piece in pieces:
        if pcm := filters.push(piece):
            yield pcm
    if pcm := filters.flush():
        yield pcm
