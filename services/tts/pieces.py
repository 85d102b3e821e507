"""Cuts text for models that can speak so much at a time."""

import re
from collections.abc import Iterator

_BOUNDARIES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])",  # noqa: RUF001
        r"(?<=[,;:—–])\s+|(?<=[，；：、])",  # noqa: RUF001
        r"\s+",
    )
)
# Where to cut, the better places first: behind sentences, clauses, words.


def pieces(text: str, most: int) -> Iterator[str]:
    """Cut text into pieces that are spoken one after the other.

    Sentences stay together as far as they fit; one that does not fit is cut at its clauses, else
    between words, else anywhere.

    Args:
        text: What to say.
        most: Characters in a piece at most.

    Yields:
        The pieces without blanks around them; none is empty, and together they hold every
        character of the text but blanks.
    """
    return _cut(text, most, 0)


def _cut(text: str, most: int, level: int) -> Iterator[str]:
    text = text.strip()
    if len(text) <= most:
        if text:
            yield text
        return
    if level == len(_BOUNDARIES):
        for start in range(0, len(text), most):
            yield text[start : start + most].strip()
        return
    start = end = 0
    for stop in (*(match.end() for match in _BOUNDARIES[level].finditer(text)), len(text)):
        if len(text[start:stop].strip()) > most:
            yield from _cut(text[start:end], most, level + 1)
            start = end
        end = stop
    yield from _cut(text[start:], most, level + 1)
