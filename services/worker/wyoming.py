"""A worker's Wyoming server: its voice and its ear for Home Assistant, and wake words besides.

Wyoming (https://github.com/OHF-Voice/wyoming) is a line of JSON an event, with data and audio
behind it, over TCP. It knows neither encryption nor authentication: it is for a trusted network.

What the protocol leaves open is done as Home Assistant's integration needs it. It waits for the
end of an answer or of the connection, and takes no notice of `error`: so an error ends the
connection. It takes the format of streamed audio from the first `audio-start`: so an answer has
one. A client that closes its sending side is taken to be gone.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from services.errors import BusyError, EngineError, MissingExtraError, UnknownVoiceError
from services.reach import LOOPBACK
from services.settings import SettingsError
from services.stt.engine import SAMPLE_RATE
from services.stt.hearing import Hearing
from services.tts.engine import Chunk
from services.tts.speech import Speech
from services.worker.host import Host
from services.worker.patience import PATIENCE_S, patiently
from services.worker.protocol import MAX_TEXT

try:
    from wyoming.asr import Transcribe
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, Eventable, async_write_event
    from wyoming.info import Describe
    from wyoming.ping import Ping, Pong
    from wyoming.tts import (
        Synthesize,
        SynthesizeChunk,
        SynthesizeStart,
        SynthesizeStop,
        SynthesizeStopped,
    )
    from wyoming.wake import Detect

    from services.worker.wyoming_info import choose_voice, describe
    from services.worker.wyoming_input import MAX_LINE, RequestError, parse, read_event, text_of
    from services.worker.wyoming_streams import Detecting, Ear, StreamedText, Transcribing
except ImportError as missing:
    raise MissingExtraError(
        f"Wyoming needs the package {missing.name}: pip install 'parley[wyoming]'"
    ) from missing

if TYPE_CHECKING:
    from services.wake import WakeWords

MAX_CONNECTIONS = 64
"""Clients at once. Home Assistant makes a connection for every request."""

MAX_WAITING = 8
"""Requests of one client that wait for the one before."""

IDLE_S = 60.0
"""Seconds that a client may be silent while it is its turn."""

READER_S = 60.0
"""Seconds that a client may leave what it is sent unread."""

LINGER_S = 1.0
"""Seconds that a connection stays after an error, for the client to read why."""


class _GoneError(Exception):
    """There is nobody to answer any more."""


class WyomingServer:
    """Serves what a worker does over Wyoming."""

    def __init__(self, served: Host, *, host: str, port: int) -> None:
        """Prepare a server.

        Args:
            served: What speaks and hears.
            host: The address to listen on.
            port: The port; 0 takes a free one.
        """
        self._served = served
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._wake: WakeWords | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on, once it has started."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen, and listen for wake words where the extra is installed.

        Raises:
            SettingsError: The address cannot be had.
            EngineError: The models of the wake words cannot be loaded.
        """
        self._wake = await asyncio.to_thread(_load_wake_words)
        try:
            self._server = await asyncio.start_server(
                self._welcome, self._host, self._port, limit=MAX_LINE
            )
        except OSError as error:
            reason = str(error.strerror or error).lower()
            raise SettingsError(
                f"--wyoming-port {self._port} on --wyoming-host {self._host}: {reason}; "
                "choose another"
            ) from None
        logger.info("Wyoming at tcp://{}:{}", self._host, self.port)
        if self._host not in LOOPBACK:
            logger.warning("Wyoming knows no token: whoever reaches port {} can use it", self.port)

    async def stop(self) -> None:
        """Stop listening, and end what is under way. Safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="Wyoming client")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._served, self._wake, reader, writer)
        try:
            if len(self._clients) > MAX_CONNECTIONS:
                await connection.turn_away()
            else:
                await connection.serve()
        finally:
            await _close(writer)


def _load_wake_words() -> "WakeWords | None":
    """The wake words, where the extra is installed. Blocks."""
    try:
        from services.wake import WakeWords
    except MissingExtraError as error:
        logger.info("Wyoming without wake words: {}", error)
        return None
    return WakeWords()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whether or not its client reads what was sent."""
    writer.close()
    try:
        async with asyncio.timeout(LINGER_S):
            await writer.wait_closed()
    except (TimeoutError, OSError):
        writer.transport.abort()


class _Connection:
    """One client.

    One task takes its events, another answers its requests, one after the other.
    """

    def __init__(
        self,
        served: Host,
        wake: "WakeWords | None",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._served = served
        self._wake = wake
        self._reader = reader
        self._writer = writer
        self._requests: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(MAX_WAITING)
        self._answering = False
        self._listen: Callable[[], Ear] | None = None
        self._ear: Ear | None = None
        self._text: StreamedText | None = None
        self._audio_begun = False
        self._obeyed: list[tuple[type[Eventable], Callable[[Any], Awaitable[None]]]] = [
            (AudioChunk, self._audio_chunk),
            (AudioStart, self._audio_start),
            (AudioStop, self._audio_stop),
            (Describe, self._describe),
            (Detect, self._detect),
            (Ping, self._ping),
            (Synthesize, self._synthesize),
            (SynthesizeChunk, self._synthesize_chunk),
            (SynthesizeStart, self._synthesize_start),
            (SynthesizeStop, self._synthesize_stop),
            (Transcribe, self._transcribe),
        ]

    async def turn_away(self) -> None:
        """Say that there are too many."""
        await self._refuse(BusyError(f"{MAX_CONNECTIONS} clients are connected already"))

    async def serve(self) -> None:
        """Do what the client asks until it goes away."""
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                await self._refuse(outcome)
                return

    async def send(self, event: Eventable) -> None:
        """Send an event.

        Raises:
            _GoneError: The client has gone, or does not read.
        """
        try:
            async with asyncio.timeout(READER_S):
                await async_write_event(event.event(), self._writer)
        except (TimeoutError, OSError) as error:
            raise _GoneError from error

    async def send_audio(self, chunk: Chunk) -> None:
        """Send audio, its format before the first of an answer."""
        await self._begin_audio(chunk.sample_rate)
        await self.send(AudioChunk(chunk.sample_rate, 2, 1, chunk.pcm))

    async def end_audio(self) -> None:
        """End an answer's audio; where there was none, the client is still told so."""
        await self._begin_audio(SAMPLE_RATE)
        self._audio_begun = False
        await self.send(AudioStop())

    async def _begin_audio(self, rate: int) -> None:
        if not self._audio_begun:
            self._audio_begun = True
            await self.send(AudioStart(rate, 2, 1))

    async def _refuse(self, error: Exception) -> None:
        """Tell the client what is wrong, and see that it can read that."""
        match error:
            case _GoneError():
                return
            case RequestError():
                code = "bad-request"
            case BusyError():
                code = "busy"
            case UnknownVoiceError():
                code = "unknown-voice"
            case EngineError():
                logger.warning("Wyoming: {}", error)
                code = "failed"
            case _:
                logger.opt(exception=error).error("Wyoming: a request failed")
                error = EngineError(type(error).__name__)
                code = "failed"
        with contextlib.suppress(_GoneError, OSError, TimeoutError):
            # A message may quote what came, which need not be valid Unicode.
            await self.send(Error(str(error).encode(errors="replace").decode(), code))
            # Closed while something is unread, a socket is reset, and the error may be lost.
            self._writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(MAX_LINE):
                    pass

    async def _receive(self) -> None:
        """Take events until the client has gone."""
        while (event := await self._next_event()) is not None:
            for kind, obey in self._obeyed:
                if kind.is_type(event.type):
                    await obey(parse(kind, event))
                    break

    async def _next_event(self) -> Event | None:
        """The next event; None where the client has gone."""
        try:
            while True:
                try:
                    async with asyncio.timeout(IDLE_S):
                        line = await self._reader.readline()
                    break
                except TimeoutError:
                    if not self._waits:
                        raise
            if not line.endswith(b"\n"):
                return None
            async with asyncio.timeout(IDLE_S):
                return await read_event(line, self._reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except TimeoutError:
            raise RequestError(f"nothing came for {IDLE_S:g} s") from None
        except ValueError:  # readline's, for a line without an end
            raise RequestError(f"a line is longer than {MAX_LINE} bytes") from None

    @property
    def _waits(self) -> bool:
        """Whether the client has said all it has to say, and waits for an answer."""
        complete = self._text is None and self._ear is None
        return complete and (self._answering or not self._requests.empty())

    async def _answer(self) -> None:
        """Answer requests, one after the other."""
        while True:
            request = await self._requests.get()
            self._answering = True
            await request()
            self._answering = False

    def _ask(self, request: Callable[[], Awaitable[None]]) -> None:
        try:
            self._requests.put_nowait(request)
        except asyncio.QueueFull:
            raise RequestError(f"{MAX_WAITING} requests wait already") from None

    async def _describe(self, _: Describe) -> None:
        await self.send(describe(self._served, self._wake))

    async def _ping(self, ping: Ping) -> None:
        await self.send(Pong(ping.text))

    @property
    def _speech(self) -> Speech:
        if self._served.speech is None:
            raise RequestError("this worker does not speak")
        return self._served.speech

    async def _synthesize(self, asked: Synthesize) -> None:
        if self._text is not None:
            # The whole of a streamed text once more, for servers that know no streaming.
            return
        voice = choose_voice(self._speech, asked)
        if len(text_of(asked.text)) > MAX_TEXT:
            raise RequestError(f"the text is longer than {MAX_TEXT} characters")
        self._ask(partial(self._speak, asked.text, voice))

    async def _speak(self, text: str, voice: str) -> None:
        await self._say(text, voice)
        await self.end_audio()

    async def _say(self, text: str, voice: str) -> None:
        async with contextlib.aclosing(self._speech.speak(text, voice, 1.0)) as chunks:
            async for chunk in chunks:
                await self.send_audio(chunk)

    async def _synthesize_start(self, asked: SynthesizeStart) -> None:
        if self._text is not None:
            raise RequestError("synthesize-start before synthesize-stop")
        voice = choose_voice(self._speech, asked)
        self._text = StreamedText()
        self._ask(partial(self._speak_streamed, self._text, voice))

    async def _synthesize_chunk(self, chunk: SynthesizeChunk) -> None:
        if self._text is None:
            raise RequestError("synthesize-chunk before synthesize-start")
        self._text.add(text_of(chunk.text))

    async def _synthesize_stop(self, _: SynthesizeStop) -> None:
        if self._text is None:
            raise RequestError("synthesize-stop before synthesize-start")
        self._text.end()
        self._text = None

    async def _speak_streamed(self, text: StreamedText, voice: str) -> None:
        patience = 0.0
        async with contextlib.aclosing(text.clauses()) as clauses:
            async for clause in clauses:
                await patiently(partial(self._say, clause, voice), patience)
                patience = PATIENCE_S
        await self.end_audio()
        await self.send(SynthesizeStopped())

    async def _transcribe(self, asked: Transcribe) -> None:
        if self._served.hearing is None:
            raise RequestError("this worker does not hear")
        language = text_of(asked.language or self._served.language).replace("_", "-")
        self._listen = partial(
            self._begin_transcription, self._served.hearing, language.split("-")[0].lower() or None
        )

    def _begin_transcription(self, hearing: Hearing, language: str | None) -> Transcribing:
        transcription = Transcribing(hearing, language, self.send)
        self._ask(transcription.answer)
        return transcription

    async def _detect(self, asked: Detect) -> None:
        if self._wake is None:
            raise RequestError("this worker knows no wake words: pip install 'parley[wake]'")
        names = asked.names or []
        if not isinstance(names, list):
            raise RequestError("detect: the names are no list")
        wanted = [text_of(name) for name in names]
        try:
            self._wake.check(wanted)
        except EngineError as error:
            raise RequestError(str(error)) from None
        self._listen = partial(Detecting, self._wake, wanted, self.send)

    async def _audio_start(self, _: AudioStart) -> None:
        if self._listen is None:
            raise RequestError("audio-start before transcribe or detect")
        if isinstance(self._ear, Transcribing):
            raise RequestError("audio-start before audio-stop")
        self._ear = self._listen()

    async def _audio_chunk(self, chunk: AudioChunk) -> None:
        if self._ear is None:
            raise RequestError("audio-chunk before audio-start")
        await self._ear.take(chunk)

    async def _audio_stop(self, _: AudioStop) -> None:
        if self._ear is None:
            raise RequestError("audio-stop before audio-start")
        await self._ear.finish()
        self._ear = None
