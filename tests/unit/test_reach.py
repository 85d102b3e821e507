"""A limit in time on what has none of its own."""

from threading import Event

import pytest

from services.reach import within


def test_what_comes_in_time_is_handed_on() -> None:
    """The value, None included, and the exception are those of the call."""

    def refuse() -> None:
        raise ConnectionError("refused")

    def late() -> None:
        raise TimeoutError("the call's own")

    assert within(5, lambda: 7) == 7
    assert within(5, lambda: None) is None
    with pytest.raises(ConnectionError, match="refused"):
        within(5, refuse)
    with pytest.raises(TimeoutError, match="the call's own"):
        within(5, late)


def test_what_blocks_is_not_waited_for() -> None:
    """A call that blocks in what takes no limit is given up while it still blocks."""
    never = Event()
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        within(0.05, never.wait)
    never.set()
