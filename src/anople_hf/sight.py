"""What a detector can see: how large a cell of its grid is on a photo, and which shapes lose too much. Ours.

A photo is squeezed to a square and cut into a grid of patches, 15 x 15 for the paper's backbone. A defect that is
smaller than a cell may be lost in it; so everybody who teaches is told how large that is, in pixels of the photo.
"""

from collections.abc import Sequence

from .framing import MOST_TILES, Framing

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
    return Framing().cell(size, grid)


def describe_sight(size: Sequence[int], grid: int) -> list[str]:
    """What can be seen on plain photos of a size, and what tiles would give; a second line if their shape is extreme.

    Args:
        size: (width, height) of the photos.
        grid: Cells along a side.

    Example:
        >>> for sentence in describe_sight((600, 300), 15)[0].split(". "):
        ...     print(sentence)
        photos of 600 x 300 pixels: a cell of the 15 x 15 grid covers 40 x 20; smaller defects may go unseen
        With tiles 2x4 a cell covers 11 x 11, at 8 x the time
    """
    width, height = size
    line = (
        f"photos of {width} x {height} pixels: a cell of the {grid} x {grid} grid covers "
        f"{_pixels(cell_size(size, grid))}; smaller defects may go unseen"
    )
    rows, columns = suggest_tiles(size)
    with_tiles = f"with tiles {rows}x{columns} a cell covers {_pixels(Framing('', rows, columns).cell(size, grid))}"
    with_tiles += f", at {rows * columns} x the time"
    if not is_long(size):
        return [f"{line}. W{with_tiles[1:]}"]
    ratio = max(size) / max(min(size), 1)
    squeezed = f"photos of {width} x {height} pixels are {ratio:.0f}:1 and get squeezed to a square"
    return [line, f"{squeezed}: {with_tiles}; or crop them"]


def suggest_tiles(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of about square tiles: two along the short side, or one if the photo is long.

    Example:
        >>> suggest_tiles((960, 720)), suggest_tiles((2500, 100))
        ((2, 3), (1, 25))
    """
    short = 1 if is_long(size) else 2
    found = (short, min(MOST_TILES // short, max(1, round(short * max(size) / max(min(size), 1)))))
    return found if size[0] >= size[1] else found[::-1]


def _pixels(cell: Sequence[float]) -> str:
    return " x ".join(f"{side:.0f}" if side >= 10 else f"{side:.1f}" for side in cell)


def is_long(size: Sequence[int]) -> bool:
    """Whether one side is more than `LONG` times the other."""
    return max(size) > LONG * min(size)


__all__ = ["LONG", "PAPER_GRID", "cell_size", "describe_sight", "is_long", "suggest_tiles"]
