"""espeak's phonemes against Festival's phones: the tables, and the alignment of the two.

The student reads what Piper feeds it, espeak-ng's phoneme string cut into code points (tokens). The
teacher's durations belong to Festival's phones. Both read the same words, so a dynamic programme
over a small table of likenesses finds which tokens a phone's frames belong to.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np

PAUSE = "pau"
"""Festival's phone for silence."""

_TABLES: Final = tomllib.loads(Path(__file__).with_name("phones.toml").read_text(encoding="utf-8"))

ESPEAK_TO_FESTIVAL: Final[dict[str, str]] = _TABLES["festival"]
"""espeak-ng's `en-us` phonemes, as one token or two, to Festival's phones."""

NEAREST: Final[dict[str, str]] = _TABLES["nearest"]
"""The English sound that stands for one of which the training text has hardly any."""

VOWELS = frozenset(_TABLES["vowels"].split())

_NEAR = frozenset(frozenset(pair.split()) for pair in _TABLES["near"])

STRESS = frozenset("\u02c8\u02cc")
MODIFIERS = STRESS | frozenset("\u02d0\u02b2\u0303\u0329")
"""Tokens without a duration of their own: stress, length, palatal, nasal and syllabic marks."""

PUNCTUATION = frozenset(",.;:?!")

_CUTOFF_KHZ = {
    phone: float(khz) for khz, phones in _TABLES["cutoff"].items() for phone in phones.split()
}
_CUTOFF_ELSE_KHZ = 2.0


def cutoff_khz(phone: str) -> float:
    """The frequency above which a voiced frame of `phone` is noise rather than pulses.

    Args:
        phone: A Festival phone.

    Returns:
        Kilohertz.
    """
    return _CUTOFF_KHZ.get(phone, _CUTOFF_ELSE_KHZ)


class Kind(Enum):
    """What a unit of the token string is."""

    BEGIN = "begin"
    END = "end"
    PHONE = "phone"
    MARK = "mark"
    SPACE = "space"
    PUNCTUATION = "punctuation"


@dataclass(frozen=True, slots=True)
class Unit:
    """Tokens that answer to at most one phone.

    Attributes:
        kind: What they are.
        tokens: Their indices in the token string: carriers of sound first, then marks.
        phone: Festival's phone for them; empty where `kind` is not `PHONE`.
    """

    kind: Kind
    tokens: tuple[int, ...]
    phone: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A phone and the unit that carries its frames.

    Attributes:
        phone: Index of the phone.
        unit: Index of the unit, or None where espeak has no token for the phone.
    """

    phone: int
    unit: int | None


def units(tokens: Sequence[str]) -> list[Unit] | None:
    """Group espeak's tokens into units.

    Args:
        tokens: Code points, with Piper's begin and end marks (`^`, `$`) first and last.

    Returns:
        The units in order, or None where a token is no sound of English.
    """
    grouped = [Unit(Kind.BEGIN, (0,))]
    last = len(tokens) - 1
    index = 1
    while index < last:
        token, pair = tokens[index], tokens[index] + tokens[index + 1]
        width = 1
        if token in MODIFIERS:
            previous = grouped[-1]
            if token not in STRESS and previous.kind is Kind.PHONE:
                grouped[-1] = Unit(Kind.PHONE, (*previous.tokens, index), previous.phone)
            else:
                grouped.append(Unit(Kind.MARK, (index,)))
        elif token == " ":
            grouped.append(Unit(Kind.SPACE, (index,)))
        elif token in PUNCTUATION:
            grouped.append(Unit(Kind.PUNCTUATION, (index,)))
        elif index + 1 < last and pair in ESPEAK_TO_FESTIVAL:
            width = 2
            grouped.append(Unit(Kind.PHONE, (index, index + 1), ESPEAK_TO_FESTIVAL[pair]))
        elif token in ESPEAK_TO_FESTIVAL:
            grouped.append(Unit(Kind.PHONE, (index,), ESPEAK_TO_FESTIVAL[token]))
        else:
            return None
        index += width
    grouped.append(Unit(Kind.END, (last,)))
    return grouped


_NEVER = 9.0
_INSERT = 1.0
_PAUSE_COST = {Kind.BEGIN: 0.0, Kind.END: 0.0, Kind.PUNCTUATION: 0.1, Kind.SPACE: 0.6}
_DELETE_COST = {
    Kind.PHONE: 1.0,
    Kind.MARK: 0.0,
    Kind.SPACE: 0.0,
    Kind.PUNCTUATION: 0.1,
    Kind.BEGIN: 0.5,
    Kind.END: 0.5,
}


def _match_cost(unit: Unit, phone: str) -> float:
    if phone == PAUSE:
        return _PAUSE_COST.get(unit.kind, _NEVER)
    if unit.kind is not Kind.PHONE:
        return _NEVER
    if unit.phone == phone:
        return 0.0
    if frozenset((unit.phone, phone)) in _NEAR:
        return 0.3
    return 0.8 if (unit.phone in VOWELS) == (phone in VOWELS) else 1.6


def align(sequence: Sequence[Unit], phones: Sequence[str]) -> tuple[float, list[Match]]:
    """Find the cheapest pairing of units and phones that keeps both orders.

    Args:
        sequence: N units.
        phones: M Festival phones.

    Returns:
        The total cost (0 where everything agrees; a phone that one side lacks costs 1), and one
        match for each phone, in order.
    """
    rows, columns = len(sequence), len(phones)
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    # How each cell was reached: (units, phones) consumed. A tie goes to the first of the three.
    step = [[(0, 0)] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows + 1):
        for column in range(columns + 1):
            if row and column:
                cost = _match_cost(sequence[row - 1], phones[column - 1])
                cost += total[row - 1, column - 1]
                if cost < total[row, column]:
                    total[row, column], step[row][column] = cost, (1, 1)
            if row:
                cost = total[row - 1, column] + _DELETE_COST[sequence[row - 1].kind]
                if cost < total[row, column]:
                    total[row, column], step[row][column] = cost, (1, 0)
            if column:
                insert = _NEVER if phones[column - 1] == PAUSE else _INSERT
                cost = total[row, column - 1] + insert
                if cost < total[row, column]:
                    total[row, column], step[row][column] = cost, (0, 1)

    matches = []
    row, column = rows, columns
    while row or column:
        taken_units, taken_phones = step[row][column]
        if taken_phones:
            matches.append(Match(column - 1, row - 1 if taken_units else None))
        row, column = row - taken_units, column - taken_phones
    return float(total[rows, columns]), matches[::-1]
