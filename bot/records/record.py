"""A call's record while the call goes on: journal and audio, on their way to the disk.

The event loop only hands over what there is; one thread a process writes. A disk that is full or
slow ends records, never calls.
"""

import fcntl
import json
import os
import struct
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from loguru import logger

from bot.records.transcript import PEAKS_PER_SECOND, turns
from processors.frame_log import Side
from services.audio import Resampler

BATCH = 32
"""Items that are handed over together: 0.6 s of a call in which nobody but the caller is heard."""

CLOSE_SECONDS = 5.0
"""How long the end of a process waits for the disk."""

MAX_BATCHES = 256
"""Batches that may wait for the disk: some 12 s of eight calls."""

HOLD_SECONDS = 1.0
"""How long audio is held back, to see what of it came late."""

JITTER_SECONDS = 0.04
"""How far audio may be off its time before it is moved there: one write of Pipecat's transports."""

SAMPLE_BYTES = 2

AUDIO = "audio.wav"
TRANSCRIPT = "transcript.json"
FRAMES = "frames.jsonl"
SETTINGS = "settings.json"
CALL = "call.json"
PEAKS = "peaks.bin"
"""What a record consists of; the last one has, for each of `PEAKS_PER_SECOND`, a byte of each side:
how loud it was at most, 255 being the loudest."""

LOST = "lost"
"""Why a call ended whose process died."""

Open: TypeAlias = Callable[[Path], BinaryIO]


class Sound(NamedTuple):
    """A piece of one side's audio; see `Journal.audio`."""

    side: Side
    at: float
    pcm: bytes
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.pcm) / SAMPLE_BYTES / self.rate


Item: TypeAlias = Sound | dict[str, Any]


def open_private(path: Path) -> BinaryIO:
    """Make a file that nobody else may read.

    Raises:
        FileExistsError: It is there already.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def write_json(path: Path, value: object) -> None:
    """Replace a file by another, all at once."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open_private(fresh) as file:
        file.write(_json(value, indent=1))
    fresh.rename(path)


def _json(value: object, indent: int | None = None) -> bytes:
    # Nobody chooses what tools and clients give: keys that JSON has not are left out, and
    # half a surrogate pair, for which UTF-8 has no bytes, becomes a question mark.
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str, skipkeys=True)
    return text.encode(errors="replace")


class Track:
    """One side's audio, brought to the call's clock.

    Pieces come when they come: late, several at once, or not at all while nobody speaks. Each says
    when it ended at the latest; one that was held up is told by the pieces that follow it without a
    pause. What comes on time, give or take `JITTER_SECONDS`, is joined to what was there, silence
    fills what is missing, and clocks that drift apart are brought together again.
    """

    def __init__(self, rate: int, *, drops: bool) -> None:
        """Begin with the call.

        Args:
            rate: Samples a second of the record.
            drops: Whether a piece that comes while later ones were written is left out, as a
                listener would not have it any more; otherwise it follows them.
        """
        self.ready = bytearray()
        """What was placed and not yet taken."""
        self._rate = rate
        self._drops = drops
        self._pending: list[Sound] = []
        self._place = 0.0  # Where the next piece goes if it joins, in seconds.
        self._length = 0  # Samples placed so far.
        self._silent = True  # Whether the last of them are silence that nobody sent.
        self._resampler = Resampler(rate, rate)
        self._in_rate = rate

    def add(self, sound: Sound) -> None:
        """Take a piece."""
        self._pending.append(sound)

    def settle(self, until: float) -> None:
        """Place what ended by `until`, and have silence where nothing came."""
        starts: list[float] = []
        end = float("inf")
        for sound in reversed(self._pending):
            end = min(sound.at, end) - sound.seconds
            starts.append(end)
        starts.reverse()
        placed = 0
        for sound, start in zip(self._pending, starts, strict=True):
            if start + sound.seconds > until:
                until = min(start, until)
                break
            self._put(sound, start)
            placed += 1
        del self._pending[:placed]
        if self._place < until:
            self._fill(until)

    def _put(self, sound: Sound, start: float) -> None:
        if start > self._place + (0 if self._silent else JITTER_SECONDS):
            self._fill(start)
        elif self._drops and start < self._place - 2 * JITTER_SECONDS:
            return
        if sound.rate != self._in_rate:
            self._flush()
            self._in_rate = sound.rate
            self._resampler = Resampler(sound.rate, self._rate)
        self._silent = False
        self._extend(self._resampler.push(sound.pcm))
        self._place += sound.seconds

    def _fill(self, until: float) -> None:
        self._silent = True
        self._flush()
        missing = round(until * self._rate) - self._length
        self._extend(bytes(SAMPLE_BYTES * max(0, missing)))
        self._place = max(until, self._place)

    def _flush(self) -> None:
        self._extend(self._resampler.flush())

    def _extend(self, pcm: bytes) -> None:
        self.ready += pcm
        self._length += len(pcm) // SAMPLE_BYTES


class Files:
    """A call's files, as the writer's thread has them. Every method may raise `OSError`.

    The header of `audio.wav` always tells of what is there, so that the file is whole whenever the
    process dies. The folder stays locked for as long as it is written to.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        rate: int,
        limit: int,
        open_file: Open = open_private,
    ) -> None:
        """Say what will be written; nothing is yet.

        Args:
            folder: Where; it must not be there yet.
            about: The beginning of `call.json`.
            settings: `settings.json`.
            rate: Samples a second of either channel.
            limit: The most bytes of audio and journal together.
            open_file: Makes a file.
        """
        self.full = False
        """Whether the limit was reached."""
        self._folder = folder
        self._about = dict(about)
        self._settings = settings
        self._rate = rate
        self._limit = limit
        self._open_file = open_file
        self._tracks = (Track(rate, drops=True), Track(rate, drops=False))
        self._open: list[BinaryIO] = []
        self._lock = -1
        self._reason: str | None = None
        self._latest = 0.0
        self._written = 0
        self._frames_bytes = 0
        self._unpeaked = np.zeros((0, 2), "<i2")

    def __str__(self) -> str:
        return f"call {self._folder.name}"

    def open(self) -> None:
        """Make the folder and the files."""
        # Under its own name it is locked from the first moment on: who looks for old records must
        # not take it for one whose process died.
        fresh = self._folder.with_name(f".{self._folder.name}.new")
        fresh.parent.mkdir(0o700, parents=True, exist_ok=True)
        fresh.mkdir(0o700)
        self._lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_json(fresh / SETTINGS, self._settings)
        write_json(fresh / CALL, {**self._about, "ended": None})
        # Nor for a damaged one where the disk has no room for a file.
        for name in (AUDIO, FRAMES, PEAKS):
            self._open.append(self._open_file(fresh / name))
        self._write_header()
        fresh.rename(self._folder)

    def write(self, items: list[Item]) -> None:
        """Write items; audio is held back for a moment."""
        lines = []
        for item in items:
            if isinstance(item, Sound):
                self._tracks[item.side == "agent"].add(item)
                self._latest = max(self._latest, item.at)
            else:
                self._reason = self._reason or _reason_in(item)
                lines.append(_json(item) + b"\n")
        _, frames, _ = self._open
        self._frames_bytes += frames.write(b"".join(lines))
        frames.flush()
        self._write_audio(self._latest - HOLD_SECONDS)
        self.full = self._frames_bytes + 2 * SAMPLE_BYTES * self._written > self._limit

    def finish(self, items: list[Item], seconds: float, *, complete: bool) -> None:
        """Write what the files come to.

        Args:
            items: The last ones.
            seconds: How long the call was.
            complete: Whether `write` took all items before; otherwise they end where it stopped.
        """
        if complete:
            self.write(items)
            self._write_audio(self._latest, last=True)
        reasons = (_reason_in(item) for item in items if isinstance(item, dict))
        reason = self._reason or next((reason for reason in reasons if reason), None)
        conclude(self._folder, reason, seconds, complete=complete)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open:
            try:
                file.close()
            except OSError:  # What could not be written before cannot be now.
                continue
        self._open.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write_audio(self, until: float, *, last: bool = False) -> None:
        for track in self._tracks:
            track.settle(until)
        lengths = [len(track.ready) // SAMPLE_BYTES for track in self._tracks]
        length = max(lengths) if last else min(lengths)
        if not length:
            return
        samples = np.zeros((length, 2), "<i2")
        for column, track in enumerate(self._tracks):
            pcm = np.frombuffer(bytes(track.ready[: SAMPLE_BYTES * length]), "<i2")
            samples[: len(pcm), column] = pcm
            del track.ready[: SAMPLE_BYTES * length]
        audio, _, peaks = self._open
        audio.write(samples.tobytes())
        self._written += length
        self._write_header()
        peaks.write(self._peaks(samples))
        peaks.flush()

    def _peaks(self, samples: np.ndarray[Any, Any]) -> bytes:
        samples = np.concatenate([self._unpeaked, samples])
        window = self._rate // PEAKS_PER_SECOND
        whole = len(samples) - len(samples) % window
        self._unpeaked = samples[whole:]
        loudest = np.abs(samples[:whole].astype(np.int32)).reshape(-1, window, 2).max(axis=1)
        return bytes(np.minimum(loudest >> 7, 255).astype(np.uint8))

    def _write_header(self) -> None:
        """Say how long the audio is.

        After "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft,
        1991): a RIFF chunk of type WAVE, with a format chunk and a data chunk.
        """
        audio = self._open[0]
        size, frame = 2 * SAMPLE_BYTES * self._written, 2 * SAMPLE_BYTES
        audio.flush()
        audio.seek(0)
        audio.write(
            struct.pack(
                "<4sI4s4sIHHIIHH4sI",
                *(b"RIFF", 36 + size, b"WAVE"),
                *(b"fmt ", 16, 1, 2, self._rate, frame * self._rate, frame, 8 * SAMPLE_BYTES),
                *(b"data", size),
            )
        )
        audio.flush()
        audio.seek(0, os.SEEK_END)


def _reason_in(event: dict[str, Any]) -> str | None:
    """Why the call ended, where an event says so."""
    return event.get("reason") if event["event"] == "end" else None


def conclude(folder: Path, reason: str | None, seconds: float, *, complete: bool) -> None:
    """Write what a call's files come to: `transcript.json`, and the end of `call.json`.

    Args:
        folder: The call's.
        reason: Why it ended.
        seconds: How long it was.
        complete: Whether the record goes on to the call's end.
    """
    entries = read_journal(folder)
    said = turns(entries, read_peaks(folder))
    write_json(folder / TRANSCRIPT, {"turns": said})
    about = json.loads((folder / CALL).read_bytes())
    started = datetime.fromisoformat(about["started"]).timestamp()
    latencies = [
        {"at": entry["t"], **{key: entry[key] for key in ("turn", "total_ms", "stages")}}
        for entry in entries
        if entry["event"] == "turn-latency"
    ]
    about |= {
        "ended": _iso(started + seconds),
        "seconds": round(seconds, 3),
        "reason": reason,
        "complete": complete,
        "latencies": latencies,
    }
    write_json(folder / CALL, about)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The entries of a record's journal; a last one that is half written is left out."""
    with (folder / FRAMES).open("rb") as file:
        entries = [json.loads(line) for line in file if line.endswith(b"\n")]
    # Words are noted in the order in which they come, which is not quite that of their times.
    return sorted(entries, key=lambda entry: float(entry["t"]))


def read_peaks(folder: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """How loud both sides were, of shape `[peaks, 2]`: the caller, the agent."""
    flat = np.fromfile(folder / PEAKS, np.uint8)
    return flat[: len(flat) - len(flat) % 2].reshape(-1, 2)


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")


class Record:
    """A call's record, as the event loop has it: a `Journal` that never waits."""

    def __init__(self, writer: "Writer", make: Callable[[str], Files]) -> None:
        """Wait for the call to begin; until then there are no files.

        Args:
            writer: What writes.
            make: Says what will be written, for a beginning in ISO 8601.
        """
        self.files: Files | None = None
        self._writer = writer
        self._make = make
        self._began = 0.0
        self._batch: list[Item] = []

    def begin(self) -> None:
        """The caller is there: all times count from now."""
        self._began = time.monotonic()
        self.files = self._make(_iso(time.time()))

    def audio(self, side: Side, at: float, pcm: bytes, rate: int) -> None:
        """Take audio; see `Journal.audio`."""
        self._add(Sound(side, at, pcm, rate))

    def note(self, event: str, at: float | None = None, **data: Any) -> None:
        """Take an event; see `Journal.note`."""
        if self.files:
            t = time.monotonic() - self._began if at is None else at
            self._add({"t": round(t, 3), "event": event, **data})

    def end(self) -> None:
        """The call is over."""
        if self.files:
            seconds = time.monotonic() - self._began
            self._writer.put(self.files, self._batch, seconds)

    def _add(self, item: Item) -> None:
        self._batch.append(item)
        if len(self._batch) >= BATCH and self.files:
            self._writer.put(self.files, self._batch)
            self._batch = []


class Writer:
    """The thread that writes the records of a process, and what waits for it."""

    def __init__(self) -> None:
        """Start the thread."""
        self._queue: SimpleQueue[tuple[Files, list[Item], float | None] | None] = SimpleQueue()
        self._known: set[Files] = set()
        self._given_up: set[Files] = set()
        self._thread = Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def put(self, files: Files, items: list[Item], seconds: float | None = None) -> None:
        """Have items written. Never waits: a record whose disk is too slow ends.

        Args:
            files: Whose they are.
            items: What to write.
            seconds: How long the call was, if it is over.
        """
        if self._queue.qsize() >= MAX_BATCHES:
            self._give_up(files, "the disk is too slow")
        if seconds is not None or files not in self._given_up:
            self._queue.put((files, items, seconds))

    def close(self) -> None:
        """Write what there is, and end the thread; waits for the disk, but not for long."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _give_up(self, files: Files, why: str) -> None:
        if files not in self._given_up:
            self._given_up.add(files)
            logger.error("{}: its record ends here: {}", files, why)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            files, items, seconds = work
            try:
                if files not in self._known:
                    self._known.add(files)
                    files.open()
                complete = files not in self._given_up
                if seconds is not None:
                    files.finish(items, seconds, complete=complete)
                elif complete:
                    files.write(items)
            except Exception as error:
                self._give_up(files, str(error))
            if files.full:
                self._give_up(files, "it is as large as may be")
            if seconds is not None:
                files.close()
                self._known.discard(files)
                self._given_up.discard(files)
