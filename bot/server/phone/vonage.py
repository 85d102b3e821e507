"""Calls over Vonage's Voice API: call control objects (NCCO), WebSockets, its REST API.

Facts are from Vonage's documentation: "Webhooks: decoding signed webhooks", "Voice API webhooks
reference", "NCCO reference", "WebSockets in the Voice API", "Voice API reference", "Voicemail
detection".
"""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.responses import JSONResponse, Response

from bot.line import AnsweredBy, Origin, e164, is_sip
from bot.server.phone.carrier import (
    RING_SECONDS,
    Carrier,
    HandshakeError,
    Report,
    Start,
    Webhook,
    parse_object,
    text_of,
)
from bot.server.signatures import MAX_AGE_SECONDS, Replays, SignatureError
from bot.settings import Settings

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer

AUDIO = "audio/l16;rate=8000"
"""16-bit little-endian PCM, in binary messages of 20 ms."""

SKEW_SECONDS = 60
"""How far ahead of ours Vonage's clock may be."""

BUSY_SECONDS = 6
"""How long a caller hears the busy tone."""

TOKEN_SECONDS = 60
"""How long a token of ours is good for: it is made for one request."""


class Vonage(Carrier):
    """Vonage. It signs its webhooks with a token in a header."""

    name = "vonage"
    dials_sip = True
    binary_audio = True
    chunk_ms = 20

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        """Read what Vonage needs from the settings.

        Args:
            settings: The settings in force.
            http: What its REST API is asked with.
        """
        super().__init__(settings, http)
        self._replays = Replays()
        self._key = _private_key(settings.vonage_private_key)

    def lacks(self) -> str:
        """What is not set."""
        if not self.settings.vonage_signature_secret:
            return "VONAGE_SIGNATURE_SECRET: set it to the account's signature secret"
        if not self.settings.vonage_application_id:
            return "VONAGE_APPLICATION_ID: set it to the ID of the application"
        if self._key is None:
            path = self.settings.vonage_private_key
            wrong = f"; {path} holds none" if path else ""
            return (
                f"--vonage-private-key: set it to the application's private key, a PEM file{wrong}"
            )
        return ""

    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides."""
        if not self.settings.vonage_number:
            return "--vonage-number: set it to the number that the agent calls from, like +15550100"
        return ""

    def verify(self, webhook: Webhook) -> None:
        """Check the token in `Authorization`: its HMAC-SHA256, its age, and the body's hash."""
        secret = self.settings.vonage_signature_secret
        scheme, _, token = webhook.headers.get("authorization", "").partition(" ")
        if not secret or scheme.lower() != "bearer":
            raise SignatureError("there is no token")
        try:
            claims = jwt.decode(
                token,
                secret.get_secret_value(),
                algorithms=["HS256"],
                issuer="Vonage",
                leeway=SKEW_SECONDS,
                options={"require": ["iat", "jti", "payload_hash"]},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise SignatureError(f"the token is wrong: {type(error).__name__}") from None
        if time.time() - claims["iat"] > MAX_AGE_SECONDS:
            raise SignatureError("the token is too old")
        told = text_of(claims["payload_hash"]).encode()
        if not hmac.compare_digest(hashlib.sha256(webhook.body).hexdigest().encode(), told):
            # Of a GET, which is Vonage's default, the hash is over the query.
            cure = "" if webhook.body else "; set the address's method to POST"
            raise SignatureError(f"the token is for another body{cure}")
        self._replays.refuse(str(claims["jti"]))

    def origin(self, webhook: Webhook) -> Origin:
        """The call that a request asks about."""
        told = webhook.json
        return Origin(
            transport=self.name,
            id=text_of(told.get("uuid")),
            caller=e164(text_of(told.get("from"))),
            called=e164(text_of(told.get("to"))),
            data={
                name: text_of(value)
                for name, value in told.items()
                if name.startswith("SipHeader_") or name == "conversation_uuid"
            },
        )

    def answer(self, origin: Origin, media_url: str) -> Response:
        """An NCCO that connects the call both ways; when the socket closes, the call ends."""
        return JSONResponse(
            [
                {
                    "action": "connect",
                    "from": origin.called.lstrip("+"),
                    "endpoint": [
                        {
                            "type": "websocket",
                            "uri": media_url,
                            "content-type": AUDIO,
                            # The socket's first message has them, and nothing else of the call.
                            "headers": {"call": origin.id},
                        }
                    ],
                }
            ]
        )

    def busy(self, origin: Origin) -> Response:
        """An NCCO that plays a caller the busy tone; our own calls can only be hung up.

        No action declines a call. It ends where its NCCO does: at once, if that has no actions.
        """
        url = f"{self.public_url}/phone/busy.wav"
        tone = {"action": "stream", "streamUrl": [url], "loop": BUSY_SECONDS}
        return JSONResponse([] if origin.outbound else [tone])

    def report(self, webhook: Webhook) -> Report | None:
        """What an event says; those of the machine detection tell a person from a machine."""
        told = webhook.json
        status = text_of(told.get("status"))
        answered_by: AnsweredBy = ""
        if status == "human":
            answered_by = "human"
        elif status == "machine":
            # A message has to wait for the machine's beep, or for the end of waiting for one.
            early = self.settings.voicemail == "message" and not told.get("sub_state")
            answered_by = "" if early else "machine"
        return Report(text_of(told.get("uuid")), answered_by, status)

    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What `websocket:connected`, the first message, says."""
        if message.get("event") != "websocket:connected":
            raise HandshakeError("a message came before the start")
        if message.get("content-type") != AUDIO:
            raise HandshakeError(f"the audio is not {AUDIO}")
        return Start(text_of(message.get("call")))

    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer: 8 kHz PCM in binary messages."""
        from pipecat.serializers.vonage import VonageFrameSerializer

        return VonageFrameSerializer(VonageFrameSerializer.InputParams(vonage_sample_rate=8000))

    def mark(self, start: Start, name: str) -> str:
        """`notify`, which `websocket:notify` echoes when the audio before it was played."""
        return json.dumps({"action": "notify", "payload": {"mark": name}})

    def marked(self, message: Mapping[str, Any]) -> str | None:
        """The name in a `websocket:notify`."""
        payload = message.get("payload")
        if message.get("event") != "websocket:notify" or not isinstance(payload, dict):
            return None
        return text_of(payload.get("mark"))

    async def hang_up(self, call_id: str) -> None:
        """Set the call's action to hangup."""
        await self._ask("PUT", call_id, {"action": "hangup"}, allow=(404,))

    async def transfer(self, origin: Origin, to: str) -> None:
        """Give the call an NCCO that connects someone else; the socket then closes."""
        from_ = origin.called.lstrip("+")
        connect = {"action": "connect", "from": from_, "endpoint": [_endpoint(to)]}
        await self._ask(
            "PUT",
            origin.id,
            {"action": "transfer", "destination": {"type": "ncco", "ncco": [connect]}},
        )

    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Create a call; machine detection runs beside it, so that nobody waits for it."""
        request: dict[str, Any] = {
            "to": [_endpoint(to)],
            "from": {
                "type": "phone",
                "number": (self.settings.vonage_number or "").lstrip("+"),
            },
            "answer_url": [answer_url],
            "answer_method": "POST",
            "event_url": [events_url],
            "event_method": "POST",
            "ringing_timer": RING_SECONDS,
        }
        if self.settings.voicemail != "ignore":
            request["advanced_machine_detection"] = {"behavior": "continue", "mode": "default"}
        response = await self._ask("POST", "", request)
        return text_of((parse_object(response.content) or {}).get("uuid"))

    async def _ask(
        self, method: str, call: str, body: Mapping[str, Any], **request: Any
    ) -> httpx.Response:
        """Ask the Voice API with a token of our own, signed with RS256."""
        now = int(time.time())
        claims = {
            "application_id": self.settings.vonage_application_id,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "jti": uuid4().hex,
        }
        assert self._key, "`lacks` comes first"
        token = jwt.encode(claims, self._key, algorithm="RS256")
        return await self.ask(
            method,
            f"{self.settings.vonage_api_url}/v1/calls" + (call and f"/{quote(call, safe='')}"),
            headers={"Authorization": f"Bearer {token}"},
            json=body,
            **request,
        )


def _endpoint(to: str) -> dict[str, str]:
    """Someone whom a call is connected with, by their number in E.164 or their SIP address."""
    return {"type": "sip", "uri": to} if is_sip(to) else {"type": "phone", "number": to.lstrip("+")}


def _private_key(path: Path | None) -> RSAPrivateKey | None:
    """The key in a PEM file; None where there is none."""
    try:
        key = load_pem_private_key(path.read_bytes(), None) if path else None
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, RSAPrivateKey) else None
