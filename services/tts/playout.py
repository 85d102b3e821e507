"""What may be passed on of an utterance that another engine may have to finish.

Audio that is passed on will be heard. If the engine dies then, another one speaks the rest, from
the first word that nobody has heard to its end. To say no word twice, the beginning of a word is
kept back until the word is complete, unless the listener would otherwise wait for it.
"""

import re
import time
from collections.abc import Callable, Iterator

from services.tts.engine import Chunk, Word

LEAST_AHEAD_S = 0.1
"""Seconds of audio that the listener is to have in hand: with less, part of a word is passed on."""


class Rest:
    """The part of a text that is still to be spoken."""

    def __init__(self, text: str) -> None:
        """Begin with all of it."""
        self._text = text
        self._place = 0

    @property
    def text(self) -> str:
        """What follows the last word that was spoken."""
        return self._text[self._place :].lstrip()

    def spoken(self, word: str) -> None:
        """Count a word of the text as spoken; one that is not there changes nothing."""
        here = len(self._text) - len(self.text)
        found = here if self._text.startswith(word, here) else self._find_whole(word)
        if found is not None:
            self._place = found + len(word)

    def _find_whole(self, word: str) -> int | None:
        """Where the word stands by itself, for what is spelled otherwise may have been skipped."""
        whole = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self._text[self._place :])
        return self._place + whole.start() if whole and word else None


class Playout:
    """The listener's clock, over one text and all who speak parts of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin in silence.

        Args:
            clock: Seconds, from any origin.
        """
        self.passed_s = 0.0
        """Seconds of audio that were passed on."""
        self._clock = clock
        self._dry_at: float | None = None

    @property
    def ahead_s(self) -> float:
        """Seconds of audio that the listener has in hand."""
        return 0.0 if self._dry_at is None else max(0.0, self._dry_at - self._clock())

    def passed(self, seconds: float) -> None:
        """Count audio as passed on."""
        self._dry_at = self._clock() + self.ahead_s + seconds
        self.passed_s += seconds


class Part:
    """What one engine speaks of a text: taken in as it comes, passed on word by word."""

    def __init__(self, playout: Playout, rest: Rest) -> None:
        """Begin where the part before it ended.

        Args:
            playout: The listener's clock.
            rest: What is still to be spoken.
        """
        self._playout = playout
        self._rest = rest
        self._offset_s = playout.passed_s
        self._rate = 0
        self._passed = 0
        self._pending = bytearray()
        self._words: list[Word] = []

    @property
    def patience_s(self) -> float | None:
        """Seconds until audio that is kept back has to be passed on; None where none is."""
        return max(0.0, self._playout.ahead_s - LEAST_AHEAD_S) if self._pending else None

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take in a chunk.

        Yields:
            What can be passed on now.
        """
        self._rate = chunk.sample_rate
        self._pending += chunk.pcm
        self._words += chunk.words
        if self._words:
            yield from self._pass(round(self._words[-1].end * self._rate) - self._passed)
        if self.patience_s == 0:
            yield from self.flush()

    def flush(self) -> Iterator[Chunk]:
        """Pass on all that is there: the part is over, or the listener waits."""
        yield from self._pass(len(self._pending) // 2)

    def _pass(self, samples: int) -> Iterator[Chunk]:
        samples = min(max(samples, 0), len(self._pending) // 2)
        if not samples and not self._words:
            return
        pcm = bytes(self._pending[: 2 * samples])
        del self._pending[: 2 * samples]
        self._passed += samples
        words = []
        for word in self._words:
            self._rest.spoken(word.text)
            start, end = word.start + self._offset_s, word.end + self._offset_s
            words.append(Word(word.text, start, end, word.estimated))
        self._words.clear()
        self._playout.passed(samples / self._rate)
        yield Chunk(pcm, self._rate, tuple(words))
