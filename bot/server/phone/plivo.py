"""Calls over Plivo: its XML, audio streams, and the Call resource of its REST API.

Facts are from Plivo's documentation: "Validating requests" (V3 signatures), "The Stream element",
"Audio streaming" (messages), "Hangup", "Dial", "Make a call", "Transfer a call", "Asynchronous
machine detection".
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

import httpx
from starlette.responses import Response

from bot.line import AnsweredBy, Origin, e164, is_sip
from bot.server.phone.carrier import (
    RING_SECONDS,
    Carrier,
    HandshakeError,
    Report,
    Start,
    Transfers,
    Webhook,
    parse_object,
    text_of,
    xml,
)
from bot.server.signatures import Replays, SignatureError
from bot.settings import Settings
from services.settings import revealed

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer


class Plivo(Carrier):
    """Plivo. It signs its webhooks, and no sockets."""

    name = "plivo"
    dials_sip = True

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        """Read what Plivo needs from the settings.

        Args:
            settings: The settings in force.
            http: What its REST API is asked with.
        """
        super().__init__(settings, http)
        self._replays = Replays()
        self._transfers = Transfers()

    def lacks(self) -> str:
        """What is not set."""
        if not self.settings.plivo_auth_id:
            return "PLIVO_AUTH_ID: set it to the account's auth ID, MA…"
        if not self.settings.plivo_auth_token:
            return "PLIVO_AUTH_TOKEN: set it to the account's auth token"
        return ""

    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides."""
        if not self.settings.plivo_number:
            return "--plivo-number: set it to the number that the agent calls from, like +15550100"
        return ""

    def verify(self, webhook: Webhook) -> None:
        """Check `X-Plivo-Signature-V3`, an HMAC-SHA256 over the address, the form and a nonce.

        Nothing in it tells the time: a signature is refused for as long as it is remembered. The
        nonce would not do, since where it begins is not signed.
        """
        token = self.settings.plivo_auth_token
        given = webhook.headers.get("x-plivo-signature-v3", "")
        nonce = webhook.headers.get("x-plivo-signature-v3-nonce", "")
        if not token or not given or not nonce:
            raise SignatureError("there is no signature")
        told = f"{_told(webhook)}.{nonce}".encode()
        digest = hmac.new(token.get_secret_value().encode(), told, hashlib.sha256).digest()
        signature = base64.b64encode(digest)
        # While a token is replaced by another, there is one signature with each.
        if not any(hmac.compare_digest(signature, one.encode()) for one in given.split(",")):
            raise SignatureError("the signature is wrong")
        self._replays.refuse(signature)

    def document(self, webhook: Webhook) -> Response | None:
        """XML that dials whom a call is transferred to."""
        token = webhook.query.get("transfer")
        if token is None:
            return None
        to = self._transfers.find(token)
        if not to:
            return xml("<Hangup/>")
        noun = "User" if is_sip(to) else "Number"
        ours = self.origin(webhook).called.lstrip("+")
        return xml(f"<Dial callerId={quoteattr(ours)}><{noun}>{escape(to)}</{noun}></Dial>")

    def origin(self, webhook: Webhook) -> Origin:
        """The call that a request asks about."""
        form = webhook.form
        outbound = form.get("Direction") == "outbound"
        other, own = ("To", "From") if outbound else ("From", "To")
        return Origin(
            transport=self.name,
            id=form.get("CallUUID", ""),
            caller=e164(form.get(other, "")),
            called=e164(form.get(own, "")),
            outbound=outbound,
            data={
                name: value
                for name, value in form.items()
                if name.startswith("X-PH-") or name in ("CallerName", "ForwardedFrom")
            },
        )

    def answer(self, origin: Origin, media_url: str) -> Response:
        """XML that streams the call both ways; nothing follows it, so that its end is the call's.

        Plivo's default would be PCM, which has twice the bytes.
        """
        return xml(
            '<Stream bidirectional="true" keepCallAlive="true" '
            f'contentType="audio/x-mulaw;rate=8000">{escape(media_url)}</Stream>'
        )

    def busy(self, origin: Origin) -> Response:
        """XML that gives a caller the busy tone; our own calls can only be hung up."""
        return xml("<Hangup/>" if origin.outbound else '<Hangup reason="busy"/>')

    def report(self, webhook: Webhook) -> Report | None:
        """What the hang-up's callback or that of the machine detection says."""
        form = webhook.form
        answered_by: AnsweredBy = ""
        if form.get("Event") == "MachineDetection":
            answered_by = "machine" if form.get("Machine", "").lower() == "true" else "human"
        return Report(form.get("CallUUID", ""), answered_by, form.get("CallStatus", ""))

    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What `start`, the first message, says."""
        start = message.get("start")
        if message.get("event") != "start" or not isinstance(start, dict):
            raise HandshakeError("a message came before the start")
        stream_id = text_of(start.get("streamId"))
        if not stream_id:
            raise HandshakeError("the start names no stream")
        return Start(text_of(start.get("callId")), stream_id)

    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer: 8 kHz mu-law in base64."""
        from pipecat.serializers.plivo import PlivoFrameSerializer

        return PlivoFrameSerializer(
            start.stream_id, params=PlivoFrameSerializer.InputParams(auto_hang_up=False)
        )

    def mark(self, start: Start, name: str) -> str:
        """`checkpoint`, which `playedStream` echoes when the audio before it was played."""
        return json.dumps({"event": "checkpoint", "streamId": start.stream_id, "name": name})

    def marked(self, message: Mapping[str, Any]) -> str | None:
        """The name in a `playedStream`."""
        return text_of(message.get("name")) if message.get("event") == "playedStream" else None

    async def hang_up(self, call_id: str) -> None:
        """Delete the call."""
        await self._ask("DELETE", f"{quote(call_id, safe='')}/", allow=(404,))

    async def transfer(self, origin: Origin, to: str) -> None:
        """Have Plivo ask us for XML that dials someone else; the stream then ends.

        It asks for that at an address, which logs may keep: the number is not in it.
        """
        token = secrets.token_urlsafe(24)
        self._transfers.add(token, to)
        url = f"{self.public_url}/phone/{self.name}?transfer={token}"
        fields = {"legs": "aleg", "aleg_url": url, "aleg_method": "POST"}
        await self._ask("POST", f"{quote(origin.id, safe='')}/", json=fields)

    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Create a call; machine detection runs beside it, so that nobody waits for it.

        Plivo tells a machine from a person, and not when its greeting is over.
        """
        fields = {
            "from": (self.settings.plivo_number or "").lstrip("+"),
            "to": to.lstrip("+"),
            "answer_url": answer_url,
            "answer_method": "POST",
            "hangup_url": events_url,
            "hangup_method": "POST",
            "ring_timeout": RING_SECONDS,
        }
        if self.settings.voicemail != "ignore":
            fields |= {
                "machine_detection": "true",
                "machine_detection_url": events_url,
                "machine_detection_method": "POST",
            }
        response = await self._ask("POST", "", json=fields)
        return text_of((parse_object(response.content) or {}).get("request_uuid"))

    async def _ask(self, method: str, call: str, **request: Any) -> httpx.Response:
        """Ask the account's Call resource, whose addresses end in a slash."""
        account = self.settings.plivo_auth_id or ""
        url = f"{self.settings.plivo_api_url}/v1/Account/{account}/Call/{call}"
        auth = (account, revealed(self.settings.plivo_auth_token))
        return await self.ask(method, url, auth=auth, **request)


def _told(webhook: Webhook) -> str:
    """What a signature is over, without the nonce: the address, its query and the form, sorted."""
    parts = urlsplit(webhook.url)
    query = sorted(parse_qsl(parts.query, keep_blank_values=True))
    fields = sorted(webhook.fields)
    told = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if query or fields:
        told += "?" + "&".join(f"{name}={value}" for name, value in query)
    if query and fields:
        told += "."
    return told + "".join(name + value for name, value in fields)
