"""What this machine calls itself, and a limit on how long another may take to answer."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""What this machine calls itself."""

REACH_S = 3.0
"""Seconds within which a hub has to begin to answer."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns, if it does so in time.

    `call` runs in a thread, because looking up a host's name blocks for longer than any timeout of
    an HTTP client. One that is too late runs on, and nobody learns what comes of it.

    Raises:
        TimeoutError: It did not return within `seconds`.
        BaseException: Whatever `call` raised.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, name="reach", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
