"""What carries a call: its transport, who is at the other end, and what can be asked of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipecat.transports.base_transport import BaseTransport


@dataclass(frozen=True)
class Origin:
    """Where a call comes from.

    Attributes:
        transport: What carries it: `webrtc`, `daily`, `livekit`, or the carrier's name.
        id: What the carrier or the room calls it; empty where there is no such name.
        caller: The number or address of who is at the other end, in full; empty if unknown.
        called: The number that they called, or from which they were called.
        outbound: Whether the agent called them.
        data: What else the carrier says: SIP attributes, custom parameters.
    """

    transport: str
    id: str = ""
    caller: str = ""
    called: str = ""
    outbound: bool = False
    data: Mapping[str, str] = field(default_factory=dict)


AnsweredBy = Literal["", "human", "machine"]
"""Who answered a call of the agent's; empty while nobody knows."""


class LineError(Exception):
    """The line cannot do what was asked; the message is one line."""


class Line:
    """What carries a call. Each way in has one of its own."""

    sample_rate: int | None = None
    """The rate of the audio both ways, in Hz; None where the transport takes any."""

    awaits_client: bool = False
    """Whether an RTVI client is expected, which the greeting then waits for."""

    client_messages: frozenset[str] = frozenset()
    """Types of RTVI message that its client may send besides those that every caller may."""

    can_transfer: bool = False
    """Whether `transfer` works."""

    detect_machine: bool = False
    """Whether the call has to find out by itself if a machine has answered it."""

    connect_seconds: float | None = None
    """How long whoever is at the other end may take to come; None takes the setting."""

    def __init__(self, transport: "BaseTransport", origin: Origin) -> None:
        """Wrap a transport that is about to connect.

        Args:
            transport: What carries the audio.
            origin: Where the call comes from.
        """
        self._data = dict(origin.data)
        self.transport = transport
        self.origin = replace(origin, data=self._data)

    @property
    def occupied(self) -> bool:
        """Whether somebody is still there after another has left; the call then goes on."""
        return False

    def answered_by(self, who: AnsweredBy) -> None:
        """Note who answered the agent's call, as `answered_by` in its origin's data.

        Args:
            who: A person, or a machine.
        """
        self._data["answered_by"] = who

    async def until_heard(self) -> None:
        """Return once the other end hears what is said; the greeting waits for it a moment."""

    async def transfer(self, to: str) -> None:
        """Connect the person with someone else. The agent's part of the call then ends.

        Called when everything that the agent has said before was played.

        Args:
            to: A number in E.164, or a SIP address.

        Raises:
            LineError: It cannot be done.
        """
        raise LineError("this line cannot be transferred")

    async def close(self) -> None:
        """Let go of the line, hanging up where it is still open; called once, after the call."""


def is_number(text: str) -> bool:
    """Whether a text is a telephone number in E.164: a plus sign and up to 15 digits."""
    return re.fullmatch(r"\+[1-9][0-9]{1,14}", text) is not None


def is_sip(text: str) -> bool:
    """Whether a text is a SIP address like `sip:desk@example.org`."""
    parts = r"sips?:[\w.+~-]{1,64}@[\w.-]{1,253}(:\d{1,5})?(;[\w.=-]{1,64}){0,8}"
    return re.fullmatch(parts, text, re.ASCII) is not None


def e164(text: str) -> str:
    """A number as carriers write it that leave out the plus sign; anything else as it is."""
    return f"+{text}" if is_number(f"+{text}") else text


def mask_number(number: str) -> str:
    """A telephone number or SIP address as a log may show it: its last two digits at most."""
    return f"***{number[-2:]}" if len(number) > 4 and number[-2:].isdigit() else "***"
