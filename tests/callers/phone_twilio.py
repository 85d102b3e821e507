"""Twilio, as its documentation describes it: the webhook, and the messages of Media Streams."""

import base64
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from twilio.request_validator import RequestValidator

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller, from_mulaw, reached_at, to_mulaw
from tests.callers.phone_network import Network
from tests.fakes.carrier_api import Asked

ACCOUNT = "AC" + "5" * 32
TOKEN = "e8a3c1f0b2d4968775a1c3e5f7092b4d"

CALLER = "+14155550123"
CALLED = "+14155550199"


def sid(kind: str) -> str:
    """A name as Twilio gives them: `CA…` for a call, `MZ…` for a stream."""
    return kind + uuid4().hex


def sign(url: str, fields: Mapping[str, str] | None = None, token: str = TOKEN) -> dict[str, str]:
    """The header with which Twilio signs a request to an address, by Twilio's own code."""
    signature = RequestValidator(token).compute_signature(url, fields or {})
    return {"X-Twilio-Signature": signature}


def webhook(call_id: str, **fields: str) -> dict[str, str]:
    """What Twilio posts when someone calls one of the account's numbers."""
    return {
        "AccountSid": ACCOUNT,
        "ApiVersion": "2010-04-01",
        "CallSid": call_id,
        "CallStatus": "ringing",
        "Called": CALLED,
        "Caller": CALLER,
        "CallerCity": "SAN FRANCISCO",
        "CallerState": "",
        "Direction": "inbound",
        "From": CALLER,
        "To": CALLED,
        **fields,
    }


class TwilioNetwork(Network):
    """Twilio, for one account."""

    name = "twilio"
    numbers = (CALLER, CALLED)

    @classmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """The account and its number."""
        return {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": TOKEN,
            "twilio_number": CALLED,
        }

    @staticmethod
    def new_id() -> str:
        """`CA…`."""
        return sid("CA")

    async def post(
        self, path: str, fields: Mapping[str, str], *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post a form as Twilio does, signed for the public address unless there are headers."""
        headers = sign(self.public_url + path, fields) if headers is None else headers
        return await self.http.post(path, data=dict(fields), headers=dict(headers))

    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have someone call, and return the TwiML."""
        return await self.post("/phone/twilio", webhook(call_id, **fields))

    @staticmethod
    def socket_in(answer: httpx.Response) -> str:
        """The address in TwiML that connects a call with a stream."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/xml")
        stream = ET.fromstring(answer.text).find("./Connect/Stream")
        assert stream is not None, answer.text
        url = stream.attrib["url"]
        assert "?" not in url
        return url

    def caller(self, url: str, call_id: str) -> "TwilioCaller":
        """What opens the socket at a public address, signed for it."""
        return TwilioCaller(reached_at(str(self.http.base_url), url), call_id, sign(url))

    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """By the one request that completes it."""
        (request,) = asked
        assert request.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{caller.call_id}.json"
        assert request.form == {"Status": "completed"}
        assert request.authorization == httpx.BasicAuth(ACCOUNT, TOKEN)._auth_header


class TwilioCaller(PhoneCaller):
    """A call over Media Streams."""

    def __init__(self, url: str, call_id: str, headers: Mapping[str, str] | None = None) -> None:
        """Prepare a call; the arguments are `PhoneCaller`'s."""
        super().__init__(url, call_id, headers)
        self.stream_id = sid("MZ")
        self._chunk = 0

    def begin(self) -> list[str]:
        """`connected`, then `start`."""
        return [
            json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),
            self._message(
                "start",
                start={
                    "accountSid": ACCOUNT,
                    "streamSid": self.stream_id,
                    "callSid": self.call_id,
                    "tracks": ["inbound"],
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                    "customParameters": {},
                },
            ),
        ]

    def media(self, samples: Samples) -> str:
        """`media`: 160 bytes of mu-law in base64."""
        self._chunk += 1
        return self._message(
            "media",
            media={
                "track": "inbound",
                "chunk": str(self._chunk),
                "timestamp": str(self._chunk * 20),
                "payload": base64.b64encode(to_mulaw(samples)).decode(),
            },
        )

    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """`media`, `mark` and `clear`, which must all name the stream."""
        assert message["streamSid"] == self.stream_id
        match message["event"]:
            case "media":
                return Audio(from_mulaw(base64.b64decode(message["media"]["payload"])))
            case "mark":
                return Mark(message["mark"]["name"])
            case "clear":
                return Clear()
        raise AssertionError(f"Twilio knows no {message['event']!r}")

    def echo(self, mark: str) -> str:
        """`mark`."""
        return self._message("mark", mark={"name": mark})

    def digit(self, key: str) -> str:
        """`dtmf`."""
        return self._message("dtmf", dtmf={"track": "inbound_track", "digit": key})

    def stop(self) -> str:
        """`stop`."""
        return self._message("stop", stop={"accountSid": ACCOUNT, "callSid": self.call_id})

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        return json.dumps(
            {
                "event": event,
                "sequenceNumber": str(self._sequence),
                "streamSid": self.stream_id,
                **fields,
            }
        )
