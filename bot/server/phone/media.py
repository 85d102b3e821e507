"""A carrier's media socket: how it begins, Pipecat's transport on it, and the line that it is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import count

from fastapi import WebSocket
from loguru import logger
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ControlFrame,
    EndWorkerFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketClient,
    FastAPIWebsocketOutputTransport,
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)
from starlette.websockets import WebSocketDisconnect

from bot.line import Line, LineError, Origin, is_number, is_sip
from bot.server.phone.carrier import Carrier, HandshakeError, Start, parse_object
from bot.token_bucket import TokenBucket
from processors.hang_up import TransferFrame

PHONE_RATE = 8000
"""Samples a second of a telephone call, all the way through the pipeline."""

HANDSHAKE_SECONDS = 5.0
"""How long a media socket may take to say which call it carries."""

HANDSHAKE_MESSAGES = 8
"""How many messages it may need for that; carriers send one or two."""

MARK_SECONDS = 2.0
"""How long the echo of a mark may take beyond the audio before it, which leaves as it is played."""

MAX_MESSAGE_BYTES = 64 * 1024
"""The largest message: a second of PCM at 16 kHz in base64 has 43 kilobytes."""

MIN_MESSAGE_COST = 256
"""Bytes that a small message counts as."""

JUNK_COST = 32 * 1024
"""Bytes that a message counts as which nobody can understand."""

BYTES_A_SECOND = 64 * 1024
"""What a socket may send for long: twice PCM at 16 kHz, the most that any carrier sends."""

BYTES_AT_ONCE = 1024 * 1024
"""What it may send at once, as after the network stood still: half a minute of that."""

NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
"""Why a socket is closed (RFC 6455 and the IANA registry)."""


async def shake_hands(socket: WebSocket, carrier: Carrier) -> Start:
    """Read what a socket that was accepted says of its call.

    Args:
        socket: The socket.
        carrier: Who opened it.

    Raises:
        HandshakeError: It says nothing in time, or nonsense; or it closes.
    """
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            for _ in range(HANDSHAKE_MESSAGES):
                message = await socket.receive()
                text = message.get("text")
                if message["type"] == "websocket.disconnect":
                    raise HandshakeError("it closed before its start")
                if text is None or len(text) > MAX_MESSAGE_BYTES:
                    raise HandshakeError("its start is no text, or a long one")
                if (told := parse_object(text)) is None:
                    raise HandshakeError("its start is no JSON object")
                if (start := carrier.start(told)) is not None:
                    return start
    except TimeoutError:
        raise HandshakeError(f"no start came in {HANDSHAKE_SECONDS:g} s") from None
    raise HandshakeError(f"no start came in {HANDSHAKE_MESSAGES} messages")


@dataclass
class MarkFrame(ControlFrame):
    """Asks the carrier to say when all audio before it was played.

    Parameters:
        mark: What its echo bears; `name` is Pipecat's own.
    """

    mark: str = ""


class MediaSerializer(FrameSerializer):
    """Pipecat's serializer for a carrier, and what that leaves out: marks, `stop`, and limits.

    Nothing that comes can raise: what cannot be understood is dropped, and the call ended where it
    is too much.
    """

    def __init__(
        self, carrier: Carrier, start: Start, *, on_end: Callable[[], Awaitable[None]]
    ) -> None:
        """Take over a socket whose start was read.

        Args:
            carrier: Who sends and reads the messages.
            start: What the socket said.
            on_end: Called once when the carrier says that the call is over, or sends too much.
        """
        super().__init__()
        self.stopped = False
        """Whether the carrier said that the call is over, or no longer ours."""
        self._carrier = carrier
        self._start = start
        self._serializer = carrier.serializer(start)
        self._on_end = on_end
        self._allowance = TokenBucket(BYTES_AT_ONCE, BYTES_A_SECOND)
        self._over = False
        self._marks: dict[str, asyncio.Event] = {}
        self._names = count(1)

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override]
        """Tell the carrier's serializer the pipeline's rate.

        Args:
            setup: What the pipeline is set up with.
        """
        await self._serializer.setup(setup)

    def mark(self) -> tuple[MarkFrame, asyncio.Event]:
        """A mark to send, and what its echo sets."""
        frame = MarkFrame(mark=f"mark-{next(self._names)}")
        played = self._marks[frame.mark] = asyncio.Event()
        return frame, played

    async def serialize(self, frame: Frame) -> str | bytes | None:
        """The message for a frame; None where there is none.

        Args:
            frame: The frame.
        """
        if isinstance(frame, MarkFrame):
            return self._carrier.mark(self._start, frame.mark)
        return await self._serializer.serialize(frame)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The frame in a message; None where there is none.

        Args:
            data: The message, from anyone who got this far.
        """
        if self._over:
            return None
        understood, frame = await self._read(data)
        cost = max(len(data), MIN_MESSAGE_COST) if understood else JUNK_COST
        if not self._allowance.take(cost):
            logger.warning("{}: a media socket sent too much and is closed", self._carrier.name)
            await self._end()
        return frame

    async def _read(self, data: str | bytes) -> tuple[bool, Frame | None]:
        """Whether a message can be understood, and the frame in it."""
        if len(data) > MAX_MESSAGE_BYTES:
            return False, None
        if isinstance(data, str):
            message = parse_object(data)
            if message is None:
                return False, None
            if self._carrier.stops(message):
                self.stopped = True
                await self._end()
                return True, None
            if (mark := self._carrier.marked(message)) is not None:
                if played := self._marks.pop(mark, None):
                    played.set()
                return True, None
        elif not self._carrier.binary_audio:
            return False, None
        try:
            frame = await self._serializer.deserialize(data)
        except Exception:
            # It is made for what carriers send, and stumbles over most of what they do not.
            return False, None
        if isinstance(frame, InputAudioRawFrame) and len(frame.audio) % 2:
            return False, None
        return True, frame

    async def _end(self) -> None:
        self._over = True
        for played in self._marks.values():
            played.set()
        await self._on_end()


class MediaOutput(FastAPIWebsocketOutputTransport):
    """Pipecat's output, for which the carrier's marks tell when words were played.

    Pipecat's own takes the agent to have stopped when the last of it was sent. Here that is told,
    and a call ended or transferred, when the carrier has played it, `MARK_SECONDS` later at most.
    """

    def __init__(
        self,
        transport: "MediaTransport",
        client: FastAPIWebsocketClient,
        params: FastAPIWebsocketParams,
        *,
        media: MediaSerializer,
        name: str | None,
    ) -> None:
        """Write to a socket.

        Args:
            transport: What this is the output of.
            client: The socket.
            params: The transport's.
            media: What writes the messages.
            name: The processor's.
        """
        super().__init__(transport, client, params, name=name)
        self._media = media
        self._held: list[tuple[Frame, FrameDirection]] = []
        self._release: asyncio.Task[None] | None = None
        self._cut = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Follow interruptions: what is cut off is not waited for.

        Args:
            frame: The frame.
            direction: Where it travels.
        """
        self._cut = isinstance(frame, InterruptionFrame)
        try:
            await super().process_frame(frame, direction)
        finally:
            self._cut = False
        if isinstance(frame, InterruptionFrame):
            await self._push_held()

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        """Hold what says that the agent has stopped until the carrier says so.

        Args:
            frame: The frame.
            direction: Where it travels.
        """
        if isinstance(frame, BotStoppedSpeakingFrame) and not self._cut:
            self._held.append((frame, direction))
            if self._release is None:
                self._release = self.create_task(self._release_when_played())
            return
        if isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            await self._push_held()
        await super().push_frame(frame, direction)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Send audio in the carrier's messages, as it is played: a key's tone comes in one piece.

        Args:
            frame: The audio.

        Returns:
            Whether the socket took it.
        """
        for start in range(0, len(frame.audio), self.audio_chunk_size):
            audio = frame.audio[start : start + self.audio_chunk_size]
            if not await super().write_audio_frame(
                OutputAudioRawFrame(audio, frame.sample_rate, frame.num_channels)
            ):
                return False
        return True

    async def write_transport_frame(self, frame: Frame) -> None:
        """Hold what ends the agent's part until the carrier has played what is before it.

        Args:
            frame: What is due after all audio before it was sent.
        """
        await super().write_transport_frame(frame)
        if isinstance(frame, (EndWorkerFrame, TransferFrame)):
            await self._until_played()

    async def cleanup(self) -> None:
        """Wait for nothing more."""
        await self._give_up_waiting()
        await super().cleanup()

    async def _until_played(self) -> None:
        """Return when the carrier has played what was sent, or takes too long."""
        mark, played = self._media.mark()
        if await self._write_frame(mark):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(played.wait(), MARK_SECONDS)

    async def _release_when_played(self) -> None:
        await self._until_played()
        self._release = None
        await self._push_held()

    async def _give_up_waiting(self) -> None:
        if (release := self._release) is not None:
            self._release = None
            await self.cancel_task(release)

    async def _push_held(self) -> None:
        """Tell what is held, without waiting any longer."""
        await self._give_up_waiting()
        held, self._held = self._held, []
        for frame, direction in held:
            await super().push_frame(frame, direction)


class MediaTransport(FastAPIWebsocketTransport):
    """Pipecat's transport on a carrier's socket."""

    def __init__(self, socket: WebSocket, carrier: Carrier, start: Start) -> None:
        """Take over a socket whose start was read.

        Args:
            socket: The socket.
            carrier: Who opened it.
            start: What it said.
        """
        self.media = MediaSerializer(carrier, start, on_end=self._end)
        super().__init__(
            socket,
            FastAPIWebsocketParams(
                audio_in_enabled=True,
                audio_out_enabled=True,
                audio_out_10ms_chunks=carrier.chunk_ms // 10,
                # The mark tells when the last word was played; silence behind it would only wait.
                audio_out_end_silence_secs=0,
                serializer=self.media,
                # Carriers are no web pages: their sockets have no origin.
                allowed_origins=[],
            ),
        )
        self._output = MediaOutput(
            self, self._client, self._params, media=self.media, name=self._output_name
        )

    async def _end(self) -> None:
        await self._on_client_disconnected(self._client)


class PhoneLine(Line):
    """A telephone call."""

    sample_rate = PHONE_RATE

    can_transfer = True

    transport: MediaTransport

    def __init__(self, socket: WebSocket, carrier: Carrier, origin: Origin, start: Start) -> None:
        """Take over a socket whose start was read.

        Args:
            socket: The socket.
            carrier: Who opened it.
            origin: The call that was signed for.
            start: What the socket said.
        """
        data = {**origin.data, **start.data}
        super().__init__(MediaTransport(socket, carrier, start), replace(origin, data=data))
        self.detect_machine = origin.outbound and not carrier.detects_machines
        self._socket = socket
        self._carrier = carrier
        self._transferred = False

    async def transfer(self, to: str) -> None:
        """Connect the other end with someone else, over the carrier's REST API.

        Args:
            to: A number in E.164, or a SIP address.

        Raises:
            LineError: It is neither, or the carrier did not.
        """
        if not (is_number(to) or is_sip(to)):
            raise LineError("that is neither a number like +4930123456 nor a SIP address")
        # Before it is known, since the carrier takes the call from us before it says so.
        self._transferred = True
        try:
            await self._carrier.transfer(self.origin, to)
        except LineError:
            self._transferred = False
            raise

    async def close(self) -> None:
        """Hang up, unless the carrier said that the call is over or has taken it from us."""
        if not (self.transport.media.stopped or self._transferred):
            await hang_up(self._carrier, self.origin)
        await close_socket(self._socket)


async def close_socket(socket: WebSocket, code: int = NORMAL_CLOSURE) -> None:
    """Close a socket, which the other side may have closed before.

    Args:
        socket: The socket, accepted or not.
        code: Why, as RFC 6455 has it.
    """
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(code)


async def hang_up(carrier: Carrier, origin: Origin) -> None:
    """Have a carrier end a call, and log it where it does not.

    Args:
        carrier: Who carries it.
        origin: The call.
    """
    try:
        await carrier.hang_up(origin.id)
    except LineError as error:
        logger.warning("{} {}: not hung up: {}", carrier.name, origin.id[:80], error)
