"""`Summary`: what a report counts and draws of one product, as plain numbers for its template."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import numpy as np

from ..decisions import DEFECTIVE, NORMAL, UNCERTAIN, UNKNOWN
from .tables import Row

BELOW, MOST_BARS, MOST_PERIODS = (16, 8, 4), 40, 48
"""Bars of a histogram below the threshold, the first number that leaves few photos beyond; bars in all; periods of a
trend."""
MOST_BEYOND = 0.05
"""Share of the photos that may lie beyond a histogram: they stand in its last bar, and would dwarf the others."""
NO_THRESHOLD = "without a threshold"
DECISIONS = (DEFECTIVE, UNKNOWN, UNCERTAIN, NORMAL, NO_THRESHOLD)


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: its left edge and width as shares of the whole, its photos, whether it lies above."""

    left: float
    width: float
    count: int
    above: bool


@dataclass(frozen=True)
class Histogram:
    """Scores of a product; what lies beyond `high` stands in the last bar.

    Attributes:
        bars: From low to high.
        low: Score at the left end.
        high: Score at the right end.
        threshold: As a share of the way from `low` to `high`; None without one.
        most: Photos in the highest bar.
        beyond: Photos with a score above `high`.
    """

    bars: list[Bar]
    low: float
    high: float
    threshold: float | None
    most: int
    beyond: int


@dataclass(frozen=True)
class Trend:
    """A product over time, in periods of equal length.

    Attributes:
        first: Time stamp at the left end, ISO 8601.
        last: And at the right end.
        counts: Photos in each period.
        shares: Share of them that is not normal; None without photos.
        medians: Median of score / threshold; None without.
    """

    first: str
    last: str
    counts: list[int]
    shares: list[float | None]
    medians: list[float | None]


@dataclass(frozen=True)
class Summary:
    """One product of a run.

    Attributes:
        name: Of the product.
        photos: Judged ones.
        counts: Photos by decision.
        rate: Share found defective of the photos that show a known product and have a threshold; None without any.
        threshold: The product's; None if there is none, or several.
        histogram: Of the scores.
        trend: None if the photos have fewer than two time stamps, or no threshold.
    """

    name: str
    photos: int
    counts: dict[str, int]
    rate: float | None
    threshold: float | None
    histogram: Histogram
    trend: Trend | None

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> Self:
        """Of the rows of one product, at least one."""
        counts = {decision: 0 for decision in DECISIONS}
        for row in rows:
            counts[decision_of(row)] += 1
        limits = {row["threshold"] for row in rows}
        threshold = limits.pop() if len(limits) == 1 else None
        decided = len(rows) - counts[NO_THRESHOLD] - counts[UNKNOWN]  # what shows no known product says nothing
        return cls(
            name=name,
            photos=len(rows),
            counts=counts,
            rate=counts[DEFECTIVE] / decided if decided else None,
            threshold=threshold,
            histogram=histogram([row["score"] for row in rows], threshold),
            trend=trend(rows),
        )


def decision_of(row: Row) -> str:
    """The row's label, or that it has none."""
    return str(row["label"] or NO_THRESHOLD)


def excess(row: Row) -> float:
    """How far a score lies above its threshold; relative to it, because products differ in what is much."""
    return float(row["score"] if row["ratio"] is None else row["ratio"])


def histogram(scores: Sequence[float], threshold: float | None) -> Histogram:
    """Bars of equal width, one of whose edges is the threshold, so that none is both below and above.

    Example:
        >>> found = histogram([0.1, 0.2, 0.6, 5.0], 0.4)
        >>> [bar.count for bar in found.bars if bar.count], found.beyond, sum(b.count for b in found.bars if b.above)
        ([1, 1, 1, 1], 1, 2)
    """
    values = np.asarray(scores, np.float64)
    low, top = float(values.min()), float(values.max())
    below = BELOW[0]
    if not threshold:
        width, count = (top - low) / below or abs(top) or 1.0, below
    else:
        low = min(low, threshold / 2)
        for below in BELOW:
            width = (threshold - low) / below
            count = min(MOST_BARS, below + max(2, math.ceil((top - threshold) / width)))
            if (values > low + count * width).mean() <= MOST_BEYOND:
                break
    # A score at the threshold is normal: bars hold their upper edge.
    places = np.clip(np.ceil((values - low) / width - 1e-9).astype(int) - 1, 0, count - 1)
    if threshold:
        places = np.where(values > threshold, np.maximum(places, below), np.minimum(places, below - 1))
    counts = np.bincount(places, minlength=count)
    high = low + count * width
    return Histogram(
        bars=[
            Bar(place / count, 1 / count, int(number), bool(threshold) and place >= below)
            for place, number in enumerate(counts)
        ],
        low=low,
        high=high,
        threshold=below / count if threshold else None,
        most=int(counts.max()),
        beyond=int((values > high * (1 + 1e-9)).sum()),
    )


def trend(rows: Sequence[Row]) -> Trend | None:
    """How the share that is not normal, and the median, went; None without thresholds or with one time stamp."""
    found = [row for row in rows if row["time"] and row["ratio"] is not None]
    stamps = np.array([datetime.fromisoformat(row["time"]).timestamp() for row in found])
    if len(set(stamps.tolist())) < 2:
        return None
    ends = [found[int(place)]["time"] for place in (stamps.argmin(), stamps.argmax())]
    periods = min(MOST_PERIODS, max(4, len(found) // 5))
    places = ((stamps - stamps.min()) / (stamps.max() - stamps.min()) * periods).astype(int).clip(0, periods - 1)
    wrong, ratios = np.array([row["label"] != NORMAL for row in found]), np.array([row["ratio"] for row in found])
    inside = [places == period for period in range(periods)]
    return Trend(
        first=ends[0],
        last=ends[1],
        counts=[int(here.sum()) for here in inside],
        shares=[float(wrong[here].mean()) if here.any() else None for here in inside],
        medians=[float(np.median(ratios[here])) if here.any() else None for here in inside],
    )


__all__ = ["DECISIONS", "Summary", "decision_of", "excess", "histogram", "trend"]
