"""A worker in the test's own process and event loop, around an engine that the test controls."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn

from services.stt.hearing import Hearing
from services.tts.engine import SpeechEngine
from services.tts.local import LocalSpeech
from services.worker.app import create_app
from services.worker.host import open_host
from services.worker.protocol import Lease
from services.worker.websocket import Sockets


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once something holds that nobody announces.

    Raises:
        TimeoutError: It does not come to hold in time.
    """
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class _Server(uvicorn.Server):
    """Leaves the process's signals to the test runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class LocalWorker:
    """A real worker but for its process: `async with LocalWorker(engine) as worker`."""

    def __init__(
        self,
        engine: SpeechEngine | None = None,
        *,
        name: str | None = None,
        hearing: Hearing | None = None,
        capacity: int = 8,
        token: str | None = None,
        port: int = 0,
    ) -> None:
        """Prepare one.

        Args:
            engine: What speaks.
            name: What the engine is called, where it is not to be called by its own name.
            hearing: What hears.
            capacity: Utterances at once.
            token: What clients have to show.
            port: Where; 0 for a free one.
        """
        self.engine = engine
        self.engine_name = name or (engine.name if engine else "")
        self.host = open_host(
            LocalSpeech(engine) if engine else None, hearing, language="en", capacity=capacity
        )
        self._token = token
        self._listener = socket.socket(proto=socket.IPPROTO_TCP)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen()
        self.port = int(self._listener.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}"
        self.sockets = Sockets(self.host, self.lease)
        self.host.admission.on_change = self.sockets.tell_lease

    def lease(self) -> Lease:
        """What it is at this moment."""
        voices = self.engine.voices() if self.engine else ()
        return Lease(
            url=self.url,
            engine=self.engine_name,
            voices=voices,
            resident=self.engine.loaded() if self.engine else (),
            hears=self.host.hearing.name if self.host.hearing else "",
            capacity=self.host.admission.capacity,
            calls=self.host.admission.active,
            draining=self.host.admission.draining,
        )

    async def __aenter__(self) -> Self:
        app = create_app(
            self.host, self.sockets, self.lease, token=self._token, address="127.0.0.1"
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                log_config=None,
                timeout_graceful_shutdown=1,
                ws_max_size=1 << 20,
                ws_per_message_deflate=False,
            )
        )
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        await until(lambda: self._server.started)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        await self.host.close()

    async def stop(self) -> None:
        """Close every socket and the port."""
        self._server.should_exit = True
        await self._task
        self._listener.close()
