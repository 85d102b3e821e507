"""Workers found through a real Redis, which may lie, empty itself, freeze and die."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from services.worker import leases
from services.worker.leases import IDS, KEY, LeasedWorkers, LeaseKeeper, read_leases
from services.worker.pool import WorkerPool
from services.worker.protocol import Lease
from tests.callers.redis import RedisServer
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import LocalWorker, until

pytestmark = pytest.mark.redis


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def leased(worker: LocalWorker, redis: RedisServer) -> AsyncIterator[LeaseKeeper]:
    """Keep the worker's lease."""
    keeper = LeaseKeeper(leases.connect(redis.url), worker.lease)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def watching(redis: RedisServer) -> AsyncIterator[WorkerPool]:
    """A bot's view."""
    pool = WorkerPool(LeasedWorkers(leases.connect(redis.url)), None)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def urls(pool: WorkerPool) -> set[str]:
    return {client.url for client in pool}


async def test_a_worker_is_found_and_forgotten(redis: RedisServer) -> None:
    """Soon after its lease it can be used; it withdraws the lease when it stops."""
    store = leases.connect(redis.url)
    async with watching(redis) as pool, LocalWorker(FakeSpeechEngine()) as worker:
        async with leased(worker, redis):
            await until(lambda: urls(pool) == {worker.url})
            (lease,) = await read_leases(store)
            assert (lease.engine, lease.capacity, lease.calls) == ("fake", 8, 0)
            assert [voice.name for voice in lease.voices] == ["alto", "basso"]
        assert await read_leases(store) == []
        # Nobody lists it now, but its socket holds: it can still be used.
        await asyncio.sleep(2 * leases.WATCH_S)
        assert urls(pool) == {worker.url}
        await worker.stop()
        await until(lambda: not urls(pool))
    await store.aclose()


async def test_a_lease_that_is_not_renewed_expires(redis: RedisServer) -> None:
    """A worker that dies without a word is out of Redis by itself, its ID too."""
    store = leases.connect(redis.url)
    await store.sadd(IDS, "dead")
    await store.set(KEY + "dead", Lease(url="ws://127.0.0.1:1").model_dump_json())
    assert len(await read_leases(store)) == 1
    await store.pexpire(KEY + "dead", 200)
    await asyncio.sleep(0.3)
    assert await read_leases(store) == []
    assert await store.smembers(IDS) == set()
    await store.aclose()


@pytest.mark.parametrize(
    "lease",
    [
        "not json",
        "{}",
        '{"url": "http://127.0.0.1/"}',
        '{"url": "ws://127.0.0.1:1", "capacity": -5}',
        '{"url": "ws://127.0.0.1:1"}',
        '{"url": "ws://127.0.0.1:99999"}',
        '{"url": "ws://a..b:1"}',
        b"\xff\xfe",
    ],
)
async def test_a_lease_that_lies_hurts_nobody(lease: str | bytes, redis: RedisServer) -> None:
    """No lease, no such address, nobody there: the honest worker beside it is used."""
    store = leases.connect(redis.url)
    await store.sadd(IDS, "liar")
    await store.set(KEY + "liar", lease)
    async with (
        LocalWorker(FakeSpeechEngine()) as worker,
        leased(worker, redis),
        watching(redis) as pool,
    ):
        await until(lambda: urls(pool) == {worker.url})
    await store.aclose()


async def test_what_a_lease_says_of_its_worker_is_not_believed(redis: RedisServer) -> None:
    """The worker's own socket tells what it is: engine and voices are those."""
    store = leases.connect(redis.url)
    async with LocalWorker(FakeSpeechEngine()) as worker, watching(redis) as pool:
        lie = worker.lease().model_copy(update={"engine": "cosyvoice", "calls": 8})
        await store.sadd(IDS, "liar")
        await store.set(KEY + "liar", lie.model_dump_json())
        await until(lambda: bool(urls(pool)))
        assert {voice.name for voice in pool.voices()} == {"fake/alto", "fake/basso"}
        assert pool.choose("speak", "fake/alto") is not None
    await store.aclose()


async def test_redis_may_die_and_come_back_empty(redis: RedisServer) -> None:
    """Calls go on with the workers that are known; afterwards new ones are found again."""
    async with (
        LocalWorker(FakeSpeechEngine()) as one,
        LocalWorker(FakeSpeechEngine()) as two,
        leased(one, redis),
        watching(redis) as pool,
    ):
        await until(lambda: urls(pool) == {one.url})
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(2 * leases.WATCH_S)
        assert urls(pool) == {one.url}
        await asyncio.to_thread(redis.start)
        async with leased(two, redis):
            await until(lambda: urls(pool) == {one.url, two.url})


async def test_a_frozen_redis_holds_up_nothing(redis: RedisServer) -> None:
    """Whoever asks it gives up after a limit; when it thaws, all is as before."""
    async with (
        LocalWorker(FakeSpeechEngine()) as one,
        LocalWorker(FakeSpeechEngine()) as two,
        leased(one, redis),
        watching(redis) as pool,
    ):
        await until(lambda: urls(pool) == {one.url})
        await asyncio.to_thread(redis.freeze)
        await asyncio.sleep(leases.REDIS_LIMIT_S / 2)
        assert pool.choose("speak") is not None
        await asyncio.to_thread(redis.thaw)
        async with leased(two, redis):
            await until(lambda: urls(pool) == {one.url, two.url})


async def test_choice_is_by_engine_and_voice_then_model_then_load(redis: RedisServer) -> None:
    """Of two with the voice, the one that has it in memory; of two such, the less busy."""
    busy_engine, idle_engine = FakeSpeechEngine(gated=True), FakeSpeechEngine()
    async with (
        LocalWorker(FakeSpeechEngine(), name="other") as other,
        LocalWorker(busy_engine, name="piper", capacity=2) as busy,
        LocalWorker(idle_engine, name="piper", capacity=2) as idle,
        leased(other, redis),
        leased(busy, redis),
        leased(idle, redis),
        watching(redis) as pool,
    ):

        def chosen(voice: str) -> set[str]:
            """The workers that are chosen for a voice: more than one where chance decides."""
            clients = [pool.choose("speak", voice) for _ in range(20)]
            return {client.url for client in clients if client}

        await until(lambda: len(urls(pool)) == 3)
        assert chosen("other/alto") == {other.url}
        assert chosen("piper/alto") == {busy.url, idle.url}
        idle_engine.load("alto")
        idle.sockets.tell_lease()
        await until(lambda: chosen("piper/alto") == {idle.url})
        client = next(client for client in pool if client.url == busy.url)
        speaking = client.speak("one two", "alto", 1.0)
        busy_engine.permit(1)
        await anext(speaking)
        # Both have it now, and one is half full.
        busy.sockets.tell_lease()
        await until(lambda: all(c.lease and c.lease.resident for c in pool if c.url != other.url))
        assert chosen("piper/alto") == {idle.url}
        await speaking.aclose()
        busy_engine.permit(100)
