"""Exotel, as its documentation describes it: a flow of applets, and its socket's messages."""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller, reached_at
from tests.callers.phone_network import Network
from tests.fakes.carrier_api import Asked

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"

API_KEY = "the-key"
API_TOKEN = "the-token"
ACCOUNT = "acme1"
FLOW = "4711"

CALLER = "+919876543210"
CALLED = "+918047491899"


OUTBOUND = {"CallFrom": CALLED, "CallTo": CALLER, "Direction": "outbound-dial"}
"""What an applet says otherwise of a call that was asked for."""


def applet_query(call_id: str, **fields: str) -> dict[str, str]:
    """What an applet sends with its GET when someone calls."""
    return {
        "CallSid": call_id,
        "CallFrom": CALLER,
        "CallTo": CALLED,
        "Direction": "incoming",
        "Created": "2026-11-21 10:00:00",
        **fields,
    }


class ExotelNetwork(Network):
    """Exotel, for one flow, whose applets' addresses end in `SECRET`.

    Its applets are Voicebot, then Connect with a dynamic URL, then Hangup on all of its branches.
    """

    name = "exotel"
    numbers = (CALLER, CALLED)

    @classmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """The secret, and the account with its number and its flow."""
        return {
            "exotel_secret": SECRET,
            "exotel_api_key": API_KEY,
            "exotel_api_token": API_TOKEN,
            "exotel_account_sid": ACCOUNT,
            "exotel_number": CALLED,
            "exotel_flow": FLOW,
        }

    @staticmethod
    def new_id() -> str:
        """A UUID in hexadecimal digits."""
        return uuid4().hex

    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have the Voicebot applet ask about a call, and return what it is told."""
        query = applet_query(call_id, **fields)
        return await self.http.get(f"/phone/exotel/{SECRET}", params=query)

    @staticmethod
    def socket_in(answer: httpx.Response) -> str:
        """The address that the Voicebot applet is told."""
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def caller(self, url: str, call_id: str) -> "ExotelCaller":
        """What opens the socket at a public address."""
        return ExotelCaller(reached_at(str(self.http.base_url), url), call_id)

    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """By the flow, which finds nobody to dial: Exotel has no request for it."""
        assert list(asked) == []
        assert await self.go_on(caller) == []

    async def go_on(self, caller: PhoneCaller) -> list[str]:
        """Go on once the agent has closed the socket.

        Returns:
            The numbers that the Connect applet dials; none where the flow hangs up.
        """
        await caller.wait_for_end()
        query = {
            **applet_query(caller.call_id),
            "DialCallDuration": "0",
            "CallType": "call-attempt",
        }
        response = await self.http.get(
            f"/phone/exotel/connect/{SECRET}",
            params=query,
            headers={"Exotel-Version": "1.0"},
        )
        assert response.status_code == 200, response.text
        told = response.json()
        assert told.get("fetch_after_attempt", False) is False
        numbers: list[str] = told["destination"]["numbers"]
        assert all(re.fullmatch(r"\+[0-9]{6,15}", number) for number in numbers)
        return numbers


class ExotelCaller(PhoneCaller):
    """A call over the Voicebot applet's socket."""

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
        """`media` of a size that Exotel takes, `mark` and `clear`; all must name the stream."""
        assert message["stream_sid"] == self.stream_id
        match message["event"]:
            case "media":
                pcm = base64.b64decode(message["media"]["payload"])
                assert 3200 <= len(pcm) <= 100_000
                assert len(pcm) % 320 == 0
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
