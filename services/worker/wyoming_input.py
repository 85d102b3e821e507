"""What a Wyoming client sends, checked: events of bounded size, and audio."""

import asyncio
import json
from typing import Any

import numpy as np
from wyoming.audio import AudioChunk
from wyoming.event import Event, Eventable

from services.audio import Resampler
from services.stt.engine import SAMPLE_RATE

MAX_LINE = 1 << 18
"""Bytes of an event's first line."""

MAX_DATA = 1 << 20
"""Bytes of an event's data."""

MAX_PAYLOAD = 10 * 1000 * 1000
"""Bytes of an event's audio: five minutes at 16 kHz, for clients that send it all at once."""

RATES = range(4_000, 192_001)
"""Samples a second that audio may have; Wyoming's clients send 16,000."""

CHANNELS = range(1, 3)
"""Channels that audio may have; of two, their mean is heard."""


class RequestError(Exception):
    """A client sends what it may not; the message says what, in one line."""


async def read_event(line: bytes, reader: asyncio.StreamReader) -> Event:
    """An event. Wyoming's own reader has no limits, and trips over what is no event.

    Args:
        line: Its first line.
        reader: Where the rest comes from.

    Raises:
        RequestError: It is none, or too large.
        asyncio.IncompleteReadError: The connection ended within it.
    """
    header = _parse_object(line)
    kind = header.get("type")
    if not isinstance(kind, str):
        raise RequestError("an event has no type")
    data = header.get("data") or {}
    if not isinstance(data, dict):
        raise RequestError("an event's data are no object")
    if length := _length(header, "data_length", MAX_DATA):
        data |= _parse_object(await reader.readexactly(length))
    payload = None
    if length := _length(header, "payload_length", MAX_PAYLOAD):
        payload = await reader.readexactly(length)
    return Event(kind, data, payload)


def _length(header: dict[str, Any], field: str, most: int) -> int:
    length = header.get(field) or 0
    if type(length) is not int or not 0 <= length <= most:
        raise RequestError(f"the {field} is {str(length)[:20]}: it must be 0 to {most}")
    return length


def _parse_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("an event is no JSON object")
    return value


def parse(kind: type[Eventable], event: Event) -> Eventable:
    """An event as what its type says it is.

    Raises:
        RequestError: It lacks what every such event has.
    """
    try:
        return kind.from_event(event)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RequestError(f"{event.type}: its data lack something, or are wrong") from None


def text_of(value: Any) -> str:
    """A value out of an event's data, if it is a text.

    Raises:
        RequestError: It is something else.
    """
    if not isinstance(value, str):
        raise RequestError(f"{str(value)[:20]} should be a text")
    return value


class Mono:
    """Audio made into mono samples at `SAMPLE_RATE`.

    Wyoming's own converter interpolates linearly, and adds channels up until they clip.
    """

    def __init__(self) -> None:
        """Begin; the first chunk says the format."""
        self._format: tuple[int, int, int] | None = None
        self._resampler: Resampler

    def push(self, chunk: AudioChunk) -> bytes:
        """The samples that a chunk completes.

        Raises:
            RequestError: It has a format that is not taken, or another one than those before.
        """
        form = (chunk.rate, chunk.width, chunk.channels)
        if form != self._format:
            if self._format is not None:
                raise RequestError("the format of the audio changes within it")
            if any(type(value) is not int for value in form) or not (
                chunk.rate in RATES and chunk.width == 2 and chunk.channels in CHANNELS
            ):
                raise RequestError(
                    f"audio is taken with 16 bits, 1 or 2 channels and {RATES[0]} to {RATES[-1]} "
                    f"samples a second: this has the rate {chunk.rate!r}, the width "
                    f"{chunk.width!r} and the channels {chunk.channels!r}"
                )
            self._format = form
            self._resampler = Resampler(chunk.rate, SAMPLE_RATE)
        if len(chunk.audio) % (2 * chunk.channels):
            raise RequestError("a chunk of audio ends within a sample")
        pcm = chunk.audio
        if chunk.channels == 2:
            pcm = np.frombuffer(pcm, "<i2").reshape(-1, 2).mean(axis=1).astype("<i2").tobytes()
        return self._resampler.push(pcm)

    def flush(self) -> bytes:
        """The samples that are left at the audio's end."""
        return self._resampler.flush() if self._format else b""
