"""Metrics, and `evaluate()`, which measures a detector on a test set."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measurement import EvaluationResult, evaluate

__all__ = ["EvaluationResult", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import on demand, so that `metrics` can be used without `datasets`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import measurement

    return getattr(measurement, name)
