"""A caller over WebRTC: what a browser does to talk to the agent, in Python and without a screen.

It speaks the protocol of Pipecat's client SDKs, so it calls Parley and a stock Pipecat bot alike:
`POST /start`, an SDP offer to `/sessions/{id}/api/offer`, one audio track each way and an RTVI data
channel. It notes what it hears and is told together with the time, so that tests and benchmarks
ask for durations instead of sleeping:

    async with WebRTCCaller("http://127.0.0.1:7860") as caller:
        await caller.wait_for_speech()
        spoken = await caller.say(load_wav("question.wav", SAMPLE_RATE))
        answer = await caller.wait_for_speech(after=spoken.end)

All times are `time.monotonic()`; on Linux the clock is the same in every process.
"""

import asyncio
import json
import time
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler

from tests.callers.audio import (
    Heard,
    Samples,
    fell_silent,
    first_sound,
    level_db,
    speech_extent,
)

SAMPLE_RATE = 48000
"""Samples a second of all audio here, both ways: Opus's own rate."""

FRAME_SAMPLES = SAMPLE_RATE // 50
"""Samples in a frame: 20 ms, as WebRTC sends them."""

RTVI_LABEL = "rtvi-ai"
RTVI_VERSION = "2.2.0"

PING_SECONDS = 1.0
"""Time between the keep-alives by which Pipecat tells that a caller is still there."""

CONNECT_LIMIT = 20.0
WAIT_LIMIT = 30.0
"""Seconds that a wait may take unless the caller says otherwise."""

T = TypeVar("T")


class CallRefusedError(Exception):
    """The server answered a request to call it with an error status.

    Attributes:
        status: The HTTP status.
        detail: What the answer says about it, or its body where it is not our JSON.
        retry_after: The `Retry-After` header, if there was one.
    """

    def __init__(self, response: httpx.Response):
        self.status = response.status_code
        self.retry_after = response.headers.get("retry-after")
        try:
            self.detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            self.detail = response.text
        super().__init__(f"{response.request.url.path}: {self.status} {self.detail}")


class CallEndedError(Exception):
    """The call ended while something was still awaited from it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the data channel.

    Attributes:
        at: When it arrived.
        type: Its RTVI type, for example `user-input`.
        data: Its payload; empty where it has none.
        id: The message that it answers, or its own name.
    """

    at: float
    type: str
    data: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Speech that was sent.

    Attributes:
        start: When the packet with its first sound left.
        end: When the packet with its last sound leaves: `start` and the speech's own length.
    """

    start: float
    end: float


@dataclass(slots=True)
class Segment:
    """A stretch of the agent's text that is spoken in one piece, mostly a sentence.

    Attributes:
        at: When it was announced.
        text: All of it.
        spoken: As much of it as the agent says has been spoken.
    """

    at: float
    text: str
    spoken: str = ""


@dataclass(slots=True)
class _Clip:
    """Samples to send, the speech within them, and when that left."""

    samples: Samples
    speech_start: int
    speech_seconds: float
    sent: int = 0
    spoken: Spoken | None = None


class _Microphone(MediaStreamTrack):
    """A track that sends the queued clips in real time, and digital silence between them."""

    kind = "audio"

    def __init__(self, notify: Callable[[], None]):
        super().__init__()
        self._notify = notify
        self._clips: deque[_Clip] = deque()
        self._started: float | None = None
        self._position = 0

    def play(self, clip: _Clip) -> None:
        self._clips.append(clip)

    async def recv(self) -> AudioFrame:
        """The next 20 ms, when they are due."""
        if self.readyState != "live":
            raise MediaStreamError
        if self._started is None:
            self._started = time.monotonic()
        due = self._started + self._position / SAMPLE_RATE
        await asyncio.sleep(due - time.monotonic())

        frame = AudioFrame.from_ndarray(self._next_samples()[None, :], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = self._position
        self._position += FRAME_SAMPLES
        return frame

    def _next_samples(self) -> Samples:
        samples = np.zeros(FRAME_SAMPLES, np.int16)
        filled = 0
        while self._clips and filled < FRAME_SAMPLES:
            clip = self._clips[0]
            part = clip.samples[clip.sent : clip.sent + FRAME_SAMPLES - filled]
            samples[filled : filled + len(part)] = part
            filled += len(part)
            clip.sent += len(part)
            if clip.spoken is None and clip.sent > clip.speech_start:
                now = time.monotonic()
                clip.spoken = Spoken(now, now + clip.speech_seconds)
                self._notify()
            if clip.sent == len(clip.samples):
                self._clips.popleft()
        return samples


class WebRTCCaller:
    """One call to an agent.

    Use it as an async context manager: entering connects, leaving hangs up.

    Attributes:
        frames: Every 20 ms frame of the agent's audio, in order of arrival.
        messages: Every message of the data channel, in order of arrival.
        segments: The agent's text by segment, in order of announcement.
        dialled_at: When the first HTTP request of the call left.
        connected_at: When the media path stood.
        session: The session's name, as the server gave it.
        pc_id: The server's name for the connection.
    """

    def __init__(
        self,
        url: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        """Prepare a call.

        Args:
            url: The server's address, for example `http://127.0.0.1:7860`.
            body: What the session is to be told (`body` of `POST /start`).
            headers: What `POST /start` is sent with: a key, say.
        """
        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._body = dict(body or {})
        self.frames: list[Heard] = []
        self.messages: list[Message] = []
        self.segments: dict[int, Segment] = {}
        self.dialled_at = 0.0
        self.connected_at = 0.0
        self.session = ""
        self.pc_id = ""
        self._pc = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._news = asyncio.Event()
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []
        self._microphone = _Microphone(self._notify)
        self._pc.addTrack(self._microphone)
        self._channel = self._pc.createDataChannel("chat", ordered=True)
        self._channel.on("open", self._on_open)
        self._channel.on("message", self._on_message)
        self._pc.on("track", self._on_track)
        self._pc.on("connectionstatechange", self._on_state)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # The call's life

    async def connect(self) -> None:
        """Dial, and return once the media path stands.

        Raises:
            CallRefusedError: The server does not take the call.
            TimeoutError: No connection came about within `CONNECT_LIMIT`.
        """
        self.dialled_at = time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=CONNECT_LIMIT) as http:
            start = await http.post(
                "/start",
                json={
                    "transport": "webrtc",
                    "enableDefaultIceServers": False,
                    "body": self._body,
                },
                headers=self._headers,
            )
            if start.is_error:
                raise CallRefusedError(start)
            self.session = start.json()["sessionId"]
            await self._pc.setLocalDescription(await self._pc.createOffer())
            offer = self._pc.localDescription
            answer = await http.post(
                f"/sessions/{self.session}/api/offer", json={"sdp": offer.sdp, "type": offer.type}
            )
            if answer.is_error:
                raise CallRefusedError(answer)
        told = answer.json()
        self.pc_id = told["pc_id"]
        await self._pc.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
        await self._until(lambda: self.connected_at or None, CONNECT_LIMIT, "the connection")

    async def close(self) -> None:
        """Hang up; the server is told. Safe to call again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pc.close()
        self._end()

    def vanish(self) -> None:
        """Stop sending and answering without a word, as a caller whose network is gone.

        The sockets stay open, so that not even the kernel tells the server. `close` still works.
        """
        # aiortc has no way to cut the wire; its ICE sockets are where everything passes.
        sctp: Any = self._pc.sctp
        for protocol in sctp.transport.transport._connection._protocols:
            protocol.transport.sendto = lambda *_: None
            protocol.datagram_received = lambda *_: None

    # What the caller does

    async def say(self, samples: Samples) -> Spoken:
        """Send speech, and return as soon as its first sound has left.

        Args:
            samples: A recording at `SAMPLE_RATE`; what was queued earlier is sent first.

        Raises:
            ValueError: The recording is silent.
            CallEndedError: The call ended before the first sound left.
        """
        extent = speech_extent(samples, SAMPLE_RATE)
        clip = _Clip(samples, extent.start, (extent.end - extent.start) / SAMPLE_RATE)
        self._microphone.play(clip)
        limit = WAIT_LIMIT + len(samples) / SAMPLE_RATE
        return await self._until(lambda: clip.spoken, limit, "the sending of speech")

    def send(self, kind: str, data: Mapping[str, Any]) -> str:
        """Send an RTVI message and return its id."""
        name = uuid.uuid4().hex
        self._channel.send(
            json.dumps({"label": RTVI_LABEL, "type": kind, "id": name, "data": dict(data)})
        )
        return name

    def send_raw(self, message: str | bytes) -> None:
        """Put something on the data channel that may be no RTVI message at all."""
        self._channel.send(message)

    def send_text(self, text: str) -> str:
        """Type a turn instead of speaking it; the agent answers at once, aloud."""
        return self.send(
            "send-text",
            {"content": text, "options": {"run_immediately": True, "audio_response": True}},
        )

    async def request(self, kind: str, data: Mapping[str, Any]) -> Message:
        """Send a client message and return the server's answer.

        Returns:
            A `server-response` or an `error-response`.
        """
        name = self.send("client-message", {"t": kind, "d": dict(data)})
        return await self._until(
            lambda: next(
                (m for m in self.messages if m.id == name and m.type.endswith("-response")), None
            ),
            WAIT_LIMIT,
            f"an answer to {kind}",
        )

    # What the caller waits for

    async def wait_for_message(
        self,
        kind: str,
        predicate: Callable[[Mapping[str, Any]], bool] = lambda _: True,
        *,
        after: float = 0.0,
        limit: float = WAIT_LIMIT,
    ) -> Message:
        """The first message of a type that arrived after `after` and fits the predicate.

        Args:
            kind: Its RTVI type; `server-message/turn-latency` means a server message whose
                payload has that `type`.
            predicate: What its payload must satisfy.
            after: Messages that came before are not looked at.
            limit: Seconds to wait.

        Raises:
            TimeoutError: None came in time.
            CallEndedError: The call ended before one came.
        """
        outer, _, inner = kind.partition("/")

        def fits(m: Message) -> bool:
            named = m.type == outer and (not inner or m.data.get("type") == inner)
            return named and m.at >= after and predicate(m.data)

        def find() -> Message | None:
            return next((m for m in self.messages if fits(m)), None)

        return await self._until(find, limit, kind)

    async def wait_for_speech(self, after: float = 0.0, limit: float = WAIT_LIMIT) -> float:
        """When the agent was first heard at or after `after`: at once, if it is talking then."""
        return await self._until(
            lambda: first_sound(self._frames_since(after), after), limit, "the agent's voice"
        )

    async def wait_for_silence(
        self, after: float = 0.0, hold: float = 0.3, limit: float = WAIT_LIMIT
    ) -> float:
        """When the agent fell silent, seen from `after`; see `fell_silent`.

        Args:
            after: Time from which to listen.
            hold: Seconds of silence that count; more than the pauses between sentences where the
                end of a reply is meant.
            limit: Seconds to wait.
        """
        return await self._until(
            lambda: fell_silent(self._frames_since(after), after, hold),
            limit,
            "the agent's silence",
        )

    async def wait_for_words(
        self, count: int, after: float = 0.0, limit: float = WAIT_LIMIT
    ) -> list[str]:
        """The agent's spoken words since `after`, once there are at least `count` of them."""

        def enough() -> list[str] | None:
            words = self.spoken_words(after)
            return words if len(words) >= count else None

        return await self._until(enough, limit, f"{count} spoken words")

    async def wait_for_end(self, limit: float = WAIT_LIMIT) -> None:
        """Return once the call is over."""
        await self._until(lambda: self._ended or None, limit, "the end of the call")

    # What the caller has been told

    def spoken_words(self, after: float = 0.0, before: float = float("inf")) -> list[str]:
        """The words that the agent says it has spoken, of segments announced in between."""
        told = (s for s in self.segments.values() if after <= s.at < before)
        return [word for segment in told for word in segment.spoken.split()]

    def thought_words(self, after: float = 0.0, before: float = float("inf")) -> list[str]:
        """The words that the LLM produced in between, spoken or not."""
        told = (m for m in self.messages if m.type == "bot-llm-text" and after <= m.at < before)
        return "".join(m.data["text"] for m in told).split()

    def understood(self, after: float = 0.0) -> list[str]:
        """What the agent understood the caller to say, one final transcript an entry."""
        return [
            m.data["text"]
            for m in self.messages
            if m.at >= after
            and m.type == "user-input"
            and m.data["input_type"] == "transcription"
            and m.data["final"]
        ]

    def heard(self, after: float = 0.0, before: float = float("inf")) -> Samples:
        """The agent's audio that arrived between two times, at `SAMPLE_RATE`."""
        parts = [f.samples for f in self._frames_since(after) if f.at < before]
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    # Inside

    def _frames_since(self, after: float) -> list[Heard]:
        return self.frames[bisect_left(self.frames, after, key=lambda f: f.at) :]

    def _notify(self) -> None:
        """Let every wait look again."""
        self._news.set()
        self._news = asyncio.Event()

    def _end(self) -> None:
        self._ended = True
        self._notify()

    async def _until(self, probe: Callable[[], T | None], limit: float, what: str) -> T:
        """The probe's first result that is not None; it is asked again whenever anything happens.

        Raises:
            TimeoutError: There was none within `limit` seconds.
            CallEndedError: The call ended and there was still none.
        """
        try:
            async with asyncio.timeout(limit):
                while True:
                    # Taken before the probe, so that news during it is not missed.
                    news = self._news
                    if (found := probe()) is not None:
                        return found
                    if self._ended:
                        raise CallEndedError(f"the call ended before {what} came; {self._recent()}")
                    await news.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} did not come in {limit:g} s; {self._recent()}") from None

    def _recent(self) -> str:
        """The last things the server said, for an error message."""
        told = [f"{m.type} {json.dumps(m.data)[:160]}" for m in self.messages[-8:]]
        return "last messages: " + ("; ".join(told) or "none")

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self.connected_at = self.connected_at or time.monotonic()
            self._notify()
        elif state in ("closed", "failed"):
            self._end()

    def _on_open(self) -> None:
        self.send("client-ready", {"version": RTVI_VERSION, "about": {"library": "parley-tests"}})
        self._tasks.append(asyncio.create_task(self._ping()))

    async def _ping(self) -> None:
        while self._channel.readyState == "open":
            self._channel.send(f"ping: {time.time():.3f}")
            await asyncio.sleep(PING_SECONDS)

    def _on_message(self, text: str | bytes) -> None:
        now = time.monotonic()
        told = json.loads(text)
        data = told.get("data") or told.get("message") or {}
        message = Message(now, told["type"], data, told.get("id") or "")
        self.messages.append(message)
        if message.type == "bot-output":
            self._note_output(message)
        elif message.type == "signalling" and data.get("type") == "peerLeft":
            self._end()
        self._notify()

    def _note_output(self, message: Message) -> None:
        data = message.data
        segment = self.segments.setdefault(data["segment_id"], Segment(message.at, data["text"]))
        spoken = (data.get("spoken_progress") or {}).get("accumulated_text", "")
        if len(spoken) > len(segment.spoken):
            segment.spoken = spoken

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._tasks.append(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: MediaStreamTrack) -> None:
        to_mono = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if not isinstance(frame, AudioFrame):
                raise TypeError(f"an audio track gave a {type(frame).__name__}")
            now = time.monotonic()
            for mono in to_mono.resample(frame):
                samples = mono.to_ndarray()[0]
                self.frames.append(Heard(now, samples, level_db(samples)))
            self._notify()
