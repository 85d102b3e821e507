"""`parley.v1`: what the two ends of a worker's WebSocket say to each other.

Text frames hold one JSON object each, with a `type`; unknown fields are ignored, unknown types
answered with `error`. Binary frames hold audio: the utterance's number, 4 bytes, big-endian, then
signed 16-bit little-endian mono samples. Many utterances share one socket; whoever asks numbers
them.

    speak       →  begin, then words and audio in turn, then end   (or busy, or error)
    transcribe  →  audio of the announced length follows; transcript  (or busy, or error)
    cancel      →  nothing more of that utterance follows its `end`
    ping        →  pong
                   lease, when the socket opens and whenever what it says has changed
                   draining, when the worker takes no new utterances

Words precede the audio that completes them, so that audio which has come has its words.
"""

import struct
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.stt.engine import Segment
from services.tts.engine import SPEED_LIMITS, VoiceInfo, Word

SUBPROTOCOL = "parley.v1"

MAX_TEXT = 10_000
"""Characters of one utterance: more than ten minutes of speech."""

MAX_AUDIO = 120 * 2 * 16_000
"""Bytes of one utterance to recognise: two minutes."""

MAX_MESSAGE = 1 << 20
"""Bytes of one frame."""

T = TypeVar("T")

_NUMBER = struct.Struct(">I")

Id = Annotated[int, Field(ge=0, lt=1 << 32)]


class ProtocolError(Exception):
    """What came is not `parley.v1`; the message says what is wrong with it."""


class Message(BaseModel):
    """Anything that is said as JSON."""

    model_config = ConfigDict(frozen=True)


class Speak(Message):
    """Speak a text.

    Attributes:
        text: What to say, in plain words.
        voice: One of the worker's; empty for its default one.
        speed: 1.0 is the voice's own pace.
    """

    type: Literal["speak"] = "speak"
    id: Id
    text: Annotated[str, Field(max_length=MAX_TEXT)]
    voice: Annotated[str, Field(max_length=200)] = ""
    speed: Annotated[float, Field(ge=SPEED_LIMITS[0], le=SPEED_LIMITS[1])] = 1.0


class Transcribe(Message):
    """Recognise the audio that follows.

    Attributes:
        bytes: How much follows, as 16 kHz samples in binary frames of the same number.
        language: ISO 639-1 code; None to let the engine tell.
    """

    type: Literal["transcribe"] = "transcribe"
    id: Id
    bytes: Annotated[int, Field(ge=0, le=MAX_AUDIO, multiple_of=2)]
    language: Annotated[str, Field(max_length=20)] | None = None


class Cancel(Message):
    """End an utterance; unknown numbers are ignored, for it may just have ended."""

    type: Literal["cancel"] = "cancel"
    id: Id


class Ping(Message):
    """Answer with a pong."""

    type: Literal["ping"] = "ping"


class Begin(Message):
    """An utterance begins; all its audio has this rate."""

    type: Literal["begin"] = "begin"
    id: Id
    sample_rate: Annotated[int, Field(ge=4000, le=192_000)]


class Words(Message):
    """The words whose last sample is in the next binary frame of the utterance."""

    type: Literal["words"] = "words"
    id: Id
    words: tuple[Word, ...]


class End(Message):
    """An utterance is over: spoken, or cancelled."""

    type: Literal["end"] = "end"
    id: Id


class Heard(Message):
    """What was recognised."""

    type: Literal["transcript"] = "transcript"
    id: Id
    segments: tuple[Segment, ...]
    language: str | None = None


class Busy(Message):
    """The worker has as many utterances as it can serve well, or takes no more."""

    type: Literal["busy"] = "busy"
    id: Id
    message: str = ""


class Error(Message):
    """An utterance failed, or a message could not be understood.

    Attributes:
        id: The utterance; None where the message named none.
        code: `unknown-voice`, `bad-request` or `failed`.
        message: One line for a person.
    """

    type: Literal["error"] = "error"
    id: Id | None = None
    code: str
    message: str


class Draining(Message):
    """The worker is about to stop: it finishes what it does, and takes no more."""

    type: Literal["draining"] = "draining"


class Pong(Message):
    """The answer to a ping."""

    type: Literal["pong"] = "pong"


class Lease(Message):
    """What a worker is and how busy: its entry in Redis, and the first thing its socket says.

    Attributes:
        url: Where its WebSocket is reached.
        engine: What speaks there; empty where nothing does.
        voices: That engine's voices, the default one first.
        resident: The names of the voices whose models are in memory.
        hears: What recognises speech there; empty where nothing does.
        capacity: Utterances that it serves at once.
        calls: Utterances that it is serving.
        draining: Whether it takes no more.
        version: Of Parley.
    """

    type: Literal["lease"] = "lease"
    url: Annotated[str, Field(pattern=r"^wss?://[^\s/?#]+(/[^\s?#]*)?$", max_length=300)]
    engine: str = ""
    voices: tuple[VoiceInfo, ...] = ()
    resident: tuple[str, ...] = ()
    hears: str = ""
    capacity: Annotated[int, Field(ge=1)] = 1
    calls: Annotated[int, Field(ge=0)] = 0
    draining: bool = False
    version: str = ""


Request = Speak | Transcribe | Cancel | Ping
"""What a worker is told."""

Reply = Begin | Words | End | Heard | Busy | Error | Draining | Pong | Lease
"""What a worker says."""

_by_type = Field(discriminator="type")
_requests: TypeAdapter[Request] = TypeAdapter(Annotated[Request, _by_type])
_replies: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, _by_type])


def parse_request(text: str) -> Request:
    """What a worker is told.

    Raises:
        ProtocolError: It is no such message.
    """
    return _parse(_requests, text)


def parse_reply(text: str) -> Reply:
    """What a worker says.

    Raises:
        ProtocolError: It is no such message.
    """
    return _parse(_replies, text)


def pack_audio(number: int, pcm: bytes) -> bytes:
    """A binary frame."""
    return _NUMBER.pack(number) + pcm


def unpack_audio(frame: bytes) -> tuple[int, bytes]:
    """The utterance's number and the samples of a binary frame.

    Raises:
        ProtocolError: It is too short, or ends within a sample.
    """
    if len(frame) < _NUMBER.size or len(frame) % 2:
        raise ProtocolError(f"a binary frame of {len(frame)} bytes holds no number and samples")
    return _NUMBER.unpack_from(frame)[0], frame[_NUMBER.size :]


def _parse(messages: TypeAdapter[T], text: str) -> T:
    try:
        return messages.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise ProtocolError(said[:300]) from None
