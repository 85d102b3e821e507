"""A worker: its engines, what it says of itself, and how it stops."""

import asyncio
import contextlib
import math
from importlib.metadata import version

from services.models import models
from services.stt.engine import HearingEngine
from services.stt.local import LocalHearing
from services.tts.engine import SpeechEngine
from services.tts.local import LocalSpeech
from services.worker.host import Host, open_host
from services.worker.protocol import Lease
from services.worker.settings import WorkerSettings
from services.worker.websocket import Sockets

EVICT_S = 1.0
"""How often models that nobody uses are looked for, at most."""


class Worker:
    """A worker whose engines are loaded."""

    def __init__(
        self,
        settings: WorkerSettings,
        url: str,
        speaks: SpeechEngine | None,
        hears: HearingEngine | None,
    ) -> None:
        """Take utterances.

        Args:
            settings: The settings in force.
            url: Where agents reach it.
            speaks: What speaks, if anything.
            hears: What hears, if anything.
        """
        self._settings = settings
        self._url = url
        self._speaks = speaks
        self._hears = hears
        # Kept ready: to look for voices and versions takes milliseconds, and a lease is told in the
        # middle of utterances.
        self._voices = speaks.voices() if speaks else ()
        self._version = version("parley")
        self.host: Host = open_host(
            LocalSpeech(speaks) if speaks else None,
            LocalHearing(hears) if hears else None,
            language=settings.language,
            capacity=settings.max_concurrent_sessions,
            at_once={
                task: engine.at_once
                for task, engine in (("speak", speaks), ("transcribe", hears))
                if engine
            },
        )
        self.sockets = Sockets(self.host, self.lease)
        self.host.admission.on_change = self.sockets.tell_lease

    def lease(self) -> Lease:
        """What it is at this moment."""
        return Lease(
            url=self._url,
            engine=self._speaks.name if self._speaks else "",
            voices=self._voices,
            resident=self._speaks.loaded() if self._speaks else (),
            hears=self._hears.name if self._hears else "",
            capacity=self.host.admission.capacity,
            calls=self.host.admission.active,
            draining=self.host.admission.draining,
            version=self._version,
        )

    async def drain(self) -> None:
        """Take no more, and return once what goes on is over, or its time is."""
        self.host.admission.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                await asyncio.gather(self.sockets.drain(), self.host.admission.wait_until_empty())

    async def keep_models(self) -> None:
        """Evict models that nobody has used for long, and see which there are."""
        while True:
            await asyncio.to_thread(models.evict)
            if self._speaks:
                self._voices = await asyncio.to_thread(self._speaks.voices)
            self.host.metrics.resident.set(len(models.resident()))
            await asyncio.sleep(min(EVICT_S, (self._settings.ttl_ms or math.inf) / 1000))
