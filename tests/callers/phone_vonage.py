"""Vonage, as its documentation describes it: Voice API's webhooks, and the WebSocket's messages."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller, reached_at
from tests.callers.phone_network import Network
from tests.fakes.carrier_api import Asked

SECRET = "vonage-signature-secret-of-the-tests-0123456789abcdef"
APPLICATION = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"

AUDIO = "audio/l16;rate=8000"
"""How the NCCO asks for it."""

CALLER = "447700900000"
CALLED = "442079460000"


@cache
def private_key() -> rsa.RSAPrivateKey:
    """The application's."""
    return rsa.generate_private_key(65537, 2048)


def claims(asked: Asked) -> dict[str, Any]:
    """What the token of a request to the REST API says, known to be the application's."""
    token = asked.authorization.removeprefix("Bearer ")
    return jwt.decode(token, private_key().public_key(), algorithms=["RS256"])


def as_pem(key: rsa.RSAPrivateKey) -> bytes:
    """An application's private key as Vonage's dashboard gives it out."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sign(body: bytes, *, secret: str = SECRET, **claims: Any) -> dict[str, str]:
    """The header with which Vonage signs a body: a token made with the account's secret.

    Args:
        body: The body.
        secret: The signature secret.
        claims: What its claims have in place of what they should; None leaves one out.
    """
    told = {
        "iat": int(time.time()),
        "jti": str(uuid4()),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": "a1b2c3d",
        "application_id": APPLICATION,
        **claims,
    }
    kept = {name: value for name, value in told.items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(kept, secret, algorithm='HS256')}"}


def webhook(call_id: str, **fields: str) -> bytes:
    """What Vonage posts when someone calls a number of the application."""
    return json.dumps(
        {
            "from": CALLER,
            "to": CALLED,
            "uuid": call_id,
            "conversation_uuid": f"CON-{uuid4()}",
            "region_url": "https://api-us-3.vonage.com",
            **fields,
        },
        separators=(",", ":"),
    ).encode()


class VonageNetwork(Network):
    """Vonage, for one application."""

    name = "vonage"
    numbers = (f"+{CALLER}", f"+{CALLED}")

    @classmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """The secret, and the application with its key and its number."""
        pem = folder / "private.key"
        pem.write_bytes(as_pem(private_key()))
        return {
            "vonage_signature_secret": SECRET,
            "vonage_application_id": APPLICATION,
            "vonage_private_key": pem,
            "vonage_number": f"+{CALLED}",
        }

    @staticmethod
    def new_id() -> str:
        """A UUID."""
        return str(uuid4())

    async def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post JSON as Vonage does, signed unless there are headers."""
        headers = sign(body) if headers is None else headers
        kind = {"content-type": "application/json"}
        return await self.http.post(path, content=body, headers={**kind, **headers})

    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have someone call, and return the NCCO."""
        return await self.post("/phone/vonage", webhook(call_id, **fields))

    @staticmethod
    def socket_in(answer: httpx.Response) -> str:
        """The address in an NCCO that connects a call with a WebSocket."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        (action,) = answer.json()
        assert action["action"] == "connect"
        (endpoint,) = action["endpoint"]
        assert endpoint["type"] == "websocket"
        assert endpoint["content-type"] == AUDIO
        # `VonageCaller` says them in its first message.
        assert endpoint["headers"].keys() == {"call"}
        return str(endpoint["uri"])

    def caller(self, url: str, call_id: str, content_type: str = AUDIO) -> "VonageCaller":
        """What opens the socket at a public address."""
        return VonageCaller(reached_at(str(self.http.base_url), url), call_id, content_type)

    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """By the one request for it, with a token of the application's."""
        (request,) = asked
        assert (request.method, request.path) == ("PUT", f"/v1/calls/{caller.call_id}")
        assert request.json == {"action": "hangup"}
        told = claims(request)
        assert told["application_id"] == APPLICATION
        assert told["jti"]


class VonageCaller(PhoneCaller):
    """A call over a WebSocket."""

    echoes_cleared = False

    def __init__(self, url: str, call_id: str, content_type: str = AUDIO) -> None:
        """Prepare a call.

        Args:
            url: Where the socket is reached.
            call_id: The call's ID in the first message.
            content_type: What that says of the audio.
        """
        super().__init__(url, call_id)
        self._content_type = content_type

    def begin(self) -> list[str]:
        """`websocket:connected`, with the NCCO's headers."""
        first = {"event": "websocket:connected", "content-type": self._content_type}
        return [json.dumps({**first, "call": self.call_id})]

    def media(self, samples: Samples) -> bytes:
        """20 ms of 16-bit little-endian PCM."""
        return samples.astype("<i2").tobytes()

    def read(self, message: Any) -> Audio | Mark | Clear | None:
        """Audio in messages of 20 ms, `notify` and `clear`."""
        if isinstance(message, bytes):
            assert len(message) == 320
            return Audio(np.frombuffer(message, "<i2").astype(np.int16))
        match message["action"]:
            case "notify":
                assert message["payload"].keys() == {"mark"}
                return Mark(message["payload"]["mark"])
            case "clear":
                return Clear()
        raise AssertionError(f"Vonage knows no {message['action']!r}")

    def echo(self, mark: str) -> str:
        """`websocket:notify`, with the payload that was sent."""
        return json.dumps({"event": "websocket:notify", "payload": {"mark": mark}})

    def digit(self, key: str) -> str:
        """`websocket:dtmf`."""
        return json.dumps({"event": "websocket:dtmf", "digit": key, "duration": 260})

    def stop(self) -> None:
        """Vonage closes the socket without a word."""
