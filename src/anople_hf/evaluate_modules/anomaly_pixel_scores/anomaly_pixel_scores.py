"""Pixel-level scores of anomaly detection for the `evaluate` library.

Implements metrics of sec. 4.1 (pixel AUROC and PRO).
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from anople_hf.evaluation.metrics import OF_MAPS
from anople_hf.evaluation.ranking import Ranking

_DESCRIPTION = """\
Where are the defects? Ranking metrics over all pixels of a category, good photos included, and AUPRO, in which each
8-connected defect counts alike, however large. Exact: every distinct value is a threshold. Call it once a category
and average, as published tables do.
"""
_KWARGS = """
Args:
    predictions: one map (H, W) a photo, higher is more anomalous; all of one size.
    references: one mask (H, W) a photo, non-zero on defects, zero everywhere for good photos.
    fpr_limit: AUPRO is integrated up to this false-positive rate and divided by it; 0.3 in most tables.
Returns:
    pixel_auroc, pixel_aupr (average precision), pixel_f1_max, aupro, and aupro_200, the variant with 200 thresholds
    that many published tables use. NaN where undefined.
Examples:
    >>> import evaluate
    >>> from anople_hf.evaluate_modules import module_path
    >>> scores = evaluate.load(module_path("anomaly_pixel_scores"))
    >>> mask = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    >>> found = scores.compute(predictions=[[[0.1, 0.2, 0.1], [0.2, 0.9, 0.3], [0.1, 0.2, 0.1]]], references=[mask])
    >>> found["pixel_auroc"], found["aupro"]
    (1.0, 1.0)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class AnomalyPixelScores(evaluate.Metric):
    """Pixel AUROC, AUPR, F1-max and AUPRO."""

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.List(datasets.List(datasets.Value("float32")))
        masks = datasets.List(datasets.List(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS,
            features=datasets.Features({"predictions": rows, "references": masks}),
        )

    def _compute(self, predictions: Any, references: Any, fpr_limit: float = 0.3) -> dict[str, float]:
        ranking = Ranking.of_maps(np.asarray(predictions, np.float32), np.asarray(references, np.uint8))
        return {name: measure(ranking, fpr_limit) for name, measure in OF_MAPS.items()}
