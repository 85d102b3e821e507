"""An agent's seat in a LiveKit room: signalling and media, so that LiveKit's own SDK can join.

Written from LiveKit's protocol (`livekit_rtc.proto`, `livekit_models.proto`, and "Client protocol"
in its documents): a WebSocket at `/rtc` carries `SignalRequest` and `SignalResponse`, and each side
has a peer connection on which it makes the offers. People are not connections here: a test puts
them in, has them speak and press keys, and hears what the agent says to the room.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from uuid import uuid4

import numpy as np
from aiohttp import WSMsgType, web
from aiortc import (
    AudioStreamTrack,
    MediaStreamTrack,
    RTCIceCandidate,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp
from av import AudioFrame
from livekit.protocol.models import DataPacket, ParticipantInfo, Room, SipDTMF, TrackInfo, TrackType
from livekit.protocol.rtc import (
    JoinResponse,
    LeaveRequest,
    ParticipantUpdate,
    Pong,
    SessionDescription,
    SignalRequest,
    SignalResponse,
    SignalTarget,
    TrackPublishedResponse,
    TrackSubscribed,
)

from tests.callers.audio import Heard, Samples, level_db

SERVER_VERSION = "1.9.0"

PROTOCOL = 15
"""The version of the protocol that this server speaks."""

STEREO = 2

RATE = 8000
"""What aiortc's own track sends, in samples a second."""


class Microphone(AudioStreamTrack):
    """Sends what is said in real time, and silence between."""

    def __init__(self) -> None:
        """A microphone that nobody speaks into."""
        super().__init__()
        self._said = np.zeros(0, np.int16)

    def say(self, samples: Samples) -> None:
        """Speak after what is being said.

        Args:
            samples: Speech at `RATE`.
        """
        self._said = np.concatenate([self._said, samples])

    async def recv(self) -> AudioFrame:
        """The next 20 ms, when they are due."""
        frame = await super().recv()
        assert isinstance(frame, AudioFrame)
        part, self._said = np.split(self._said, [frame.samples])
        plane = np.zeros(frame.samples, "<i2")
        plane[: len(part)] = part
        frame.planes[0].update(plane.tobytes())
        return frame


class Person:
    """Someone whom a test has put into a room.

    Attributes:
        info: What LiveKit tells of them.
        microphone: Where they speak.
    """

    def __init__(self, info: ParticipantInfo) -> None:
        """Make a person who has a microphone."""
        self.info = info
        self.microphone = Microphone()
        self.track = TrackInfo(sid=f"TR_{uuid4().hex[:12]}", type=TrackType.AUDIO, name="mic")
        info.tracks.append(self.track)


class AgentSeat:
    """The server's side of an agent's connection.

    Attributes:
        identity: Who the agent says it is.
        heard: What it sends, frame by frame.
        pressed: The keys that it presses.
        subscribed: When its audio went to somebody, on the clock of `time.monotonic`; or 0.
        gone: Set when it has left.
    """

    def __init__(
        self, room: Room, identity: str, people: dict[str, Person], delay_subscription: float
    ) -> None:
        """Take a seat in a room.

        Args:
            room: The room.
            identity: The agent's.
            people: Who is there.
            delay_subscription: Seconds until the agent's audio goes to them.
        """
        self.subscribed = 0.0
        self.identity = identity
        self.heard: list[Heard] = []
        self.pressed: list[str] = []
        self.gone = asyncio.Event()
        self.info = ParticipantInfo(
            sid=f"PA_{uuid4().hex[:12]}",
            identity=identity,
            kind=ParticipantInfo.Kind.AGENT,
            state=ParticipantInfo.State.ACTIVE,
        )
        self._agents: list[ParticipantInfo] = []
        self._room = room
        self._people = people
        self._delay_subscription = delay_subscription
        self._socket: web.WebSocketResponse | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._early: list[tuple[RTCPeerConnection, RTCIceCandidate]] = []
        self._undescribed: dict[RTCPeerConnection, SignalRequest] = {}
        self._answered = asyncio.Event()
        self._offers = asyncio.Lock()
        # The agent makes the offers on the one, the server on the other.
        self._from_agent, self._to_agent = RTCPeerConnection(), RTCPeerConnection()
        self._data = self._to_agent.createDataChannel("_reliable")
        self._to_agent.createDataChannel("_lossy", ordered=False, maxRetransmits=0)
        self._from_agent.on("track", self._on_track)
        self._from_agent.on("datachannel", self._on_data_channel)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Talk to the agent's SDK until it leaves."""
        self._socket = web.WebSocketResponse()
        await self._socket.prepare(request)
        people = [person.info for person in self._people.values()]
        join = JoinResponse(
            room=self._room,
            participant=self.info,
            other_participants=people + self._agents,
            server_version=SERVER_VERSION,
            subscriber_primary=True,
            ping_interval=10,
            ping_timeout=30,
        )
        join.server_info.version, join.server_info.protocol = SERVER_VERSION, PROTOCOL
        await self._send(SignalResponse(join=join))
        for person in self._people.values():
            self._add_track(person)
        self._spawn(self._offer())
        try:
            async for message in self._socket:
                if message.type == WSMsgType.BINARY:
                    asked = SignalRequest()
                    asked.ParseFromString(message.data)
                    await self._hear(asked)
        finally:
            self.gone.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(self._from_agent.close(), self._to_agent.close())
        return self._socket

    def beside(self, other: "AgentSeat") -> None:
        """Tell the agent of another one in its room, from which it hears nothing."""
        self._agents.append(other.info)
        self._update(other.info)

    def person_joined(self, person: Person) -> None:
        """Tell the agent of someone, and have it hear them."""
        self._update(person.info)
        self._spawn(self._offer(person))

    def person_changed(self, person: Person) -> None:
        """Tell the agent of someone as they are now."""
        self._update(person.info)

    def person_left(self, person: Person) -> None:
        """Tell the agent that someone has left."""
        person.info.state = ParticipantInfo.State.DISCONNECTED
        self._update(person.info)

    def put_out(self) -> None:
        """Have the agent leave, as it must when its room is deleted."""
        leave = LeaveRequest(action=LeaveRequest.Action.DISCONNECT)
        self._spawn(self._send(SignalResponse(leave=leave)))

    def press(self, person: Person, digit: str, code: int) -> None:
        """Have a SIP caller press a key."""
        packet = DataPacket(
            kind=DataPacket.Kind.RELIABLE,
            participant_identity=person.info.identity,
            sip_dtmf=SipDTMF(code=code, digit=digit),
        )
        self._data.send(packet.SerializeToString())

    def _update(self, info: ParticipantInfo) -> None:
        update = ParticipantUpdate(participants=[info])
        self._spawn(self._send(SignalResponse(update=update)))

    async def _send(self, response: SignalResponse) -> None:
        if self._socket is not None and not self._socket.closed:
            await self._socket.send_bytes(response.SerializeToString())

    async def _hear(self, asked: SignalRequest) -> None:
        match asked.WhichOneof("message"):
            case "offer":
                await self._describe(self._from_agent, asked)
            case "answer":
                await self._describe(self._to_agent, asked)
            case "trickle":
                await self._add_candidate(asked)
            case "add_track":
                track = TrackInfo(
                    sid=f"TR_{uuid4().hex[:12]}",
                    type=asked.add_track.type,
                    name=asked.add_track.name,
                    source=asked.add_track.source,
                )
                published = TrackPublishedResponse(cid=asked.add_track.cid, track=track)
                await self._send(SignalResponse(track_published=published))
                self._spawn(self._subscribe(track))
            case "ping_req":
                pong = Pong(
                    last_ping_timestamp=asked.ping_req.timestamp, timestamp=int(time.time() * 1000)
                )
                await self._send(SignalResponse(pong_resp=pong))
            case "leave":
                if self._socket is not None:
                    await self._socket.close()

    async def _subscribe(self, track: TrackInfo) -> None:
        await asyncio.sleep(self._delay_subscription)
        self.subscribed = time.monotonic()
        subscribed = TrackSubscribed(track_sid=track.sid)
        await self._send(SignalResponse(track_subscribed=subscribed))

    async def _add_candidate(self, asked: SignalRequest) -> None:
        told = json.loads(asked.trickle.candidateInit)
        if not told.get("candidate"):
            return
        candidate = candidate_from_sdp(told["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = told["sdpMid"], told["sdpMLineIndex"]
        ours = asked.trickle.target == SignalTarget.SUBSCRIBER
        peer = self._to_agent if ours else self._from_agent
        if peer.remoteDescription is not None:
            await peer.addIceCandidate(candidate)
            return
        self._early.append((peer, candidate))
        if described := self._undescribed.pop(peer, None):
            await self._describe(peer, described)

    async def _describe(self, peer: RTCPeerConnection, asked: SignalRequest) -> None:
        """Take the agent's offer or answer, and the candidates that came before it."""
        early = [candidate for other, candidate in self._early if other is peer]
        # aiortc gives up at once where it knows no candidate.
        if peer.remoteDescription is None and not early:
            self._undescribed[peer] = asked
            return
        self._early = [(other, candidate) for other, candidate in self._early if other is not peer]
        told = asked.offer if peer is self._from_agent else asked.answer
        await peer.setRemoteDescription(RTCSessionDescription(told.sdp, told.type))
        for candidate in early:
            await peer.addIceCandidate(candidate)
        if peer is self._to_agent:
            self._answered.set()
            return
        await peer.setLocalDescription(await peer.createAnswer())
        answer = SessionDescription(type="answer", sdp=peer.localDescription.sdp, id=told.id)
        await self._send(SignalResponse(answer=answer))

    def _add_track(self, person: Person) -> None:
        sender = self._to_agent.addTrack(person.microphone)
        # How LiveKit names the streams of a subscriber.
        sender._stream_id = f"{person.info.sid}|{person.track.sid}"

    async def _offer(self, joined: Person | None = None) -> None:
        async with self._offers:
            # Not before it is its turn: with a track that was not offered aiortc is not connected.
            if joined:
                self._add_track(joined)
            self._answered.clear()
            await self._to_agent.setLocalDescription(await self._to_agent.createOffer())
            offer = SessionDescription(type="offer", sdp=self._to_agent.localDescription.sdp)
            await self._send(SignalResponse(offer=offer))
            async with asyncio.timeout(20):
                await self._answered.wait()
                # aiortc never sends a track whose answer comes while it connects.
                while self._to_agent.connectionState != "connected":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._spawn(self._listen(track))

    def _on_data_channel(self, channel: object) -> None:
        def hear(message: str | bytes) -> None:
            packet = DataPacket()
            packet.ParseFromString(message if isinstance(message, bytes) else message.encode())
            if packet.HasField("sip_dtmf"):
                self.pressed.append(packet.sip_dtmf.digit)

        on: Callable[[str, object], object] = channel.on  # type: ignore[attr-defined]
        on("message", hear)

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            samples: Samples = np.asarray(frame.to_ndarray().reshape(-1)[::STEREO], np.int16)
            self.heard.append(Heard(time.monotonic(), samples, level_db(samples)))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
