"""Sizes of the tiny random CLIP that `conftest.py` writes; a file of its own, because there are two `conftest.py`."""

SIDE = 48
"""Pixels: 3 x 3 patches of 16."""
