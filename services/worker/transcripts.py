"""Transcripts in the forms that OpenAI's API has."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.stt.engine import Segment
from services.stt.gate import compression


@dataclass(frozen=True, slots=True)
class TranscriptFormat:
    """A form that a transcript is sent in.

    Attributes:
        media_type: What it is.
        write: Makes it out of the segments, the audio's seconds, and the language if it is known.
    """

    media_type: str
    write: Callable[[Sequence[Segment], float, str | None], str]


def _json(segments: Sequence[Segment], seconds: float, _language: str | None) -> str:
    return json.dumps({"text": _join(segments), "usage": _usage(seconds)})


def _verbose_json(segments: Sequence[Segment], seconds: float, language: str | None) -> str:
    listed = [
        {
            "id": number,
            "seek": 0,
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": segment.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": math.log(max(segment.confidence, 1e-10)),
            "compression_ratio": compression(segment.text),
            "no_speech_prob": segment.no_speech,
        }
        for number, segment in enumerate(segments)
    ]
    content = {
        "task": "transcribe",
        "language": language or "",
        "duration": round(seconds, 3),
        "text": _join(segments),
        "segments": listed,
        "usage": _usage(seconds),
    }
    return json.dumps(content)


def _text(segments: Sequence[Segment], _seconds: float, _language: str | None) -> str:
    return f"{_join(segments)}\n"


def _srt(segments: Sequence[Segment], _seconds: float, _language: str | None) -> str:
    cues = (
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text}\n\n"
        for number, segment in enumerate(segments, 1)
    )
    return "".join(cues)


def _vtt(segments: Sequence[Segment], _seconds: float, _language: str | None) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): what would be markup is escaped."""
    cues = (
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n"
        f"{segment.text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n\n"
        for segment in segments
    )
    return f"WEBVTT\n\n{''.join(cues)}"


TRANSCRIPT_FORMATS = {
    "json": TranscriptFormat("application/json", _json),
    "text": TranscriptFormat("text/plain", _text),
    "srt": TranscriptFormat("text/plain", _srt),
    "verbose_json": TranscriptFormat("application/json", _verbose_json),
    "vtt": TranscriptFormat("text/vtt", _vtt),
}
"""By OpenAI's names for them."""


def _join(segments: Sequence[Segment]) -> str:
    return " ".join(segment.text for segment in segments)


def _usage(seconds: float) -> dict[str, str | int]:
    return {"type": "duration", "seconds": math.ceil(seconds)}


def _clock(seconds: float, point: str) -> str:
    """A time as subtitles write it, to the millisecond."""
    millis = round(seconds * 1000)
    hours, rest = divmod(millis, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
