"""Audio as files: what a worker's speech is sent as, and what it is sent to transcribe.

PyAV, and FFmpeg in it, do the work. All that is written is mono at `SPEECH_RATE`, as OpenAI's is.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import av

from services.audio import Resampler, to_frame
from services.stt.engine import SAMPLE_RATE

SPEECH_RATE = 24_000
"""Samples a second of what is sent."""

CONTAINERS = "aac,aiff,caf,flac,matroska,webm,mov,mp4,mp3,mpeg,ogg,wav"
"""FFmpeg's names for the kinds of file that are read. Playlists and the like are none of them: they
name other files, and FFmpeg would open those."""


class UnreadableAudioError(Exception):
    """A file is no audio that can be used; the message says why, in one line."""


@dataclass(frozen=True)
class AudioFormat:
    """A form that speech is sent in.

    Attributes:
        media_type: As RFC 3003, 7845 and 9639 say, and by custom for the others.
        container: FFmpeg's name for it.
        codec: FFmpeg's name for it.
        bit_rate: Bits a second; None where the codec has no choice.
        options: For the container and the codec.
    """

    media_type: str
    container: str
    codec: str
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)


FORMATS = {
    "mp3": AudioFormat(
        media_type="audio/mpeg",
        container="mp3",
        codec="libmp3lame",
        bit_rate=96_000,
        # Neither tags nor an index: the index would have to be corrected at the end.
        options={"write_xing": "0", "id3v2_version": "0"},
    ),
    "opus": AudioFormat(
        media_type="audio/ogg; codecs=opus",
        container="ogg",
        codec="libopus",
        bit_rate=48_000,
        # A page for each 20 ms of sound, not for each second.
        options={"page_duration": "20000"},
    ),
    "aac": AudioFormat(
        media_type="audio/aac",
        container="adts",
        codec="aac",
        bit_rate=96_000,
        options={"aac_coder": "fast"},
    ),
    "flac": AudioFormat(
        media_type="audio/flac",
        container="flac",
        codec="flac",
        # Blocks of 24 ms in place of 96: Chromium leaves out the last one of a file whose length
        # was not known when it began.
        options={"frame_size": "576", "metadata_header_padding": "0"},
    ),
    # The sizes, not known yet, are written as 0xFFFFFFFF, which readers take for "to the end".
    "wav": AudioFormat(media_type="audio/wav", container="wav", codec="pcm_s16le"),
    "pcm": AudioFormat(media_type="audio/pcm", container="s16le", codec="pcm_s16le"),
}
"""By OpenAI's names for them."""


class _Outbox:
    """What has been written and not yet been taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._written)
        self._written.clear()
        return data


class Encoder:
    """Makes a file of speech while the speech is still being made.

    Compressing costs about 1% of the sound's duration in processor time, so that its methods are
    for a thread, though for one at a time.
    """

    def __init__(self, name: str) -> None:
        """Begin a file.

        Args:
            name: One of `FORMATS`.
        """
        form = FORMATS[name]
        self._outbox = _Outbox()
        self._file = av.open(
            self._outbox,
            "w",
            format=form.container,
            options={"flush_packets": "1", "fflags": "+bitexact", **form.options},
        )
        stream = self._file.add_stream(
            form.codec, rate=SPEECH_RATE, layout="mono", options=form.options
        )
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        if form.bit_rate:
            self._stream.bit_rate = form.bit_rate
        self._file.start_encoding()
        self._resampler: Resampler | None = None

    def encode(self, pcm: bytes, sample_rate: int) -> bytes:
        """Add speech, and take what of the file is ready.

        Args:
            pcm: Signed 16-bit little-endian mono samples.
            sample_rate: Samples a second: the same each time.
        """
        if self._resampler is None:
            self._resampler = Resampler(sample_rate, SPEECH_RATE)
        self._write(self._resampler.push(pcm))
        return self._outbox.take()

    def finish(self) -> bytes:
        """End the file, and take the rest of it."""
        if self._resampler is not None:
            self._write(self._resampler.flush())
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._outbox.take()

    def _write(self, pcm: bytes) -> None:
        if pcm:
            self._file.mux(self._stream.encode(to_frame(pcm, SPEECH_RATE)))


def decode(file: bytes, most_seconds: float) -> Iterator[bytes]:
    """The sound in a file, a little at a time; a part that is damaged is left out.

    Takes about a thousandth of the sound's duration, in whatever thread asks for the next.

    Args:
        file: A file of one of `CONTAINERS`, sound or video.
        most_seconds: How long the sound may be.

    Yields:
        Signed 16-bit little-endian mono samples at `services.stt.engine.SAMPLE_RATE`.

    Raises:
        UnreadableAudioError: It is no such file, holds no sound, or too much of it.
    """
    left = round(most_seconds * SAMPLE_RATE)
    too_long = UnreadableAudioError(f"the audio is longer than {most_seconds / 60:g} minutes")
    heard = False
    try:
        with _open(file) as container:
            if not container.streams.audio:
                raise UnreadableAudioError("the file holds no audio")
            if _seconds(container) > most_seconds:
                raise too_long
        with _open(file) as container:
            for pcm in _decode(container):
                heard = True
                left -= len(pcm) // 2
                if left < 0:
                    raise too_long
                yield pcm
    except (av.FFmpegError, ValueError):
        # What could be read of a file that breaks off is worth having.
        pass
    if not heard:
        raise UnreadableAudioError("the file is no audio that can be read")


def _open(file: bytes) -> av.container.InputContainer:
    return av.open(
        io.BytesIO(file),
        "r",
        metadata_errors="ignore",
        options={"format_whitelist": CONTAINERS},
        io_open=_open_nothing,
    )


def _seconds(container: av.container.InputContainer) -> float:
    """How long the sound is by its packets: a header may say anything, or nothing."""
    stream = container.streams.audio[0]
    assert stream.time_base is not None
    return float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)


def _decode(container: av.container.InputContainer) -> Iterator[bytes]:
    resampler = None
    form = None
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            # A stream may go on in another form, as the next song of a radio station does.
            if resampler is None or form != (frame.format.name, frame.layout.name, frame.rate):
                if resampler is not None:
                    yield from map(_samples, resampler.resample(None))
                resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
                form = (frame.format.name, frame.layout.name, frame.rate)
            yield from map(_samples, resampler.resample(frame))
    if resampler is not None:
        yield from map(_samples, resampler.resample(None))


def _samples(frame: av.AudioFrame) -> bytes:
    # A plane may be longer than what is in it.
    return bytes(frame.planes[0])[: 2 * frame.samples]


def _open_nothing(url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
    raise PermissionError(f"a file that is to be transcribed names another: {url[:80]}")
