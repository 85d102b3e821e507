"""What writes a call's audio, on every transport: Pipecat's own, stopped whole when interrupted."""

import asyncio

from pipecat.frames.frames import InterruptionFrame
from pipecat.transports.base_output import BaseOutputTransport

_TURNS = 3
"""Turns of the event loop in which what was taken from the queue is handled."""


class MediaSender(BaseOutputTransport.MediaSender):
    """Pipecat's, which says nothing after an interruption that belongs before it.

    It takes audio from its queue with `asyncio.wait_for`, which before Python 3.12 hands it over
    two turns of the event loop later. An interruption that comes in between finds it neither in
    the queue nor being written: it is written afterwards, and is the beginning of a speech of the
    agent's, whose end nobody tells; of the agent's next answer nobody tells the beginning. From
    Python 3.12 on `wait_for` keeps nothing back, and this class has no use.
    """

    async def handle_interruptions(self, frame: InterruptionFrame) -> None:
        """Stop, once what was taken from the queue counts as said.

        Args:
            frame: The interruption.
        """
        self._audio_queue.reset()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await super().handle_interruptions(frame)


def use_media_sender() -> None:
    """Have all of Pipecat's outputs that start from now on write by it."""
    BaseOutputTransport.MediaSender = MediaSender  # type: ignore[misc]
