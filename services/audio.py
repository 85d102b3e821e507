"""What speech streams through: the one resampler, and FFmpeg's filters."""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import av
import numpy as np
import soxr
from av.filter import Graph

QUALITY = "HQ"
"""20 bits: more than 16-bit samples hold (https://sourceforge.net/p/soxr). `VHQ`, with 28, holds
back up to 150 ms of speech in its filter on the way from 24 to 8 kHz; `HQ` 20 to 70 ms."""

Filter = tuple[str, Mapping[str, str]]
"""One of FFmpeg's filters by its name, and its options: https://ffmpeg.org/ffmpeg-filters.html."""


class Resampler:
    """One utterance's way from a sample rate to another, chunk by chunk, without seams.

    Not for several threads at once.
    """

    def __init__(self, in_rate: int, out_rate: int) -> None:
        """Take the rates; where they agree, audio passes as it is.

        Args:
            in_rate: Samples a second of what comes.
            out_rate: Samples a second of what is wanted.
        """
        self._stream: soxr.ResampleStream | None = None
        if in_rate != out_rate:
            self._stream = soxr.ResampleStream(in_rate, out_rate, 1, "int16", QUALITY)

    def push(self, pcm: bytes) -> bytes:
        """Take samples.

        Args:
            pcm: Signed 16-bit little-endian mono samples, any number of them.

        Returns:
            The samples at the new rate that are ready; the filter holds back the last.

        Raises:
            ValueError: Half a sample is among them.
        """
        if len(pcm) % 2:
            raise ValueError(f"{len(pcm)} bytes are no 16-bit samples")
        return pcm if self._stream is None else self._resample(pcm, last=False)

    def flush(self) -> bytes:
        """End the utterance; what is pushed next begins another.

        Returns:
            The samples that were held back: with them, the audio is as long as it was.
        """
        if self._stream is None:
            return b""
        rest = self._resample(b"", last=True)
        self._stream.clear()
        return rest

    def _resample(self, pcm: bytes, *, last: bool) -> bytes:
        assert self._stream is not None
        samples: bytes = self._stream.resample_chunk(np.frombuffer(pcm, "<i2"), last).tobytes()
        return samples


class Filters:
    """One utterance's way through FFmpeg's filters, which come with PyAV.

    Not for several threads at once.
    """

    def __init__(self, sample_rate: int, filters: Iterable[Filter]) -> None:
        """Set the filters up.

        Args:
            sample_rate: Samples a second, of what comes and of what is wanted.
            filters: In the order in which samples go through them.
        """
        self._rate = sample_rate
        self._graph = Graph()
        self._graph.threads = 1  # FFmpeg would start one for each core, for nothing.
        nodes = [
            self._graph.add_abuffer(sample_rate=sample_rate, format="s16", layout="mono"),
            # In 16 bits, what one filter clips the next cannot bring back.
            self._graph.add("aformat", sample_fmts="dbl"),
            *(self._graph.add(name, **options) for name, options in filters),
            self._graph.add("aformat", sample_fmts="s16"),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*nodes).configure()

    def push(self, pcm: bytes) -> bytes:
        """Take samples.

        Args:
            pcm: Signed 16-bit little-endian mono samples, any number of them.

        Returns:
            The filtered samples that are ready.
        """
        return b"".join(frame.to_ndarray().tobytes() for frame in self.frames(pcm))

    def flush(self) -> bytes:
        """End the utterance, and with it the use of this.

        Returns:
            The samples that were held back.
        """
        return b"".join(frame.to_ndarray().tobytes() for frame in self.frames(None))

    def frames(self, pcm: bytes | None) -> Iterator[av.AudioFrame]:
        """Take samples, or None for their end; for filters that write what they find on frames.

        Yields:
            The filtered samples that are ready.
        """
        if pcm is None:
            self._graph.push(None)
        elif pcm:
            self._graph.push(to_frame(pcm, self._rate))
        while True:
            try:
                yield cast("av.AudioFrame", self._graph.pull())
            except (av.BlockingIOError, av.EOFError):
                return


def to_frame(pcm: bytes, sample_rate: int) -> av.AudioFrame:
    """Samples as PyAV takes them.

    Args:
        pcm: Signed 16-bit little-endian mono samples, one at least.
        sample_rate: Samples a second.
    """
    samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = sample_rate
    return frame
