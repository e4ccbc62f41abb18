"""Exact metrics of anomaly detection: plain functions on arrays, and an accumulator per category.

Implements the metrics of sec. 4.1 (image AUROC and AUPR, pixel AUROC and PRO); `ranking.py` computes them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ranking import Ranking

METRICS = ("image_auroc", "image_aupr", "pixel_auroc", "aupro")
"""What the paper's tables hold."""
OF_SCORES: dict[str, Callable[[Ranking], float]] = {
    "image_auroc": Ranking.auroc,
    "image_aupr": Ranking.average_precision,
    "image_aupr_trapezoid": Ranking.trapezoid_aupr,
    "image_f1_max": Ranking.f1_max,
}
OF_MAPS: dict[str, Callable[[Ranking, float], float]] = {
    "pixel_auroc": lambda pixels, limit: pixels.auroc(),
    "pixel_aupr": lambda pixels, limit: pixels.average_precision(),
    "pixel_f1_max": lambda pixels, limit: pixels.f1_max(),
    "aupro": Ranking.aupro,
    "aupro_200": Ranking.aupro_200,
}
"""How each metric is computed; those of maps may have a limit for the false-positive rate."""
MORE_METRICS = (*(name for name in (*OF_SCORES, *OF_MAPS) if name not in METRICS), "aupro_5")
"""What others report; `aupro_200` has 200 thresholds, `aupro_5` goes up to a false-positive rate of 0.05."""
ALL_METRICS = METRICS + MORE_METRICS


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        scores: Any shape, higher is more anomalous.
        labels: Same shape, non-zero where anomalous.

    Returns:
        0..1, or NaN if only one class is present.

    Raises:
        ValueError: Shapes differ, or a score is NaN.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    return Ranking.of_scores(scores, labels).auroc()


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
    return Ranking.of_scores(scores, labels).average_precision()


def trapezoid_aupr(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under precision over recall by the trapezoidal rule, as in some tables; slightly optimistic.

    Equal to `auc(recall, precision)` of scikit-learn's `precision_recall_curve`.

    Args:
        scores: Any shape, higher is more anomalous.
        labels: Same shape, non-zero where anomalous.

    Returns:
        0..1, or NaN without positives.

    Example:
        >>> round(trapezoid_aupr([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.7917
    """
    return Ranking.of_scores(scores, labels).trapezoid_aupr()


def f1_max(scores: ArrayLike, labels: ArrayLike) -> float:
    """The best F1 over all thresholds; NaN without positives.

    Example:
        >>> f1_max([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.8
    """
    return Ranking.of_scores(scores, labels).f1_max()


def aupro(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap, exact: every distinct value is a threshold.

    Each 8-connected defect has the same weight, however large. The curve is interpolated at the limit, and the
    area is divided by the limit.

    Args:
        anomaly_maps: (N, H, W), higher is more anomalous; good images included.
        masks: (N, H, W), non-zero on defects.
        fpr_limit: Largest false-positive rate over all normal pixels, in 0..1.

    Returns:
        0..1, or NaN without a defect or without a normal pixel.

    Raises:
        ValueError: Shapes do not match, a value is NaN, or the limit is outside 0..1.

    Example:
        >>> masks = np.zeros((1, 10, 10)); masks[0, 2:4, 2:4] = 1
        >>> aupro(masks, masks), round(aupro(np.zeros_like(masks), masks), 4)
        (1.0, 0.15)
    """
    return Ranking.of_maps(anomaly_maps, masks).aupro(fpr_limit)


def aupro_200(anomaly_maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """The variant in many published tables: 200 equally spaced thresholds, rates below the limit rescaled to 0..1.

    Use it only to compare with such tables: it depends on the largest and smallest value, and is NaN on a perfect map.

    Args:
        anomaly_maps: (N, H, W).
        masks: (N, H, W).
        fpr_limit: As for `aupro`.
    """
    return Ranking.of_maps(anomaly_maps, masks).aupro_200(fpr_limit)


@dataclass
class ScoreAccumulator:
    """Collects the scores of a test set image by image and computes the table per category.

    Maps are kept in float32 (float16 stays float16) and masks as booleans until the category's row is computed. Call
    `finish` when a category is complete: its maps are then released, so memory holds one category at a time.

    Args:
        fpr_limit: Limit of `aupro` and `aupro_200`.

    Example:
        >>> table = ScoreAccumulator()
        >>> table.add("gear", score=0.2, label=0)
        >>> table.add("gear", score=0.7, label=1)
        >>> row = table.compute()["gear"]
        >>> row["image_auroc"], row["aupro"]
        (1.0, None)
    """

    fpr_limit: float = 0.3
    _rows: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    _maps: dict[str, list[tuple[NDArray, NDArray] | None]] = field(default_factory=dict)
    _finished: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def add(
        self,
        category: str,
        *,
        score: float,
        label: int,
        anomaly_map: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        """Add one image.

        Args:
            category: Its product.
            score: Raw image score.
            label: 0 good, 1 defective.
            anomaly_map: (H, W), or None.
            mask: (H, W), non-zero on defects; not needed for a good image. If a defective image has no mask, the
                category gets no pixel metrics.

        Raises:
            ValueError: A value is NaN, the label is neither 0 nor 1, map and mask do not match, or the category is
                already finished.
        """
        if category in self._finished:
            raise ValueError(f"{category} was finished; add all its images before.")
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

    def finish(self, category: str) -> dict[str, float | None]:
        """Compute a category's row and release its maps.

        Raises:
            KeyError: The category has no images.
        """
        if category not in self._finished:
            self._finished[category] = self._of(category)
            del self._maps[category]
        return self._finished[category]

    def compute(self) -> dict[str, dict[str, float | None]]:
        """`ALL_METRICS` by category, values in 0..1; None where the data do not define one."""
        return {category: self._finished.get(category) or self._of(category) for category in self._rows}

    def compute_parts(self, parts: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, dict[str, float | None]]:
        """`OF_SCORES` of parts, by category: a part's score is the highest of its views', its label the worst.

        Args:
            parts: By category and part, the places of its views among the images that were added to the category.

        Example:
            >>> table = ScoreAccumulator()
            >>> for score, label in ((0.2, 0), (0.6, 0), (0.3, 1), (0.7, 0)):
            ...     table.add("gear", score=score, label=label)
            >>> table.compute_parts({"gear": {"a": [0, 1], "b": [2, 3]}})["gear"]["image_auroc"]
            1.0
        """
        found = {}
        for category, views in parts.items():
            rows = [[self._rows[category][place] for place in places] for places in views.values()]
            own = [(max(score for score, _ in part), max(label for _, label in part)) for part in rows]
            found[category] = _of_scores(own)
        return found

    def _of(self, category: str) -> dict[str, float | None]:
        values = dict.fromkeys(ALL_METRICS, math.nan)
        values |= {name: math.nan if x is None else x for name, x in _of_scores(self._rows[category]).items()}
        pairs = [pair for pair in self._maps[category] if pair is not None]
        if len(pairs) == len(self._rows[category]):
            maps, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            pixels = Ranking.of_maps(maps, masks)
            values |= {name: measure(pixels, self.fpr_limit) for name, measure in OF_MAPS.items()}
            values["aupro_5"] = pixels.aupro(0.05)
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def _of_scores(rows: Sequence[tuple[float, int]]) -> dict[str, float | None]:
    """`OF_SCORES` of scores with their labels; None where they are not defined."""
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if labels.min() != 0:
        return dict.fromkeys(OF_SCORES)
    ranking = Ranking.of_scores(scores, labels)
    values = {name: measure(ranking) for name, measure in OF_SCORES.items()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


__all__ = [
    "ALL_METRICS",
    "METRICS",
    "MORE_METRICS",
    "OF_MAPS",
    "OF_SCORES",
    "ScoreAccumulator",
    "aupro",
    "aupro_200",
    "auroc",
    "average_precision",
    "f1_max",
    "trapezoid_aupr",
]
