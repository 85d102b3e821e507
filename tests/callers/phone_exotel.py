"""Exotel, as its documentation describes it: the Voicebot applet and its socket's messages."""

import base64
import json
from typing import Any
from uuid import uuid4

import numpy as np

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller

CALLER = "+919876543210"
CALLED = "+918047491899"


def applet_query(call_id: str) -> dict[str, str]:
    """What the applet sends with its GET when someone calls."""
    return {
        "CallSid": call_id,
        "CallFrom": CALLER,
        "CallTo": CALLED,
        "Direction": "incoming",
        "Created": "2026-11-21 10:00:00",
    }


class ExotelCaller(PhoneCaller):
    """A call over the Voicebot applet's socket."""

    def __init__(self, url: str, call_id: str) -> None:
        """Prepare a call.

        Args:
            url: Where the socket is reached.
            call_id: The call's name in the start.
        """
        super().__init__(url)
        self.call_id = call_id
        self.stream_id = uuid4().hex
        self.sizes: list[int] = []
        """Bytes of audio in each message of the agent."""
        self._sequence = 0

    def begin(self) -> list[str]:
        """`connected`, then `start`."""
        return [
            json.dumps({"event": "connected"}),
            self._message(
                "start",
                start={
                    "stream_sid": self.stream_id,
                    "call_sid": self.call_id,
                    "account_sid": "AC1",
                    "from": CALLER,
                    "to": CALLED,
                    "custom_parameters": {"order": "17"},
                    "media_format": {
                        "encoding": "audio/x-raw",
                        "sample_rate": "8000",
                        "bit_rate": "16",
                    },
                },
            ),
        ]

    def media(self, samples: Samples) -> str:
        """`media`: 16-bit little-endian PCM in base64."""
        payload = base64.b64encode(samples.astype("<i2").tobytes()).decode()
        return self._message("media", media={"chunk": "1", "timestamp": "0", "payload": payload})

    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """`media`, `mark` and `clear`, which must all name the stream."""
        assert message["stream_sid"] == self.stream_id
        match message["event"]:
            case "media":
                pcm = base64.b64decode(message["media"]["payload"])
                self.sizes.append(len(pcm))
                return Audio(np.frombuffer(pcm, "<i2"))
            case "mark":
                return Mark(message["mark"]["name"])
            case "clear":
                return Clear()
        raise AssertionError(f"Exotel knows no {message['event']!r}")

    def echo(self, mark: str) -> str:
        """`mark`."""
        return self._message("mark", mark={"name": mark})

    def digit(self, key: str) -> str:
        """`dtmf`."""
        return self._message("dtmf", dtmf={"digit": key, "duration": "100"})

    def stop(self) -> str:
        """`stop`."""
        return self._message("stop", stop={"call_sid": self.call_id, "reason": "callended"})

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        return json.dumps(
            {
                "event": event,
                "sequence_number": str(self._sequence),
                "stream_sid": self.stream_id,
                **fields,
            }
        )
