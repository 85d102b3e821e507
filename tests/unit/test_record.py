"""A call's record: audio on the call's clock, words from the journal, and a disk that may fail."""

import asyncio
import errno
import fcntl
import io
import json
import os
import random
import shutil
import stat
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from loguru import logger
from pydantic import SecretStr

from bot.call import Calls
from bot.line import Origin
from bot.records import folder as folders
from bot.records import record as record_module
from bot.records.folder import RecordInUseError, Records, settings_in_force
from bot.records.record import (
    AUDIO,
    BATCH,
    CALL,
    FRAMES,
    HOLD_SECONDS,
    LOST,
    MAX_BATCHES,
    PEAKS,
    TRANSCRIPT,
    Files,
    Sound,
    Track,
    open_private,
)
from bot.records.transcript import PEAKS_PER_SECOND, Peaks, turns
from bot.server import calls
from bot.server.records import router
from bot.settings import Settings
from services.settings import SettingsError

RATE = 16000

ID = "0123456789abcdef0123456789abcdef"

WEB = Origin("webrtc")

OTHER = "fedcba9876543210fedcba9876543210"


@pytest.fixture(autouse=True)
def _no_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is closed has been written, however busy the machine is."""
    monkeypatch.setattr(record_module, "CLOSE_SECONDS", 60.0)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged at the level of warnings and above."""
    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(str(m)), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Audio


def tone(seconds: float, rate: int = RATE) -> bytes:
    """A tone of 440 Hz."""
    samples = 12000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return samples.astype("<i2").tobytes()


def pieces(pcm: bytes, begin: float, seconds: float, rate: int = RATE) -> list[Sound]:
    """Audio in pieces, each of which comes as soon as it has ended."""
    size = 2 * round(seconds * rate)
    parts = [pcm[offset : offset + size] for offset in range(0, len(pcm), size)]
    ends = begin + np.cumsum([len(part) for part in parts]) / 2 / rate
    return [Sound("caller", float(end), part, rate) for part, end in zip(parts, ends, strict=True)]


def settle(track: Track, sounds: list[Sound], end: float) -> np.ndarray[Any, Any]:
    """What comes of pieces, settled as the writer does, again and again."""
    waiting = sorted(sounds, key=lambda sound: sound.at)
    for now in np.arange(0, end, 0.5):
        while waiting and waiting[0].at <= now:
            track.add(waiting.pop(0))
        track.settle(float(now) - HOLD_SECONDS)
    for sound in waiting:
        track.add(sound)
    track.settle(end)
    return np.frombuffer(bytes(track.ready), "<i2")


def extents(samples: np.ndarray[Any, Any]) -> list[tuple[float, float]]:
    """Where there is sound between pauses of 0.1 s and more, in seconds."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 500) / RATE
    cuts = np.flatnonzero(np.diff(loud) > 0.1)
    starts, ends = np.r_[loud[0], loud[cuts + 1]], np.r_[loud[cuts], loud[-1]]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_sound_is_where_it_was_after_an_hour_of_pauses(rate: int) -> None:
    """Utterances with pauses between, at any rate, begin and end when they did: nothing adds up."""
    track = Track(RATE, drops=False)
    times = [7.013 * n for n in range(60)]
    sounds = [s for at in times for s in pieces(tone(1.5, rate), at, 0.04, rate)]
    found = extents(settle(track, sounds, 425))
    assert len(found) == len(times)
    for (start, end), at in zip(found, times, strict=True):
        assert start == pytest.approx(at, abs=0.005)
        assert end == pytest.approx(at + 1.5, abs=0.005)


def test_pieces_that_were_held_up_are_where_they_belong() -> None:
    """A network that delivers late and in bursts moves nothing: the pieces after them tell."""
    chance = random.Random(7)
    silence = bytes(2 * RATE)
    sound = silence + tone(1) + silence + tone(1) + silence
    sounds = pieces(sound, 0, 0.02)
    late = [s._replace(at=s.at + (0.3 if chance.random() < 0.02 else 0)) for s in sounds]
    # A stall of 0.8 s: all that it held up comes at its end.
    late = [s._replace(at=max(s.at, 3.3)) if 2.5 < s.at < 3.3 else s for s in late]
    in_order = np.maximum.accumulate([s.at for s in late])
    late = [s._replace(at=float(at)) for s, at in zip(late, in_order, strict=True)]
    found = extents(settle(Track(RATE, drops=True), late, 5.4))
    assert np.array(found) == pytest.approx(np.array([[1, 2], [3, 4]]), abs=0.05)


@pytest.mark.parametrize("drift", [-0.002, 0.002])
def test_a_clock_that_goes_wrong_is_put_right(drift: float) -> None:
    """A microphone whose seconds are longer or shorter stays with the call's clock."""
    sound = b"".join(tone(0.5) + bytes(2 * RATE * 3 // 2) for _ in range(60))
    sounds = [s._replace(at=s.at * (1 + drift)) for s in pieces(sound, 0, 0.02)]
    found = extents(settle(Track(RATE, drops=True), sounds, 121))
    assert len(found) == 60
    for n, (start, _) in enumerate(found):
        assert start == pytest.approx(2 * n * (1 + drift), abs=0.12)


def test_nobody_speaking_is_silence() -> None:
    """Where nothing comes there is silence, as long as it lasts."""
    samples = settle(Track(RATE, drops=True), pieces(tone(0.5), 3, 0.02), 8)
    assert len(samples) == 8 * RATE
    assert np.array(extents(samples)) == pytest.approx(np.array([[3, 3.5]]), abs=0.002)


# What was said


def quiet(seconds: float) -> Peaks:
    return np.zeros((round(seconds * PEAKS_PER_SECOND), 2), np.uint8)


def entry(t: float, event: str, **data: Any) -> dict[str, Any]:
    return {"t": t, "event": event, **data}


def test_a_reply_ends_where_it_was_cut() -> None:
    """Words that were played are there with their times; the caller's words are where they are."""
    peaks = quiet(5)
    peaks[50:70, 1] = peaks[85:100, 1] = 100
    said = turns(
        [
            entry(1.0, "agent-start"),
            entry(1.4, "word", reply=1, text=" Once"),
            entry(2.0, "word", reply=1, text=" upon"),
            entry(2.05, "caller-start"),
            entry(2.06, "interruption"),
            entry(2.1, "agent-stop"),
            entry(3.0, "heard", text="stop", segments=[{"text": "stop", "start": 1.9, "end": 2.4}]),
            entry(3.1, "caller-stop"),
        ],
        peaks,
    )
    agent, caller = said
    assert agent["cut"]
    assert agent["text"] == "Once upon"
    assert agent["words"] == [
        {"text": "Once", "start": 1.0, "end": 1.4},
        {"text": "upon", "start": 1.7, "end": 2.0},
    ]
    assert (caller["text"], caller["start"], caller["end"]) == ("stop", 1.9, 2.4)


def test_a_segment_has_its_soft_end() -> None:
    """What goes on softly after an engine's end belongs to it, but not what comes after a pause."""
    peaks = quiet(3)
    peaks[50:75, 0], peaks[77:80, 0], peaks[86:90, 0] = 160, 12, 160
    heard = {"text": "yes", "start": 1.0, "end": 1.5}
    (turn,) = turns([entry(2, "heard", text="yes", segments=[heard])], peaks)
    assert (turn["start"], turn["end"]) == (1.0, 1.6)


def test_turns_are_apart_and_have_their_latency() -> None:
    """What is said after a pause within a turn belongs to it; a reply has the latency before it."""
    latency = {"turn": 1, "total_ms": 400.0, "stages": []}
    said = turns(
        [
            entry(1, "caller-start"),
            entry(2, "heard", text="I", segments=[{"text": "I", "start": 1.0, "end": 1.1}]),
            entry(3, "heard", text="", segments=[]),
            entry(4, "heard", text="am", segments=[{"text": "am", "start": 3.0, "end": 3.1}]),
            entry(4.1, "caller-stop"),
            entry(4.5, "agent-start"),
            entry(4.5, "turn-latency", **latency),
            entry(5, "word", reply=3, text=" Who?"),
            entry(5.1, "agent-stop"),
            entry(6, "interruption"),
            entry(
                6, "message", messages=[{"role": "user", "content": "me"}, {"role": "developer"}]
            ),
            entry(7, "agent-start"),
            entry(7.5, "word", reply=4, text=" Ah."),
        ],
        quiet(8),
    )
    assert [(t["side"], t["text"]) for t in said] == [
        ("caller", "I am"),
        ("agent", "Who?"),
        ("caller", "me"),
        ("agent", "Ah."),
    ]
    assert [t.get("latency") for t in said] == [None, latency, None, None]
    assert [t.get("typed") for t in said] == [False, None, True, None]
    assert not any(t.get("cut") for t in said)


def test_a_reply_that_was_cut_before_its_first_word_leaves_the_others_alone() -> None:
    """Neither was the reply before it cut, nor has the one after it its latency."""
    latency = {"turn": 1, "total_ms": 400.0, "stages": []}
    said = turns(
        [
            entry(1, "agent-start"),
            entry(2, "word", reply=1, text=" Hello."),
            entry(2.1, "agent-stop"),
            entry(4, "agent-start"),
            entry(4, "turn-latency", **latency),
            entry(4.2, "interruption"),
            entry(4.3, "agent-stop"),
            entry(9, "agent-start"),
            entry(9.5, "word", reply=3, text=" Hm?"),
        ],
        quiet(10),
    )
    assert [(t["text"], t["cut"], t["latency"]) for t in said] == [
        ("Hello.", False, None),
        ("Hm?", False, None),
    ]


# The disk


def recorder(folder: Path, **settings: Any) -> Records:
    return Records(Settings(record=folder, **settings), folder)


def begin(records: Records, call_id: str = ID, origin: Origin = WEB) -> Any:
    record = records.begin(call_id, origin, rate=RATE, about={"agent": "A", "voice": "v"})
    record.begin()
    return record


def speak(record: Any, seconds: float, start: float = 0.0) -> None:
    for sound in pieces(tone(seconds), start, 0.02):
        record.audio("caller", sound.at, sound.pcm, sound.rate)


def test_the_files_are_as_promised_and_private(tmp_path: Path) -> None:
    """A finished record has its files, which nobody else may read."""
    records = recorder(tmp_path / "calls")
    room = "parley-_+4915112345678_x"
    origin = Origin("livekit", room, caller="+4915112345678", called="sip:desk@example.org")
    record = begin(records, origin=origin)
    record.note("agent-start", 0.5)
    record.note("word", 1.0, reply=1, text=" Hi")
    speak(record, 3)
    record.note("end", 3.0, reason="goodbye")
    record.end()
    records.close()
    folder = tmp_path / "calls" / ID
    assert sorted(path.name for path in folder.iterdir()) == [
        *("audio.wav", "call.json", "frames.jsonl", "peaks.bin", "settings.json"),
        "transcript.json",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with wave.open(str(folder / AUDIO)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, RATE)
        assert file.getnframes() == pytest.approx(3 * RATE, abs=400)
    about = json.loads((folder / CALL).read_bytes())
    assert (about["reason"], about["complete"], about["agent"]) == ("goodbye", True, "A")
    assert about["origin"]["caller"] == "***78"
    assert "4915" not in "".join(p.read_text() for p in folder.glob("*.json*"))
    said = json.loads((folder / TRANSCRIPT).read_bytes())["turns"]
    assert [turn["text"] for turn in said] == ["Hi"]
    peaks = records.peaks(ID, 0, 10, 30)
    assert min(peaks["caller"]) > 80
    assert max(peaks["agent"]) == 0


def test_what_is_written_can_be_read_at_any_moment(tmp_path: Path) -> None:
    """The header tells of what is there while the call goes on: no end of the process spoils it."""
    files = Files(
        tmp_path / ID,
        {"id": ID, "started": "2026-01-01T00:00:00+00:00"},
        {},
        rate=RATE,
        limit=10**9,
    )
    files.open()
    sounds: list[Any] = pieces(tone(20), 0, 0.02)
    for count in range(0, len(sounds), BATCH):
        files.write(sounds[count : count + BATCH])
        with wave.open(str(tmp_path / ID / AUDIO)) as file:
            frames = file.readframes(file.getnframes())
        now = sounds[min(count + BATCH, len(sounds)) - 1].at
        assert len(frames) / 4 / RATE >= now - HOLD_SECONDS - 0.1
        assert len(frames) + 44 == (tmp_path / ID / AUDIO).stat().st_size
    files.close()


def test_no_text_and_no_tool_ends_the_record(tmp_path: Path, log: list[str]) -> None:
    """Half a surrogate pair, as a client may send it, and keys that JSON has not, are got over."""
    records = recorder(tmp_path)
    record = begin(records)
    record.note("message", 0.1, messages=[{"role": "user", "content": "a \ud800 b"}])
    record.note("tool-result", 0.2, tool="t", id="1", result={(1, 2): 3, "key": "kept"})
    speak(record, 1)
    record.note("end", 1.0, reason="hangup")
    record.end()
    records.close()
    assert log == []
    told = records.read(ID)
    assert told["complete"]
    assert [turn["text"] for turn in told["turns"]] == ["a ? b"]
    assert '"key": "kept"' in (tmp_path / ID / FRAMES).read_text()


@pytest.mark.parametrize(
    "headers", [[], [(b"range", b"bytes=9-"), (b"if-range", b'"before"')]], ids=["", "resumed"]
)
async def test_a_file_that_grows_while_it_is_sent_is_sent_as_it_was(
    tmp_path: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    """A download during the call holds what there was when it began, to the announced byte."""
    records = recorder(tmp_path)
    record = begin(records)
    speak(record, 5)
    audio, peaks = tmp_path / ID / AUDIO, tmp_path / ID / PEAKS
    # They are the last that is written of what there is by now.
    wait_until(lambda: peaks.is_file() and peaks.stat().st_size > 2 * PEAKS_PER_SECOND * 3.4)
    before = audio.read_bytes()
    app = FastAPI()
    app.include_router(router(OfRecords(records)))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.start":
            with audio.open("ab") as file:
                file.write(bytes(200_000))

    async def receive() -> Any:
        await asyncio.Event().wait()

    path = f"/calls/{ID}/{AUDIO}"
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    start, *parts = sent
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"] == str(len(before)).encode()
    assert b"".join(part["body"] for part in parts) == before
    record.end()
    records.close()


class OfRecords(Calls):
    """The calls of a process that has records, and no call."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._calls = {}


class FullFile(io.FileIO):
    """A file on a disk that has room for so many bytes."""

    room = 100_000

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_full_disk_ends_the_record_and_nothing_else(tmp_path: Path, log: list[str]) -> None:
    """One line says so, whoever records goes on unhindered, and what was written can be read."""

    def open_file(path: Path) -> BinaryIO:
        open_private(path).close()
        return io.BufferedWriter(FullFile(path, "wb"))

    records = Records(Settings(record=tmp_path), tmp_path, open_file=open_file)
    record = begin(records)
    for second in range(30):
        speak(record, 1, second)
    record.end()
    records.close()
    assert len(log) == 1
    assert ID in log[0]
    assert "No space left" in log[0]
    with wave.open(str(tmp_path / ID / AUDIO)) as file:
        assert 0 < file.getnframes() * 4 < FullFile.room
    assert json.loads((tmp_path / ID / CALL).read_bytes())["complete"] is False


def test_a_disk_that_is_full_from_the_start_leaves_no_damaged_record(
    tmp_path: Path, log: list[str]
) -> None:
    """A record of which a file cannot be made is not there at all; one line says why."""

    def open_file(path: Path) -> BinaryIO:
        if path.name == PEAKS:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_private(path)

    records = Records(Settings(record=tmp_path), tmp_path, open_file=open_file)
    record = begin(records)
    speak(record, 3)
    record.end()
    records.close()
    assert len(log) == 1
    assert "No space left" in log[0]
    assert records.latest(1) == []
    assert not (tmp_path / ID).exists()


def test_a_slow_disk_ends_the_record_and_nothing_else(tmp_path: Path, log: list[str]) -> None:
    """A disk that stands still holds nobody up, and what waits for it is bounded."""
    free, stuck = threading.Event(), threading.Event()

    class SlowFile(io.FileIO):
        def write(self, data: Any) -> int:
            if not free.is_set():
                stuck.set()
                assert free.wait(20)
            return super().write(data)

    def open_file(path: Path) -> BinaryIO:
        open_private(path).close()
        return io.BufferedWriter(SlowFile(path, "wb"))

    records = Records(Settings(record=tmp_path), tmp_path, open_file=open_file)
    record = begin(records)
    speak(record, 1)
    assert stuck.wait(10)
    began = time.monotonic()
    for second in range(1, 300):
        speak(record, 1, second)
    record.end()
    # The disk stands still for longer.
    assert time.monotonic() - began < 15
    assert records._writer._queue.qsize() <= MAX_BATCHES + 1
    assert len(log) == 1
    assert "slow" in log[0]
    free.set()
    records.close()
    assert json.loads((tmp_path / ID / CALL).read_bytes())["complete"] is False


def test_one_call_takes_no_more_than_it_may(tmp_path: Path, log: list[str]) -> None:
    """The record ends when it is as large as may be; the call's end is told all the same."""
    records = recorder(tmp_path, record_megabytes=1)
    record = begin(records)
    speak(record, 40)
    record.note("end", 40.0, reason="hangup")
    record.end()
    records.close()
    size = sum(path.stat().st_size for path in (tmp_path / ID).iterdir())
    assert 1_000_000 < size < 1_200_000
    about = json.loads((tmp_path / ID / CALL).read_bytes())
    assert (about["complete"], about["reason"]) == (False, "hangup")
    assert len(log) == 1


def test_a_call_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    """Nobody came: there is no record."""
    records = recorder(tmp_path)
    record = records.begin(ID, Origin("webrtc"), rate=RATE, about={})
    record.note("turn-latency", turn=1)
    record.end()
    records.close()
    assert list(tmp_path.iterdir()) == []


# The folder


def finished(records: Records, call_id: str, days_ago: float = 0.0) -> Path:
    """A record that ended so many days ago, and that its writer has let go."""
    record = begin(records, call_id)
    speak(record, 1)
    record.end()
    folder = records._folder / call_id
    wait_until((folder / TRANSCRIPT).exists)
    wait_until(lambda: json.loads((folder / CALL).read_bytes())["ended"] is not None)
    wait_until(lambda: not records._writer._known)
    then = time.time() - 86400 * days_ago
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    return folder


def test_old_records_are_deleted_and_no_others(tmp_path: Path) -> None:
    """What ended longer ago than records are kept is gone, but never what is being written."""
    records = recorder(tmp_path, record_days=2)
    old, young = finished(records, ID, 2.1), finished(records, OTHER, 1.9)
    stranger = tmp_path / "notes"
    stranger.mkdir()
    record = begin(records, 32 * "a")
    speak(record, 2)
    going = tmp_path / (32 * "a")
    wait_until((going / CALL).exists)
    for path in (stranger, *going.iterdir(), going):
        os.utime(path, (0, 0))
    records.sweep()
    assert not old.exists()
    assert young.exists()
    assert going.exists()
    assert stranger.exists()
    record.end()
    records.close()


@pytest.mark.parametrize(
    "about",
    [
        *("", "{", "[]", "null", '{"ended": null}', '{"ended": 1}'),
        pytest.param("[" * 100_000, id="deep"),
        # Half a character, which no answer can carry.
        '{"id": "\\ud800", "agent": "", "voice": "", "started": "", "origin": {"transport": "", '
        '"line": "", "caller": "", "called": "", "outbound": false}}',
    ],
)
async def test_one_damaged_record_hides_none_and_keeps_none(
    tmp_path: Path, about: str, log: list[str]
) -> None:
    """Whatever its `call.json` holds, the others are listed and deleted when they are old."""
    records = recorder(tmp_path, record_days=2)
    young, old = finished(records, ID, 1), finished(records, OTHER, 3)
    damaged = tmp_path / (32 * "0")
    damaged.mkdir()
    for name in ("settings.json", CALL):
        (damaged / name).write_text(about)
    app = FastAPI()
    app.include_router(calls.router(OfRecords(records)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        listed = (await http.get("/calls")).json()["records"]
    assert [record["id"] for record in listed] == [ID, OTHER]
    records.sweep()
    assert young.exists()
    assert not old.exists()
    records.close()


def test_processes_that_share_a_folder_delete_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """What another process deletes at the same instant is deleted, and not told to be damaged."""
    records, other = recorder(tmp_path, record_days=2), recorder(tmp_path, record_days=2)
    finished(records, ID, 3)
    finished(records, OTHER, 1)
    in_use, rmtree = folders._in_use, shutil.rmtree

    def swept_meanwhile(folder: Path) -> bool:
        monkeypatch.setattr(folders, "_in_use", in_use)
        other.sweep()
        return False

    def cleared_meanwhile(folder: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        other.sweep()
        rmtree(folder)

    monkeypatch.setattr(folders, "_in_use", swept_meanwhile)
    records.sweep()
    monkeypatch.setattr(shutil, "rmtree", cleared_meanwhile)
    records.delete(OTHER)
    records.close()
    other.close()
    assert log == []
    assert list(tmp_path.iterdir()) == []


def test_records_may_be_kept_for_ever(tmp_path: Path) -> None:
    """With 0 days nothing is deleted by itself."""
    records = recorder(tmp_path, record_days=0)
    folder = finished(records, ID, 5000)
    records.sweep()
    assert folder.exists()
    records.close()


def test_a_record_whose_process_died_is_brought_to_its_end(tmp_path: Path) -> None:
    """Its transcript is told from the journal, whose last line may be half."""
    records = recorder(tmp_path)
    folder = finished(records, ID)
    (folder / TRANSCRIPT).unlink()
    about = json.loads((folder / CALL).read_bytes())
    about = {key: about[key] for key in ("id", "started", "agent", "voice", "origin")}
    (folder / CALL).write_text(json.dumps(about | {"ended": None}))
    with (folder / FRAMES).open("a") as file:
        file.write('{"t": 0.5, "event": "word", "reply": 1, "text": " Hello"}\n{"t": 0.6, "ev')
    assert [turn["text"] for turn in records.read(ID)["turns"]] == ["Hello"]
    records.sweep()
    found = records.read(ID)
    assert (found["reason"], found["complete"]) == (LOST, False)
    assert [turn["text"] for turn in found["turns"]] == ["Hello"]
    records.close()


def test_a_record_is_deleted_whole_but_not_while_it_is_written(tmp_path: Path) -> None:
    """Another process sees by the lock that a call goes on."""
    records = recorder(tmp_path)
    record = begin(records)
    speak(record, 2)
    wait_until((tmp_path / ID / "peaks.bin").exists)
    elsewhere = recorder(tmp_path)
    elsewhere.sweep()
    with pytest.raises(RecordInUseError):
        elsewhere.delete(ID)
    assert elsewhere.read(ID)["in_progress"]
    record.end()
    records.close()
    assert not elsewhere.read(ID)["in_progress"]
    elsewhere.delete(ID)
    assert list(tmp_path.iterdir()) == []
    elsewhere.close()


def test_a_record_can_be_deleted_as_soon_as_it_has_ended(tmp_path: Path) -> None:
    """Whoever saw the end need not wait for the writer to let go of the files."""
    records = recorder(tmp_path)
    lock = os.open(finished(records, ID), os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert not records.read(ID)["in_progress"]
    records.delete(ID)
    os.close(lock)
    records.close()


@pytest.mark.parametrize(
    "call_id",
    [
        "",
        ".",
        "..",
        "../calls",
        f"../{ID}",
        f"{ID}/",
        f"{ID}\n",
        ID.upper(),
        f"/{ID}",
        "a" * 33,
        "\u00e9" * 32,
    ],
)
def test_what_is_no_id_is_no_record(tmp_path: Path, call_id: str) -> None:
    """No name leads out of the folder."""
    records = recorder(tmp_path / "calls")
    finished(records, ID)
    for ask in (records.read, records.delete, records.folder):
        with pytest.raises(FileNotFoundError):
            ask(call_id)
    records.close()


def test_a_link_is_no_record(tmp_path: Path) -> None:
    """A link in the folder neither shows nor deletes what it leads to."""
    records = recorder(tmp_path / "calls")
    elsewhere = finished(records, ID).rename(tmp_path / "elsewhere")
    (tmp_path / "calls" / ID).symlink_to(elsewhere)
    assert records.latest(10) == []
    with pytest.raises(FileNotFoundError):
        records.delete(ID)
    assert elsewhere.exists()
    records.close()


def test_the_latest_come_first(tmp_path: Path) -> None:
    """As many as are asked for, the latest first; what is damaged is left out."""
    records = recorder(tmp_path)
    finished(records, ID, 2)
    finished(records, OTHER, 1)
    (finished(records, 32 * "b", 3) / CALL).write_text("{")
    assert [record["id"] for record in records.latest(10)] == [OTHER, ID]
    assert [record["id"] for record in records.latest(1)] == [OTHER]
    records.close()


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    """The line names the setting and the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"--record .*file"):
        recorder(tmp_path / "file" / "calls")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TRANSCRIPT, None),
        (TRANSCRIPT, "{"),
        (TRANSCRIPT, "[]"),
        (TRANSCRIPT, '{"turns": [1]}'),
        (CALL, "{"),
        (CALL, "[]"),
        (CALL, "{}"),
        (CALL, '{"ended": 1}'),
        (CALL, '{"ended": null, "in_progress": 1}'),
        ("peaks.bin", None),
        pytest.param(TRANSCRIPT, "[" * 100_000, id="deep"),
        (TRANSCRIPT, '{"turns": [{"side": "agent", "start": 0, "end": 1, "text": "\\ud800"}]}'),
    ],
)
async def test_a_damaged_record_is_said_to_be_one(
    tmp_path: Path, name: str, content: str | None
) -> None:
    """Whatever a file of it holds, the answer is a sentence, and the record can be deleted."""
    records = recorder(tmp_path)
    folder = finished(records, ID)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    app = FastAPI()
    app.include_router(router(OfRecords(records)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        answer = await http.get(f"/calls/{ID}")
        assert (answer.status_code, "damaged" in answer.json()["detail"]) == (409, True)
        assert (await http.delete(f"/calls/{ID}")).status_code == 204
    records.close()


async def test_loudness_that_cannot_be_read_is_said_to_be_damaged(tmp_path: Path) -> None:
    """Where there is no file, or a folder in its place; the record can be deleted."""
    records = recorder(tmp_path)
    peaks = finished(records, ID) / PEAKS
    app = FastAPI()
    app.include_router(router(OfRecords(records)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        peaks.unlink()
        assert (await http.get(f"/calls/{ID}/peaks")).status_code == 409
        peaks.mkdir()
        (peaks / "file").write_text("x")
        assert (await http.get(f"/calls/{ID}/peaks")).status_code == 409
        assert (await http.delete(f"/calls/{ID}")).status_code == 204
    records.close()


async def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path, log: list[str]) -> None:
    """Meanwhile there are no records; the next call has one, which nobody else may read."""
    folder = tmp_path / "calls"
    records = recorder(folder)
    folder.rmdir()
    app = FastAPI()
    app.include_router(calls.router(OfRecords(records)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
        assert (await http.get("/calls")).json() == {"calls": [], "records": []}
    records.sweep()
    finished(records, ID)
    records.close()
    assert log == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_record_is_never_seen_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """Who looks for old records while one begins neither hinders it nor takes it for damaged."""
    records = recorder(tmp_path, record_days=1e-9)
    lock = fcntl.flock

    def look_first(file: int, how: int) -> None:
        if how & fcntl.LOCK_EX:
            records.sweep()
            with pytest.raises(FileNotFoundError):
                records.delete(ID)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", look_first)
    record = begin(records)
    speak(record, 1)
    record.note("end", reason="hangup")
    record.end()
    records.close()
    assert log == []
    assert records.read(ID)["complete"]
    assert [path.name for path in tmp_path.iterdir()] == [ID]


def test_a_record_that_never_came_to_be_is_cleared_away(tmp_path: Path) -> None:
    """What a process left that died while a record began is deleted a day later."""
    records = recorder(tmp_path, record_days=0)
    for name, age in ((f".{ID}.new", 90_000), (f".{OTHER}.new", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    records.sweep()
    records.close()
    assert [path.name for path in tmp_path.iterdir()] == [f".{OTHER}.new"]


def test_settings_are_told_without_secrets() -> None:
    """What is secret is masked, and so are passwords and tokens within addresses, and numbers."""
    settings = Settings(
        openai_api_key=SecretStr("sk-very-secret"),
        tts="redis://:hunter2@redis:6379",
        stt="ws://a:7001,ws://me:hun@ter3@b:7001",
        daily_room="https://x.example/room?t=hunter4",
        twilio_number="+12025550123",
        record=Path("x"),
    )
    told = json.dumps(settings_in_force(settings))
    for secret in ("very-secret", "hunter2", "hun", "ter3", "hunter4", "2025550123"):
        assert secret not in told
    assert "ws://a:7001,ws://***@b:7001" in told
    assert json.loads(told)["openai_api_key"] == "***"


@pytest.mark.parametrize("after", [0, 1, BATCH - 1, BATCH, 3 * BATCH])
def test_why_the_call_ended_is_told_wherever_it_was_said(tmp_path: Path, after: int) -> None:
    """It may be noted some time before the record ends, and be written with what was before it."""
    records = Records(Settings(record=tmp_path), tmp_path)
    record = begin(records)
    record.note("end", reason="hangup")
    for _ in range(after):
        record.note("vad-stop", after=0.2)
    record.end()
    records.close()
    assert json.loads((tmp_path / ID / "call.json").read_text("utf-8"))["reason"] == "hangup"
