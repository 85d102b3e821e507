"""RTVI as an agent offers it to callers whom nobody knows."""

import json
from collections.abc import Callable, Set
from typing import Any

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, InputTransportMessageFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.utils.errors import ErrorCategory

from processors.digits import MAX_DIGITS

MESSAGES = frozenset({"client-ready", "client-message", "send-text", "dtmf", "disconnect-bot"})
"""What a conversation needs of a client. RTVI has more: a client could answer tool calls in place
of the tool, have the server fetch a file, or feed it audio past the transport."""


class CallerRTVIProcessor(RTVIProcessor):
    """`RTVIProcessor` that takes no messages but `MESSAGES` and those that its line allows.

    Event handlers:
        on_text: Called when the caller has written something.
    """

    def __init__(
        self,
        *,
        also: Set[str] = frozenset(),
        allow: Callable[[], bool] = lambda: True,
        **kwargs: Any,
    ) -> None:
        """Create the processor.

        Args:
            also: Types of message that are taken besides `MESSAGES`, any number of them.
            allow: Whether one more of `MESSAGES` may be taken now.
            **kwargs: For `RTVIProcessor`.
        """
        super().__init__(**kwargs)
        self._also = also
        self._allow = allow
        self._register_event_handler("on_text")

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Drop what a caller may not send or be told, and pass everything else on.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        if isinstance(frame, InputTransportMessageFrame):
            kind = str(frame.message.get("type") if isinstance(frame.message, dict) else None)
            known = kind in MESSAGES and not _presses_too_much(frame.message)
            if not (kind in self._also or (known and self._allow())):
                logger.debug("dropped a message of the type {}", kind[:40])
                return
            if kind == "send-text":
                frame.message = _in_utf8(frame.message)
                await self._call_event_handler("on_text")
        elif isinstance(frame, ErrorFrame) and frame.category is ErrorCategory.APPLICATION:
            # What a tool raised is for its author. The caller is answered by the model.
            await FrameProcessor.process_frame(self, frame, direction)
            await self.push_frame(frame, direction)
            return
        await super().process_frame(frame, direction)


def _in_utf8(message: dict[str, Any]) -> dict[str, Any]:
    """A message with question marks for what UTF-8 cannot say: halves of surrogate pairs.

    JSON can (RFC 8259, 8.2); what comes to tokenize or to send such a text would fail on it.
    """
    plain: dict[str, Any] = json.loads(
        json.dumps(message, ensure_ascii=False).encode(errors="replace")
    )
    return plain


def _presses_too_much(message: dict[str, Any]) -> bool:
    """Whether a message holds more keys than anybody presses at once."""
    data = message.get("data")
    buttons = data.get("buttons") if isinstance(data, dict) else None
    return isinstance(buttons, list) and len(buttons) > MAX_DIGITS
