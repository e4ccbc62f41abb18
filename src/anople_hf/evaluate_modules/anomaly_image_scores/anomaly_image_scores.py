"""Image-level scores of anomaly detection for the `evaluate` library.

Implements metrics of sec. 4.1 (image AUROC and AUPR).
"""

import datasets
import evaluate

from anople_hf.evaluation.metrics import OF_SCORES
from anople_hf.evaluation.ranking import Ranking

_DESCRIPTION = """\
Which photos are defective? Ranking metrics over one score a photo; they need no threshold. Values are 0..1, or NaN
where the labels do not define them (one class only).
"""
_KWARGS = """
Args:
    predictions: one score a photo, higher is more anomalous.
    references: 0 for good photos, 1 for defective ones.
Returns:
    image_auroc: area under the ROC curve, ties count half.
    image_aupr: average precision (steps).
    image_aupr_trapezoid: area under precision over recall by the trapezoidal rule, as some tables have it.
    image_f1_max: the best F1 that any threshold reaches.
Examples:
    >>> import evaluate
    >>> from anople_hf.evaluate_modules import module_path
    >>> scores = evaluate.load(module_path("anomaly_image_scores"))
    >>> found = scores.compute(predictions=[0.1, 0.4, 0.35, 0.8], references=[0, 0, 1, 1])
    >>> {name: round(value, 3) for name, value in found.items()}
    {'image_auroc': 0.75, 'image_aupr': 0.833, 'image_aupr_trapezoid': 0.792, 'image_f1_max': 0.8}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class AnomalyImageScores(evaluate.Metric):
    """Image AUROC, AUPR and F1-max."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int32")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        ranking = Ranking.of_scores(predictions, references)
        return {name: measure(ranking) for name, measure in OF_SCORES.items()}
