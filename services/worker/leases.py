"""Leases: how bots find workers through Redis.

A worker keeps `parley:worker:ID`, its `Lease` as JSON, which expires unless it is renewed, and its
ID in the set `parley:workers`. What a lease says of the worker is a hint for people and monitoring:
a bot takes the address from it, and the rest from the worker's own socket.
"""

import asyncio
import contextlib
from collections.abc import Callable
from uuid import uuid4

from loguru import logger
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.worker.protocol import Lease

RENEW_S = 1.0
"""How often a lease is renewed, and changes in it are told."""

EXPIRE_S = 4.0
"""How long a lease lasts that is not renewed."""

WATCH_S = 0.5
"""How often a bot looks."""

REDIS_LIMIT_S = 2.0
"""Seconds that Redis may take to answer."""

IDS = "parley:workers"
KEY = "parley:worker:"


def connect(url: str) -> "Redis":
    """A connection that is made when it is used.

    Args:
        url: `redis://host:port/db`, or `rediss://` with TLS.

    Raises:
        ValueError: It is no such address.
    """
    return Redis.from_url(
        url,
        socket_timeout=REDIS_LIMIT_S,
        socket_connect_timeout=REDIS_LIMIT_S,
    )


class LeaseKeeper:
    """Keeps a worker's lease."""

    def __init__(self, redis: Redis, lease: Callable[[], Lease]) -> None:
        """Set up; `run` keeps it.

        Args:
            redis: Where; closed by `run`.
            lease: What the worker is at this moment.
        """
        self.id = uuid4().hex
        self._redis = redis
        self._lease = lease

    async def run(self) -> None:
        """Renew the lease until cancelled, then withdraw it. Redis may come and go meanwhile."""
        complained = False
        try:
            while True:
                try:
                    async with self._redis.pipeline(transaction=True) as pipe:
                        pipe.sadd(IDS, self.id)
                        pipe.set(
                            KEY + self.id,
                            self._lease().model_dump_json(),
                            px=round(EXPIRE_S * 1000),
                        )
                        await pipe.execute()
                    complained = False
                except (RedisError, OSError, TimeoutError) as error:
                    if not complained:
                        logger.warning("Redis: {}; the lease is not renewed", error)
                        complained = True
                await asyncio.sleep(RENEW_S)
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.srem(IDS, self.id)
                    pipe.delete(KEY + self.id)
                    await pipe.execute()
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._redis.aclose()


async def read_leases(redis: Redis) -> list[Lease]:
    """The leases in force; what is no lease is skipped, and told once in the log.

    Raises:
        RedisError: Redis cannot be asked.
    """
    ids = sorted(worker for worker in await redis.smembers(IDS) if isinstance(worker, bytes))
    if not ids:
        return []
    texts = await redis.mget([KEY.encode() + worker for worker in ids])
    leases = []
    for worker, text in zip(ids, texts, strict=True):
        if text is None:
            # It died without a word. One that only was late adds itself again.
            await redis.srem(IDS, worker)
            continue
        try:
            leases.append(Lease.model_validate_json(text))
        except ValidationError as error:
            logger.debug("{}{!r} is no lease: {}", KEY, worker, error)
    return leases


class FixedWorkers:
    """Workers from a list."""

    def __init__(self, urls: list[str]) -> None:
        """Take the list: `ws://host:port` each."""
        self._urls = frozenset(urls)

    async def watch(self, tell: Callable[[frozenset[str]], None]) -> None:
        """Tell the addresses, once."""
        tell(self._urls)


class LeasedWorkers:
    """Workers from Redis."""

    def __init__(self, redis: Redis) -> None:
        """Watch the leases in `redis`; closed by `watch`."""
        self._redis = redis

    async def watch(self, tell: Callable[[frozenset[str]], None]) -> None:
        """Tell the addresses again and again, until cancelled. Silent while Redis is away."""
        complained = False
        try:
            while True:
                try:
                    tell(frozenset(lease.url for lease in await read_leases(self._redis)))
                    if complained:
                        logger.info("Redis: it is back")
                    complained = False
                except (RedisError, OSError, TimeoutError) as error:
                    if not complained:
                        logger.warning("Redis: {}; going on with the workers that are known", error)
                        complained = True
                await asyncio.sleep(WATCH_S)
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._redis.aclose()


def workers_at(place: str) -> FixedWorkers | LeasedWorkers:
    """What a person writes for the workers to use.

    Args:
        place: Their addresses, `ws://a:7001,ws://b:7001`, or that of a Redis.
    """
    if place.startswith("redis"):
        return LeasedWorkers(connect(place))
    return FixedWorkers(place.split(","))
