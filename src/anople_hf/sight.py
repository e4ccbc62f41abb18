"""What a detector can see: how large a cell of its grid is on a photo, and which shapes lose too much. Ours.

A photo is squeezed to a square and cut into a grid of patches, 15 x 15 for the paper's backbone. A defect that is
smaller than a cell may be lost in it; so everybody who teaches is told how large that is, in pixels of the photo.
"""

from collections.abc import Sequence

LONG = 3.0
"""A photo is long if one side is more than so many times the other: squeezed to a square, it loses most of it."""
PAPER_GRID = 15
"""Cells along a side with the paper's backbone and the embedded one: 240 pixels, patches of 16."""


def cell_size(size: Sequence[int], grid: int) -> tuple[float, float]:
    """Width and height of a cell in pixels of the photo.

    Args:
        size: (width, height) of the photo.
        grid: Cells along a side.

    Example:
        >>> cell_size((6000, 4000), 15)
        (400.0, 266.6666666666667)
    """
    return size[0] / grid, size[1] / grid


def describe_sight(size: Sequence[int], grid: int) -> list[str]:
    """What can be seen on photos of a size, in words; a second line if their shape is extreme.

    Args:
        size: (width, height) of the photos.
        grid: Cells along a side.

    Example:
        >>> describe_sight((300, 150), 15)
        ['photos of 300 x 150 pixels: a cell of the 15 x 15 grid covers 20 x 10; smaller defects may go unseen']
    """
    width, height = size
    cell = " x ".join(f"{side:.0f}" if side >= 10 else f"{side:.1f}" for side in cell_size(size, grid))
    lines = [
        f"photos of {width} x {height} pixels: a cell of the {grid} x {grid} grid covers {cell}; smaller defects may "
        "go unseen"
    ]
    if is_long(size):
        ratio = max(size) / max(min(size), 1)
        lines.append(
            f"photos of {width} x {height} pixels are {ratio:.0f}:1 and get squeezed to a square: crop them, or cut "
            "them into pieces"
        )
    return lines


def is_long(size: Sequence[int]) -> bool:
    """Whether one side is more than `LONG` times the other."""
    return max(size) > LONG * min(size)


__all__ = ["LONG", "PAPER_GRID", "cell_size", "describe_sight", "is_long"]
