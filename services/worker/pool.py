"""The workers that a bot knows, and the choice among them."""

import asyncio
import random
from collections.abc import Callable, Collection, Iterator
from typing import Literal, Protocol

from services.tts.engine import VoiceInfo
from services.worker.client import WorkerClient
from services.worker.protocol import Lease


class Workers(Protocol):
    """Where workers are known from."""

    async def watch(self, tell: Callable[[frozenset[str]], None]) -> None:
        """Tell the addresses of all workers, whenever they may have changed."""
        ...


class WorkerPool:
    """Workers, each with one socket that all calls share.

    A worker stays for as long as it is listed or its socket holds: whoever lists them may be away.
    """

    def __init__(self, workers: Workers, token: str | None) -> None:
        """Set up; `start` connects.

        Args:
            workers: Where they are known from.
            token: What workers want to be shown.
        """
        self._workers = workers
        self._token = token
        self._clients: dict[str, WorkerClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listed: frozenset[str] = frozenset()
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._offered: list[tuple[VoiceInfo, ...]] = []
        # Of all voices that were ever offered: one that is gone is replaced by one of its language.
        self._languages: dict[str, str] = {}

    def start(self) -> None:
        """Connect to workers, and keep connected, in tasks of the running loop. Safe to repeat."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._workers.watch(self._list), name="workers")

    async def close(self) -> None:
        """Let go of all workers."""
        tasks = [*self._tasks.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._clients.clear()

    def __iter__(self) -> Iterator[WorkerClient]:
        """The workers that are connected."""
        return iter([client for client in self._clients.values() if client.lease is not None])

    def has(self, task: Literal["speak", "transcribe"]) -> bool:
        """Whether a worker is connected that does `task`."""
        return any(_does(client.lease, task) for client in self)

    def voices(self) -> tuple[VoiceInfo, ...]:
        """Every voice of the workers that are connected, as `ENGINE/NAME`."""
        found: dict[str, VoiceInfo] = {}
        for client in sorted(self, key=lambda client: client.url):
            assert client.lease is not None
            for voice in client.lease.voices:
                name = f"{client.lease.engine}/{voice.name}"
                found.setdefault(name, VoiceInfo(name, voice.label, voice.language))
        return tuple(found.values())

    def choose(
        self,
        task: Literal["speak", "transcribe"],
        voice: str = "",
        avoid: Collection[str] = (),
    ) -> WorkerClient | None:
        """The worker to ask: by engine and voice, then resident model, then least busy.

        One that failed not long ago comes last.

        Args:
            task: What it is to do.
            voice: `ENGINE/NAME`, `NAME`, or empty for any.
            avoid: Addresses of workers not to take.

        Returns:
            None where no worker can take an utterance now. Where none has the voice, one of the
            same engine, else of the same language, else any.
        """
        able = [
            client
            for client in self
            if client.usable and client.url not in avoid and _does(client.lease, task)
        ]

        def rank(client: WorkerClient) -> tuple[object, ...]:
            assert client.lease is not None
            wanting = self._rank(client.lease, task, voice)
            return (client.blamed, wanting, client.load, random.random())

        return min(able, key=rank, default=None)

    def voice_at(self, client: WorkerClient, voice: str) -> str:
        """The name, at `client`, of the voice that comes closest to `voice`."""
        if client.lease is None or not voice:
            return ""
        name = voice.rpartition("/")[2]
        offered = client.lease.voices
        if any(other.name == name for other in offered):
            return name
        language = self._languages.get(voice, "")
        return next((other.name for other in offered if other.language == language), "")

    async def wait_for_change(self, seconds: float) -> None:
        """Return once something about the workers has changed, or that time has passed."""
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass

    def _rank(self, lease: Lease, task: str, voice: str) -> tuple[bool, ...]:
        """How far a worker is from what is wanted; False sorts first."""
        if task != "speak" or not voice:
            return ()
        engine, _, name = voice.rpartition("/")
        offers = any(other.name == name for other in lease.voices)
        same_engine = lease.engine == engine or not engine
        language = self._languages.get(voice)
        return (
            not (offers and same_engine),
            not same_engine,
            not any(other.language == language for other in lease.voices),
            name not in lease.resident,
        )

    def _list(self, urls: frozenset[str]) -> None:
        self._listed = urls
        for url in urls - self._tasks.keys():
            client = WorkerClient(url, self._token, self._update)
            self._clients[url] = client
            self._tasks[url] = asyncio.create_task(client.run(), name=f"worker {url}")
        self._forget()

    def _update(self) -> None:
        """Something changed at a worker."""
        # Most of the news is of how busy they are.
        if (offered := [client.lease.voices for client in self if client.lease]) != self._offered:
            self._offered = offered
            for voice in self.voices():
                self._languages[voice.name] = voice.language
                self._languages.setdefault(voice.name.rpartition("/")[2], voice.language)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _forget(self) -> None:
        """Drop workers that nobody lists and that are gone."""
        for url, client in list(self._clients.items()):
            if url not in self._listed and client.lease is None:
                self._tasks.pop(url).cancel()
                del self._clients[url]


def _does(lease: Lease | None, task: Literal["speak", "transcribe"]) -> bool:
    return lease is not None and bool(lease.engine if task == "speak" else lease.hears)
