"""Daily's transport as a call needs it: one ear for everybody, and a telephone that has to ring."""

from collections import deque
from functools import reduce
from typing import Any

from pipecat.audio.utils import mix_audio
from pipecat.frames.frames import InputAudioRawFrame, UserAudioRawFrame
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.daily.transport import (
    DailyInputTransport,
    DailyParams,
    DailyTransport,
    DailyTransportClient,
)

MAX_BEHIND = 3
"""Pieces of audio, 20 ms each, that one person's may wait for those of the others."""


class RoomInput(DailyInputTransport):
    """Hears everybody in the room as one stream.

    Daily can mix them itself, but only into a speaker that a whole process shares, and so for one
    call at a time.
    """

    def __init__(
        self, transport: BaseTransport, client: DailyTransportClient, params: DailyParams
    ) -> None:
        """Hear nobody yet.

        Args:
            transport: Whose input it is.
            client: What it shares with the output.
            params: The transport's.
        """
        super().__init__(transport, client, params)
        # What was heard of each person and not yet of all the others.
        self._heard: dict[str, deque[bytes]] = {}

    async def push_audio_frame(self, frame: InputAudioRawFrame) -> None:
        """Pass on what was heard at one moment once it was heard of everybody.

        Args:
            frame: What was heard of one person: 20 ms of 16-bit PCM.
        """
        if not isinstance(frame, UserAudioRawFrame):
            await super().push_audio_frame(frame)
            return
        for audio in self._mix(frame.user_id, frame.audio):
            mixed = InputAudioRawFrame(audio, frame.sample_rate, frame.num_channels)
            await super().push_audio_frame(mixed)

    def _mix(self, person: str, audio: bytes) -> list[bytes]:
        """What can be passed on now that a piece of a person's audio has come."""
        heard = self._heard.setdefault(person, deque())
        heard.append(audio)
        if len(heard) > MAX_BEHIND:
            # Of the others nothing comes: they are muted, or gone.
            self._heard = {who: pieces for who, pieces in self._heard.items() if pieces}
        mixed = []
        while all(self._heard.values()):
            mixed.append(reduce(mix_audio, [pieces.popleft() for pieces in self._heard.values()]))
        return mixed


class RoomTransport(DailyTransport):
    """The agent's place in a room.

    A telephone that the agent calls comes into the room when it begins to ring; it is a client only
    once it was answered.
    """

    def __init__(
        self, url: str, token: str | None, name: str, params: DailyParams, *, ringing: bool
    ) -> None:
        """Take a place, which is entered when the pipeline is set up.

        Args:
            url: The room.
            token: What lets the agent in.
            name: What the others see.
            params: The transport's parameters.
            ringing: Whether the agent is going to call a telephone.
        """
        super().__init__(url, token, name, params)
        self.ringing = ringing

    def input(self) -> DailyInputTransport:
        """What hears the room."""
        if not self._input:
            self._input = RoomInput(self, self._client, self._params)
        return self._input

    async def answered(self, session: Any) -> None:
        """Tell of the telephone as a client.

        Args:
            session: What Daily tells of it.
        """
        self.ringing = False
        await self._call_event_handler("on_client_connected", session)

    async def deserted(self) -> None:
        """Tell again that the last client has left, where the call had a reason to go on."""
        await self._call_event_handler("on_client_disconnected", None)

    async def _call_event_handler(self, event_name: str, *args: Any, **kwargs: Any) -> None:
        if event_name != "on_client_connected" or not self.ringing:
            await super()._call_event_handler(event_name, *args, **kwargs)

    async def _on_error(self, error: Any) -> None:
        # Whether an error ends the call is for the line to say; to the pipeline it is of no use.
        await self._call_event_handler("on_error", error)
