"""How much of something may be had over time, and at once."""

import time
from collections.abc import Callable


class TokenBucket:
    """Holds what may be had: full at first, and filling up again as time goes by."""

    def __init__(
        self, size: float, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin full.

        Args:
            size: The most that may be had at once.
            per_second: What comes back each second.
            clock: What tells the time, in seconds.
        """
        self._size = size
        self._per_second = per_second
        self._clock = clock
        self._left = size
        self._at = clock()

    def wait(self, amount: float = 1.0) -> float:
        """The seconds until so much is there; 0 where it is there now.

        Args:
            amount: How much.
        """
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        return max(0.0, (amount - self._left) / self._per_second)

    def take(self, amount: float = 1.0) -> bool:
        """Take so much, where it is there.

        Args:
            amount: How much.

        Returns:
            Whether it was there.
        """
        if self.wait(amount):
            return False
        self._left -= amount
        return True
