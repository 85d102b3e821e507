"""The model store: each model loaded once, whoever asks."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from services.models import ModelStore


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
