"""AnoPLe: few-shot multi-class visual anomaly detection with bidirectional prompts (arXiv 2408.13516, CVPR 2026)."""

import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _is_command() -> bool:
    """Whether this process is `anople ...`: help, mistakes and completion come at once, verbs import what they use."""
    started = sys.argv[0] if sys.argv else ""
    module = started == "-m" and "anople_hf.cli" in sys.orig_argv  # python -m, as it looks for the module
    return module or os.path.basename(started) in ("anople", "anople.exe") or "_ANOPLE_COMPLETE" in os.environ


def __getattr__(name: str) -> Any:
    """The public names, once the command wants one (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import registration

    return getattr(registration, name)


if TYPE_CHECKING or not _is_command():
    from .registration import (
        AnomalyDetectionPipeline,
        AnoPLeConfig,
        AnoPLeModel,
        AnoPLeOutput,
        AnoPLeProcessor,
        MemoryBank,
    )

__all__ = [
    "AnoPLeConfig",
    "AnoPLeModel",
    "AnoPLeOutput",
    "AnoPLeProcessor",
    "AnomalyDetectionPipeline",
    "MemoryBank",
    "__version__",
]
