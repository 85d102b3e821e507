"""RTVI as an agent offers it to callers whom nobody knows."""

from typing import Any

from loguru import logger
from pipecat.frames.frames import Frame, InputTransportMessageFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.processors.frameworks.rtvi import RTVIProcessor

MESSAGES = frozenset({"client-ready", "client-message", "send-text", "disconnect-bot"})
"""What a conversation needs of a client. RTVI has more: a client could answer tool calls in place
of the tool, have the server fetch a file, or feed it audio past the transport."""


class CallerRTVIProcessor(RTVIProcessor):
    """`RTVIProcessor` that takes no message but `MESSAGES`.

    Event handlers:
        on_text: Called when the caller has written something.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Create the processor.

        Args:
            **kwargs: For `RTVIProcessor`.
        """
        super().__init__(**kwargs)
        self._register_event_handler("on_text")

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Drop what a caller may not send, and pass everything else on.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        if isinstance(frame, InputTransportMessageFrame):
            kind = frame.message.get("type") if isinstance(frame.message, dict) else None
            if kind not in MESSAGES:
                logger.debug("dropped a message of the type {}", str(kind)[:40])
                return
            if kind == "send-text":
                await self._call_event_handler("on_text")
        await super().process_frame(frame, direction)
