"""What every telephone carrier does in its own way: signatures, documents, messages, REST API.

A carrier asks us over HTTP what to do with a call, gets a document that names the address of a
media socket, and opens that socket. `media` and `routes` do what is alike for all of them.
"""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import httpx
from starlette.responses import Response

from bot.line import AnsweredBy, LineError, Origin
from bot.settings import Settings

if TYPE_CHECKING:
    from pipecat.serializers.base_serializer import FrameSerializer

REST_SECONDS = 5.0
"""How long a carrier's REST API may take to answer."""

RING_SECONDS = 60
"""How long the telephone of someone whom the agent calls may ring."""

MAX_FIELDS = 200
"""The most fields of a form; carriers send some forty."""

TRANSFER_SECONDS = 60.0
"""How long a carrier that asks where a call goes may ask, and ask again."""

MAX_TRANSFERS = 1000
"""Transfers that may wait for a carrier to ask where they go."""


class HandshakeError(Exception):
    """A media socket does not begin as the carrier's do; the message is one line."""


@dataclass(frozen=True)
class Webhook:
    """A request that claims to come from a carrier, as it arrived.

    Attributes:
        url: What the carrier called, with the query: our public address, not what a header says.
        headers: Its headers, by name in any case.
        body: Its body.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        """The parameters in the address; none where there are too many."""
        query = urlsplit(self.url).query
        try:
            return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError:
            return {}

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields of a form body, in their order; none where there are too many."""
        try:
            return parse_qsl(
                self.body.decode("utf-8", "replace"),
                keep_blank_values=True,
                max_num_fields=MAX_FIELDS,
            )
        except ValueError:
            return []

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form body by name; the last of those that share one."""
        return dict(self.fields)

    @property
    def json(self) -> dict[str, Any]:
        """The object in a JSON body; empty where there is none."""
        return parse_object(self.body) or {}


@dataclass(frozen=True)
class Start:
    """What a media socket says of its call before the first audio.

    Attributes:
        call_id: The carrier's name of the call, which must be the one that was signed for.
        stream_id: Its name of the stream, which what we send has to bear.
        encoding: How the audio is coded, where the carrier leaves that open.
        data: What else it says of the call.
    """

    call_id: str
    stream_id: str = ""
    encoding: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


class Transfers:
    """Where calls go whose carrier asks us for it; forgotten after `TRANSFER_SECONDS`."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add(self, key: str, to: str) -> None:
        """Wait to be asked; of `MAX_TRANSFERS` the oldest is forgotten.

        Args:
            key: What will be asked with.
            to: A number in E.164, or a SIP address.
        """
        self._waiting.pop(key, None)
        self._waiting[key] = to, time.monotonic()
        if len(self._waiting) > MAX_TRANSFERS:
            self._waiting.popitem(last=False)

    def find(self, key: str) -> str:
        """Where a call goes, as often as it is asked: carriers repeat what was not answered.

        Args:
            key: What is asked with.

        Returns:
            Empty where nothing waits under this key, or no longer.
        """
        to, at = self._waiting.get(key, ("", 0.0))
        return to if time.monotonic() - at < TRANSFER_SECONDS else ""


@dataclass(frozen=True)
class Report:
    """What a carrier tells us of a call besides its audio.

    Attributes:
        call_id: The carrier's name of the call.
        answered_by: Who answered our call, as far as the carrier's detection knows.
        status: Where the call stands, in the carrier's word, for the log.
    """

    call_id: str
    answered_by: AnsweredBy = ""
    status: str = ""


class Carrier(ABC):
    """One carrier. It holds no state of its calls, but where they are being transferred to.

    Everything up to `report` is called for requests of anyone, so `verify` comes before all else.
    """

    name: ClassVar[str]
    """In paths and settings, and the `transport` of its calls' origins."""

    dials_sip: ClassVar[bool] = False
    """Whether its documents let calls be placed to SIP addresses."""

    detects_machines: ClassVar[bool] = True
    """Whether it can tell that a machine has answered a call of ours."""

    keyed: ClassVar[bool] = False
    """Whether the address that it asks at may end in a key, since it signs nothing."""

    binary_audio: ClassVar[bool] = False
    """Whether audio comes in binary messages; they are junk where it does not."""

    chunk_ms: ClassVar[int] = 40
    """Milliseconds of audio in a message that we send; a multiple of 10."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        """Read what the carrier needs from the settings.

        Args:
            settings: The settings in force.
            http: What its REST API is asked with; `REST_SECONDS` is its limit.
        """
        self.settings = settings
        self.http = http
        self.public_url = settings.public_url or ""
        """Our address as the carrier reaches it; empty if it is not set."""

    # Settings

    @abstractmethod
    def lacks(self) -> str:
        """What is not set that calls of this carrier need, in one line; empty if nothing.

        That `--public-url` is set has been looked at before.
        """

    @abstractmethod
    def lacks_for_dialling(self) -> str:
        """What calls of ours need besides; empty if nothing."""

    # Webhooks

    @abstractmethod
    def verify(self, webhook: Webhook) -> None:
        """Make sure that the carrier made a request: signature, age, secrets.

        Raises:
            SignatureError: It did not.
        """

    def verify_socket(self, url: str, headers: Mapping[str, str]) -> None:  # noqa: B027
        """Make sure that the carrier opens a media socket, where it signs that.

        The ticket in the socket's path is checked in any case.

        Args:
            url: The `wss` address that `answer` was given.
            headers: The upgrade's headers, by name in any case.

        Raises:
            SignatureError: It does not.
        """

    def document(self, webhook: Webhook) -> Response | None:
        """What a verified request asks for a call that has begun already: where it goes on.

        None where it asks what to do with a call.
        """
        return None

    @abstractmethod
    def origin(self, webhook: Webhook) -> Origin:
        """The call that a verified request asks about; `id` is empty where there is none in it."""

    @abstractmethod
    def answer(self, origin: Origin, media_url: str) -> Response:
        """The document that connects a call with a media socket.

        Args:
            origin: The call.
            media_url: The socket's `wss` address: no query, its last part a ticket.
        """

    @abstractmethod
    def busy(self, origin: Origin) -> Response:
        """The document that turns a call away; `origin.outbound` says whether it is ours."""

    def report(self, webhook: Webhook) -> Report | None:
        """What a verified request to the events' address says; None where it is of no interest."""
        return None

    def acknowledge(self) -> Response:
        """What a report is answered with."""
        return Response(status_code=204)

    # The media socket

    @abstractmethod
    def start(self, message: Mapping[str, Any]) -> Start | None:
        """What the first messages of a socket say.

        Args:
            message: A JSON object, of unknown shape.

        Returns:
            None while more has to come (Twilio's `connected`).

        Raises:
            HandshakeError: This is not how the carrier begins.
        """

    @abstractmethod
    def serializer(self, start: Start) -> "FrameSerializer":
        """Pipecat's serializer for the socket, at 8 kHz, which does not hang up by itself."""

    def stops(self, message: Mapping[str, Any]) -> bool:
        """Whether a message says that the call is over, or no longer ours."""
        return message.get("event") == "stop"

    @abstractmethod
    def mark(self, start: Start, name: str) -> str:
        """The message that the carrier echoes when all audio before it was played, or cleared."""

    def marked(self, message: Mapping[str, Any]) -> str | None:
        """The name of the mark that a message echoes; None where it echoes none."""
        mark = message.get("mark")
        if message.get("event") != "mark" or not isinstance(mark, dict):
            return None
        return text_of(mark.get("name"))

    # REST

    @abstractmethod
    async def hang_up(self, call_id: str) -> None:
        """End a call; one that has ended already is no error.

        Raises:
            LineError: The carrier did not.
        """

    @abstractmethod
    async def transfer(self, origin: Origin, to: str) -> None:
        """Connect the other end of a call with someone else, and leave it.

        Args:
            origin: The call.
            to: A number in E.164, or a SIP address.

        Raises:
            LineError: The carrier did not.
        """

    @abstractmethod
    async def dial(self, to: str, answer_url: str, events_url: str) -> str:
        """Call someone.

        Where the setting `voicemail` is `hang-up`, the carrier is to tell as soon as it knows a
        machine; where it is `message`, when the machine's greeting is over, without keeping a
        person waiting.

        Args:
            to: A number in E.164, or, where `dials_sip`, a SIP address.
            answer_url: What the carrier asks for the document when they answer.
            events_url: What it tells about the call, voicemail included.

        Returns:
            The carrier's name of the call, or of the request where it does not tell that yet; empty
            where its answer has neither.

        Raises:
            LineError: The carrier did not.
        """

    async def ask(
        self, method: str, url: str, *, allow: Collection[int] = (), **request: Any
    ) -> httpx.Response:
        """Ask a REST API.

        Args:
            method: The HTTP method.
            url: The address.
            allow: Error statuses that are answers like others: 404 for a call that has ended.
            request: What else `httpx.AsyncClient.request` takes.

        Raises:
            LineError: There was no answer or an error, in a line without secrets or numbers.
        """
        try:
            # The client's own limit is for each piece of an answer, which may come in many.
            async with asyncio.timeout(REST_SECONDS):
                response = await self.http.request(method, url, **request)
        except (httpx.HTTPError, TimeoutError) as error:
            raise LineError(f"{self.name} does not answer: {type(error).__name__}") from None
        # A redirection is not followed, and so nothing was done.
        if not response.is_success and response.status_code not in allow:
            raise LineError(f"{self.name} refused with status {response.status_code}")
        return response


def parse_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that someone sent; None where it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def started(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the `start` of a socket holds, as Twilio has it, and others after it.

    Returns:
        None for `connected`, which comes before it and says nothing.

    Raises:
        HandshakeError: The message is neither.
    """
    event, start = message.get("event"), message.get("start")
    if event == "connected":
        return None
    if event != "start" or not isinstance(start, dict):
        raise HandshakeError("a message came before the start")
    return start


def xml(elements: str) -> Response:
    """A document in XML, as Twilio has it, and others after it.

    Args:
        elements: What its `Response` holds.
    """
    document = f'<?xml version="1.0" encoding="UTF-8"?><Response>{elements}</Response>'
    return Response(document, media_type="application/xml")


def text_of(value: object) -> str:
    """A value of a message whose shape is unknown, where it is a text; else an empty one."""
    return value if isinstance(value, str) else ""
