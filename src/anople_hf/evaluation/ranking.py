"""`Ranking`: the sorted scores of normals and defects, from which every ranking metric follows exactly.

Implements the metrics of sec. 4.1. PRO is MVTec-AD's: 8-connected regions, integrated up to a false-positive rate.

Recall and overlap change only at the values of defects, so all curves have their corners there. One sort of the normal
scores and a search for the few defect scores replace sorting everything for each metric.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Ranking:
    """Sorted scores.

    Attributes:
        normal: Scores of all negatives, ascending.
        levels: Distinct scores of the positives, descending.
        hits: Number of positives at each level.
        overlaps: Mean overlap over all regions that each level adds (they sum to 1); None for plain scores.
    """

    normal: NDArray
    levels: NDArray
    hits: NDArray
    overlaps: NDArray | None = None

    @classmethod
    def of_scores(cls, scores: ArrayLike, labels: ArrayLike) -> "Ranking":
        """Rank scores with labels (non-zero where anomalous) of the same shape.

        Raises:
            ValueError: The shapes differ, there are no scores, or a score is NaN.
        """
        values, truth = _numbers(scores), np.asarray(labels) != 0
        if values.shape != truth.shape or not values.size:
            raise ValueError(
                f"scores of shape {values.shape} and labels of shape {truth.shape}: expected the same, not empty."
            )
        if np.isnan(values).any():
            raise ValueError("a score is NaN; the model or its input is broken.")
        normal = values[~truth]
        normal.sort()
        levels, hits = np.unique(values[truth], return_counts=True)
        return cls(normal, levels[::-1], hits[::-1])

    @classmethod
    def of_maps(cls, anomaly_maps: ArrayLike, masks: ArrayLike) -> "Ranking":
        """Rank the pixels of anomaly maps with masks (non-zero on defects), both (N, H, W).

        Raises:
            ValueError: The shapes differ, or a value is NaN.
        """
        maps, truth = _numbers(anomaly_maps), np.asarray(masks) != 0
        if maps.ndim != 3 or maps.shape != truth.shape:
            raise ValueError(
                f"maps of shape {maps.shape} and masks of shape {truth.shape}: expected (N, H, W) for both."
            )
        if any(np.isnan(values).any() for values in maps):
            raise ValueError("an anomaly map holds NaN; the model or its input is broken.")
        found, weights, regions = [maps[:0].ravel()], [np.empty(0)], 0
        for values, mask in zip(maps, truth, strict=True):  # labels of one image are all that is held
            if mask.any():
                labeled, count = ndimage.label(mask, structure=np.ones((3, 3)))
                region = labeled[mask]
                found.append(values[mask])
                weights.append(1.0 / np.bincount(region)[region])
                regions += count
        normal = maps[np.logical_not(truth, out=truth)]
        normal.sort()
        levels, level_of, hits = np.unique(np.concatenate(found), return_inverse=True, return_counts=True)
        gains = np.bincount(level_of, weights=np.concatenate(weights), minlength=len(levels)) / max(regions, 1)
        return cls(normal, levels[::-1], hits[::-1], gains[::-1])

    @cached_property
    def positives(self) -> int:
        """Number of positives."""
        return int(self.hits.sum())

    @cached_property
    def above(self) -> NDArray:
        """Number of negatives above each level."""
        return len(self.normal) - np.searchsorted(self.normal, self.levels, side="right")

    @cached_property
    def at_least(self) -> NDArray:
        """Number of negatives at or above each level."""
        return len(self.normal) - np.searchsorted(self.normal, self.levels, side="left")

    @cached_property
    def found(self) -> NDArray:
        """Number of positives at or above each level."""
        return np.cumsum(self.hits)

    def auroc(self) -> float:
        """Share of (positive, negative) pairs in the right order, ties count half; NaN without such pairs."""
        if not self.positives or not len(self.normal):
            return math.nan
        twice = int((self.hits * (2 * len(self.normal) - self.above - self.at_least)).sum())
        return twice / (2 * self.positives * len(self.normal))

    def average_precision(self) -> float:
        """Precision over recall as steps; NaN without positives."""
        if not self.positives:
            return math.nan
        return float(np.sum(self.hits / self.positives * self.found / (self.found + self.at_least)))

    def trapezoid_aupr(self) -> float:
        """Precision over recall joined by straight lines, from precision 1 at recall 0; NaN without positives."""
        if not self.positives:
            return math.nan
        found = self.found - self.hits
        called = found + self.above
        before = np.where(called == 0, 1.0, found / np.maximum(called, 1))
        at = self.found / (self.found + self.at_least)
        return float(np.sum(self.hits / self.positives * (before + at) / 2))

    def f1_max(self) -> float:
        """The best F1 over all thresholds; NaN without positives."""
        if not self.positives:
            return math.nan
        return float(np.max(2 * self.found / (self.found + self.at_least + self.positives)))

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Exact area under the per-region overlap, up to the limit and divided by it; NaN if undefined."""
        overlaps = self._overlaps(fpr_limit)
        if overlaps is None:
            return math.nan
        # At each level the curve runs from all above the value to all at or above it, and stays level up to the next.
        reached = np.cumsum(overlaps)
        rate = np.stack([self.above, self.at_least], axis=1).ravel() / len(self.normal)
        overlap = np.stack([reached - overlaps, reached], axis=1).ravel()
        rate, overlap = np.append(rate, 1.0), np.append(overlap, reached[-1])
        end = int(np.searchsorted(rate, fpr_limit, side="right"))
        if end < len(rate):
            # The start is passed on its own: the first corner may lie beyond the limit already.
            before = (rate[end - 1], overlap[end - 1]) if end else (0.0, 0.0)
            at_limit = np.interp(fpr_limit, [before[0], rate[end]], [before[1], overlap[end]])
            rate, overlap = np.append(rate[:end], fpr_limit), np.append(overlap[:end], at_limit)
        rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
        return float(np.clip(np.trapezoid(overlap, rate) / fpr_limit, 0.0, 1.0))

    def aupro_200(self, fpr_limit: float = 0.3) -> float:
        """AUPRO from 200 equally spaced thresholds, rates below the limit rescaled to 0..1; NaN on a perfect map."""
        overlaps = self._overlaps(fpr_limit)
        if overlaps is None:
            return math.nan
        low, high = (
            float(pick(self.normal[end], self.levels[other])) for pick, end, other in ((min, 0, -1), (max, -1, 0))
        )
        thresholds = np.arange(low, high, (high - low) / 200) if high > low else np.array([low])
        rate = 1 - np.searchsorted(self.normal, thresholds, side="right") / len(self.normal)
        total = np.append(np.cumsum(overlaps)[::-1], 0.0)  # overlap from each level up, levels rising
        overlap = total[np.searchsorted(self.levels[::-1], thresholds, side="right")]
        kept = rate < fpr_limit
        rate, overlap = rate[kept][::-1], overlap[kept][::-1]  # rising
        if len(rate) < 2 or np.ptp(rate) == 0:
            return math.nan
        return float(np.trapezoid(overlap, (rate - rate.min()) / np.ptp(rate)))

    def _overlaps(self, fpr_limit: float) -> NDArray | None:
        if self.overlaps is None:
            raise ValueError("regions need maps and masks; make the ranking with Ranking.of_maps.")
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit={fpr_limit}: expected above 0 and at most 1, for example 0.3.")
        return self.overlaps if self.positives and len(self.normal) else None


def _numbers(values: ArrayLike) -> NDArray:
    """Convert to an array, and float16 to float32, which numpy sorts many times faster."""
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


__all__ = ["Ranking"]
