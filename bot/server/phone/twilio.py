"""Calls over Twilio: TwiML, Media Streams, and the Calls resource of its REST API.

Facts are from Twilio's documentation: "Webhooks Security" (signatures), "Media Streams - WebSocket
Messages", "TwiML Voice: <Stream>", "Call resource", "Answering Machine Detection".
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

from starlette.responses import Response

from bot.line import AnsweredBy, Origin, is_number
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
from bot.server.signatures import SignatureError
from services.settings import revealed

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer

_OVER = (400, 404)
"""What the REST API answers when a call that is to be ended has ended (errors 21220 and 20404)."""


class Twilio(Carrier):
    """Twilio. It signs its webhooks and the upgrade of its sockets alike."""

    name = "twilio"
    dials_sip = True

    def lacks(self) -> str:
        """What is not set."""
        if not self.settings.twilio_account_sid:
            return "--twilio-account-sid, or TWILIO_ACCOUNT_SID: set it to the account's SID, AC…"
        if not self.settings.twilio_auth_token:
            return "TWILIO_AUTH_TOKEN: set it to the account's auth token"
        return ""

    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides."""
        if not self.settings.twilio_number:
            return "--twilio-number: set it to the number that the agent calls from, like +15550100"
        return ""

    def verify(self, webhook: Webhook) -> None:
        """Check `X-Twilio-Signature`, an HMAC-SHA1 over the address and the form's fields."""
        self._check(webhook.url, webhook.fields, webhook.headers)

    def verify_socket(self, url: str, headers: Mapping[str, str]) -> None:
        """Check the same header of the upgrade, which is over the socket's address alone."""
        self._check(url, (), headers)

    def origin(self, webhook: Webhook) -> Origin:
        """The call that a request asks about; SIP headers and the like are its data."""
        form = webhook.form
        outbound = form.get("Direction", "").startswith("outbound")
        other, own = ("To", "From") if outbound else ("From", "To")
        call_id = form.get("CallSid", "")
        return Origin(
            transport=self.name,
            id=call_id if re.fullmatch(r"CA[0-9a-f]{32}", call_id) else "",
            caller=form.get(other, ""),
            called=form.get(own, ""),
            outbound=outbound,
            data={
                name: value
                for name, value in form.items()
                if name.startswith("SipHeader_") or name in ("CallerName", "ForwardedFrom")
            },
        )

    def answer(self, origin: Origin, media_url: str) -> Response:
        """TwiML that connects the call both ways; when the socket closes, the call ends."""
        return xml(f"<Connect><Stream url={quoteattr(media_url)}/></Connect>")

    def busy(self, origin: Origin) -> Response:
        """TwiML that gives a caller the busy tone; our own calls can only be hung up."""
        return xml("<Hangup/>" if origin.outbound else '<Reject reason="busy"/>')

    def report(self, webhook: Webhook) -> Report | None:
        """What a status callback or one of the machine detection says."""
        form = webhook.form
        return Report(
            form.get("CallSid", ""),
            answered_by=_answered_by(form.get("AnsweredBy", "")),
            status=form.get("CallStatus", ""),
        )

    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What `connected`, which says nothing, and then `start` say."""
        start = started(message)
        if start is None:
            return None
        stream_id = text_of(start.get("streamSid"))
        if not stream_id:
            raise HandshakeError("the start names no stream")
        return Start(text_of(start.get("callSid")), stream_id)

    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer: 8 kHz mu-law in base64."""
        from pipecat.serializers.twilio import TwilioFrameSerializer

        return TwilioFrameSerializer(
            start.stream_id, params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
        )

    def mark(self, start: Start, name: str) -> str:
        """`mark`, which Twilio echoes when the audio before it was played or cleared."""
        return json.dumps({"event": "mark", "streamSid": start.stream_id, "mark": {"name": name}})

    async def hang_up(self, call_id: str) -> None:
        """Set the call's status to completed."""
        await self._post(f"Calls/{quote(call_id, safe='')}", {"Status": "completed"}, allow=_OVER)

    async def transfer(self, origin: Origin, to: str) -> None:
        """Give the call TwiML that dials someone else; its stream then ends."""
        noun = "Number" if is_number(to) else "Sip"
        await self._post(
            f"Calls/{quote(origin.id, safe='')}",
            {"Twiml": f"<Response><Dial><{noun}>{escape(to)}</{noun}></Dial></Response>"},
        )

    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Create a call; machine detection runs beside it, so that nobody waits for it."""
        fields = {
            "To": to,
            "From": self.settings.twilio_number or "",
            "Url": answer_url,
            "StatusCallback": events_url,
            "Timeout": str(RING_SECONDS),
        }
        if (voicemail := self.settings.voicemail) != "ignore":
            fields |= {
                "MachineDetection": "DetectMessageEnd" if voicemail == "message" else "Enable",
                "AsyncAmd": "true",
                "AsyncAmdStatusCallback": events_url,
            }
        return text_of((await self._post("Calls", fields)).get("sid"))

    async def _post(
        self, resource: str, fields: Mapping[str, str], *, allow: Collection[int] = ()
    ) -> dict[str, Any]:
        """Post to a resource of the account."""
        account = self.settings.twilio_account_sid or ""
        url = f"{self.settings.twilio_api_url}/2010-04-01/Accounts/{account}/{resource}.json"
        auth = (account, revealed(self.settings.twilio_auth_token))
        response = await self.ask("POST", url, allow=allow, data=fields, auth=auth)
        return parse_object(response.content) or {}

    def _check(
        self, url: str, fields: Iterable[tuple[str, str]], headers: Mapping[str, str]
    ) -> None:
        """Compare a request's signature with those that it may have.

        Raises:
            SignatureError: There is none, or another.
        """
        token = self.settings.twilio_auth_token
        given = headers.get("x-twilio-signature", "").encode()
        if not token or not given:
            raise SignatureError("there is no signature")
        told = "".join(name + value for name, value in sorted(set(fields)))
        key = token.get_secret_value().encode()
        # Twilio's own validator, too, takes the address with its port and without.
        for spelling in _spellings(url):
            digest = hmac.new(key, (spelling + told).encode(), hashlib.sha1).digest()
            if hmac.compare_digest(base64.b64encode(digest), given):
                return
        raise SignatureError("the signature is wrong")


def _spellings(url: str) -> tuple[str, str]:
    """An address without its port and with it; its host as it is, in capitals or not."""
    parts = urlsplit(url)
    host = parts.netloc.removesuffix(f":{parts.port}")
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    return parts._replace(netloc=host).geturl(), parts._replace(netloc=f"{host}:{port}").geturl()


def _answered_by(word: str) -> AnsweredBy:
    """Who Twilio's `AnsweredBy` means."""
    if word == "human":
        return "human"
    return "machine" if word.startswith("machine_") or word == "fax" else ""
