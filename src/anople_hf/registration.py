"""The public names, made known to transformers: its Auto classes and `pipeline` find AnoPLe after this import.

Where in the paper: nowhere, this is ours.
"""

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
]
