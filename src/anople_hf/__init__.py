"""AnoPLe: few-shot multi-class visual anomaly detection with bidirectional prompts (arXiv 2408.13516, CVPR 2026)."""

import os

__version__ = "0.1.0"

if "_ANOPLE_COMPLETE" not in os.environ:  # a shell that completes a word asks at every Tab and cannot wait for torch
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

__all__ = [
    "AnoPLeConfig",
    "AnoPLeModel",
    "AnoPLeOutput",
    "AnoPLeProcessor",
    "AnomalyDetectionPipeline",
    "MemoryBank",
    "__version__",
]
