"""Learning from a few good photos: `train()`, and all it takes; needs the extra `train`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import TrainingConfig, TrainingRun, train

__all__ = ["TrainingConfig", "TrainingRun", "train"]


def __getattr__(name: str) -> Any:
    """On demand: `textures` are wanted where the extra is not installed, too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import run

    return getattr(run, name)
