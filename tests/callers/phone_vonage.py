"""Vonage, as its documentation describes it: Voice API's webhooks, and the WebSocket's messages."""

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
import jwt
import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.callers.audio import Samples
from tests.callers.phone import Audio, Clear, Mark, PhoneCaller, reached_at

SECRET = "vonage-signature-secret-of-the-tests-0123456789abcdef"
APPLICATION = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"

CALLER = "447700900000"
CALLED = "442079460000"


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


class VonageNetwork:
    """Vonage's side of a server that is reached on loopback and believes to be elsewhere."""

    def __init__(self, http: httpx.AsyncClient, public_url: str) -> None:
        """Know both addresses.

        Args:
            http: A client whose base is the address on loopback.
            public_url: The public one.
        """
        self.http = http
        self.public_url = public_url

    async def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post JSON as Vonage does, signed unless there are headers."""
        headers = sign(body) if headers is None else headers
        kind = {"content-type": "application/json"}
        return await self.http.post(path, content=body, headers={**kind, **headers})

    async def ring(self, call_id: str) -> dict[str, Any]:
        """Have someone call, and return the WebSocket endpoint from the NCCO."""
        return endpoint(await self.post("/phone/vonage", webhook(call_id)))

    async def call(self) -> "VonageCaller":
        """A call that was answered and is about to be carried."""
        return self.caller(await self.ring(str(uuid4())))

    def caller(self, wanted: Mapping[str, Any]) -> "VonageCaller":
        """What opens the socket of an endpoint."""
        url = reached_at(str(self.http.base_url), wanted["uri"])
        return VonageCaller(url, wanted["content-type"], wanted["headers"])


def endpoint(response: httpx.Response) -> dict[str, Any]:
    """The WebSocket endpoint in an NCCO that connects a call with one."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/json")
    (action,) = response.json()
    assert action["action"] == "connect"
    (found,) = action["endpoint"]
    assert found["type"] == "websocket"
    assert len(json.dumps(found["headers"])) <= 512
    return dict(found)


class VonageCaller(PhoneCaller):
    """A call over a WebSocket."""

    echoes_cleared = False

    def __init__(self, url: str, content_type: str, headers: dict[str, Any]) -> None:
        """Prepare a call.

        Args:
            url: Where the socket is reached.
            content_type: How the NCCO asks for the audio.
            headers: What it wants the first message to bear.
        """
        super().__init__(url)
        self.call_id = str(headers["call"])
        self._first = {"event": "websocket:connected", "content-type": content_type, **headers}

    def begin(self) -> list[str]:
        """`websocket:connected`."""
        return [json.dumps(self._first)]

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
                return Mark(json.dumps(message["payload"]))
            case "clear":
                return Clear()
        raise AssertionError(f"Vonage knows no {message['action']!r}")

    def echo(self, mark: str) -> str:
        """`websocket:notify`, with the payload that was sent."""
        return json.dumps({"event": "websocket:notify", "payload": json.loads(mark)})

    def digit(self, key: str) -> str:
        """`websocket:dtmf`."""
        return json.dumps({"event": "websocket:dtmf", "digit": key, "duration": 260})

    def stop(self) -> None:
        """Vonage closes the socket without a word."""
