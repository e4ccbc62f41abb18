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
    positives, negatives = _cumulated(scores, labels)
    if positives[-1] == 0 or negatives[-1] == 0:
        return math.nan
    return float(np.trapezoid(positives / positives[-1], negatives / negatives[-1]))


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

    Each 8-connected defect counts alike, however large. The curve is interpolated at the limit, its area divided by it.

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
    rate, overlap = _pro_curve(anomaly_maps, masks, fpr_limit)
    if rate is None or overlap is None:
        return math.nan
    end = int(np.searchsorted(rate, fpr_limit, side="right"))
    xs, ys = rate[:end], overlap[:end]
    if xs[-1] < fpr_limit:
        at_limit = np.interp(fpr_limit, rate[end - 1 : end + 1], overlap[end - 1 : end + 1])
        xs, ys = np.append(xs, fpr_limit), np.append(ys, at_limit)
    return float(np.trapezoid(ys, xs) / fpr_limit)


def aupro_200(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """The variant many published tables use: 200 equally spaced thresholds, rates below the limit rescaled to 0..1.

    Only for comparison with them: it depends on the largest and smallest value and is NaN on a perfect map.

    Args:
        anomaly_maps: (N, H, W).
        masks: (N, H, W).
        fpr_limit: As for `aupro`.
    """
    maps, truth = _checked_maps(anomaly_maps, masks, fpr_limit)
    labelled, areas = _regions(truth)
    normal = ~truth
    if not len(areas) or not normal.any():
        return math.nan
    low, high = float(maps.min()), float(maps.max())
    region_of, rates, overlaps = labelled[truth], [], []
    for threshold in np.arange(low, high, (high - low) / 200) if high > low else [low]:
        above = maps > threshold
        hits = np.bincount(region_of, weights=above[truth], minlength=len(areas) + 1)[1:]
        rates.append(above[normal].mean())
        overlaps.append((hits / areas).mean())
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < fpr_limit
    rate, overlap = rate[kept], overlap[kept]
    if len(rate) < 2 or np.ptp(rate) == 0:
        return math.nan
    order = np.argsort(rate, kind="stable")
    return float(np.trapezoid(overlap[order], (rate[order] - rate.min()) / np.ptp(rate)))


@dataclass
class ScoreAccumulator:
    """Collects the scores of a test set image by image and gives the table per category.

    Maps are kept in float32 and masks as bits until `compute`, one category after the other.

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
            mask: (H, W), non-zero on defects; None if not known, which leaves the category without pixel metrics.
        """
        self._rows.setdefault(category, []).append((float(score), int(label)))
        pixels = None
        if anomaly_map is not None and mask is not None:
            pixels = np.asarray(anomaly_map, np.float32), np.asarray(mask) > 0
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


def _cumulated(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Positives and negatives at or above each distinct score, from the highest down, with a leading 0."""
    values, truth = np.asarray(scores), np.asarray(labels) != 0
    if values.shape != truth.shape or not values.size:
        raise ValueError(
            f"scores of shape {values.shape} and labels of shape {truth.shape}: expected the same, not empty."
        )
    values, truth = values.ravel(), truth.ravel()
    if np.isnan(values).any():
        raise ValueError("a score is NaN; the model or its input is broken.")
    order = np.argsort(-values)
    values, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    positives = np.cumsum(truth)[last]
    return np.append(0, positives), np.append(0, last + 1 - positives)


def _checked_maps(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float) -> tuple[NDArray, NDArray]:
    maps, truth = np.asarray(anomaly_maps), np.asarray(masks) != 0
    if maps.ndim != 3 or maps.shape != truth.shape:
        raise ValueError(f"maps of shape {maps.shape} and masks of shape {truth.shape}: expected (N, H, W) for both.")
    if np.isnan(maps).any():
        raise ValueError("an anomaly map holds NaN; the model or its input is broken.")
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit}: expected above 0 and at most 1, for example 0.3.")
    return maps, truth


def _regions(truth: NDArray) -> tuple[NDArray, NDArray]:
    """Region number of every pixel, over all images, 0 outside; and the regions' areas."""
    labelled, count = np.zeros(truth.shape, np.int32), 0
    for index, mask in enumerate(truth):
        if mask.any():
            found, number = ndimage.label(mask, structure=np.ones((3, 3)))
            labelled[index] = np.where(found > 0, found + count, 0)
            count += number
    return labelled, np.bincount(labelled.ravel(), minlength=count + 1)[1:]


def _pro_curve(
    anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float
) -> tuple[NDArray, NDArray] | tuple[None, None]:
    """False-positive rate and mean overlap at every distinct value, from the highest down, until past the limit."""
    maps, truth = _checked_maps(anomaly_maps, masks, fpr_limit)
    labelled, areas = _regions(truth)
    normal_values = maps[~truth]
    if not len(areas) or not len(normal_values):
        return None, None
    # Only normal pixels among the highest `limit` share matter. Cut there first: sorting is what costs.
    allowed = min(len(normal_values), int(fpr_limit * len(normal_values)) + 1)
    cut = np.partition(normal_values, len(normal_values) - allowed)[len(normal_values) - allowed]
    normal_kept = normal_values[normal_values >= cut]
    defect_values, region_of = maps[truth], labelled[truth]
    above = defect_values >= cut
    values = np.concatenate([normal_kept, defect_values[above]])
    weights = 1.0 / (areas[region_of[above] - 1] * float(len(areas)))
    order = np.argsort(-values, kind="stable")
    values = values[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    is_normal = order < len(normal_kept)
    gains = np.zeros(len(values))
    gains[~is_normal] = weights[order[~is_normal] - len(normal_kept)]
    rate = np.cumsum(is_normal)[last] / len(normal_values)
    overlap = np.minimum(np.cumsum(gains)[last], 1.0)
    return np.append(0.0, rate), np.append(0.0, overlap)


__all__ = ["METRICS", "ScoreAccumulator", "aupro", "aupro_200", "auroc", "average_precision", "f1_max"]
