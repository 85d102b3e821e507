"""Plivo, as its documentation describes it: the webhooks, and the audio stream's messages."""

import base64
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from plivo.utils.signature_v3 import construct_post_url, get_signature_v3

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

ACCOUNT = "MAXXXXXXXXXXXXXXXXXX"
TOKEN = "NjY0ZTU1MmYzZTNhNGE5YmI1ZmI4NGM4ZGQ5"

CALLS = f"/v1/Account/{ACCOUNT}/Call/"
"""The Call resource of the REST API."""

CALLER = "14157654321"
CALLED = "14153464321"


def sign(
    url: str, fields: Mapping[str, str], *, nonce: str = "", token: str = TOKEN
) -> dict[str, str]:
    """The headers with which Plivo signs a post to an address, by Plivo's own code."""
    nonce = nonce or str(uuid4().int)[:20]
    told = construct_post_url(url, dict(fields)).decode()
    return {
        "X-Plivo-Signature-V3": get_signature_v3(token.encode(), told, nonce).decode(),
        "X-Plivo-Signature-V3-Nonce": nonce,
    }


def webhook(call_id: str, **fields: str) -> dict[str, str]:
    """What Plivo posts when someone calls a number of the application."""
    return {
        "CallUUID": call_id,
        "From": CALLER,
        "To": CALLED,
        "CallStatus": "ringing",
        "Direction": "inbound",
        "Event": "StartApp",
        "CallerName": "+14157654321",
        **fields,
    }


class PlivoNetwork(Network):
    """Plivo, for one account."""

    name = "plivo"
    numbers = (f"+{CALLER}", f"+{CALLED}")

    @classmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """The account and its number."""
        return {
            "plivo_auth_id": ACCOUNT,
            "plivo_auth_token": TOKEN,
            "plivo_number": f"+{CALLED}",
        }

    @staticmethod
    def new_id() -> str:
        """A UUID."""
        return str(uuid4())

    async def post(
        self, path: str, fields: Mapping[str, str], *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post a form as Plivo does, signed for the public address unless there are headers."""
        headers = sign(self.public_url + path, fields) if headers is None else headers
        return await self.http.post(path, data=dict(fields), headers=dict(headers))

    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have someone call, and return the XML."""
        return await self.post("/phone/plivo", webhook(call_id, **fields))

    @staticmethod
    def socket_in(answer: httpx.Response) -> str:
        """The address in XML that connects a call with a stream."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/xml")
        stream = ET.fromstring(answer.text).find("./Stream")
        assert stream is not None, answer.text
        return str(stream.text)

    def caller(self, url: str, call_id: str) -> "PlivoCaller":
        """What opens the socket at a public address."""
        return PlivoCaller(reached_at(str(self.http.base_url), url), call_id)

    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """By the one request that deletes it."""
        (request,) = asked
        assert (request.method, request.path) == ("DELETE", f"{CALLS}{caller.call_id}/")
        assert request.authorization == httpx.BasicAuth(ACCOUNT, TOKEN)._auth_header


class PlivoCaller(PhoneCaller):
    """A call over a bidirectional audio stream."""

    echoes_cleared = False

    def begin(self) -> list[str]:
        """`start`."""
        return [
            self._message(
                "start",
                start={
                    "callId": self.call_id,
                    "streamId": self.stream_id,
                    "accountId": ACCOUNT,
                    "tracks": ["inbound"],
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
                },
                extra_headers="{}",
            )
        ]

    def media(self, samples: Samples) -> str:
        """`media`: 160 bytes of mu-law in base64."""
        return self._message(
            "media",
            streamId=self.stream_id,
            media={
                "track": "inbound",
                "timestamp": str(self._sequence * 20),
                "chunk": self._sequence,
                "payload": base64.b64encode(to_mulaw(samples)).decode(),
            },
        )

    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """`playAudio`, `checkpoint` and `clearAudio`, which must all name the stream."""
        assert message["streamId"] == self.stream_id
        match message["event"]:
            case "playAudio":
                media = message["media"]
                assert (media["contentType"], media["sampleRate"]) == ("audio/x-mulaw", 8000)
                return Audio(from_mulaw(base64.b64decode(media["payload"])))
            case "checkpoint":
                return Mark(message["name"])
            case "clearAudio":
                return Clear()
        raise AssertionError(f"Plivo knows no {message['event']!r}")

    def echo(self, mark: str) -> str:
        """`playedStream`."""
        return self._message("playedStream", streamId=self.stream_id, name=mark)

    def digit(self, key: str) -> str:
        """`dtmf`."""
        return self._message(
            "dtmf",
            streamId=self.stream_id,
            dtmf={"track": "inbound", "digit": key, "timestamp": "1000"},
        )

    def stop(self) -> None:
        """Plivo closes the socket without a word."""

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        return json.dumps({"event": event, "sequenceNumber": self._sequence, **fields})
