"""A figure: what was measured on both sides, what it must reach, and whether it does."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Sample:
    """One side's measurements of one figure.

    Attributes:
        value: What stands for them: mostly the median.
        low: The smallest one.
        high: The largest one.
        n: How many there are.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def median(cls, values: Sequence[float]) -> Self:
        """The sample whose value is the median of `values`."""
        return cls.of(statistics.median(values), values)

    @classmethod
    def of(cls, value: float, values: Sequence[float]) -> Self:
        """The sample of `values` for which `value` stands."""
        return cls(value, min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Attributes:
        name: What was measured.
        unit: The unit of both sides and, unless `relative`, of the bound.
        ours: Our side.
        peer: The peer's; None where it has no such figure.
        bound: The most that is allowed; None for a figure that is only reported.
        relative: Whether the bound is on our share of the peer's value instead of on ours.
        note: What a reader must know to judge it.
        peer_name: Who the peer is.
    """

    name: str
    unit: str
    ours: Sample
    peer: Sample | None
    bound: float | None
    relative: bool = False
    note: str = ""
    peer_name: str = "stock Pipecat"

    @property
    def ratio(self) -> float | None:
        """Our value as a share of the peer's."""
        return self.ours.value / self.peer.value if self.peer and self.peer.value else None

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        reached = self.ratio if self.relative else self.ours.value
        return None if self.bound is None or reached is None else reached <= self.bound

    def as_dict(self) -> dict[str, Any]:
        """The figure as `results.json` has it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _number(self.ours.value),
            "peer": _number(self.peer.value) if self.peer else None,
            "peer_name": self.peer_name if self.peer else None,
            "ratio": _number(self.ratio) if self.ratio is not None else None,
            "bound": self.bound,
            "bound_on": None if self.bound is None else "ratio" if self.relative else "ours",
            "holds": self.holds,
            "n": {"ours": self.ours.n, "peer": self.peer.n if self.peer else 0},
            "spread": {
                "ours": [_number(self.ours.low), _number(self.ours.high)],
                "peer": [_number(self.peer.low), _number(self.peer.high)] if self.peer else None,
            },
            "note": self.note,
        }


def _number(value: float) -> float:
    """Four significant digits: more than any of the figures is good for."""
    return float(f"{value:.4g}")
