"""`Framing`: which part of a product's photos counts, and into how many tiles they are cut. Ours.

- A **region** says what counts: a rectangle, a polygon or a mask image, stored as a small black and white PNG. What
  lies outside of it is blanked before the encoder sees it, and is 0 in the map.
- **Tiles** are the views of one photo that is cut at its own resolution: rows x columns of them, overlapping.

A framed photo is one picture, the `canvas`, on which neighboring tiles share their pixels: one tile is a square of the
model's size on it, and the maps of all tiles make one map of the canvas. A region alone leaves the canvas the model's
square. Plain values, stored with the product (`Product.reading`).
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .images import printable, read_mask

OVERLAP = 0.125
"""Share of its side that a tile has in common with the next one: two of 15 cells, so that a small defect lies whole in
one tile."""
MOST_TILES = 100
"""More tiles than this make a photo so slow to judge that another way is better: a lens, a crop, a larger view."""
FINEST = 2048
"""Pixels of the longer side of a stored region."""
UNITS = {"": 0.0, "px": 0.0, "um": 0.001, "µm": 0.001, "mm": 1.0, "cm": 10.0}
"""Millimeters in a unit of length; 0 for pixels."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Framing:
    """How the photos of a product are framed.

    Attributes:
        region: A PNG in base64, white where the photo counts, of the photo's shape; "": all of it.
        rows: Tiles on top of each other.
        columns: Tiles beside each other.
        overlap: Share of its side that a tile has in common with the next one.

    Example:
        >>> framing = Framing(rows=2, columns=3)
        >>> framing.canvas(240), framing.corners(240)[:3]
        ((450, 660), [(0, 0), (0, 210), (0, 420)])
        >>> [round(side, 1) for side in framing.cell((6000, 4000), 15)]
        [145.5, 142.2]
    """

    region: str = ""
    rows: int = 1
    columns: int = 1
    overlap: float = OVERLAP

    @classmethod
    def of(cls, reading: Mapping[str, Any]) -> "Framing | None":
        """From how a product is read, `Product.reading`; None if its photos are plain."""
        found = reading.get("framing")
        return cls(**found) if found else None

    def to_dict(self) -> dict[str, Any] | None:
        """Plain values for JSON; None if it leaves photos as they are."""
        return asdict(self) if self.region or self.tiled else None

    @property
    def tiled(self) -> bool:
        """Whether there is more than one tile."""
        return self.rows * self.columns > 1

    @property
    def share(self) -> float:
        """Share of the photo that counts."""
        return float(_stored(self.region).mean()) if self.region else 1.0

    def canvas(self, side: int) -> Size:
        """(height, width) of the picture that is cut into views of `side` x `side` pixels."""
        stride = self._stride(side)
        return side + (self.rows - 1) * stride, side + (self.columns - 1) * stride

    def cell(self, size: Sequence[int], grid: int) -> tuple[float, float]:
        """Width and height of a cell of the grid in pixels of a photo of `size` (width, height)."""
        step = 1 - self.overlap
        return size[0] / (1 + (self.columns - 1) * step) / grid, size[1] / (1 + (self.rows - 1) * step) / grid

    def least(self, size: Sequence[int], side: int) -> int:
        """Pixels that the longer side of a photo of `size` (width, height) needs, so that no tile is blown up."""
        height, width = self.canvas(side)
        return math.ceil(max(size) * max(width / size[0], height / size[1]))

    def mask(self, side: int) -> np.ndarray | None:
        """(h, w) bool on the canvas: what counts; None if all of it does."""
        return _mask(self.region, self.canvas(side)) if self.region else None

    def sources(self, side: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(h, w) rows and columns on the canvas: the pixel itself where it counts, else one mirrored at the border.

        What moves a photo a little would else bring into the region what lies outside of it. None: all of it counts.
        """
        return _sources(self.region, self.canvas(side)) if self.region else None

    def corners(self, side: int) -> list[Size]:
        """(top, left) on the canvas of the tiles in which anything counts, row by row; no other is looked at."""
        mask, stride = self.mask(side), self._stride(side)
        corners = [(row * stride, column * stride) for row in range(self.rows) for column in range(self.columns)]
        return [(y, x) for y, x in corners if mask is None or mask[y : y + side, x : x + side].any()]

    def describe(self, size: Sequence[int] | None, side: int, grid: int) -> list[str]:
        """In words, for whoever teaches; `size` as for `cell`."""
        lines = []
        if self.region:
            twice = "" if self.tiled else "; its memory is twice as large"
            lines.append(f"{self.share:.0%} of the photo counts, what lies outside of its region is not seen{twice}")
        if self.tiled:
            cell = f", a cell covers {' x '.join(_pixels(x) for x in self.cell(size, grid))} pixels" if size else ""
            used = len(self.corners(side))
            some = f"{used} of " if used < self.rows * self.columns else ""
            lines.append(
                f"its photos are cut into {some}{self.rows} x {self.columns} tiles{cell}; judging one takes {used} x "
                f"the time of a plain photo, and its memory is {used + 1} x as large"
            )
        return lines

    def _stride(self, side: int) -> int:
        return round(side * (1 - self.overlap))


@dataclass(frozen=True)
class FramingRequest:
    """What a user asks for; what is not asked for stays as it is.

    Attributes:
        region: `x,y,w,h` or a polygon `x,y x,y x,y ...` in pixels of the photo, a mask image (white counts), its path,
            or (H, W) booleans; "whole" takes a region away. None: not asked.
        tiles: Rows x columns, such as `2x3`, or `auto`, which goes by `smallest`; `1x1` cuts no more. "": not asked.
        smallest: Smallest defect wanted, in pixels of the photo (`12`), or with a unit (`0.4mm`).
        pixel_size: What a pixel shows, such as `0.05mm`; needed for a `smallest` with a unit.
    """

    region: Any = None
    tiles: str = ""
    smallest: str = ""
    pixel_size: str = ""

    def __post_init__(self) -> None:
        if self.tiles == "auto" and not self.smallest:
            raise ValueError("tiles auto goes by the smallest defect wanted: say it, 12 pixels or 0.4mm (--smallest).")
        if self.smallest and self.tiles != "auto":
            raise ValueError("the smallest defect (--smallest) belongs to --tiles auto.")
        if self.tiles not in ("", "auto"):
            parse_tiles(self.tiles)
        if self.smallest:
            pixels_of(self.smallest, self.pixel_size)
        elif self.pixel_size:
            raise ValueError("the size of a pixel (--pixel-size) belongs to --smallest with a unit, such as 0.4mm.")

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return self.region is not None or bool(self.tiles)

    def complete(self, known: Framing | None, size: Size, side: int, grid: int) -> Framing:
        """The framing that this makes of a known one, for photos of `size` (width, height).

        Args:
            known: Of the product; None for plain photos.
            size: Of its photos.
            side: Of the model's view.
            grid: Cells along a side of it.

        Raises:
            ValueError: The region or the tiles do not fit the photos; says what was expected.
        """
        known = known or Framing()
        region, (rows, columns) = known.region, (known.rows, known.columns)
        if self.region is not None:
            region = store_region(self.region, size)
        if self.tiles == "auto":
            rows, columns = tiles_for(pixels_of(self.smallest, self.pixel_size), size, grid)
        elif self.tiles:
            rows, columns = parse_tiles(self.tiles)
        found = Framing(region, rows, columns, known.overlap)
        if not found.corners(side):
            cell = " x ".join(_pixels(length) for length in found.cell(size, grid))
            raise ValueError(
                f"the region {_named(self.region)} is too small to be seen: a cell of the grid covers {cell} pixels; "
                "make it larger."
            )
        return found


def store_region(given: Any, size: Size) -> str:
    """A region as it is stored, see `Framing.region`.

    Args:
        given: As for `FramingRequest`.
        size: (width, height) of the photos.

    Raises:
        ValueError: It does not lie in the photo, is empty, or no region; says what was expected.

    Example:
        >>> Framing(store_region("0,0,40,60", (80, 60))).share, store_region("whole", (80, 60))
        (0.5, '')
    """
    if isinstance(given, str) and given == "whole":
        return ""
    if isinstance(given, str) and re.fullmatch(r"[\d.,\s-]+", given):
        mask = _drawn(given, size)
    else:
        if isinstance(given, (str, Path)) and Path(given).suffix.lower() in (".jpg", ".jpeg"):
            raise ValueError(f"the region {_named(given)} is a JPEG, whose edges are blurred; save it as PNG.")
        mask = read_mask(given)
        height, width = mask.shape
        if abs(width * size[1] / (height * size[0]) - 1) > 0.02:
            raise ValueError(f"the region {_named(given)} is {width} x {height} pixels, the photos are {size[0]} x "
                             f"{size[1]}: draw it on one of them.")  # fmt: skip
    if not mask.any():
        raise ValueError(f"the region {_named(given)} is empty: white is what counts.")
    if mask.all():
        return ""
    image = Image.fromarray(mask)
    if max(image.size) > FINEST:
        factor = FINEST / max(image.size)
        width, height = (max(1, round(length * factor)) for length in image.size)
        image = (
            image.convert("L").resize((width, height), Image.Resampling.BOX).point(lambda value: 255 * (value > 127))
        )
    buffer = io.BytesIO()
    image.convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def parse_tiles(text: str) -> tuple[int, int]:
    """Rows and columns of `2x3`.

    Raises:
        ValueError: Not so, none, or too many.
    """
    found = re.fullmatch(r"(\d+)\s*[xX×]\s*(\d+)", text.strip())
    rows, columns = map(int, found.groups()) if found else (0, 0)
    if not 1 <= rows * columns <= MOST_TILES:
        raise ValueError(
            f"tiles {text!r}: expected rows x columns, such as 2x3, at most {MOST_TILES} in all, or auto."
        )
    return rows, columns


def pixels_of(smallest: str, pixel_size: str = "") -> float:
    """A length in pixels of the photo.

    Args:
        smallest: `12`, or with a unit, `0.4mm`.
        pixel_size: What a pixel shows, `0.05mm`; needed with a unit.

    Raises:
        ValueError: No length, or a unit without the size of a pixel.

    Example:
        >>> pixels_of("12"), pixels_of("0.4mm", "50um")
        (12.0, 8.0)
    """
    length, unit = _length(smallest, "the smallest defect")
    if not unit:
        return length
    if not pixel_size:
        raise ValueError(f"the smallest defect is {smallest}: say what a pixel shows, such as --pixel-size 0.05mm.")
    pixel, scale = _length(pixel_size, "the size of a pixel")
    if not scale:
        raise ValueError(
            f"the size of a pixel {pixel_size!r}: expected a unit, {', '.join(u for u in UNITS if UNITS[u])}."
        )
    return length * unit / (pixel * scale)


def tiles_for(smallest: float, size: Size, grid: int) -> tuple[int, int]:
    """Rows and columns with which a cell of the grid covers no more than so many pixels.

    Args:
        smallest: Defect wanted, in pixels of the photo.
        size: (width, height) of the photo.
        grid: Cells along a side of a view.

    Raises:
        ValueError: It would take too many.

    Example:
        >>> tiles_for(24, (960, 720), 15)
        (3, 3)
    """
    columns, rows = (1 + max(0, math.ceil((length / (grid * smallest) - 1) / (1 - OVERLAP) - 1e-9)) for length in size)
    if rows * columns > MOST_TILES:
        raise ValueError(
            f"a cell that covers no more than {smallest:.4g} pixels of a photo of {size[0]} x {size[1]} takes "
            f"{rows} x {columns} tiles; at most {MOST_TILES} are cut. Ask for a larger defect, or photograph less at "
            "a time."
        )
    return rows, columns


def _length(text: str, what: str) -> tuple[float, float]:
    """A number, and millimeters of its unit; 0 for pixels."""
    found = re.fullmatch(r"([\d.]+)\s*(\w*)", text.strip())
    try:
        value = float(found[1]) if found else 0.0
        unit = UNITS[found[2]] if found else 0.0
    except (ValueError, KeyError):
        value, unit = 0.0, 0.0
    if value <= 0:
        raise ValueError(f"{what} {text!r}: expected pixels of the photo, such as 12, or a length, such as 0.4mm.")
    return value, unit


def _drawn(text: str, size: Size) -> np.ndarray:
    """(H, W) bool: a rectangle or polygon in pixels of the photo, at most `FINEST` pixels a side."""
    try:
        points = [[float(number) for number in point.split(",")] for point in text.split()]
    except ValueError:
        points = []
    width, height = size
    if len(points) == 1 and len(points[0]) == 4:
        x, y, wide, high = points[0]
        points = [[x, y], [x + wide, y], [x + wide, y + high], [x, y + high]]
    elif len(points) < 3 or any(len(point) != 2 for point in points):
        raise ValueError(f"the region {text!r}: expected x,y,w,h or a polygon x,y x,y x,y ... in pixels of the photo.")
    if any(not (0 <= x <= width and 0 <= y <= height) for x, y in points):
        raise ValueError(f"the region {text!r} leaves the photo, which is {width} x {height} pixels.")
    factor = min(1.0, FINEST / max(size))
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    down, right = (
        (np.arange(count) + 0.5) * whole / count for count, whole in zip(shape, (height, width), strict=True)
    )
    inside = np.zeros(shape, bool)
    for (x, y), (next_x, next_y) in zip(points, [*points[1:], points[0]], strict=True):  # even-odd, at pixel centers
        crossed = (y > down) != (next_y > down)
        at = x + (down - y) * (next_x - x) / (next_y - y if next_y != y else 1)
        inside ^= crossed[:, None] & (right < at[:, None])
    return inside


@lru_cache(maxsize=32)
def _stored(region: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(region))) as image:
        return np.asarray(image.convert("1"))


@lru_cache(maxsize=32)
def _mask(region: str, canvas: Size) -> np.ndarray:
    image = Image.fromarray(_stored(region)).convert("L").resize(canvas[::-1], Image.Resampling.BOX)
    return np.asarray(image) >= 128


@lru_cache(maxsize=32)
def _sources(region: str, canvas: Size) -> tuple[np.ndarray, np.ndarray]:
    try:  # remote code that only scores needs no SciPy
        from scipy import ndimage
    except ImportError as error:
        raise ImportError("teaching with a region needs SciPy: pip install scipy") from error
    mask = _mask(region, canvas)
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    mirrored = 2 * nearest - np.indices(canvas)
    rows, columns = (found.clip(0, length - 1) for found, length in zip(mirrored, canvas, strict=True))
    inside = mask[rows, columns]
    return np.where(inside, rows, nearest[0]), np.where(inside, columns, nearest[1])


def _named(given: Any) -> str:
    return repr(printable(given)) if isinstance(given, (str, Path)) else "that was drawn"


def _pixels(length: float) -> str:
    return f"{length:.0f}" if length >= 10 else f"{length:.1f}"


__all__ = ["Framing", "FramingRequest", "parse_tiles", "pixels_of", "store_region", "tiles_for"]
