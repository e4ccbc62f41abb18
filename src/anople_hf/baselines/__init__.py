"""Other methods under AnoPLe's interface: same backbone, shots, processor and metrics, so that tables compare methods.

Where in the paper: the rows of Table 1 that need nothing but the same backbone - SPADE, PatchCore and WinCLIP.
"""

from .frozen import FrozenDetector
from .patchcore import PatchCore
from .spade import Spade
from .winclip import WinCLIP, WinCLIPZeroShot

METHODS: dict[str, type[FrozenDetector]] = {
    "spade": Spade,
    "patchcore": PatchCore,
    "winclip": WinCLIP,
    "winclip-zero": WinCLIPZeroShot,
}

__all__ = ["METHODS", "FrozenDetector", "PatchCore", "Spade", "WinCLIP", "WinCLIPZeroShot"]
