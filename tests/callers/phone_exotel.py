"""Exotel, as its documentation describes it: a flow of applets, and its socket's messages."""

import base64
import json
import re
from typing import Any
from uuid import uuid4

import httpx
import numpy as np

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller, reached_at

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"

CALLER = "+919876543210"
CALLED = "+918047491899"


def applet_query(call_id: str, *, outbound: bool = False) -> dict[str, str]:
    """What an applet sends with its GET when someone calls, or is called."""
    return {
        "CallSid": call_id,
        "CallFrom": CALLED if outbound else CALLER,
        "CallTo": CALLER if outbound else CALLED,
        "Direction": "outbound-dial" if outbound else "incoming",
        "Created": "2026-11-21 10:00:00",
    }


class ExotelFlow:
    """A flow: Voicebot, then Connect with a dynamic URL, then Hangup on all of its branches."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        """Make the flow, whose addresses end in `SECRET`.

        Args:
            http: A client whose base is the agent's address on loopback.
        """
        self._http = http

    async def call(self, call_id: str | None = None, *, outbound: bool = False) -> "ExotelCaller":
        """A call that the Voicebot applet asked about and is about to carry."""
        call_id = call_id or uuid4().hex
        query = applet_query(call_id, outbound=outbound)
        response = await self._http.get(f"/phone/exotel/{SECRET}", params=query)
        assert response.status_code == 200, response.text
        return ExotelCaller(reached_at(str(self._http.base_url), response.json()["url"]), call_id)

    async def go_on(self, caller: "ExotelCaller") -> list[str]:
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
        response = await self._http.get(
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
