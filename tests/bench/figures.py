"""What was seen: one figure per measure and subject."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """`text` is for the table; `value` and `worst` are for goals."""

    text: str
    value: float | None = None
    worst: float | None = None


def short(value: float) -> str:
    """Three digits are enough for anybody."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median(values: Sequence[float]) -> Figure:
    middle = statistics.median(values)
    return Figure(short(middle), middle)


def with_p99(values: Sequence[float], wanted: int) -> Figure:
    """Median and 99th percentile; of few values the largest, with their number."""
    ordered = sorted(values)
    middle, high = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    count = "" if len(ordered) >= wanted else f" (n={len(ordered)})"
    return Figure(f"{short(middle)} / {short(high)}{count}", middle, high)


@dataclass
class Results:
    figures: dict[tuple[str, str], Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def put(self, measure: str, subject: str, figure: Figure) -> None:
        self.figures[measure, subject] = figure
        print(f"  {subject}: {measure}: {figure.text}", flush=True)

    def get(self, measure: str, subject: str) -> Figure | None:
        return self.figures.get((measure, subject))

    def fail(self, measure: str, subject: str, why: str) -> None:
        self.figures[measure, subject] = Figure("failed")
        self.failures.append(f"{subject}, {measure}: {why}")
        print(f"  {subject}: {measure}: failed: {why}", flush=True)
