"""How much may be had at once, and for long."""

import pytest

from bot.token_bucket import TokenBucket


def test_what_is_taken_comes_back_with_time() -> None:
    """Never more than the bucket holds, and a wait that is kept is enough."""
    now = 100.0
    bucket = TokenBucket(3, 0.5, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert bucket.wait() == pytest.approx(2.0)
    now += bucket.wait()
    assert bucket.take()
    now += 1000.0
    assert bucket.wait(3) == 0
    assert bucket.wait(4) > 0


def test_what_is_refused_costs_nothing() -> None:
    """Who asks for too much may still have less."""
    bucket = TokenBucket(10, 1, lambda: 0.0)
    assert not bucket.take(11)
    assert bucket.take(10)
