"""A worker's end of a `parley.v1` socket."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from loguru import logger
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.errors import BusyError, EngineError, UnknownVoiceError
from services.worker import protocol
from services.worker.host import Host

SEND_LIMIT_S = 10.0
"""Seconds that a frame may wait for a peer that reads nothing: then the peer is taken for dead."""

AUDIO_LIMIT_S = 10.0
"""Seconds that the audio of a `transcribe` may take to come."""

MAX_UPLOADS = 8
"""Utterances of one socket whose audio is still coming."""

MAX_SOCKETS = 256
"""Sockets that are served at once."""

LEASE_DELAY_S = 0.05
"""Seconds that changes are gathered before the peer is told."""


class Sockets:
    """The sockets of a worker."""

    def __init__(self, host: Host, lease: Callable[[], protocol.Lease]) -> None:
        """Serve `host`.

        Args:
            host: What speaks and hears.
            lease: What the worker is at this moment.
        """
        self._host = host
        self._lease = lease
        self._open: set[_Socket] = set()

    async def serve(self, websocket: WebSocket) -> None:
        """Accept a socket whose peer may use the worker, and serve it until it closes."""
        if protocol.SUBPROTOCOL not in websocket.scope.get("subprotocols", ()):
            await websocket.close(1002, f"the subprotocol is {protocol.SUBPROTOCOL}")
            return
        if len(self._open) >= MAX_SOCKETS:
            await websocket.close(1013, "too many sockets")
            return
        socket = _Socket(websocket, self._host, self._lease)
        self._open.add(socket)
        self._host.metrics.sockets.inc()
        try:
            await websocket.accept(protocol.SUBPROTOCOL)
            await socket.serve()
        finally:
            self._open.discard(socket)
            self._host.metrics.sockets.dec()

    def tell_lease(self) -> None:
        """Have every peer told what the worker has become."""
        for socket in self._open:
            socket.lease_changed.set()

    async def drain(self) -> None:
        """Tell every peer that the worker takes no more."""
        told = (socket.send(protocol.Draining()) for socket in self._open)
        # One that has gone away meanwhile needs no telling.
        await asyncio.gather(*told, return_exceptions=True)


class _Upload:
    """Audio that is coming in, to be recognised once it is complete."""

    def __init__(self, request: protocol.Transcribe) -> None:
        self.request = request
        self.pcm = bytearray()
        self.complete = asyncio.Event()


class _Socket:
    """One peer."""

    def __init__(
        self, websocket: WebSocket, host: Host, lease: Callable[[], protocol.Lease]
    ) -> None:
        self.lease_changed = asyncio.Event()
        self._websocket = websocket
        self._host = host
        self._lease = lease
        self._utterances: dict[int, asyncio.Task[None]] = {}
        self._uploads: dict[int, _Upload] = {}

    async def serve(self) -> None:
        """Do what the peer asks until it goes away."""
        teller = asyncio.create_task(self._tell_lease())
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                try:
                    if (text := message.get("text")) is not None:
                        await self._obey(protocol.parse_request(text))
                    else:
                        self._take_audio(*protocol.unpack_audio(message.get("bytes") or b""))
                except protocol.ProtocolError as error:
                    await self.send(protocol.Error(code="bad-request", message=str(error)))
        except WebSocketDisconnect:
            pass
        finally:
            tasks = [teller, *self._utterances.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def send(self, message: protocol.Message | bytes) -> None:
        """Send a message or a frame of audio, while the peer is there."""
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(message.model_dump_json())
        except TimeoutError:
            logger.warning("a peer reads nothing: its socket is closed")
            with contextlib.suppress(Exception):
                await self._websocket.close(1008, "nothing is read")
            raise WebSocketDisconnect(1008) from None
        except RuntimeError:  # Starlette's, for a socket that is closed.
            raise WebSocketDisconnect from None

    async def _tell_lease(self) -> None:
        told = None
        while True:
            if (lease := self._lease()) != told:
                await self.send(lease)
                told = lease
            await self.lease_changed.wait()
            self.lease_changed.clear()
            await asyncio.sleep(LEASE_DELAY_S)

    async def _obey(self, request: protocol.Request) -> None:
        match request:
            case protocol.Ping():
                await self.send(protocol.Pong())
            case protocol.Cancel(id=number):
                # One that has just been asked for has to begin before it can end.
                await asyncio.sleep(0)
                if (task := self._utterances.get(number)) is not None:
                    task.cancel()
            case protocol.Speak(id=number) | protocol.Transcribe(id=number) if (
                number in self._utterances
            ):
                await self.send(
                    protocol.Error(
                        id=number, code="bad-request", message=f"{number} is still under way"
                    )
                )
            case protocol.Speak(id=number):
                self._begin(number, self._speak(request))
            case protocol.Transcribe(id=number) if len(self._uploads) >= MAX_UPLOADS:
                await self.send(protocol.Busy(id=number, message="too much audio is coming"))
            case protocol.Transcribe(id=number):
                self._uploads[number] = upload = _Upload(request)
                if request.bytes == 0:
                    upload.complete.set()
                self._begin(number, self._transcribe(upload))

    def _take_audio(self, number: int, pcm: bytes) -> None:
        upload = self._uploads.get(number)
        if upload is None:
            # Of an utterance that has failed or was cancelled meanwhile, as a rule.
            return
        if len(upload.pcm) + len(pcm) > upload.request.bytes:
            raise protocol.ProtocolError(f"more audio for {number} than was announced")
        upload.pcm += pcm
        if len(upload.pcm) == upload.request.bytes:
            upload.complete.set()

    def _begin(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._report(number, work), name=f"utterance {number}")
        self._utterances[number] = task
        task.add_done_callback(lambda _: self._utterances.pop(number, None))

    async def _report(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, and tell the peer how it ended, whatever happens."""
        reply: protocol.Message | None = None
        try:
            await work
        except asyncio.CancelledError:
            reply = protocol.End(id=number)
        except WebSocketDisconnect:
            return
        except BusyError as error:
            reply = protocol.Busy(id=number, message=str(error))
        except UnknownVoiceError as error:
            reply = protocol.Error(id=number, code="unknown-voice", message=str(error))
        except EngineError as error:
            reply = protocol.Error(id=number, code="failed", message=str(error))
        except Exception as error:
            logger.exception("an utterance failed")
            reply = protocol.Error(id=number, code="failed", message=f"{type(error).__name__}")
        if reply is not None:
            with contextlib.suppress(WebSocketDisconnect):
                await self.send(reply)

    async def _speak(self, request: protocol.Speak) -> None:
        if self._host.speech is None:
            raise EngineError("this worker does not speak")
        number = request.id
        begun = False
        async with contextlib.aclosing(
            self._host.speech.speak(request.text, request.voice, request.speed)
        ) as chunks:
            async for chunk in chunks:
                if not begun:
                    begun = True
                    await self.send(protocol.Begin(id=number, sample_rate=chunk.sample_rate))
                if chunk.words:
                    await self.send(protocol.Words(id=number, words=chunk.words))
                await self.send(protocol.pack_audio(number, chunk.pcm))
        await self.send(protocol.End(id=number))

    async def _transcribe(self, upload: _Upload) -> None:
        number = upload.request.id
        try:
            if self._host.hearing is None:
                raise EngineError("this worker does not hear")
            try:
                async with asyncio.timeout(AUDIO_LIMIT_S):
                    await upload.complete.wait()
            except TimeoutError:
                raise EngineError(
                    f"{len(upload.pcm)} of {upload.request.bytes} bytes of audio came in "
                    f"{AUDIO_LIMIT_S:g} s"
                ) from None
        finally:
            del self._uploads[number]
        transcript = await self._host.hearing.transcribe(bytes(upload.pcm), upload.request.language)
        await self.send(
            protocol.Heard(id=number, segments=transcript.segments, language=transcript.language)
        )
