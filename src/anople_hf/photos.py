"""`Photo`: a decoded photo, upright, with the values that its file holds. A range makes 8-bit RGB of them.

The range is a product's (`ranges.py`), and may be known only after the photo was decoded; so the two are apart.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .ranges import FULL, Extremes, Ranges, measure, misfit

STRIP = 2**22
"""Pixels that are converted at a time: a photo of 100 million is never held twice."""
SAMPLE = 2**20
"""About so many values are looked at for the lowest and highest thousandth."""


class UnreadableImageError(ValueError):
    """A photo that cannot be used. The message names the file and says what to do."""


class TooLargeError(UnreadableImageError):
    """A photo with more pixels than the caller takes; it was not decoded."""


class Photo:
    """A decoded photo.

    Args:
        pixels: 8 bits: a PIL image in RGB. Deeper: a PIL image of mode I;16, I or F, or an array (H, W) or (H, W, 3)
            of uint16, int32 or float32.
        name: Of the file, for messages.
        size: (width, height) of the file's photo; larger than that of `pixels` if it was decoded smaller.
        alpha: Opacity, of mode L; what is transparent becomes white.
        is_array: The values were given as an array: floats then have to be in 0..1, unless a range is told.

    Attributes:
        depth: `uint8`, `uint16`, `int32` or `float32`.

    Raises:
        UnreadableImageError: A value is not finite.

    Example:
        >>> photo = Photo(np.array([[0, 2048, 4095]], np.uint16))
        >>> [np.asarray(photo.to_rgb(ranges))[0, :, 0].tolist() for ranges in ({}, {"uint16": [0, 4095]})]
        [[0, 8, 16], [0, 128, 255]]
    """

    def __init__(
        self,
        pixels: "Image.Image | np.ndarray",
        name: str = "the photo",
        *,
        size: tuple[int, int] | None = None,
        alpha: Image.Image | None = None,
        is_array: bool = False,
    ) -> None:
        self.pixels, self.name, self.alpha, self.is_array = pixels, name, alpha, is_array
        if isinstance(pixels, np.ndarray):
            self.depth, own = str(pixels.dtype), (pixels.shape[1], pixels.shape[0])
        else:
            self.depth, own = {"RGB": "uint8", "I": "int32", "F": "float32"}.get(pixels.mode, "uint16"), pixels.size
        self.size = size or own
        self._extremes: Extremes | None = None
        if self.depth == "float32" and not all(np.isfinite(values).all() for _, values in self._strips()):
            raise UnreadableImageError(
                f"{name} holds values that are not finite (NaN, infinity); expected finite ones, such as 0..1."
            )

    @property
    def extremes(self) -> Extremes | None:
        """Its values; None for 8 bits."""
        if self.depth != "uint8" and self._extremes is None:
            lowest, highest, sample = [], [], []
            step = max(1, math.prod(self._shape()) // SAMPLE)
            for _, values in self._strips():
                lowest.append(values.min())
                highest.append(values.max())
                sample.append(values.reshape(-1)[::step])
            ordered = np.sort(np.concatenate(sample))
            cut = max(1, len(ordered) // 1000) if len(ordered) > 2 else 0
            self._extremes = Extremes(*map(float, (min(lowest), max(highest), ordered[cut], ordered[-1 - cut])))
        return self._extremes

    def misfit(self, ranges: Ranges) -> str:
        """Why it does not fit its product's ranges, by name, or ""; see `ranges.misfit`."""
        why = misfit(self.depth, self.extremes if self.depth in ranges else None, ranges)
        return why and f"{self.name}: {why}"

    def to_rgb(self, ranges: Ranges | None = None) -> Image.Image:
        """8-bit RGB.

        Args:
            ranges: Of its product. Without one for its depth, 16 bits are read whole; floats and 32-bit integers,
                which have no range of their own, by what this photo holds.

        Raises:
            UnreadableImageError: An array of floats outside of 0..1, and no range.
        """
        if isinstance(self.pixels, Image.Image) and self.depth == "uint8":
            return self.pixels
        low, high = self._ends(ranges or {})
        factor, shape = 255 / max(high - low, 1e-12), self._shape()
        levels = np.empty(shape, np.uint8)
        if self.depth == "uint16":
            table = np.rint(((np.arange(65536) - low) * factor).clip(0, 255)).astype(np.uint8)
        for top, values in self._strips():
            if self.depth == "uint16":
                levels[top : top + len(values)] = table[values]
            else:
                levels[top : top + len(values)] = np.rint(((values.astype(np.float64) - low) * factor).clip(0, 255))
        image = Image.fromarray(levels).convert("RGB")
        del levels
        if self.alpha is None:
            return image
        return Image.composite(image, Image.new("RGB", image.size, "white"), self.alpha)

    def _ends(self, ranges: Ranges) -> tuple[float, float]:
        if self.depth in ranges:
            low, high = ranges[self.depth]
            return low, high
        if self.depth in FULL:
            return FULL[self.depth]
        assert self.extremes is not None
        if self.is_array and not 0 <= self.extremes.lowest <= self.extremes.highest <= 1:
            raise UnreadableImageError("a float array must hold values in 0..1.")
        return (0, 1) if self.is_array else measure(self.depth, [self.extremes])

    def _shape(self) -> tuple[int, ...]:
        return self.pixels.shape if isinstance(self.pixels, np.ndarray) else self.pixels.size[::-1]

    def _strips(self) -> Iterator[tuple[int, np.ndarray]]:
        """Its rows, some at a time, each with the number of the first one."""
        height, width = self._shape()[:2]
        step = max(1, STRIP // max(width, 1))
        for top in range(0, height, step):
            if isinstance(self.pixels, np.ndarray):
                yield top, self.pixels[top : top + step]
            else:
                strip: Any = np.asarray(self.pixels.crop((0, top, width, min(top + step, height))))
                yield top, strip.astype(self.depth, copy=False)


__all__ = ["Photo", "TooLargeError", "UnreadableImageError"]
