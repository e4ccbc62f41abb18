"""Other formats: exports detectors to ONNX, OpenVINO or torch.export, and open_clip checkpoints to transformers."""

from .detector import ExportedDetector
from .graph import Kind, export

__all__ = ["ExportedDetector", "Kind", "export"]
