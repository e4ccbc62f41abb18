"""Other methods with AnoPLe's interface, so that tables compare methods on the same backbone, shots and processor.

They are the rows of Table 1 that need nothing but the backbone: SPADE, PatchCore and WinCLIP.
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
