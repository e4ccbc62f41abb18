"""Other formats: a detector as ONNX, OpenVINO or torch.export, an open_clip checkpoint as a transformers folder."""

from .detector import ExportedDetector
from .graph import Kind, export

__all__ = ["ExportedDetector", "Kind", "export"]
