"""How good a detector is: the metrics, and `evaluate()`, which measures a detector on a test set."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measurement import EvaluationResult, evaluate

__all__ = ["EvaluationResult", "evaluate"]


def __getattr__(name: str) -> Any:
    """On demand: `metrics` are wanted where `datasets` is not installed, too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import measurement

    return getattr(measurement, name)
