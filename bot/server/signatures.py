"""Webhooks that prove who sends them: how old a signature may be, and that it is taken once."""

MAX_AGE_SECONDS = 300
"""How old a signature may be that tells its time, as Telnyx's own SDK has it."""

MAX_SEEN = 65536
"""Requests that are remembered: more than five minutes' worth at 200 a second."""


class SignatureError(Exception):
    """What claims to come from a carrier or from Daily does not; the message is one line."""


class Replays:
    """The requests of one sender that were taken, by what no two of them share.

    Only what was verified is remembered, so that nobody else can push anything out. They are those
    of this process: each of several would take a request once.
    """

    def __init__(self, limit: int = MAX_SEEN) -> None:
        """Start with none.

        Args:
            limit: How many of the newest are remembered.
        """
        self._limit = limit
        self._seen: dict[str | bytes, None] = {}

    def refuse(self, mark: str | bytes) -> None:
        """Remember a request that was verified.

        Args:
            mark: What tells it from all others: its signature, its nonce.

        Raises:
            SignatureError: It has been taken before.
        """
        if mark in self._seen:
            raise SignatureError("the request has been made before")
        self._seen[mark] = None
        if len(self._seen) > self._limit:
            del self._seen[next(iter(self._seen))]
