"""A line without a network: what is played is kept, and what it is asked to do is remembered."""

import asyncio
from typing import Any

from pipecat.frames.frames import Frame, LLMMessagesAppendFrame, StartFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

from bot.line import Line, LineError, Origin
from tests.fakes.gated_output import GatedOutputTransport


class _Input(BaseInputTransport):
    """Hears nothing, and tells its transport when it has started."""

    def __init__(self, transport: "FakeTransport") -> None:
        super().__init__(TransportParams(audio_in_enabled=True))
        self._transport = transport

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        await self._transport.connected()


class FakeTransport(BaseTransport):
    """A transport whose caller is there at once.

    Attributes:
        speaker: Where the agent's audio is played.
        running: Set once the pipeline runs.
    """

    def __init__(self) -> None:
        """Make both ends."""
        super().__init__()
        self.speaker = GatedOutputTransport()
        self.running = asyncio.Event()
        self._microphone = _Input(self)
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")

    def input(self) -> BaseInputTransport:
        """Where the caller is heard."""
        return self._microphone

    def output(self) -> GatedOutputTransport:
        """Where the agent is heard."""
        return self.speaker

    async def connected(self) -> None:
        """Tell that the caller is there."""
        await self._call_event_handler("on_client_connected", None)
        self.running.set()

    async def write(self, text: str) -> None:
        """Have the caller write something."""
        message: Any = {"role": "user", "content": text}
        frame: Frame = LLMMessagesAppendFrame([message], run_llm=True)
        await self._microphone.push_frame(frame, FrameDirection.DOWNSTREAM)


class FakeLine(Line):
    """A line that can be transferred, unless a test says that it fails.

    Attributes:
        transferred: To whom, and how many bytes had been played by then.
        closed: Whether it was let go of.
    """

    can_transfer = True

    def __init__(self, *, failure: str = "", detect_machine: bool = False) -> None:
        """Make a line.

        Args:
            failure: Why transfers do not work; empty where they do.
            detect_machine: As for any line.
        """
        self.fake = FakeTransport()
        super().__init__(self.fake, Origin("fake"))
        self.detect_machine = detect_machine
        self.failure = failure
        self.transferred: list[tuple[str, int]] = []
        self.asked = asyncio.Event()
        self.closed = False

    async def transfer(self, to: str) -> None:
        """Remember it."""
        self.transferred.append((to, len(self.fake.speaker.played)))
        self.asked.set()
        if self.failure:
            raise LineError(self.failure)

    async def close(self) -> None:
        """Remember that, too."""
        self.closed = True
