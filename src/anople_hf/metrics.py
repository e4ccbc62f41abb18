"""Ranking metrics of anomaly detection, exact and fast, as plain functions on arrays.

Where in the paper: sec. 4.1 (image AUROC and AUPR, pixel AUROC and PRO). The definitions are those of the MVTec-AD
benchmark: PRO over 8-connected regions, integrated up to a false-positive rate of 0.3 and divided by it.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

METRICS = ("image_auroc", "image_aupr", "pixel_auroc", "aupro")


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        scores: Any shape, higher is more anomalous.
        labels: Same shape, non-zero where anomalous.

    Returns:
        0..1, or NaN if only one class is there.

    Raises:
        ValueError: Shapes differ, or a score is NaN.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    values, truth = _checked(scores, labels)
    positives, negatives = values[truth], values[~truth]
    if not len(positives) or not len(negatives):
        return math.nan
    # Counting pairs needs no common order: two plain sorts are several times faster than one argsort.
    positives.sort()
    negatives.sort()
    below = int(np.searchsorted(negatives, positives, side="left").sum())
    not_above = int(np.searchsorted(negatives, positives, side="right").sum())
    return (below + not_above) / (2 * len(positives) * len(negatives))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under precision over recall as a step function (AUPR; scikit-learn's `average_precision_score`).

    Args:
        scores: Any shape, higher is more anomalous.
        labels: Same shape, non-zero where anomalous.

    Returns:
        0..1, or NaN without positives.

    Example:
        >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.8333
    """
    positives, negatives = _cumulated(scores, labels)
    if positives[-1] == 0:
        return math.nan
    precision = positives[1:] / (positives[1:] + negatives[1:])
    return float(np.sum(np.diff(positives) / positives[-1] * precision))


def f1_max(scores: ArrayLike, labels: ArrayLike) -> float:
    """The best F1 any threshold reaches; NaN without positives.

    Example:
        >>> f1_max([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.8
    """
    positives, negatives = _cumulated(scores, labels)
    if positives[-1] == 0:
        return math.nan
    return float(np.max(2 * positives[1:] / (positives[1:] + negatives[1:] + positives[-1])))


def aupro(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap, exact: every distinct value is a threshold.

    Each 8-connected defect counts alike, however large. The curve is interpolated at the limit, and its
    area divided by the limit.

    Args:
        anomaly_maps: (N, H, W), higher is more anomalous; good images included.
        masks: (N, H, W), non-zero on defects.
        fpr_limit: Largest false-positive rate over all normal pixels, in 0..1.

    Returns:
        0..1, or NaN without a defect or without a normal pixel.

    Raises:
        ValueError: Shapes that do not fit, NaN, or a limit outside 0..1.

    Example:
        >>> masks = np.zeros((1, 10, 10)); masks[0, 2:4, 2:4] = 1
        >>> aupro(masks, masks), round(aupro(np.zeros_like(masks), masks), 4)
        (1.0, 0.15)
    """
    ranked = _ranked(anomaly_maps, masks, fpr_limit)
    if ranked is None:
        return math.nan
    normal, thresholds, gains = ranked
    # The overlap only changes at values of defect pixels, so these corners are the whole curve: at each one it runs
    # from all that is above the value to all that is at or above it, and stays level up to the next.
    above = len(normal) - np.searchsorted(normal, thresholds, side="right")
    at_least = len(normal) - np.searchsorted(normal, thresholds, side="left")
    reached = np.cumsum(gains)
    rate = np.stack([above, at_least], axis=1).ravel() / len(normal)
    overlap = np.stack([reached - gains, reached], axis=1).ravel()
    rate, overlap = np.append(rate, 1.0), np.append(overlap, reached[-1])
    end = int(np.searchsorted(rate, fpr_limit, side="right"))
    if end < len(rate):
        # The start is passed on its own: the first corner may lie beyond the limit already.
        before = (rate[end - 1], overlap[end - 1]) if end else (0.0, 0.0)
        at_limit = np.interp(fpr_limit, [before[0], rate[end]], [before[1], overlap[end]])
        rate, overlap = np.append(rate[:end], fpr_limit), np.append(overlap[:end], at_limit)
    rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
    return float(np.clip(np.trapezoid(overlap, rate) / fpr_limit, 0.0, 1.0))


def aupro_200(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """The variant many published tables use: 200 equally spaced thresholds, rates below the limit rescaled to 0..1.

    Only for comparison with them: it depends on the largest and smallest value and is NaN on a perfect map.

    Args:
        anomaly_maps: (N, H, W).
        masks: (N, H, W).
        fpr_limit: As for `aupro`.
    """
    ranked = _ranked(anomaly_maps, masks, fpr_limit)
    if ranked is None:
        return math.nan
    normal, levels, gains = ranked
    low, high = (float(pick(normal[end], levels[other])) for pick, end, other in ((min, 0, -1), (max, -1, 0)))
    thresholds = np.arange(low, high, (high - low) / 200) if high > low else np.array([low])
    rate = 1 - np.searchsorted(normal, thresholds, side="right") / len(normal)
    total = np.append(np.cumsum(gains)[::-1], 0.0)  # overlap from each level up, levels rising
    overlap = total[np.searchsorted(levels[::-1], thresholds, side="right")]
    kept = rate < fpr_limit
    rate, overlap = rate[kept][::-1], overlap[kept][::-1]  # rising
    if len(rate) < 2 or np.ptp(rate) == 0:
        return math.nan
    return float(np.trapezoid(overlap, (rate - rate.min()) / np.ptp(rate)))


@dataclass
class ScoreAccumulator:
    """Collects the scores of a test set image by image and gives the table per category.

    Maps are kept in float32 (float16 stays float16) and masks as booleans until `compute`.

    Args:
        fpr_limit: Of AUPRO.

    Example:
        >>> table = ScoreAccumulator()
        >>> table.add("gear", score=0.2, label=0)
        >>> table.add("gear", score=0.7, label=1)
        >>> table.compute()["gear"]["image_auroc"], table.compute()["gear"]["aupro"]
        (1.0, None)
    """

    fpr_limit: float = 0.3
    _rows: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    _maps: dict[str, list[tuple[NDArray, NDArray] | None]] = field(default_factory=dict)

    def add(
        self,
        category: str,
        *,
        score: float,
        label: int,
        anomaly_map: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        """Take one image.

        Args:
            category: Its product.
            score: Raw image score.
            label: 0 good, 1 defective.
            anomaly_map: (H, W), or None.
            mask: (H, W), non-zero on defects; not needed for a good image. A defective one without leaves the category
                without pixel metrics.

        Raises:
            ValueError: NaN, a label that is neither 0 nor 1, or a map and a mask that do not fit.
        """
        if label not in (0, 1) or math.isnan(score):
            raise ValueError(f"{category}: score {score}, label {label}; expected a number, and 0 (good) or 1.")
        pixels = None
        if anomaly_map is not None and (mask is not None or not label):
            values = np.asarray(anomaly_map)
            values = values if values.dtype == np.float16 else values.astype(np.float32)
            truth = np.zeros(values.shape, bool) if mask is None else np.asarray(mask) > 0
            if values.ndim != 2 or values.shape != truth.shape or np.isnan(values).any():
                raise ValueError(
                    f"{category}: a map of shape {values.shape} and a mask of shape {truth.shape}; expected (H, W) "
                    "for both, and no NaN."
                )
            pixels = values, truth
        self._rows.setdefault(category, []).append((float(score), int(label)))
        self._maps.setdefault(category, []).append(pixels)

    def compute(self) -> dict[str, dict[str, float | None]]:
        """`METRICS` by category, values in 0..1; None where the data do not define one."""
        return {category: self._of(category) for category in self._rows}

    def _of(self, category: str) -> dict[str, float | None]:
        scores, labels = (np.array(column) for column in zip(*self._rows[category], strict=True))
        values = {"image_auroc": auroc(scores, labels), "image_aupr": math.nan}
        if labels.min() == 0:
            values["image_aupr"] = average_precision(scores, labels)
        values |= {"pixel_auroc": math.nan, "aupro": math.nan}
        pairs = [pair for pair in self._maps[category] if pair is not None]
        if len(pairs) == len(self._rows[category]):
            maps, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            values["pixel_auroc"], values["aupro"] = auroc(maps, masks), aupro(maps, masks, self.fpr_limit)
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def _numbers(values: ArrayLike) -> NDArray:
    """An array; float16 as float32, which numpy sorts many times faster."""
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Flat scores and whether each is a positive."""
    values, truth = _numbers(scores), np.asarray(labels) != 0
    if values.shape != truth.shape or not values.size:
        raise ValueError(
            f"scores of shape {values.shape} and labels of shape {truth.shape}: expected the same, not empty."
        )
    if np.isnan(values).any():
        raise ValueError("a score is NaN; the model or its input is broken.")
    return values.ravel(), truth.ravel()


def _cumulated(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Positives and negatives at or above each distinct score, from the highest down, with a leading 0."""
    values, truth = _checked(scores, labels)
    order = np.argsort(values)[::-1]  # not argsort(-values): unsigned integers would wrap around
    values, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    positives = np.cumsum(truth)[last]
    return np.append(0, positives), np.append(0, last + 1 - positives)


def _ranked(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float) -> tuple[NDArray, NDArray, NDArray] | None:
    """What PRO curves are made of; None without a defect or without a normal pixel.

    Returns:
        Values of all normal pixels, rising; the distinct values on defects, falling; and the mean overlap that is won
        at each of these (they add up to 1).
    """
    maps, truth = _numbers(anomaly_maps), np.asarray(masks) != 0
    if maps.ndim != 3 or maps.shape != truth.shape:
        raise ValueError(f"maps of shape {maps.shape} and masks of shape {truth.shape}: expected (N, H, W) for both.")
    if np.isnan(maps).any():
        raise ValueError("an anomaly map holds NaN; the model or its input is broken.")
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit}: expected above 0 and at most 1, for example 0.3.")
    values, weights, regions = [], [], 0
    for values_of, mask in zip(maps, truth, strict=True):  # image by image: labels of one image are all that is held
        if mask.any():
            labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
            region = labelled[mask]
            values.append(values_of[mask])
            weights.append(1.0 / np.bincount(region)[region])
            regions += count
    normal = maps[~truth]
    if not regions or not len(normal):
        return None
    normal.sort()
    levels, level_of = np.unique(np.concatenate(values), return_inverse=True)
    gains = np.bincount(level_of, weights=np.concatenate(weights)) / regions
    return normal, levels[::-1], gains[::-1]


__all__ = ["METRICS", "ScoreAccumulator", "aupro", "aupro_200", "auroc", "average_precision", "f1_max"]
