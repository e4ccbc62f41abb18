"""A ready Space: the app of `anople_hf`. Set ANOPLE_RUN to detectors on the Hub; without, drawn samples are shown."""

import os

try:
    import spaces  # on ZeroGPU; has to come before torch
except ImportError:
    spaces = None

from anople_hf.app import build, launch

lend = spaces.GPU(duration=60) if spaces else None  # a GPU for as long as photos are taught or checked
demo = build(os.environ.get("ANOPLE_RUN", "").split(), lend=lend)

if __name__ == "__main__":
    launch(demo)
