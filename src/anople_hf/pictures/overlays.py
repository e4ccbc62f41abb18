"""Draws heat maps and outlines over photos, as in Figure 3 (sec. 4.4).

The caller gives the scale, so a color stands for the same anomaly value in every image. Scaling each map to its own
minimum and maximum would put a hot spot on every good part. `write_legend` draws the scale of a folder of overlays.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

from .palette import COLOR_MAP, DETECTED, EDGE, FAINT, Color, css, paint, save

if TYPE_CHECKING:
    from ..modeling_anople import AnoPLeModel

Pixels = NDArray[np.uint8]


def heat_map_overlay(
    image: Image.Image | Pixels,
    anomaly_map: ArrayLike,
    *,
    threshold: float | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    alpha: float = 0.5,
) -> Pixels:
    """Lay an anomaly map over its photo.

    Args:
        image: Photo, PIL or uint8 (H, W, 3).
        anomaly_map: (h, w) of any size, resized to the photo (bilinear).
        threshold: The pixels above it get an outline.
        scale: Map values at the bottom and top of the color map; use the same for all images to be compared.
        alpha: Opacity at the top of the scale, in [0, 1]. It falls to 0 at the bottom, so a good part looks unchanged.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: The scale is empty or the map is not two-dimensional.

    Example:
        >>> photo = np.full((48, 64, 3), 90, np.uint8)
        >>> bool((heat_map_overlay(photo, np.zeros((15, 15))) == photo).all())
        True
    """
    photo = as_pixels(image)
    levels = resize_to(anomaly_map, photo.shape[:2])
    low, high = scale
    if not low < high:
        raise ValueError(f"scale is {scale}, expected (low, high) with low < high, the same for all images")
    heat = np.clip((levels - low) / (high - low), 0, 1)
    colors = paint(heat)
    # Full opacity from the middle on: in the upper half, where decisions fall, color alone shows the value.
    opacity = alpha * np.minimum(1, 2 * heat)[..., None]
    overlay = np.rint((1 - opacity) * photo + opacity * colors).astype(np.uint8)
    return overlay if threshold is None else draw_contour(overlay, levels > threshold, DETECTED)


def draw_contour(image: Pixels, region: NDArray[np.bool_], color: Color) -> Pixels:
    """Outline a region along its inner border, so that even a single pixel shows, with a dark edge around it.

    Args:
        image: uint8 (H, W, 3).
        region: bool (H, W).
        color: RGB, 0..255.

    Returns:
        uint8 (H, W, 3), a copy. The line is 1/160 of the longer side wide, its edge 1/320, both at least a pixel.
    """
    longest = max(region.shape)
    inner = ~ndimage.binary_dilation(~region, iterations=max(1, round(longest / 160)))
    contour = image.copy()
    contour[ndimage.binary_dilation(region, iterations=max(1, round(longest / 320))) & ~region] = EDGE
    contour[region & ~inner] = color
    return contour


def as_pixels(image: Image.Image | Pixels) -> Pixels:
    """Convert a photo to uint8 (H, W, 3).

    Raises:
        ValueError: The array has another type or shape.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected a PIL image or uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    return pixels


def resize_to(values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize a map (h, w) to (H, W), bilinearly; when it shrinks, small spots are averaged, not skipped.

    Raises:
        ValueError: The map does not have two axes.
    """
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"expected a map (h, w), got shape {array.shape}; take one image of the batch")
    resized = Image.fromarray(array).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def draw_color_bar(axis: Axes, scale: tuple[float, float], title: str, threshold: float | None = None) -> None:
    """Fill an axis with the color scale, and mark the threshold in the color of its contour."""
    shades = ScalarMappable(Normalize(*scale), COLOR_MAP)
    bar = axis.figure.colorbar(shades, cax=axis, orientation="horizontal")
    bar.outline.set_visible(False)
    axis.tick_params(labelsize=7, labelcolor=FAINT)
    axis.set_xlabel(title, fontsize=7, color=FAINT)
    if threshold is not None:
        axis.axvline(threshold, color=css(EDGE), linewidth=4)
        axis.axvline(threshold, color=css(DETECTED), linewidth=2)


def write_legend(path: str | Path, scale: tuple[float, float] | None, threshold: float | None = None) -> Path:
    """Write the color scale of a folder of overlays as a small picture.

    Args:
        path: The picture.
        scale: As given to `heat_map_overlay`; None if each product has its own, from 0 to twice its pixel threshold.
        threshold: The pixel threshold, which is marked and explained in the caption.

    Returns:
        The path.
    """
    figure = Figure(figsize=(4.2, 0.8), facecolor="white")
    caption = "anomaly value; one scale for all photos"
    if scale is None:
        scale, threshold, caption = (0.0, 2.0), 1.0, "anomaly value / pixel threshold of the product"
    if threshold is not None:
        caption += "; marked: pixel threshold"
    draw_color_bar(figure.add_axes((0.06, 0.62, 0.88, 0.26)), scale, caption, threshold)
    return save(figure, path, dpi=160)


def color_scale(model: "AnoPLeModel", category: str | None = None, *, recognized: bool = False) -> tuple[float, float]:
    """Map values at the two ends of the colors; the pixel threshold lies in their middle."""
    found = model.memory.thresholds_of(category, recognized=recognized)
    return 0.0, 2 * (found.pixel_threshold if found else 0.25)
