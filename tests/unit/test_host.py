"""A worker's admission: as much as can be served well, whatever way it comes."""

import pytest

from services.errors import BusyError
from services.worker.host import Admission
from services.worker.metrics import Metrics


def admission(capacity: int, **at_once: int) -> Admission:
    return Admission(capacity, Metrics(), at_once)


def test_it_lets_in_as_many_as_there_are_places() -> None:
    """The one too many is told, and costs no place; who leaves makes room."""
    one = admission(2)
    with one.admit("speak"), one.admit("transcribe"):
        with pytest.raises(BusyError, match="places"), one.admit("speak"):
            pass
        assert one.active == 2
    with one.admit("speak"):
        assert one.active == 1
    assert one.active == 0


def test_an_engine_that_does_one_at_a_time_gets_one_at_a_time() -> None:
    """Places that are left are for the other engine: nobody waits inside for another's end."""
    one = admission(8, speak=1, transcribe=4)
    assert one.capacity == 5
    with one.admit("speak"):
        with pytest.raises(BusyError, match="all 1 places"), one.admit("speak"):
            pass
        with one.admit("transcribe"):
            assert one.active == 2


def test_nobody_comes_in_once_it_drains() -> None:
    """Those inside are not disturbed."""
    one = admission(2)
    with one.admit("speak"):
        one.draining = True
        with pytest.raises(BusyError, match="about to stop"), one.admit("speak"):
            pass
        assert one.active == 1


async def test_it_tells_of_every_change_and_when_nobody_is_left() -> None:
    """Also where an utterance fails."""
    one, seen = admission(2), []
    one.on_change = lambda: seen.append(one.active)
    with pytest.raises(ValueError, match="x"), one.admit("speak"):
        raise ValueError("x")
    assert seen == [1, 0]
    await one.wait_until_empty()
