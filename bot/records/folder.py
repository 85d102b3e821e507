"""The records of calls: a folder each, begun, listed, read, deleted when they are old."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from pydantic import SecretStr
from pydantic_core import from_json

from bot.line import Origin, mask_number
from bot.records.record import (
    CALL,
    LOST,
    PEAKS,
    SETTINGS,
    TRANSCRIPT,
    Files,
    Open,
    Record,
    Writer,
    conclude,
    open_private,
    read_journal,
    read_peaks,
)
from bot.records.transcript import PEAKS_PER_SECOND, turns
from bot.settings import Settings
from services.serve import without_secrets
from services.settings import SettingsError, masked

DAY_SECONDS = 86400.0

MAX_COLUMNS = 4096
"""The most pairs of peaks in one answer: more than a screen is wide."""

_ID = re.compile(r"[0-9a-f]{32}")


class RecordInUseError(Exception):
    """The call of this record goes on."""


class RecordDamagedError(Exception):
    """A file of this record is missing, or is not what was written."""


class Records:
    """The folder of records. What is not `begin` may block: not for the event loop."""

    def __init__(self, settings: Settings, folder: Path, *, open_file: Open = open_private) -> None:
        """Take a folder, which is made if need be.

        Args:
            settings: The settings in force.
            folder: Where the records are.
            open_file: Makes a record's file.

        Raises:
            SettingsError: Nothing can be written there.
        """
        self._settings = settings
        self._folder = folder
        self._open_file = open_file
        make_folder(folder)
        self._writer = Writer()

    def begin(self, call_id: str, origin: Origin, *, rate: int, about: Mapping[str, Any]) -> Record:
        """A record for a call that is about to begin.

        Args:
            call_id: The call's id.
            origin: Where it comes from; of numbers, the last two digits are kept.
            rate: Samples a second of its audio.
            about: What else `call.json` is to say of it.
        """
        where = {
            "transport": origin.transport,
            # A room of LiveKit's is named after its caller's number.
            "line": without_secrets(origin.id, ()),
            "caller": mask_number(origin.caller) if origin.caller else "",
            "called": mask_number(origin.called) if origin.called else "",
            "outbound": origin.outbound,
        }

        def make(started: str) -> Files:
            return Files(
                self._folder / call_id,
                {"id": call_id, "started": started, "origin": where, **about},
                settings_in_force(self._settings),
                rate=rate,
                limit=self._settings.record_megabytes * 1_000_000,
                open_file=self._open_file,
            )

        return Record(self._writer, make)

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """What is known of the latest records, the latest first; see `CALL`."""
        found: list[tuple[float, Path]] = []
        for folder in self._folders():
            with suppress(OSError):
                found.append(((folder / SETTINGS).stat().st_mtime, folder))
        found.sort(reverse=True)
        records = []
        for _, folder in found[:limit]:
            with suppress(OSError, ValueError):
                records.append(from_json((folder / CALL).read_bytes()))
        return records

    def read(self, call_id: str) -> dict[str, Any]:
        """All that a page needs of a record: what it is of, its turns, how long it is by now.

        Its call is in progress for as long as some process writes it, not this one alone.

        Raises:
            FileNotFoundError: There is no such record.
            RecordDamagedError: It cannot be read.
        """
        folder = self.folder(call_id)
        try:
            about: dict[str, Any] = from_json((folder / CALL).read_bytes())
            seconds = (folder / PEAKS).stat().st_size / 2 / PEAKS_PER_SECOND
            if about["ended"]:
                said = from_json((folder / TRANSCRIPT).read_bytes())["turns"]
            else:
                said = turns(read_journal(folder), read_peaks(folder))
            return about | {
                "audio_seconds": seconds,
                "turns": said,
                "in_progress": _in_use(folder),
            }
        # Whoever can write there may have written anything.
        except (
            *(OSError, ValueError, LookupError, TypeError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise RecordDamagedError(f"call {call_id}: {error!r}") from error

    def peaks(self, call_id: str, start: float, end: float, columns: int) -> dict[str, Any]:
        """How loud both sides were in a stretch of a call, from 0 to 255.

        Args:
            call_id: The call's id.
            start: Seconds into the call.
            end: Seconds into the call.
            columns: Into how many parts the stretch is cut, at most `MAX_COLUMNS`.

        Returns:
            `{"start", "end", "caller": […], "agent": […]}`: the loudest of each part. There are
            fewer parts where the record is not that fine.

        Raises:
            FileNotFoundError: There is no such record.
            RecordDamagedError: It cannot be read.
        """
        path = self.folder(call_id) / PEAKS
        first, last = (max(0, int(t * PEAKS_PER_SECOND)) for t in (start, end))
        try:
            count = min(last, path.stat().st_size // 2) - first
            if count <= 0:
                return {"start": start, "end": start, "caller": [], "agent": []}
            pairs = np.fromfile(path, np.uint8, 2 * count, offset=2 * first).reshape(-1, 2)
        except OSError as error:
            raise RecordDamagedError(f"call {call_id}: {error!r}") from error
        edges = np.unique(np.linspace(0, count, min(columns, count) + 1)[:-1].astype(int))
        loudest = np.maximum.reduceat(pairs, edges)
        return {
            "start": first / PEAKS_PER_SECOND,
            "end": (first + count) / PEAKS_PER_SECOND,
            "caller": loudest[:, 0].tolist(),
            "agent": loudest[:, 1].tolist(),
        }

    def folder(self, call_id: str) -> Path:
        """Where a record is.

        Raises:
            FileNotFoundError: There is no such record.
        """
        folder = self._folder / call_id
        if not _ID.fullmatch(call_id) or folder.is_symlink() or not (folder / CALL).is_file():
            raise FileNotFoundError(call_id[:40])
        return folder

    def delete(self, call_id: str) -> None:
        """Delete all of a record.

        Raises:
            FileNotFoundError: There is no such record.
            RecordInUseError: It is being written.
        """
        folder = self.folder(call_id)
        if _in_use(folder):
            raise RecordInUseError(call_id)
        self._remove(folder)

    def sweep(self) -> None:
        """Delete what is too old, and bring records to an end whose process died."""
        for leftover in self._folder.glob(".*.deleted"):
            shutil.rmtree(leftover, ignore_errors=True)
        for unbegun in self._folder.glob(".*.new"):
            with suppress(OSError):
                if time.time() - unbegun.stat().st_mtime > DAY_SECONDS:
                    shutil.rmtree(unbegun)
        oldest = time.time() - self._settings.record_days * DAY_SECONDS
        for folder in self._folders():
            try:
                if _in_use(folder):
                    continue
                if self._settings.record_days and _written(folder) < oldest:
                    self._remove(folder)
                    logger.info("call {}: its record is deleted, as it is old", folder.name)
                else:
                    _mend(folder)
            # Whatever is wrong with one must not keep the others beyond their time.
            except Exception as error:
                # One that is gone was deleted by another process.
                if folder.exists():
                    logger.warning("call {}: its record is damaged: {!r}", folder.name, error)

    def close(self) -> None:
        """Write what is left to write."""
        self._writer.close()

    def _folders(self) -> Iterator[Path]:
        # Where somebody deleted it, there are none; the next record makes it again.
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)

    def _remove(self, folder: Path) -> None:
        # Out of sight at once, so that nobody finds a half of it.
        gone = self._folder / f".{folder.name}.deleted"
        folder.rename(gone)
        # Another process that looks for leftovers deletes the same files.
        with suppress(FileNotFoundError):
            shutil.rmtree(gone)


def make_folder(folder: Path) -> None:
    """Make the folder of records, if need be.

    Raises:
        SettingsError: Nothing can be written there.
    """
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--record {folder}: {error.strerror}; name a folder") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"--record {folder}: records cannot be written there")


def settings_in_force(settings: Settings) -> dict[str, Any]:
    """The settings, without what is secret in them, and of numbers the last two digits."""

    def tell(value: Any) -> Any:
        if isinstance(value, SecretStr):
            return "***"
        if isinstance(value, (list, tuple)):
            return [tell(item) for item in value]
        if isinstance(value, (bool, int, float, type(None))):
            return value
        return without_secrets(masked(str(value)), ())

    return {name: tell(getattr(settings, name)) for name in type(settings).model_fields}


def _in_use(folder: Path) -> bool:
    """Whether some process writes this record: see `Files`."""
    # Its end is the last that is written, a moment before the lock is let go.
    with suppress(OSError, ValueError, LookupError, TypeError):
        if from_json((folder / CALL).read_bytes())["ended"]:
            return False
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _written(folder: Path) -> float:
    """When a record was last written, as `time.time` has it."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*")))


def _mend(folder: Path) -> None:
    """Bring a record to its end, if whoever wrote it could not."""
    about = from_json((folder / CALL).read_bytes())
    if about["ended"] is None:
        seconds = (folder / PEAKS).stat().st_size / 2 / PEAKS_PER_SECOND
        conclude(folder, LOST, seconds, complete=False)
