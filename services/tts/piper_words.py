"""Tells which phonemes of a sentence are which words of its text.

The phonemizer gives phonemes for a whole text and no word of where each came from. It is no use
to count: `$3.50` becomes four groups of phonemes, `of the` one. So each word is phonemized by
itself as well, and the two phoneme strings, which differ in stress and vowels, are aligned.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SILENT = frozenset(" .,:;!?…¿¡-—\"'()[]{}«»“”„")
"""Phonemes, so called, that are heard as a pause or not at all."""

_BAND = 200
"""How many phonemes the two strings may be apart. Numbers and abbreviations are spelt out in both,
so the distance stays small; without a bound, long texts would take time by the square."""

_SEPARATOR = " "
_GAP = 1
_OTHER = 1
_OTHER_THAN_SEPARATOR = 3


def place_words(words: Sequence[Sequence[str]], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Find each word's phonemes among those of the whole text.

    Args:
        words: The phonemes of each word by itself; none for a word that has no sound.
        heard: The phonemes of the text, words apart by a space.

    Returns:
        For each word the indices in `heard` of its first phoneme and of the one after its last, in
        order and without overlap. A word without a phoneme of its own begins and ends where the
        word before it ends.
    """
    symbols: list[str] = []
    owner: list[int] = []
    for number, phonemes in enumerate(words):
        if sounds := [p for p in phonemes if p == _SEPARATOR or p not in SILENT]:
            symbols += [*sounds, _SEPARATOR]
            owner += [number] * (len(sounds) + 1)
    spans: dict[int, tuple[int, int]] = {}
    places = [i for i, p in enumerate(heard) if p == _SEPARATOR or p not in SILENT]
    for place, at in zip(places, _align(symbols, [heard[i] for i in places]), strict=True):
        if heard[place] == _SEPARATOR or not symbols:
            continue
        number = owner[min(at, len(owner) - 1)]
        first, _ = spans.get(number, (place, place))
        spans[number] = (first, place + 1)
    result: list[tuple[int, int]] = []
    end = 0
    for number in range(len(words)):
        first, end = spans.get(number, (end, end))
        result.append((first, end))
    return result


def _align(expected: Sequence[str], heard: Sequence[str]) -> list[int]:
    """Match two strings with the fewest edits (Needleman-Wunsch), within a band.

    Returns:
        For each symbol of `heard` the index of the symbol of `expected` that it stands for. One
        that stands for none gets that of the word it touches; it may be `len(expected)`.
    """
    rows, columns = len(expected), len(heard)
    numbers = {symbol: n for n, symbol in enumerate({*expected, *heard} - {_SEPARATOR}, 1)}
    numbers[_SEPARATOR] = 0
    down = np.array([numbers[s] for s in expected], np.int32)
    across = np.array([numbers[s] for s in heard], np.int32)
    width = min(columns, 2 * _BAND) + 1
    slope = (columns + 1 - width) / max(rows, 1)
    starts = [round(row * slope) for row in range(rows + 1)]
    # costs[row, k]: the fewest edits from expected[:row] to heard[: starts[row] + k]
    costs: NDArray[np.int32] = np.empty((rows + 1, width), np.int32)
    steps = np.arange(width, dtype=np.int32) * _GAP
    costs[0] = steps
    never = np.int32(1 << 29)
    for row in range(1, rows + 1):
        start = starts[row]
        shift = start - starts[row - 1]
        # The row above, from the column before this row's first one on.
        above = np.full(width + 1, never, np.int32)
        source = costs[row - 1, max(shift - 1, 0) :][: width + 1]
        offset = 1 if shift == 0 else 0
        above[offset : offset + len(source)] = source[: width + 1 - offset]
        skipped = above[1:] + _GAP
        below = across[max(start - 1, 0) : start - 1 + width]
        symbol = down[row - 1]
        price = np.where((symbol == 0) | (below == 0), _OTHER_THAN_SEPARATOR, _OTHER)
        price[below == symbol] = 0
        matched = above[:-1].copy()
        matched[width - len(below) :] += price
        best = np.minimum(skipped, matched)
        # A gap in `expected`: the cheapest of all columns to the left, and a step for each between.
        costs[row] = np.minimum.accumulate(best - steps) + steps
    return _trace(costs, starts, expected, heard)


def _trace(
    costs: NDArray[np.int32], starts: list[int], expected: Sequence[str], heard: Sequence[str]
) -> list[int]:
    """Walk back along the cheapest way, and note what each heard symbol stands for."""

    def cost(row: int, column: int) -> int:
        k = column - starts[row]
        return int(costs[row, k]) if 0 <= k < costs.shape[1] else 1 << 29

    stands_for = [0] * len(heard)
    row, column = len(expected), len(heard)
    while column > 0:
        here = cost(row, column)
        if row > 0:
            left, right = expected[row - 1], heard[column - 1]
            price = 0 if left == right else _OTHER
            if left != right and _SEPARATOR in (left, right):
                price = _OTHER_THAN_SEPARATOR
            if here == cost(row - 1, column - 1) + price:
                row, column = row - 1, column - 1
                stands_for[column] = row
                continue
            if here == cost(row - 1, column) + _GAP:
                row -= 1
                continue
        column -= 1
        # After a separator it belongs to the word to come, else to the one that it follows.
        after_separator = row == 0 or expected[row - 1] == _SEPARATOR
        stands_for[column] = row if after_separator else row - 1
    return stands_for
