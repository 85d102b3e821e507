"""Where a call goes whose carrier asks for that: told again, but not for long nor without end."""

from types import SimpleNamespace

import pytest

from bot.server.phone import carrier
from bot.server.phone.carrier import Transfers


def test_a_transfer_is_told_again_and_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A carrier that repeats itself is answered alike within a minute; later there is nobody."""
    now = 1000.0
    monkeypatch.setattr(carrier, "time", SimpleNamespace(monotonic=lambda: now))
    transfers = Transfers()
    transfers.add("call", "+4930123456")
    now += carrier.TRANSFER_SECONDS - 1
    told = [transfers.find(key) for key in ("call", "call", "other", "")]
    assert told == ["+4930123456", "+4930123456", "", ""]
    now += 1
    assert transfers.find("call") == ""


def test_the_newest_transfers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory does not grow, and a call that is transferred again counts once."""
    monkeypatch.setattr(carrier, "MAX_TRANSFERS", 2)
    transfers = Transfers()
    for key in ("a", "b", "b", "a"):
        transfers.add(key, f"to {key}")
    assert transfers.find("b") == "to b"
    transfers.add("c", "to c")
    assert [transfers.find(key) for key in "abc"] == ["to a", "", "to c"]
