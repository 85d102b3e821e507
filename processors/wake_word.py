"""The wake word: until it is said, the agent neither hears nor answers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from loguru import logger
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    LLMMessagesAppendFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi.frames import RTVIServerMessageFrame

LISTENER_RATE = 16000
"""Samples a second of what a listener hears."""

STEP_S = 0.08
"""Seconds of audio that are listened to together: what openWakeWord's models move on by."""

HELD_S = 0.2
"""Seconds of audio before the word was made out that are heard after all. The models take about
that long, and who says "hey jarvis, what time is it" in one breath is past the "what" by then."""

ANSWER_S = 0.7
"""Seconds after the word in which a caller who goes on speaking gets no answer to it alone."""


class Listener(Protocol):
    """Listens to one stream; `services.wake.WakeWordListener` is one."""

    def hear(self, pcm: bytes) -> Sequence[object]:
        """What was heard in the next audio, 16-bit mono at 16 kHz: nothing, or the word."""


class WakeWord(FrameProcessor):
    """Keeps the caller's audio from everybody else until the wake word was said in it.

    It stands right behind the transport. Who writes or presses a key speaks to the agent without
    doubt: that wakes it too, and so does whatever the agent says of its own accord. It sleeps again
    once nobody has spoken for a while; time is counted in the caller's audio.

    Clients are told with the RTVI server message of `state`.

    Attributes:
        awake: Whether the caller is heard.
    """

    def __init__(
        self,
        listen: Callable[[], Listener],
        *,
        seconds: float,
        greeting: str,
        woken: str,
    ) -> None:
        """Create the processor, asleep.

        Args:
            listen: Begins to listen to a stream. It may block: it is called in a thread, as what it
                makes is.
            seconds: Of silence after which the word is needed again.
            greeting: What to say when the word was said for the first time and nothing else.
            woken: What to say the next times.
        """
        super().__init__()
        self.awake = False
        self._listen = listen
        self._seconds = seconds
        self._answers = [text for text in (woken, greeting) if text]
        self._answer = ""
        self._listener: Listener | None = None
        # It gets nothing while the agent is awake, and its stream goes on all the same.
        self._resampler = create_stream_resampler(clear_after_secs=None)
        self._unheard = b""
        self._held = b""
        self._speaking: set[str] = set()
        self._quiet_s = 0.0

    def state(self) -> dict[str, Any]:
        """What clients are told: `{"type": "wake", "awake": …}`."""
        return {"type": "wake", "awake": self.awake}

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Keep audio back while asleep, and follow who speaks.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await self._hear(frame)
            return
        if isinstance(frame, (UserStartedSpeakingFrame, BotStartedSpeakingFrame)):
            self._answer = ""
            self._speaking.add(_side(frame))
            await self._wake()
        elif isinstance(frame, (UserStoppedSpeakingFrame, BotStoppedSpeakingFrame)):
            self._speaking.discard(_side(frame))
            self._quiet_s = 0.0
        elif isinstance(frame, (LLMMessagesAppendFrame, InputDTMFFrame)):
            self._quiet_s = 0.0
            await self._wake()
        await self.push_frame(frame, direction)

    async def _hear(self, frame: InputAudioRawFrame) -> None:
        """Pass audio on, or listen for the word in it."""
        if self.awake and not self._speaking:
            self._quiet_s += len(frame.audio) / 2 / frame.sample_rate
            if self._quiet_s >= self._seconds:
                await self._sleep()
        if not self.awake and not await self._has_word(frame):
            return
        if not self.awake:
            self._answer = self._answers[-1] if self._answers else ""
            await self._wake()
            frame = InputAudioRawFrame(self._held, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame)
        if self._answer and self._quiet_s >= ANSWER_S:
            await self.push_frame(TTSSpeakFrame(self._answer))
            self._answer = ""
            del self._answers[1:]

    async def _has_word(self, frame: InputAudioRawFrame) -> bool:
        """Whether the word was made out in the audio up to now; true when woken meanwhile."""
        rate = frame.sample_rate
        self._held = (self._held + frame.audio)[-int(HELD_S * rate) * 2 :]
        self._unheard += await self._resampler.resample(frame.audio, rate, LISTENER_RATE)
        step = int(STEP_S * LISTENER_RATE) * 2
        whole = len(self._unheard) // step * step
        if not whole:
            return False
        pcm, self._unheard = self._unheard[:whole], self._unheard[whole:]
        # Some 6 ms of processor time, without the interpreter's lock.
        return await asyncio.to_thread(self._listen_to, pcm) or self.awake

    def _listen_to(self, pcm: bytes) -> bool:
        if self._listener is None:
            self._listener = self._listen()
        return bool(self._listener.hear(pcm))

    async def _wake(self) -> None:
        if self.awake:
            return
        logger.debug("{}: awake", self)
        self.awake = True
        self._quiet_s = 0.0
        # The next silence is another stream: the word in this one must not wake the agent again.
        self._listener = None
        self._unheard = b""
        await self.push_frame(RTVIServerMessageFrame(data=self.state()))

    async def _sleep(self) -> None:
        logger.debug("{}: asleep", self)
        self.awake = False
        self._held = b""
        await self.push_frame(RTVIServerMessageFrame(data=self.state()))


def _side(frame: Frame) -> str:
    """Whose speech a frame is about."""
    agents = isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame))
    return "agent" if agents else "caller"
