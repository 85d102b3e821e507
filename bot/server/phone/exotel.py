"""Calls over Exotel: the Voicebot applet and its media socket.

Exotel signs nothing. The address that its applet asks for the socket's therefore ends in a secret,
and the socket's own in a ticket that only who knew the secret was given.

Facts are from Exotel's documentation: "Working with the Stream and Voicebot Applet", "AgentStream:
WebSocket protocol", "Outgoing call to connect a number to a call flow", "Programmable Connect:
Working with Connect Applet (Dynamic URL)".
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from starlette.responses import JSONResponse, Response

from bot.line import LineError, Origin, is_sip
from bot.server.phone.carrier import (
    RING_SECONDS,
    Carrier,
    HandshakeError,
    Start,
    Transfers,
    Webhook,
    parse_object,
    started,
    text_of,
)
from bot.server.signatures import SignatureError
from bot.settings import Settings
from services.settings import revealed

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer


RATE = "8000"
"""Samples a second, as the applet's setting and the start have it."""

CONNECT = "connect"
"""What stands before the secret in the path that a Connect applet asks at."""


class Exotel(Carrier):
    """Exotel. Its flow carries a call on when the socket closes.

    A Connect applet behind the Voicebot applet then asks whom to dial: nobody, unless the call was
    transferred.
    """

    name = "exotel"

    keyed = True

    detects_machines = False

    # Messages of less than 3200 bytes may stutter, and those of no multiple of 320 do.
    chunk_ms = 200

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        """Read what Exotel needs from the settings.

        Args:
            settings: The settings in force.
            http: What its REST API is asked with.
        """
        super().__init__(settings, http)
        self._transfers = Transfers()

    def lacks(self) -> str:
        """What is not set."""
        if not self.settings.exotel_secret:
            return "PARLEY_EXOTEL_SECRET: set it to a secret and let the applet's address end in it"
        return ""

    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides."""
        settings = self.settings
        if not settings.exotel_number:
            return "--exotel-number: set it to the ExoPhone that the agent calls from"
        if not (settings.exotel_account_sid and settings.exotel_flow):
            return "--exotel-account-sid and --exotel-flow: set them as Exotel's dashboard has them"
        if not (settings.exotel_api_key and settings.exotel_api_token):
            return "PARLEY_EXOTEL_API_KEY and PARLEY_EXOTEL_API_TOKEN: set them to the account's"
        return ""

    def verify(self, webhook: Webhook) -> None:
        """Look for the secret at the path's end, or as the password of Basic authentication."""
        given = (urlsplit(webhook.url).path.rpartition("/")[2], _password(webhook.headers))
        right = revealed(self.settings.exotel_secret).encode()
        if not right or True not in [hmac.compare_digest(g.encode(), right) for g in given]:
            raise SignatureError("the secret is wrong or missing")

    def document(self, webhook: Webhook) -> Response | None:
        """Whom a Connect applet is to dial: nobody, where the agent did not transfer the call."""
        path = webhook.url.removeprefix(f"{self.public_url}/phone/{self.name}/").partition("?")[0]
        if path.partition("/")[0] != CONNECT:
            return None
        to = self._transfers.find(webhook.query.get("CallSid", ""))
        destination = {"numbers": [to] if to else []}
        return JSONResponse({"fetch_after_attempt": False, "destination": destination})

    def origin(self, webhook: Webhook) -> Origin:
        """The call that the applet asks about."""
        query = webhook.query
        outbound = query.get("Direction", "").startswith("outbound")
        other, own = ("CallTo", "CallFrom") if outbound else ("CallFrom", "CallTo")
        call_id = query.get("CallSid", "")
        return Origin(
            transport=self.name,
            id=call_id if re.fullmatch(r"[\w-]{8,64}", call_id, re.ASCII) else "",
            caller=query.get(other, ""),
            called=query.get(own, ""),
            outbound=outbound,
        )

    def answer(self, origin: Origin, media_url: str) -> Response:
        """The socket's address; the applet opens it."""
        return JSONResponse({"url": media_url})

    def busy(self, origin: Origin) -> Response:
        """No address: the flow goes on behind the applet, to where it hangs up."""
        return JSONResponse({"detail": "all lines are busy"}, status_code=503)

    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What `connected`, which says nothing, and then `start` say."""
        start = started(message)
        if start is None:
            return None
        stream_id = text_of(start.get("stream_sid")) or text_of(message.get("stream_sid"))
        if not stream_id:
            raise HandshakeError("the start names no stream")
        audio = start.get("media_format")
        rate = audio.get("sample_rate", RATE) if isinstance(audio, dict) else RATE
        if str(rate) != RATE:
            raise HandshakeError(f"the applet's sample rate is not {RATE}: set it to that")
        custom = start.get("custom_parameters")
        return Start(
            text_of(start.get("call_sid")),
            stream_id,
            data={
                name: value
                for name, value in (custom.items() if isinstance(custom, dict) else ())
                if isinstance(value, str)
            },
        )

    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer: 8 kHz 16-bit PCM in base64."""
        from pipecat.serializers.exotel import ExotelFrameSerializer

        return ExotelFrameSerializer(start.stream_id)

    def mark(self, start: Start, name: str) -> str:
        """`mark`, which Exotel echoes when the audio before it was played."""
        return json.dumps({"event": "mark", "stream_sid": start.stream_id, "mark": {"name": name}})

    async def hang_up(self, call_id: str) -> None:
        """Nothing: when the socket closes, the flow goes on to where it hangs up."""

    async def transfer(self, origin: Origin, to: str) -> None:
        """Know whom the Connect applet is to dial when the socket has closed.

        Exotel takes numbers there, and nothing else.
        """
        if is_sip(to):
            raise LineError("exotel transfers to numbers alone, and not to SIP addresses")
        self._transfers.add(origin.id, to)

    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Call someone and lead them into the flow, whose applet asks us as for any call.

        Exotel has no machine detection, and takes no address for a single call.
        """
        settings = self.settings
        account = settings.exotel_account_sid
        response = await self.ask(
            "POST",
            f"{settings.exotel_api_url}/v1/Accounts/{account}/Calls/connect.json",
            auth=(revealed(settings.exotel_api_key), revealed(settings.exotel_api_token)),
            data={
                "From": to,
                "CallerId": settings.exotel_number,
                "Url": f"http://my.exotel.com/{account}/exoml/start_voice/{settings.exotel_flow}",
                "TimeOut": str(RING_SECONDS),
            },
        )
        call = (parse_object(response.content) or {}).get("Call")
        return text_of(call.get("Sid")) if isinstance(call, dict) else ""


def _password(headers: Mapping[str, str]) -> str:
    """The password of Basic authentication; empty where there is none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).decode().partition(":")[2]
    except ValueError:
        return ""
