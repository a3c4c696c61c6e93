"""What the pixels that were read have lost on their way to a store, for its notes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Values that a text names; it counts the rest.
SHOWN = 5
#: Values of a file that are kept apart: a photograph taken for labels has a million colors.
KEPT = 1000


@dataclass
class Losses:
    """Losses by the name of a file, which many scenes share."""

    #: Of values that are no measurements, and not declared as nodata, the largest in magnitude.
    overflows: dict[str, float] = field(default_factory=dict)
    #: Pixels of the values of labels that have no class and are ignored.
    unknown: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add_overflow(self, name: str, value: float) -> None:
        """Record a value of a file that is no measurement."""
        self.overflows[name] = max(self.overflows.get(name, 0.0), value, key=abs)

    def add_unknown(self, name: str, counts: Mapping[str, int]) -> None:
        """Record pixels of labels, by value, that have no class."""
        if counts:
            total = self.unknown[name] + Counter(counts)
            self.unknown[name] = Counter(dict(total.most_common(KEPT)))

    def update(self, other: Losses) -> None:
        """Add the losses of other pixels."""
        for name, value in other.overflows.items():
            self.add_overflow(name, value)
        for name, counts in other.unknown.items():
            self.add_unknown(name, counts)

    def to_mapping(self) -> dict[str, Any]:
        """Return values of JSON."""
        return {"overflows": self.overflows, "unknown": dict(self.unknown)}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Losses:
        """Return the losses that :meth:`to_mapping` returned."""
        losses = cls(dict(values.get("overflows", {})))
        for name, counts in values.get("unknown", {}).items():
            losses.add_unknown(name, counts)
        return losses

    def notes(self) -> list[str]:
        """Return a line for each file."""
        lines = [
            f"{name} has values beyond 1e30, such as {value:g}, which it does not declare: they "
            "count as no data"
            for name, value in self.overflows.items()
        ]
        return lines + [
            f"{name}: pixels of no class: {counts_text(counts)}"
            for name, counts in self.unknown.items()
        ]


def counts_text(counts: Counter[str]) -> str:
    """Return the commonest values with their pixels, and how many more values there are."""
    shown = ", ".join(f"{value} ({count} px)" for value, count in counts.most_common(SHOWN))
    more = len(counts) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
