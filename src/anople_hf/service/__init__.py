"""The service: a detector behind HTTP, for lines, cameras and other programs.

`application.py` is what is asked and answered, `detector.py` what is taught and saved, `scoring.py` how concurrent
requests share a pass, `uploads.py` what is accepted, `metrics.py` what is counted, `server.py` how it starts and ends.
"""

from .application import build
from .detector import ServedDetector
from .uploads import Limits

__all__ = ["Limits", "ServedDetector", "build"]
