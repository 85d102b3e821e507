"""What a call hears when its voice moves from one worker to another: planned, and after a death.

Everything is real: a Redis, workers and an agent in processes of their own, and an aiortc caller in
the benchmark's, over WebRTC on loopback. Words are counted as the agent tells its caller, which it
does as their audio is sent: against the text, a word that is missing counts, and one told twice.
"""

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Figure, Sample
from bench.first_audio import SENTENCES
from bench.mind import STORY_REQUEST, PacedModel
from bench.sides import FULL_SIZE_VOICE, VOICE, through_workers
from bench.workers import LONG_SENTENCE
from services.tts.voices import embedded_name
from services.worker.leases import connect, read_leases
from tests.callers.redis import RedisServer
from tests.callers.server import AgentServer, WorkerServer
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller

SWAP_BOUND = 5.0
GAP_BOUND = 1.0
"""Seconds."""

POLL_S = 0.01
"""How often Redis and workers are asked whether something has happened."""

LIMIT_S = 30.0
"""How long anything may take to happen."""

HOLD_S = 2.0
"""Seconds of silence that are the end and not a gap."""

STORY = " ".join(SENTENCES)

OTHER_VOICE = embedded_name(16000)
"""A voice that can be told from `VOICE`, as another engine's can."""

KILL_SPEED = 1.5
"""Of the voice's own pace: an undisturbed sentence and two others are to be heard to their end."""

KILL_MOMENTS = (0.0, 0.15)
"""Seconds from the worker's first audio to its death, each taken in its turn."""


async def swap(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """Under a call, start a worker with another engine, and stop the first while it tells a story.

    The other engine is OpenAI's speech API, as a worker serves it that nobody else speaks through.
    There and back again, so that each is once what the call goes on with.

    Args:
        mind: Not used: the story is a short one.
        quick: Whether there is no way back.
    """
    seconds: list[float] = []
    words: list[int] = []
    with ExitStack() as stack:
        start = stack.enter_context
        redis = start(RedisServer())
        lease = ("--offline", "--redis", redis.url)
        behind = start(WorkerServer("--offline", "--engine", "piper", "--tts-voice", OTHER_VOICE))
        other = start(
            WorkerServer(
                *lease,
                *("--engine", "openai", "--tts-base-url", f"{behind.url}/v1"),
                *("--tts-model", "any", "--tts-voice", OTHER_VOICE),
            )
        )
        other.stop()
        first = start(WorkerServer(*lease, "--engine", "piper", "--tts-voice", str(VOICE)))
        async with PacedModel(STORY) as teller:
            server = start(through_workers(teller.environment, redis.url))
            async with WebRTCCaller(server.url) as caller:
                began = await caller.wait_for_speech()
                await caller.wait_for_silence(began, hold=1.0)
                ways = [(first, other), (other, first)]
                for old, new in ways[: 1 if quick else 2]:
                    asked = time.monotonic()
                    seconds.append(await _swap(redis, caller, old, new))
                    began = await caller.wait_for_speech(asked)
                    await caller.wait_for_silence(began, hold=HOLD_S, limit=2 * LIMIT_S)
                    words.append(_astray(STORY.split(), caller.spoken_words(asked)))
    return [
        Figure(
            "swap of engines under a call: from lease to first use, worst",
            "s",
            Sample.of(max(seconds), seconds),
            None,
            SWAP_BOUND,
        ),
        Figure(
            "swap of engines under a call: words lost or said twice",
            "",
            Sample.of(sum(words), words),
            None,
            0,
            note=f"of {len(STORY.split()) * len(words)}",
        ),
    ]


async def _swap(
    redis: RedisServer, caller: WebRTCCaller, old: WorkerServer, new: WorkerServer
) -> float:
    """Have `new` speak instead of `old`.

    Returns:
        Seconds from the lease of `new` to its first audio.
    """
    spoken = await _begun(old)
    starting = asyncio.create_task(asyncio.to_thread(new.start))
    try:
        leased = await _when_leased(redis, new)
        caller.send_text(STORY_REQUEST)
    finally:
        await starting
    # Where the call has had its voice before, `new` may speak already.
    await _first_to_speak([old, new], [spoken, 0])
    stopping = asyncio.create_task(asyncio.to_thread(old.stop))
    try:
        await _first_to_speak([new], [0])
        return time.monotonic() - leased
    finally:
        await stopping


async def kill(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """Kill a worker as soon as it has begun a long sentence, with a spare one at hand.

    The peer is the same call with nobody killed: the sentence has pauses of its own.

    Args:
        mind: The variables by which the server finds its language model, which is not asked.
        quick: Whether one worker only is killed.
    """
    flags = ("--engine", "piper", "--offline", "--tts-voice", str(FULL_SIZE_VOICE))
    gaps: list[float] = []
    sounds: list[float] = []
    words: list[int] = []
    with ExitStack() as stack:
        start = stack.enter_context
        folder = Path(start(tempfile.TemporaryDirectory()))
        persona = folder / "agent.yaml"
        persona.write_text(f"greeting: {LONG_SENTENCE}\n")
        redis = start(RedisServer())
        workers = [start(WorkerServer(*flags, "--redis", redis.url)) for _ in range(2)]
        more = ("--agent", str(persona), "--tts-speed", str(KILL_SPEED))
        server = start(through_workers(mind, redis.url, *more))
        undisturbed = await _hear_sentence(server, [], None)
        for connections, moment in enumerate(KILL_MOMENTS[: 1 if quick else None], 2):
            await _until_connected(server, connections)
            gap, sound, astray = await _hear_sentence(server, workers, moment)
            gaps.append(gap)
            sounds.append(sound)
            words.append(astray)
    return [
        Figure(
            "kill -9 in mid-sentence: longest silence, worst",
            "s",
            Sample.of(max(gaps), gaps),
            Sample.median([undisturbed[0]]),
            GAP_BOUND,
            peer_name="nobody killed",
            note=f"{max(sounds):.1f} s of sound; undisturbed {undisturbed[1]:.1f} s",
        ),
        Figure(
            "kill -9 in mid-sentence: words lost or said twice",
            "",
            Sample.of(sum(words), words),
            None,
            0,
            note=f"of {len(LONG_SENTENCE.split()) * len(words)}",
        ),
    ]


async def _hear_sentence(
    server: AgentServer, workers: Sequence[WorkerServer], moment: float | None
) -> tuple[float, float, int]:
    """Call for the sentence, and perhaps kill whoever speaks it, and start that worker again.

    Args:
        server: Who greets with the sentence.
        workers: Of whom the one that speaks is killed.
        moment: Seconds from its first audio to its death; None for nobody's.

    Returns:
        The longest silence within the sentence and all of its sound, in seconds, and how many
        words are missing or were told twice.
    """
    counts = [await _begun(worker) for worker in workers]
    victim: WorkerServer | None = None
    async with WebRTCCaller(server.url) as caller:
        if moment is not None:
            speaker = await _first_to_speak(workers, counts)
            victim = workers[speaker]
            await asyncio.sleep(moment)
            await asyncio.to_thread(victim.kill)
        began = await caller.wait_for_speech()
        over = await caller.wait_for_silence(began, hold=HOLD_S, limit=2 * LIMIT_S)
        sounds = [frame for frame in caller.frames if began <= frame.at <= over and frame.audible]
        told = caller.spoken_words()
    if victim is not None:
        (spare,) = (worker for worker in workers if worker is not victim)
        if await _begun(spare) == counts[workers.index(spare)]:
            raise RuntimeError("the sentence was computed before its worker was killed")
        await asyncio.to_thread(victim.start)
    gap = max(later.at - sooner.at for sooner, later in pairwise(sounds))
    sound = sum(len(frame.samples) for frame in sounds) / SAMPLE_RATE
    return gap, sound, _astray(LONG_SENTENCE.split(), told)


def _astray(text: Sequence[str], told: Sequence[str]) -> int:
    """How many words of a text are missing in what was told, and how many are there too much."""
    matcher = SequenceMatcher(None, text, told, autojunk=False)
    alike = sum(block.size for block in matcher.get_matching_blocks())
    return len(text) + len(told) - 2 * alike


async def _when_leased(redis: RedisServer, worker: WorkerServer) -> float:
    """When a worker's lease came to be in Redis."""
    connection = connect(redis.url)
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                if any(lease.url == worker.address for lease in await read_leases(connection)):
                    return time.monotonic()
                await asyncio.sleep(POLL_S)
    finally:
        await connection.aclose()


async def _begun(worker: WorkerServer) -> float:
    """How many utterances a worker has given the first audio of."""
    async with httpx.AsyncClient(timeout=LIMIT_S) as http:
        page = (await http.get(f"{worker.url}/metrics")).text
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "parley_worker_first_audio_seconds_count":
                return sample.value
    raise RuntimeError("the worker does not count what it speaks")


async def _first_to_speak(workers: Sequence[WorkerServer], counts: Sequence[float]) -> int:
    """Which of some workers first has begun more utterances than it had."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for place, (worker, count) in enumerate(zip(workers, counts, strict=True)):
                if await _begun(worker) > count:
                    return place
            await asyncio.sleep(POLL_S)


async def _until_connected(server: AgentServer, times: int) -> None:
    """Return once the agent has connected to workers so many times."""
    async with asyncio.timeout(LIMIT_S):
        while server.log.count("connected, piper") < times:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
