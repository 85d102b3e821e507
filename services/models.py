"""The process's models: each loaded once, shared by every call, and freed when nobody needs it."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar

from loguru import logger

T = TypeVar("T")


@dataclass(slots=True)
class _Resident(Generic[T]):
    model: T
    close: Callable[[T], None] | None
    users: int = 0
    idle_since: float = 0.0


class ModelStore:
    """Models by key, those in use counted.

    A model that nobody uses stays, so that the next use finds it, until the limits say otherwise;
    without `limit`, for good. One that is in use is never freed: where all are, the next is loaded
    even above the cap, and as many as are too many go as soon as they are free.

    Safe to use from several threads: whoever asks while a model is being loaded, or freed, waits
    for that.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Hold nothing yet, without limits.

        Args:
            clock: Seconds that only grow.
        """
        self._clock = clock
        # Guards what follows.
        self._changed = Condition()
        self._cap: int | None = None
        self._ttl_s: float | None = None
        # The one whose use began or ended last is the last.
        self._resident: OrderedDict[str, _Resident[object]] = OrderedDict()
        # Keys of models that are being loaded, and of those being freed.
        self._coming: set[str] = set()
        self._going: set[str] = set()

    @contextmanager
    def use(
        self, key: str, load: Callable[[], T], *, close: Callable[[T], None] | None = None
    ) -> Iterator[T]:
        """Use the model under `key`, loaded with `load` if it is not there.

        Blocks while loading: call it from a thread, or before the event loop serves calls. Keep no
        reference to the model after the block: it would keep its memory.

        Args:
            key: What the model is, for example `piper:/path/to/voice.onnx`.
            load: Makes the model. When it raises, nothing is stored and whoever asks next, or is
                waiting, tries again.
            close: Called with the model before it is freed, for those that hold more than memory.
                It asks the store for nothing.

        Yields:
            The model.
        """
        resident = self._enter(key, load, close)
        try:
            yield resident.model
        finally:
            self._leave(key, resident)

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The model under `key`, in use from now on until the process ends; see `use`."""
        return self._enter(key, load, None).model

    def limit(self, cap: int | None, ttl_s: float | None) -> None:
        """Set how much may stay, and free what is too much.

        Args:
            cap: How many models may be in memory; None for no limit.
            ttl_s: Seconds that a model may stay unused; None for no limit. Looked at when a model
                is taken or left, and in `evict`.
        """
        with self._changed:
            self._cap = cap
            self._ttl_s = ttl_s
        self.evict()

    def evict(self) -> None:
        """Free what the limits do not allow. To be called now and then where there is a TTL.

        Blocks for as long as the models' `close` takes.
        """
        with self._changed:
            doomed = self._doom()
        self._free(doomed)

    def resident(self) -> tuple[str, ...]:
        """The keys of the models in memory, the one used longest ago first."""
        with self._changed:
            return tuple(self._resident)

    def _enter(
        self, key: str, load: Callable[[], T], close: Callable[[T], None] | None
    ) -> _Resident[T]:
        with self._changed:
            self._changed.wait_for(lambda: key not in self._coming | self._going)
            if key in self._resident:
                # Whoever uses a key knows what it stands for.
                found: _Resident[T] = self._resident[key]  # type: ignore[assignment]
                found.users += 1
                self._resident.move_to_end(key)
                return found
            self._coming.add(key)
            doomed = self._doom()
        loaded: _Resident[T] | None = None
        try:
            # First, so that there is room for the new one.
            self._free(doomed)
            loaded = _Resident(load(), close, users=1)
            return loaded
        finally:
            with self._changed:
                self._coming.remove(key)
                if loaded is not None:
                    self._resident[key] = loaded  # type: ignore[assignment]
                self._changed.notify_all()

    def _leave(self, key: str, resident: _Resident[T]) -> None:
        with self._changed:
            resident.users -= 1
            resident.idle_since = self._clock()
            self._resident.move_to_end(key)
            doomed = self._doom()
        self._free(doomed)

    def _doom(self) -> list[tuple[str, _Resident[object]]]:
        """Take out what has to go; to be called with the lock, and `_free` without it."""
        size = len(self._resident) + len(self._coming)
        now = self._clock()
        doomed = []
        for key, resident in list(self._resident.items()):
            if resident.users:
                continue
            too_many = self._cap is not None and size > self._cap
            too_old = self._ttl_s is not None and now - resident.idle_since >= self._ttl_s
            if too_many or too_old:
                del self._resident[key]
                self._going.add(key)
                size -= 1
                doomed.append((key, resident))
        return doomed

    def _free(self, doomed: list[tuple[str, _Resident[object]]]) -> None:
        while doomed:
            key, resident = doomed.pop(0)
            try:
                if resident.close is not None:
                    resident.close(resident.model)
            except Exception as error:
                logger.warning("{} did not close: {!r}", key, error)
            finally:
                # Before anybody loads it anew.
                del resident
                with self._changed:
                    self._going.remove(key)
                    self._changed.notify_all()
            logger.debug("{} is not in memory any more", key)


models = ModelStore()
"""The one store of the process: the only mutable state that is shared by all calls."""
