"""A ready Space: the app of `anople_hf`. Set ANOPLE_RUN to a detector on the Hub; without, drawn samples are shown.

Where in the paper: nowhere, this is ours.
"""

import os

try:
    import spaces  # on ZeroGPU; has to come before torch
except ImportError:
    spaces = None

from anople_hf.app import build, launch
from anople_hf.app_session import Inspector

if spaces is not None:  # a GPU is lent for as long as one of these runs
    Inspector.check = spaces.GPU(duration=30)(Inspector.check)
    Inspector.teach = spaces.GPU(duration=60)(Inspector.teach)

demo = build(os.environ.get("ANOPLE_RUN"))

if __name__ == "__main__":
    launch(demo)
