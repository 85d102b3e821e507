"""Pipecat's LiveKit transport, with a way in that can be given up, and what its people are."""

import asyncio
from typing import Any

from livekit.rtc import Participant
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.transports.livekit.transport import (
    LiveKitParams,
    LiveKitTransport,
    LiveKitTransportClient,
)
from tenacity import stop_after_attempt

from bot.server.livekit import MACHINES, Kind
from services.errors import one_line

JOIN_SECONDS = 7.0
"""How long LiveKit's SDK may take to connect; it tries several times by itself."""

QUEUE_MS = 100
"""Audio that LiveKit's source takes before it plays it, by which words would be told too early."""


class RoomTransport(LiveKitTransport):
    """A place in a LiveKit room.

    Event handlers available, besides those of Pipecat's transport:

    - on_join_failed: Called once, when the room cannot be joined; the transport is then silent.
      Args: (why: str), one line.
    """

    def __init__(self, url: str, token: str, room: str, leaving: set["asyncio.Task[None]"]) -> None:
        """Take a place.

        Args:
            url: The server's address.
            token: Lets us in.
            room: The room's name.
            leaving: Where tasks are put that outlast the call, since they must not be cancelled.
        """
        params = LiveKitParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            # There is one ear, so whoever speaks is mixed into one stream.
            audio_in_user_tracks=False,
            audio_out_queue_size_ms=QUEUE_MS,
        )
        super().__init__(url, token, room, params)
        callbacks = self._client._callbacks
        self._client = _Client(
            *(url, token, room, params, callbacks, self.name), transport=self, leaving=leaving
        )
        self._failed = False
        self._machines: set[str] = set()
        self._ringing: set[str] = set()
        self._register_event_handler("on_join_failed")

    def participants(self) -> dict[str, int]:
        """The `ParticipantInfo.Kind` of each of the others in the room, by identity."""
        others = self._client.room.remote_participants.values()
        return {participant.identity: participant.kind for participant in others}

    async def until_heard(self) -> None:
        """Return once somebody receives our audio."""
        ours = self._client.room.local_participant.track_publications.values()
        await asyncio.gather(*(publication.wait_for_subscription() for publication in ours))

    async def _on_participant_connected(self, participant_id: str) -> None:
        other = self._client.room.remote_participants.get(participant_id)
        # Nobody has come for a call, and so nobody is greeted.
        if self.participants().get(participant_id) in MACHINES:
            self._machines.add(participant_id)
            await self._call_event_handler("on_participant_connected", participant_id)
        elif other is not None and _rings(other):
            self._ringing.add(participant_id)
        else:
            await super()._on_participant_connected(participant_id)

    async def answered(self, telephone: Participant) -> None:
        """Tell of a telephone as a client once it rings no more; for the transport's own use."""
        if telephone.identity in self._ringing and not _rings(telephone):
            self._ringing.discard(telephone.identity)
            await super()._on_participant_connected(telephone.identity)

    async def _on_participant_disconnected(self, participant_id: str) -> None:
        self._ringing.discard(participant_id)
        # Nor does a call end with one: who has left is in the room no more, nor known by its kind.
        if participant_id in self._machines:
            self._machines.discard(participant_id)
            await self._call_event_handler("on_participant_disconnected", participant_id)
        else:
            await super()._on_participant_disconnected(participant_id)

    async def fail(self, why: str) -> None:
        """Tell that the room cannot be joined; for the transport's own use."""
        if not self._failed:
            self._failed = True
            await self._call_event_handler("on_join_failed", why)


def _rings(other: Participant) -> bool:
    """Whether this is a telephone that was called, and that nobody has answered yet."""
    # Who calls us is put through by a rule, and hears the agent from the beginning.
    if int(other.kind) != Kind.SIP or "sip.ruleID" in other.attributes:
        return False
    return other.attributes.get("sip.callStatus", "active") != "active"


class _Client(LiveKitTransportClient):
    """Connects without ever being cancelled.

    When LiveKit's SDK (1.2) has connected and nobody takes the room within some seconds, it ends
    the process with SIGTERM. A call may end while it connects, so that goes on by itself then, and
    whatever comes of it is left.
    """

    def __init__(
        self, *args: Any, transport: RoomTransport, leaving: set["asyncio.Task[None]"]
    ) -> None:
        super().__init__(*args)
        self._transport = transport
        self._leaving = leaving

    async def setup(self, setup: FrameProcessorSetup) -> None:
        # Called by both halves of the transport; the room has a callback once.
        await super().setup(setup)
        self.room.on("participant_attributes_changed", self._on_attributes_changed)

    def _on_attributes_changed(self, _: object, participant: Participant) -> None:
        assert self._task_manager is not None
        told = self._transport.answered(participant)
        self._task_manager.create_task(told, f"{self}::answered")

    async def connect(self) -> None:  # type: ignore[override]
        # Called by both halves of the transport, of which the first connects. The SDK has tried
        # more than once when it fails.
        once = LiveKitTransportClient.connect.retry_with(stop=stop_after_attempt(1), reraise=True)
        connecting = asyncio.create_task(once(self))
        try:
            await asyncio.wait({connecting}, timeout=JOIN_SECONDS)
        finally:
            if not connecting.done():
                late = asyncio.create_task(self._leave_after(connecting))
                self._leaving.add(late)
                late.add_done_callback(self._leaving.discard)
        if not connecting.done():
            await self._transport.fail(f"it takes longer than {JOIN_SECONDS:g} seconds")
        elif error := connecting.exception():
            await self._transport.fail(one_line(error))

    async def _leave_after(self, connecting: "asyncio.Task[None]") -> None:
        await asyncio.wait({connecting})
        if connecting.exception() is None:
            while self._connected:
                await self.disconnect()
