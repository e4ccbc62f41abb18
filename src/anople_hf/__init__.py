"""AnoPLe: few-shot multi-class visual anomaly detection with bidirectional prompts (arXiv 2408.13516, CVPR 2026)."""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_anople import AnoPLeConfig
    from .memory import MemoryBank
    from .modeling_anople import AnoPLeModel, AnoPLeOutput
    from .pipeline import AnomalyDetectionPipeline
    from .processing_anople import AnoPLeProcessor

__version__ = "0.1.0"


def register() -> None:
    """Load the public names, and make them known to transformers: its Auto classes and `pipeline` find AnoPLe then."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration_anople import AnoPLeConfig
    from .memory import MemoryBank
    from .modeling_anople import AnoPLeModel, AnoPLeOutput
    from .pipeline import AnomalyDetectionPipeline, register_pipeline
    from .processing_anople import AnoPLeProcessor

    AutoConfig.register(AnoPLeConfig.model_type, AnoPLeConfig, exist_ok=True)
    AutoModel.register(AnoPLeConfig, AnoPLeModel, exist_ok=True)
    AutoProcessor.register(AnoPLeConfig, AnoPLeProcessor, exist_ok=True)
    register_pipeline()
    classes = (AnoPLeConfig, AnoPLeModel, AnoPLeOutput, AnoPLeProcessor, AnomalyDetectionPipeline, MemoryBank)
    globals().update({found.__name__: found for found in classes})


def _is_command() -> bool:
    """Whether this process is `anople ...`: help, mistakes and completion come at once, verbs import what they use."""
    started = sys.argv[0] if sys.argv else ""
    module = started == "-m" and "anople_hf.cli" in sys.orig_argv  # python -m, as it looks for the module
    return module or os.path.basename(started) in ("anople", "anople.exe") or "_ANOPLE_COMPLETE" in os.environ


def __getattr__(name: str) -> Any:
    """The public names, once the command wants one (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return globals()[name]


if not _is_command():
    register()

__all__ = [
    "AnoPLeConfig",
    "AnoPLeModel",
    "AnoPLeOutput",
    "AnoPLeProcessor",
    "AnomalyDetectionPipeline",
    "MemoryBank",
    "__version__",
]
