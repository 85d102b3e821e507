"""Calls over Telnyx: TeXML, media streaming, and its REST APIs for TeXML and call control.

Facts are from Telnyx's documentation: "TeXML Stream", "Reject", "Dial", "Stream call media over
WebSocket", "Create a connection-scoped TeXML call", "Update call", "TeXML answering machine
detection", and the pages of its callbacks (signatures, `CallSid`).
"""

import base64
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.responses import Response

from bot.line import AnsweredBy, LineError, Origin, is_number
from bot.server.phone.carrier import (
    RING_SECONDS,
    Carrier,
    HandshakeError,
    Report,
    Start,
    Webhook,
    parse_object,
    started,
    text_of,
    xml,
)
from bot.server.signatures import MAX_AGE_SECONDS, Replays, SignatureError
from bot.settings import Settings
from services.settings import revealed

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer

ENCODINGS = ("PCMU", "PCMA")
"""What the audio from Telnyx may be: 8 kHz mu-law or A-law."""

CALL_ENDED = "90018"
"""The error with which the REST API says that a call has ended already."""


class Telnyx(Carrier):
    """Telnyx. It signs its webhooks, and no sockets."""

    name = "telnyx"

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        """Read what Telnyx needs from the settings.

        Args:
            settings: The settings in force.
            http: What its REST API is asked with.
        """
        super().__init__(settings, http)
        self._key = _public_key(settings.telnyx_public_key or "")
        self._replays = Replays()

    def lacks(self) -> str:
        """What is not set."""
        if self._key is None:
            return "TELNYX_PUBLIC_KEY: set it to the account's public key, 32 bytes in base64"
        if not self.settings.telnyx_api_key:
            return "TELNYX_API_KEY: set it to a key of the account, KEY…"
        return ""

    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides."""
        if not self.settings.telnyx_application:
            return "--telnyx-application: set it to the ID of the TeXML application"
        if not self.settings.telnyx_number:
            return "--telnyx-number: set it to the number that the agent calls from, like +15550100"
        return ""

    def verify(self, webhook: Webhook) -> None:
        """Check the Ed25519 signature over the time and the body, and the time itself."""
        sent = webhook.headers.get("telnyx-timestamp", "")
        given = webhook.headers.get("telnyx-signature-ed25519", "")
        if self._key is None or not given:
            raise SignatureError("there is no signature")
        try:
            signature = base64.b64decode(given, validate=True)
            self._key.verify(signature, sent.encode() + b"|" + webhook.body)
            age = abs(time.time() - int(sent))
        except (InvalidSignature, ValueError):
            raise SignatureError("the signature is wrong") from None
        if age > MAX_AGE_SECONDS:
            raise SignatureError("the signature is too old, or from the future")
        self._replays.refuse(signature)

    def origin(self, webhook: Webhook) -> Origin:
        """The call that a verified request asks about."""
        form = webhook.form
        return Origin(
            self.name,
            id=form.get("CallSid", ""),
            caller=form.get("From", ""),
            called=form.get("To", ""),
            data={"AccountSid": form.get("AccountSid", "")},
        )

    def answer(self, origin: Origin, media_url: str) -> Response:
        """TeXML that connects the call both ways; when the socket closes, the call ends."""
        return xml(
            f'<Connect><Stream url={quoteattr(media_url)} track="inbound_track" codec="PCMU" '
            'bidirectionalMode="rtp" bidirectionalCodec="PCMU"/></Connect>'
        )

    def busy(self, origin: Origin) -> Response:
        """TeXML that gives a caller the busy tone; our own calls can only be hung up."""
        return xml("<Hangup/>" if origin.outbound else '<Reject reason="busy"/>')

    def report(self, webhook: Webhook) -> Report | None:
        """What a status callback says, or that of the answering machine detection."""
        form = webhook.form
        answered_by: AnsweredBy = ""
        word = form.get("AnsweredBy", "")
        if word == "human":
            answered_by = "human"
        elif word.startswith(("machine", "fax")):
            # A message has to wait for the end of the machine's greeting.
            early = word == "machine_start" and self.settings.voicemail == "message"
            answered_by = "" if early else "machine"
        return Report(form.get("CallSid", ""), answered_by, form.get("CallStatus", ""))

    def acknowledge(self) -> Response:
        """Telnyx repeats what is answered with anything but 200."""
        return Response()

    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What `connected`, which says nothing, and then `start` say."""
        start = started(message)
        if start is None:
            return None
        stream_id, audio = text_of(message.get("stream_id")), start.get("media_format")
        if not stream_id:
            raise HandshakeError("the start names no stream")
        # Telnyx turns PCMA into the PCMU that was asked for where it can; other codecs stay.
        encoding = text_of(audio.get("encoding")) if isinstance(audio, dict) else ""
        if encoding not in ENCODINGS:
            raise HandshakeError(f"the audio is none of {', '.join(ENCODINGS)}")
        return Start(text_of(start.get("call_control_id")), stream_id, encoding)

    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer: 8 kHz in base64. It calls outbound what comes from Telnyx."""
        from pipecat.serializers.telnyx import TelnyxFrameSerializer

        return TelnyxFrameSerializer(
            start.stream_id,
            outbound_encoding=start.encoding,
            inbound_encoding="PCMU",
            params=TelnyxFrameSerializer.InputParams(auto_hang_up=False),
        )

    def mark(self, start: Start, name: str) -> str:
        """`mark`, which Telnyx echoes when the audio before it was played or cleared."""
        return json.dumps({"event": "mark", "mark": {"name": name}})

    async def hang_up(self, call_id: str) -> None:
        """Give the call the command to hang up."""
        path = f"calls/{quote(call_id, safe='')}/actions/hangup"
        response = await self._post(path, allow=(404, 422), json={})
        if response.status_code == 422 and CALL_ENDED not in response.text:
            raise LineError("telnyx refused with status 422")

    async def transfer(self, origin: Origin, to: str) -> None:
        """Give the call TeXML that dials someone else; its stream then ends."""
        noun = "Number" if is_number(to) else "Sip"
        dial = f"<Dial callerId={quoteattr(origin.called)}><{noun}>{escape(to)}</{noun}></Dial>"
        account, call = (quote(text, safe="") for text in (origin.data["AccountSid"], origin.id))
        texml = {"Texml": f"<Response>{dial}</Response>"}
        await self._post(f"texml/Accounts/{account}/Calls/{call}", data=texml)

    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Create a call; machine detection runs beside it, so that nobody waits for it."""
        request: dict[str, Any] = {
            "To": to,
            "From": self.settings.telnyx_number,
            "Url": answer_url,
            "Method": "POST",
            "StatusCallback": events_url,
            "StatusCallbackMethod": "POST",
            "Timeout": RING_SECONDS,
        }
        if (voicemail := self.settings.voicemail) != "ignore":
            request |= {
                "MachineDetection": "DetectMessageEnd" if voicemail == "message" else "Enable",
                "AsyncAmd": True,
                "AsyncAmdStatusCallback": events_url,
                "AsyncAmdStatusCallbackMethod": "POST",
            }
        application = quote(self.settings.telnyx_application or "", safe="")
        response = await self._post(f"texml/calls/{application}", json=request)
        return text_of((parse_object(response.content) or {}).get("call_sid"))

    async def _post(self, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {revealed(self.settings.telnyx_api_key)}"}
        url = f"{self.settings.telnyx_api_url}/v2/{path}"
        return await self.ask("POST", url, headers=headers, **request)


def _public_key(text: str) -> Ed25519PublicKey | None:
    """The key in a text; None where there is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        return None
