"""What a voice in another process costs, how soon it can be stopped, and how it shares its cores.

The worker is `python -m services.worker` with the defaults and the full-size voice. This process is
its only client, and has no pipeline: what a pipeline adds is the same wherever the engine runs.
"""

import asyncio
import ctypes
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from threading import Event

from piper import PiperVoice

from bench.figures import Figure, Sample
from bench.first_audio import SENTENCES
from bench.sides import FULL_SIZE_VOICE
from services import catalog
from services.settings import EngineSettings
from services.tts.local import LocalSpeech
from services.tts.remote import RemoteSpeech
from services.tts.speech import Speech
from services.worker.leases import FixedWorkers
from services.worker.pool import WorkerPool
from tests.callers.server import WorkerServer

ADDED_BOUND = 15.0
CANCEL_BOUND = 100.0
"""Milliseconds."""

TOGETHER_BOUND = 1.1
"""Of the time that the same utterances take one by one."""

FAIR_BOUND = 1.5
"""Of what eight cost that wait for one another's first audio, and for no more than that."""

TOGETHER = 8
"""Utterances at once: as many as a worker takes unless it is told otherwise."""

CORES = 2
"""Cores of the worker that speaks them."""

LONG_SENTENCE = (
    "Once upon a time a small white boat sailed across the wide and quiet water with nobody in it "
    "but an old grey cat who had always wanted to see what lay behind the far blue hills and had "
    "never in all its long and lazy life been asked by anybody whether it could swim or sing or "
    "read the stars at night."
)
"""Without a pause: one run for an engine that computes a sentence whole."""

CANCEL_TEXTS = (LONG_SENTENCE, " ".join(SENTENCES))

CANCEL_MOMENTS = (0.25, 0.05, 0.20, 0.10, 0.15)
"""Seconds from asking to the cancel, each taken in its turn: before the first audio, too."""

COMPUTED_S = 0.05
"""The worker must have been seen to compute in so many seconds before a cancel."""

SAMPLE_S = 0.004
"""How often the worker's processor time is read. The kernel brings it up to date once a tick, which
is 4 ms where there are 250 of them a second: what is measured is up to two of these too long."""

BUSY = 0.5
"""The share of a core above which the worker computes: what it does with a socket takes less."""

QUIET_S = 0.1
"""Seconds without computing after which it has ended: synthesis takes no such break, and what a
worker does now and then besides is not taken for it."""

SILENCE_LIMIT_S = 30.0
"""Seconds that a worker may take here: it is to be measured, not left, on a busy machine."""


@dataclass(frozen=True, slots=True)
class _Spoken:
    """When an utterance came, in seconds from when it was asked for, and how long it is.

    Attributes:
        first: Until its first audio.
        whole: Until its end.
        audio: Seconds of its audio.
    """

    first: float
    whole: float
    audio: float


async def _speak(speech: Speech, text: str) -> _Spoken:
    asked = time.perf_counter()
    first: float | None = None
    audio = 0.0
    async with aclosing(speech.speak(text, "", 1.0)) as chunks:
        async for chunk in chunks:
            if first is None:
                first = time.perf_counter() - asked
            audio += len(chunk.pcm) / 2 / chunk.sample_rate
    if first is None:
        raise RuntimeError(f"no audio for {text!r}")
    return _Spoken(first, time.perf_counter() - asked, audio)


def _worker(python: Sequence[str] = (sys.executable,)) -> WorkerServer:
    """A worker with the full-size voice, not yet started."""
    flags = ("--engine", "piper", "--offline", "--tts-voice", str(FULL_SIZE_VOICE))
    return WorkerServer(*flags, python=python)


@asynccontextmanager
async def _through(worker: WorkerServer) -> AsyncIterator[RemoteSpeech]:
    """Speech through a worker that runs, connected and warm."""
    pool = WorkerPool(FixedWorkers([worker.address]), None)
    pool.start()
    speech = RemoteSpeech(pool, first_audio_limit_s=SILENCE_LIMIT_S)
    try:
        async with asyncio.timeout(SILENCE_LIMIT_S):
            while not pool.has("speak"):
                await pool.wait_for_change(1)
        await _speak(speech, SENTENCES[0])
        yield speech
    finally:
        await speech.close()


@asynccontextmanager
async def _in_process() -> AsyncIterator[LocalSpeech]:
    """The worker's engine in this process, warm."""
    settings, voice = EngineSettings(offline=True), str(FULL_SIZE_VOICE)
    loaded = await asyncio.to_thread(catalog.load_voice, settings, "piper", voice, lambda *_: None)
    speech = LocalSpeech(loaded.engine)
    try:
        await _speak(speech, SENTENCES[0])
        yield speech
    finally:
        await speech.close()


async def remote_first_audio(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """What the way through a worker adds to the time to first audio.

    Both speak each sentence to its end, in turns, and the one that begins changes.

    Args:
        mind: Not used.
        quick: Whether each sentence is spoken once only.
    """
    remote: list[float] = []
    local: list[float] = []
    with _worker() as worker:
        async with _through(worker) as there, _in_process() as here:
            sides: list[tuple[Speech, list[float]]] = [(there, remote), (here, local)]
            for sentence in SENTENCES * (1 if quick else 5):
                sides.reverse()
                for speech, milliseconds in sides:
                    milliseconds.append(1000 * (await _speak(speech, sentence)).first)
    added = [one - other for one, other in zip(remote, local, strict=True)]
    return [
        Figure(
            "first audio through a worker",
            "ms",
            Sample.median(remote),
            Sample.median(local),
            None,
            peer_name="in process",
        ),
        Figure(
            "first audio through a worker: added", "ms", Sample.median(added), None, ADDED_BOUND
        ),
    ]


async def cancel(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """From a cancel to when the worker computes no more, for a text that has just begun.

    The peer is `PiperVoice.synthesize` in a thread of this process, which can be left between two
    sentences only.

    Args:
        mind: Not used.
        quick: Whether there are few cancels.
    """
    ours: list[float] = []
    work: list[float] = []
    peer: list[float] = []
    stock = await asyncio.to_thread(PiperVoice.load, FULL_SIZE_VOICE)
    with _worker() as worker:
        clock = _processor_clock(worker.pid)
        async with _through(worker) as speech:
            for moment in CANCEL_MOMENTS * (1 if quick else 3):
                for text in CANCEL_TEXTS:
                    free, used = await _until_free(speech, text, moment, clock)
                    ours.append(1000 * free)
                    work.append(1000 * used)
                    peer.append(1000 * await _until_stock_is_free(stock, text, moment))
    note = (
        f"median {statistics.median(ours):.0f} ms, the peer's {statistics.median(peer):.0f} ms; "
        f"processor time until then: median {statistics.median(work):.0f} ms, "
        f"worst {max(work):.0f} ms"
    )
    return [
        Figure(
            "cancel to the worker's core free, worst",
            "ms",
            Sample.of(max(ours), ours),
            Sample.of(max(peer), peer),
            CANCEL_BOUND,
            peer_name="PiperVoice",
            note=note,
        )
    ]


async def _until_free(speech: Speech, text: str, moment: float, clock: int) -> tuple[float, float]:
    """Cancel a text `moment` seconds after it was asked for.

    Returns:
        Seconds until the worker computes no more, and of processor time that it used from there.
    """
    speaking = asyncio.create_task(_speak(speech, text))
    watching = asyncio.create_task(asyncio.to_thread(_busy_times, clock))
    await asyncio.sleep(moment)
    cancelled, used = time.monotonic(), time.clock_gettime(clock)
    if speaking.done():
        raise RuntimeError("a text was over before it was cancelled")
    speaking.cancel()
    times = await watching
    await asyncio.wait({speaking})
    if not times or times[-1] < cancelled - COMPUTED_S:
        raise RuntimeError("the worker did not compute when it was cancelled")
    return max(0.0, times[-1] - cancelled), time.clock_gettime(clock) - used


async def _until_stock_is_free(voice: PiperVoice, text: str, moment: float) -> float:
    stop = Event()

    def speak() -> float:
        for _ in voice.synthesize(text):
            if stop.is_set():
                break
        return time.monotonic()

    speaking = asyncio.create_task(asyncio.to_thread(speak))
    await asyncio.sleep(moment)
    cancelled = time.monotonic()
    stop.set()
    return max(0.0, await speaking - cancelled)


def _processor_clock(pid: int) -> int:
    """The clock that counts a process's processor time, for `time.clock_gettime`.

    Raises:
        OSError: There is no such process.
    """
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return clock.value


def _busy_times(clock: int) -> list[float]:
    """The times at which a process was seen to compute, until it has been quiet for a while.

    In seconds of `time.monotonic()`; each ends a stretch of `SAMPLE_S`.
    """
    times: list[float] = []
    at = began = time.monotonic()
    used = time.clock_gettime(clock)
    while at - (times[-1] if times else began) < QUIET_S:
        time.sleep(SAMPLE_S)
        before, at = at, time.monotonic()
        used_before, used = used, time.clock_gettime(clock)
        if used - used_before > BUSY * min(at - before, SAMPLE_S):
            times.append(at)
    return times


async def eight_at_once(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """Whether utterances at once cost more than one by one, and whether any waits too long.

    Args:
        mind: Not used.
        quick: Whether there is one round only.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:CORES]))
    texts = list(islice(cycle(SENTENCES), TOGETHER))
    together: list[float] = []
    apart: list[float] = []
    latest: list[float] = []
    last: list[float] = []
    alone: list[float] = []
    with _worker(("taskset", "--cpu-list", cores, sys.executable)) as worker:
        async with _through(worker) as speech:
            for _ in range(1 if quick else 5):
                one_by_one = [await _speak(speech, text) for text in texts]
                began = time.perf_counter()
                at_once = await asyncio.gather(*(_speak(speech, text) for text in texts))
                took = time.perf_counter() - began
                together.append(took / sum(spoken.audio for spoken in at_once))
                waited = [spoken.whole for spoken in one_by_one]
                apart.append(sum(waited) / sum(spoken.audio for spoken in one_by_one))
                latest.append(max(spoken.first for spoken in at_once))
                last.append(sum(waited[:-1]) + one_by_one[-1].first)
                alone.append(statistics.median(spoken.first for spoken in one_by_one))
    first = statistics.median(alone)
    return [
        Figure(
            f"time for a second of audio, {TOGETHER} at once on {CORES} cores",
            "s",
            Sample.median(together),
            Sample.median(apart),
            TOGETHER_BOUND,
            relative=True,
            peer_name="one by one",
        ),
        Figure(
            f"latest first audio of {TOGETHER} at once, in first audios of one alone",
            "",
            Sample.median([seconds / first for seconds in latest]),
            Sample.median([seconds / first for seconds in last]),
            FAIR_BOUND * TOGETHER,
            peer_name="one by one",
            note=f"one alone: {1000 * first:.0f} ms",
        ),
    ]
