"""PocketSphinx, in a process of its own.

It is the ear that needs no download: its English model is in its wheel. Its C code holds the GIL
for a second at a time, which would stop every call's audio, so it runs in a child process:
`python -m services.stt.pocketsphinx`. That is started before any model is loaded, with
`subprocess.Popen`, which does not fork the parent's threads and their locks.

Child and parent speak over the child's stdin and stdout. Every message is four bytes of length,
little-endian, and that many bytes: PCM to the child; JSON, as an object, back. The first message
from the child says that it is ready. A child ends when its stdin does, however the parent went.
"""

import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from services.errors import EngineError, MissingExtraError
from services.stt.engine import SAMPLE_RATE, HearingEngine, Segment, Transcript

if TYPE_CHECKING:
    # What the child, which imports this module too, starts faster without.
    from services.catalog import Loaded
    from services.settings import EngineSettings
    from services.tts.voices import Progress

MAX_SECONDS = 60.0
"""Of audio in one request: more would block the child's other callers for too long."""

FRAME = 0.01
"""Seconds of PocketSphinx's time unit (its `frate` default, 100 a second)."""

_LENGTH = struct.Struct("<I")
_STOP_POLL = 0.05
_ROOT = Path(__file__).resolve().parents[2]


class _StoppedError(Exception):
    """The caller does not want the answer any more."""


class _Child:
    """A process that recognises, one request at a time."""

    def __init__(self) -> None:
        # A process group of its own: Ctrl-C in the terminal is for the parent to handle.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.stt.pocketsphinx"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            process_group=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, pcm: bytes, deadline: float, stop: Event) -> dict[str, Any]:
        """What the child makes of `pcm`; empty `pcm` only waits until it is ready.

        After any exception but EngineError from the child itself the child must be killed: an
        answer may be under way that nobody waits for.

        Raises:
            EOFError: The child died.
            TimeoutError: `deadline`, on the clock of `time.monotonic`, passed.
            _StoppedError: `stop` was set.
            EngineError: The child says that it failed.
        """
        if not self._ready:
            self._receive(deadline, stop)
            self._ready = True
        if not pcm:
            return {}
        self._send(_LENGTH.pack(len(pcm)) + pcm, deadline, stop)
        return self._receive(deadline, stop)

    def kill(self, *, reap: bool = True) -> None:
        """End the child at once, whatever it does."""
        self._process.kill()
        if reap:
            self._reap()

    def close(self) -> None:
        """Let the child end by itself, or kill it if it takes longer than 2 s."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, message: bytes, deadline: float, stop: Event) -> None:
        rest = memoryview(message)
        while rest:
            self._wait(self._requests, select.POLLOUT, deadline, stop)
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise EOFError from error

    def _receive(self, deadline: float, stop: Event) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline, stop))
        reply: dict[str, Any] = json.loads(self._read(length, deadline, stop))
        if "error" in reply:
            raise EngineError(f"pocketsphinx failed: {reply['error']}")
        return reply

    def _read(self, size: int, deadline: float, stop: Event) -> bytes:
        data = b""
        while len(data) < size:
            self._wait(self._replies, select.POLLIN, deadline, stop)
            try:
                part = os.read(self._replies, size - len(data))
            except BlockingIOError:
                continue
            if not part:
                raise EOFError
            data += part
        return data

    def _wait(self, pipe: int, event: int, deadline: float, stop: Event) -> None:
        """Wait until `pipe` can be used; poll, unlike select, takes any number of open files."""
        poll = select.poll()
        poll.register(pipe, event)
        while not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if poll.poll(min(_STOP_POLL, left) * 1000):
                return
        raise _StoppedError


class PocketsphinxEngine:
    """PocketSphinx as an engine that hears English.

    Confidence is the mean of its words' posterior probabilities in the word lattice: about 0.45 to
    0.97 on the recordings that it gets right or nearly right. It has no no-speech probability: 0.
    """

    name = "pocketsphinx"
    at_once = 1

    def __init__(self, *, timeout: float) -> None:
        """Start the child process; does not wait until it is ready.

        Make it before any model is loaded into this process: a start then costs least memory, and
        the child loads while the parent goes on.

        Args:
            timeout: Seconds that an utterance may take, the wait for those before it included.

        Raises:
            MissingExtraError: pocketsphinx is not installed.
        """
        if importlib.util.find_spec("pocketsphinx") is None:
            raise MissingExtraError(
                "pocketsphinx is not installed: pip install 'parley[pocketsphinx]'"
            )
        self._timeout = timeout
        # Held by the thread whose request the child has.
        self._turn = Lock()
        # Guards what follows.
        self._lock = Lock()
        self._closed = False
        self._child = _Child()

    def load(self, language: str | None = None) -> None:
        """Wait until the child is ready.

        Args:
            language: `en` or None.

        Raises:
            EngineError: It could not load its model; the language is not English.
        """
        _require_english(language)
        self._ask(b"", Event())

    def transcribe(self, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        """Recognise the speech in `pcm`; see `HearingEngine.transcribe`.

        One utterance is recognised at a time; the next waits. A child that was found dead is
        replaced before it is asked. One that dies at its work, takes too long or is stopped is
        replaced too, but the utterance is lost: it may have been what killed it. The next call
        finds a child either way.

        Args:
            pcm: At most `MAX_SECONDS` of it.
            language: `en` or None.
            stop: Frees the child's core at once when set.

        Raises:
            EngineError: The child died, took too long or failed; the language is not English; the
                audio is too long; the engine is closed.
        """
        _require_english(language)
        pcm = pcm[: len(pcm) // 2 * 2]
        if not pcm:
            return Transcript((), "en")
        seconds = len(pcm) / 2 / SAMPLE_RATE
        if seconds > MAX_SECONDS:
            raise EngineError(f"pocketsphinx takes {MAX_SECONDS:g} s at once, not {seconds:.0f} s")
        reply = self._ask(pcm, stop)
        if not reply.get("text"):
            return Transcript((), "en")
        segment = Segment(
            text=reply["text"],
            start=reply["start"],
            end=reply["end"],
            confidence=reply["confidence"],
            no_speech=0.0,
        )
        return Transcript((segment,), "en")

    def close(self) -> None:
        """End the child. A request in another thread ends with an EngineError."""
        with self._lock:
            self._closed = True
        if self._turn.acquire(blocking=False):
            try:
                self._child.close()
            finally:
                self._turn.release()
        else:
            # Its pipes are in use by the thread that waits for it, which reaps it.
            self._child.kill(reap=False)

    def _ask(self, pcm: bytes, stop: Event) -> dict[str, Any]:
        """Put a request to the child once it is free; `{}` when `stop` was set first."""
        deadline = time.monotonic() + self._timeout
        if not self._take_turn(deadline, stop):
            return {}
        try:
            if self._closed or not self._child.alive:
                self._replace_child()
            return self._child.ask(pcm, deadline, stop)
        except _StoppedError:
            self._replace_child()
            return {}
        except TimeoutError as error:
            self._replace_child()
            raise EngineError(f"pocketsphinx took more than {self._timeout:g} s") from error
        except (EOFError, OSError, ValueError) as error:
            self._replace_child()
            raise EngineError("pocketsphinx died while it was recognising") from error
        finally:
            self._turn.release()

    def _take_turn(self, deadline: float, stop: Event) -> bool:
        """Wait until the child is free; False when `stop` was set first."""
        while not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                raise EngineError(f"pocketsphinx was busy for more than {self._timeout:g} s")
            if self._turn.acquire(timeout=min(_STOP_POLL, left)):
                return True
        return False

    def _replace_child(self) -> None:
        """Kill the child and start another in its place.

        Raises:
            EngineError: The engine is closed, or no process can be started.
        """
        self._child.kill()
        with self._lock:
            if self._closed:
                raise EngineError("pocketsphinx is closed")
            try:
                self._child = _Child()
            except OSError as error:
                raise EngineError(f"pocketsphinx cannot start a process: {error}") from error


def build(
    settings: "EngineSettings", language: str, progress: "Progress"
) -> "Loaded[HearingEngine]":
    """Make the engine and wait until it is ready. Blocks.

    Args:
        settings: The settings in force.
        language: ISO 639-1 code of what will be spoken.
        progress: Not told: there is nothing to fetch.

    Raises:
        SettingsError: The language is not English.
        EngineError: See `PocketsphinxEngine.load`.
    """
    from services.catalog import Loaded
    from services.settings import SettingsError

    if language != "en":
        raise SettingsError(
            f"--language {language}: pocketsphinx hears English alone; use --stt whisper"
        )
    engine = PocketsphinxEngine(timeout=settings.stt_timeout)
    try:
        engine.load(language)
    except BaseException:
        engine.close()
        raise
    return Loaded(engine, "en-us", "its own package")


def _require_english(language: str | None) -> None:
    if language not in {None, "en"}:
        raise EngineError(f"STT language {language!r}: pocketsphinx hears English only")


def _recognise(decoder: Any, pcm: bytes) -> dict[str, Any]:
    decoder.start_utt()
    # The whole utterance at once: its features are then normalised over all of it.
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    # Silences and noises are spelled <sil>, [NOISE] and the like.
    words = [part for part in decoder.seg() or () if part.word[0] not in "<[+"]
    if not words:
        return {}
    return {
        "text": decoder.hyp().hypstr,
        "start": words[0].start_frame * FRAME,
        "end": (words[-1].end_frame + 1) * FRAME,
        "confidence": min(1.0, sum(part.prob for part in words) / len(words)),
    }


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def reply(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        replies.write(_LENGTH.pack(len(data)) + data)
        replies.flush()

    try:
        from pocketsphinx import Decoder

        decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
    except (ImportError, RuntimeError, OSError) as error:
        reply({"error": str(error)})
        return
    reply({"ready": True})
    while len(header := requests.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(header)
        pcm = requests.read(length)
        if len(pcm) < length:
            return
        try:
            reply(_recognise(decoder, pcm))
        except (RuntimeError, IndexError, ValueError) as error:
            reply({"error": str(error)})


def main() -> None:
    """Be a child: serve stdin and stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever the C library prints must not end up between the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        # The parent is gone. Its pipe cannot be flushed either, so leave without trying.
        os._exit(0)


if __name__ == "__main__":
    main()
