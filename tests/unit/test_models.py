"""The model store: each model loaded once, whoever asks, and freed when nobody needs it."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock
from weakref import ref

import pytest

from services.models import ModelStore


class Model:
    """Anything that can be told from another, and referred to weakly."""


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def touch(store: ModelStore, *keys: str) -> None:
    """Use models for a moment, one after the other."""
    for key in keys:
        with store.use(key, Model):
            pass


def test_a_load_in_progress_is_waited_for() -> None:
    """Two that ask while the model is being loaded get the one that is loaded."""
    store, begun, go = ModelStore(), Event(), Event()
    loads: list[object] = []

    def load() -> object:
        begun.set()
        assert go.wait(5)
        loads.append(object())
        return loads[-1]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.get, "a", load)
        assert begun.wait(5)
        second = pool.submit(store.get, "a", load)
        go.set()
        assert first.result(5) is second.result(5)
    assert len(loads) == 1


def test_a_failed_load_leaves_nothing_behind() -> None:
    """After a load that raised, whoever waited for it loads anew."""
    store, begun, go = ModelStore(), Event(), Event()

    def fail() -> str:
        begun.set()
        assert go.wait(5)
        raise OSError("disk")

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(store.get, "a", fail)
        assert begun.wait(5)
        waiting = pool.submit(store.get, "a", lambda: "model")
        go.set()
        with pytest.raises(OSError, match="disk"):
            failing.result(5)
        assert waiting.result(5) == "model"


def test_models_do_not_wait_for_each_other() -> None:
    """A slow load of one model does not hold up another."""
    store, begun, go = ModelStore(), Event(), Event()

    def slow() -> str:
        begun.set()
        assert go.wait(5)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(store.get, "slow", slow)
        assert begun.wait(5)
        assert store.get("quick", lambda: "quick") == "quick"
        go.set()
        assert loading.result(5) == "slow"


def test_without_limits_a_model_stays() -> None:
    """The second use finds what the first one loaded."""
    store = ModelStore()
    with store.use("a", Model) as first:
        pass
    with store.use("a", Model) as second:
        assert second is first
    assert store.resident() == ("a",)


def test_above_the_cap_the_one_unused_for_longest_goes() -> None:
    """Least recently used goes first, and a use makes a model recent."""
    store = ModelStore()
    store.limit(2, None)
    touch(store, "a", "b", "a", "c")
    assert store.resident() == ("a", "c")


def test_room_is_made_before_the_next_model_is_loaded() -> None:
    """Both in memory at once may be more than there is."""
    store = ModelStore()
    store.limit(1, None)
    with store.use("a", Model) as model:
        gone = ref(model)
    del model

    def load() -> Model:
        assert gone() is None
        return Model()

    with store.use("b", load):
        pass
    assert store.resident() == ("b",)


def test_what_is_in_use_stays_whatever_the_cap() -> None:
    """With every model in use the next is loaded all the same, and the cap is kept afterwards."""
    store = ModelStore()
    store.limit(1, None)
    with store.use("a", Model) as first:
        with store.use("b", Model):
            store.evict()
            assert store.resident() == ("a", "b")
            with store.use("a", Model) as again:
                assert again is first
        assert store.resident() == ("a",)
    assert store.resident() == ("a",)


def test_what_nobody_used_for_the_time_to_live_goes() -> None:
    """The time counts from the end of the last use, and `evict` is enough to have it end."""
    clock = Clock()
    store = ModelStore(clock)
    store.limit(None, 10.0)
    with store.use("a", Model):
        clock.now = 100.0
        store.evict()
        assert store.resident() == ("a",)
    clock.now = 105.0
    touch(store, "b")
    clock.now = 109.9
    store.evict()
    assert store.resident() == ("a", "b")
    clock.now = 110.0
    store.evict()
    assert store.resident() == ("b",)


def test_a_new_limit_holds_at_once() -> None:
    """What is too much under it goes when it is set."""
    store = ModelStore()
    touch(store, "a", "b", "c")
    store.limit(1, None)
    assert store.resident() == ("c",)
    store.limit(0, None)
    assert store.resident() == ()


def test_a_model_kept_for_good_is_never_freed() -> None:
    """What `get` gave may be held by anybody."""
    store = ModelStore()
    model = store.get("a", Model)
    store.limit(0, 0.0)
    assert store.get("a", Model) is model


def test_memory_is_freed_without_a_collection() -> None:
    """The store's reference was the last one."""
    store = ModelStore()
    with store.use("a", Model) as model:
        alive = ref(model)
    del model
    assert alive() is not None
    store.limit(0, None)
    assert alive() is None


def test_a_failing_user_leaves_the_model_unused() -> None:
    """An exception in the block ends the use."""
    store = ModelStore()
    with pytest.raises(ValueError, match="mine"), store.use("a", Model):
        raise ValueError("mine")
    store.limit(0, None)
    assert store.resident() == ()


def test_close_is_over_before_the_model_is_loaded_anew() -> None:
    """Two copies are never there together, even where closing takes its time."""
    store, closing, go = ModelStore(), Event(), Event()
    order: list[str] = []

    def close(_model: Model) -> None:
        closing.set()
        assert go.wait(5)
        order.append("closed")

    def load() -> Model:
        order.append("loaded")
        return Model()

    with store.use("a", load, close=close):
        pass
    with ThreadPoolExecutor(2) as pool:
        limiting = pool.submit(store.limit, 0, None)
        assert closing.wait(5)
        again = pool.submit(store.get, "a", load)
        touch(store, "b")
        go.set()
        limiting.result(5)
        again.result(5)
    assert order == ["loaded", "closed", "loaded"]


def test_a_close_that_fails_costs_only_itself() -> None:
    """The others are freed, and the key can be loaded again."""
    store = ModelStore()
    closed: list[Model] = []

    def fail(_model: Model) -> None:
        raise OSError("stuck")

    with store.use("a", Model, close=fail), store.use("b", Model, close=closed.append):
        pass
    store.limit(0, None)
    assert store.resident() == ()
    assert len(closed) == 1
    touch(store, "a")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_threads_do_the_rules_hold(seed: int) -> None:
    """One copy of a key at a time, none freed in use, one load for all who wait, and an end.

    Eight threads use six models in any order, nested or not; a third of the loads fail; somebody
    evicts all the time and moves the clock.
    """
    clock = Clock()
    store = ModelStore(clock)
    store.limit(3, 5.0)
    lock = Lock()
    alive: Counter[str] = Counter()
    used: Counter[int] = Counter()
    loads = 0
    faults: list[str] = []
    dice = random.Random(seed)
    over = Event()

    class Tracked(Model):
        def __init__(self, key: str) -> None:
            self.key = key

    def load(key: str) -> Tracked:
        nonlocal loads
        with lock:
            fails = dice.random() < 0.33
            alive[key] += 1
            loads += 1
            if alive[key] > 1:
                faults.append(f"{key} was loaded twice")
        time.sleep(0)
        if fails:
            with lock:
                alive[key] -= 1
            raise OSError(key)
        return Tracked(key)

    def close(model: Tracked) -> None:
        with lock:
            alive[model.key] -= 1
            if used[id(model)]:
                faults.append(f"{model.key} was freed in use")

    @contextmanager
    def use(key: str) -> Iterator[None]:
        with store.use(key, lambda: load(key), close=close) as model:
            with lock:
                used[id(model)] += 1
            try:
                yield
            finally:
                with lock:
                    used[id(model)] -= 1

    def work(number: int) -> int:
        own = random.Random(f"{seed} {number}")
        done = 0
        for _ in range(150):
            keys = [str(key) for key in sorted(own.sample(range(6), own.choice((1, 1, 2))))]
            try:
                with use(keys[0]):
                    if keys[1:]:
                        with use(keys[1]):
                            done += 1
                    time.sleep(0)
                    done += 1
            except OSError:
                continue
        return done

    def sweep() -> None:
        while not over.wait(0.001):
            clock.now += 1.0
            store.evict()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            done = sum(pool.map(work, range(8), timeout=60))
    finally:
        over.set()
        sweeper.join(10)
    assert not faults
    assert done > loads
    assert len(store.resident()) <= 3
    assert sum(alive.values()) == len(store.resident())
    store.limit(0, None)
    assert not any(alive.values())
