"""Telnyx, as its documentation describes it: TeXML's webhooks, and media streaming's messages."""

import base64
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from nacl.signing import SigningKey

from tests.callers.audio import Samples
from tests.callers.phone import (
    Audio,
    Clear,
    Mark,
    PhoneCaller,
    from_mulaw,
    reached_at,
    to_mulaw,
)
from tests.callers.phone_network import Network
from tests.fakes.carrier_api import Asked

KEY = SigningKey(b"telnyx signs with this in tests.")
"""What stands for Telnyx's own key."""

PUBLIC_KEY = base64.b64encode(bytes(KEY.verify_key)).decode()
"""Its public half, as Telnyx's portal shows it."""

API_KEY = "KEY0123456789ABCDEF"
APPLICATION = "1293384261075731499"
ACCOUNT = "f5586561-8ff0-4291-a51b-c7dfe4139ff9"

CALLER = "+13122010094"
CALLED = "+13122123456"


def sign(body: bytes, at: float | None = None, key: SigningKey = KEY) -> dict[str, str]:
    """The headers with which Telnyx signs a body: Ed25519 over the time, a bar, and the body."""
    sent = str(int(time.time() if at is None else at))
    signature = key.sign(f"{sent}|".encode() + body).signature
    return {
        "telnyx-timestamp": sent,
        "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
    }


def webhook(call_id: str, **fields: str) -> bytes:
    """What Telnyx posts when someone calls a number of the TeXML application."""
    return urlencode(
        {
            "AccountSid": ACCOUNT,
            "CallSid": call_id,
            "CallSidLegacy": call_id,
            "ConnectionId": APPLICATION,
            "From": CALLER,
            "To": CALLED,
            "CallStatus": "ringing",
            **fields,
        }
    ).encode()


class TelnyxNetwork(Network):
    """Telnyx, for one TeXML application."""

    name = "telnyx"
    numbers = (CALLER, CALLED)

    @classmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """The keys, the application and its number."""
        return {
            "telnyx_public_key": PUBLIC_KEY,
            "telnyx_api_key": API_KEY,
            "telnyx_application": APPLICATION,
            "telnyx_number": CALLED,
        }

    @staticmethod
    def new_id() -> str:
        """A call control ID, which is also the `CallSid` of TeXML."""
        return f"v3:{uuid4().hex}-{uuid4().hex[:12]}"

    async def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post a form as Telnyx does, signed unless there are headers."""
        headers = sign(body) if headers is None else headers
        form = {"content-type": "application/x-www-form-urlencoded"}
        return await self.http.post(path, content=body, headers={**form, **headers})

    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have someone call, and return the TeXML."""
        return await self.post("/phone/telnyx", webhook(call_id, **fields))

    @staticmethod
    def socket_in(answer: httpx.Response) -> str:
        """The address in TeXML that connects a call with a stream."""
        return stream(answer)["url"]

    def caller(self, url: str, call_id: str, encoding: str = "PCMU") -> "TelnyxCaller":
        """What opens the socket at a public address."""
        return TelnyxCaller(reached_at(str(self.http.base_url), url), call_id, encoding)

    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """By the one request for it."""
        (request,) = asked
        path = f"/v2/calls/{caller.call_id}/actions/hangup"
        assert (request.method, request.path) == ("POST", path)
        assert request.authorization == f"Bearer {API_KEY}"


def stream(response: httpx.Response) -> dict[str, str]:
    """The attributes of the stream in TeXML that connects a call with one."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/xml")
    found = ET.fromstring(response.text).find("./Connect/Stream")
    assert found is not None, response.text
    return found.attrib


class TelnyxCaller(PhoneCaller):
    """A call over media streaming, in the bidirectional mode `rtp`."""

    def __init__(self, url: str, call_id: str, encoding: str = "PCMU") -> None:
        """Prepare a call.

        Args:
            url: Where the socket is reached.
            call_id: The call's ID in the start.
            encoding: What the start says of the audio.
        """
        super().__init__(url, call_id)
        self._encoding = encoding

    def begin(self) -> list[str]:
        """`connected`, then `start`."""
        return [
            json.dumps({"event": "connected", "version": "1.0.0"}),
            self._message(
                "start",
                start={
                    "user_id": str(uuid4()).upper(),
                    "call_control_id": self.call_id,
                    "call_session_id": str(uuid4()),
                    "from": CALLER,
                    "to": CALLED,
                    "tags": [],
                    "client_state": "",
                    "custom_parameters": {},
                    "media_format": {
                        "encoding": self._encoding,
                        "sample_rate": 8000,
                        "channels": 1,
                    },
                },
            ),
        ]

    def media(self, samples: Samples) -> str:
        """`media`: 160 bytes of mu-law in base64."""
        return self._message(
            "media",
            media={
                "track": "inbound",
                "chunk": str(self._sequence),
                "timestamp": str(self._sequence * 20),
                "payload": base64.b64encode(to_mulaw(samples)).decode(),
            },
        )

    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """`media` of 20 ms or more, `mark` and `clear`."""
        match message["event"]:
            case "media":
                audio = base64.b64decode(message["media"]["payload"])
                assert len(audio) >= 160
                return Audio(from_mulaw(audio))
            case "mark":
                return Mark(message["mark"]["name"])
            case "clear":
                return Clear()
        raise AssertionError(f"Telnyx knows no {message['event']!r}")

    def echo(self, mark: str) -> str:
        """`mark`."""
        return self._message("mark", mark={"name": mark})

    def digit(self, key: str) -> str:
        """`dtmf`."""
        return self._message("dtmf", occurred_at="2026-11-21T16:00:00Z", dtmf={"digit": key})

    def stop(self) -> str:
        """`stop`."""
        return self._message("stop", stop={"user_id": ACCOUNT, "call_control_id": self.call_id})

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        return json.dumps(
            {
                "event": event,
                "sequence_number": str(self._sequence),
                "stream_id": self.stream_id,
                **fields,
            }
        )
