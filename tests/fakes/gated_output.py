"""An output transport that plays as much as a test lets it."""

import asyncio

from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    StartFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

WRITE_SECS = 0.04
"""Seconds of audio that Pipecat's transports write at a time."""

LIMIT_SECS = 5.0
"""How long `play` waits for the audio that it is to play."""


class GatedOutputTransport(BaseOutputTransport):
    """Pipecat's own output pacing, with the test's permits in the place of real time.

    Attributes:
        played: What has been written, as 16-bit mono samples.
        pressed: The keys that were pressed, each with how many bytes had been played by then.
        interrupted: Set once an interruption has come here: what was queued will not be played.
    """

    def __init__(self) -> None:
        """Make a transport that plays nothing yet."""
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_end_silence_secs=0))
        self.played = bytearray()
        self.pressed: list[tuple[str, int]] = []
        self.interrupted = asyncio.Event()
        self._permits = 0
        self._changed = asyncio.Condition()
        self._waiting = False

    async def play(self, secs: float) -> None:
        """Play `secs` more, a multiple of `WRITE_SECS`, and all that is queued behind it.

        Returns once the audio after that is waiting to be written: there must be some.

        Raises:
            TimeoutError: There was none within `LIMIT_SECS`.
        """
        async with asyncio.timeout(LIMIT_SECS), self._changed:
            self._permits += round(secs / WRITE_SECS)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._waiting and not self._permits)

    async def play_on(self) -> None:
        """Play everything from here on."""
        async with self._changed:
            self._permits = 1 << 30
            self._changed.notify_all()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note an interruption."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            self.interrupted.set()

    async def start(self, frame: StartFrame) -> None:
        """Be ready at once."""
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Play a frame once there is a permit for it."""
        async with self._changed:
            self._waiting = True
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: self._permits)
            finally:
                self._waiting = False
            self._permits -= 1
            self.played += frame.audio
        return True

    async def write_dtmf(self, frame: OutputDTMFFrame | OutputDTMFUrgentFrame) -> None:
        """Remember the keys."""
        self.pressed.append((frame.to_string(), len(self.played)))
