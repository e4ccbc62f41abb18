"""Heat maps over photos and contact sheets, as images and PNG files.

Where in the paper: the qualitative results (sec. 4.4, fig. 3).

One scale for all: colours stand for the same anomaly values in every image, because the caller gives the scale.
Stretching each map to its own minimum and maximum would paint a hot spot on every good part.
Nothing here touches pyplot, so that servers and threads share no state.
"""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

COLOR_MAP = "inferno"  # perceptually uniform, and readable in grey and for colour-blind eyes
DETECTED = (0, 229, 255)  # a contour colour that the colour map does not hold
TRUTH = (124, 252, 0)
NORMAL_TEXT, ANOMALOUS_TEXT = "#1b7f3b", "#b3261e"
COLUMNS = ("image", "ground truth", "heat map", "decision")
THUMBNAIL = 320  # pixels a side in a contact sheet


@dataclass
class SheetRow:
    """One image of a contact sheet.

    Args:
        image: Photo, PIL or uint8 (H, W, 3).
        anomaly_map: (h, w) of any size, larger where more anomalous.
        score: The image's anomaly score.
        decision: What the detector says, such as "normal" or "anomalous".
        category: The product.
        mask: Ground truth, (h, w), non-zero on defects; None if unknown.
        threshold: Score above which an image counts as anomalous; None if not calibrated.
        pixel_threshold: Value of the map above which a contour is drawn; None for no contour.
        name: The photo's name, printed below the decision.
    """

    image: Image.Image | Pixels
    anomaly_map: ArrayLike
    score: float
    decision: str
    category: str
    mask: ArrayLike | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    name: str = ""


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
        threshold: Draws the border of the pixels above it.
        scale: Values of the map at the bottom and the top of the colour map; the same for all images to be compared.
        alpha: Opacity at the top of the scale, in [0, 1]; it falls to 0 at the bottom: a good part stays a photo.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: If the scale is empty or the map is not two-dimensional.

    Example:
        >>> photo = np.full((48, 64, 3), 90, np.uint8)
        >>> bool((heat_map_overlay(photo, np.zeros((15, 15))) == photo).all())
        True
    """
    photo = _pixels(image)
    levels = _resize_map(anomaly_map, photo.shape[:2])
    low, high = scale
    if not low < high:
        raise ValueError(f"scale is {scale}, expected (low, high) with low < high, the same for all images")
    heat = np.clip((levels - low) / (high - low), 0, 1)
    colours = matplotlib.colormaps[COLOR_MAP](heat)[..., :3] * 255
    # Full opacity from the middle on: the upper half, where decisions fall, is told apart by colour alone.
    opacity = alpha * np.minimum(1, 2 * heat)[..., None]
    overlay = np.rint((1 - opacity) * photo + opacity * colours).astype(np.uint8)
    return overlay if threshold is None else draw_contour(overlay, levels > threshold, DETECTED)


def draw_contour(image: Pixels, region: NDArray[np.bool_], colour: tuple[int, int, int]) -> Pixels:
    """Draw the border of a region, just inside of it, so that even a single pixel shows.

    Args:
        image: uint8 (H, W, 3).
        region: bool (H, W).
        colour: RGB, 0..255.

    Returns:
        uint8 (H, W, 3), a copy; the line is 1/160 of the longer side wide, at least a pixel.
    """
    inner = np.pad(region, 1, mode="edge")
    for _ in range(max(1, round(max(region.shape) / 160))):
        core = inner[1:-1, 1:-1]
        core = core & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = np.pad(core, 1, mode="edge")
    contour = image.copy()
    contour[region & ~inner[1:-1, 1:-1]] = colour
    return contour


def contact_sheet(
    rows: Sequence[SheetRow], path: str | Path, *, scale: tuple[float, float] | None = None, title: str = ""
) -> Path:
    """Write a sheet with a row per image: photo, ground truth, heat map, and the score against its threshold.

    Args:
        rows: What to show, in this order.
        path: The picture to write (.png, .pdf, .svg, ...). It appears at once: written aside, then renamed.
        scale: Values of the maps at the bottom and the top of the colour map; by default from the lowest to the
            highest value of all maps of the sheet together.
        title: Head line.

    Returns:
        The path.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row, got none")
    maps = [np.asarray(row.anomaly_map, dtype=np.float32) for row in rows]
    low, high = scale or (float(min(m.min() for m in maps)), float(max(m.max() for m in maps)))
    scale = (low, high) if low < high else (low, low + 1.0)
    known = [value for row in rows for value in (row.score, row.threshold) if value is not None]
    score_limits = (min(0.0, *known), max(known) * 1.05 or 1.0)

    head, foot, height = 0.75 if title else 0.45, 0.75, 1.8  # inches
    figure = Figure(figsize=(8.4, head + foot + height * len(rows)), facecolor="white")
    whole = figure.get_figheight()
    grid = figure.add_gridspec(
        len(rows), 4, left=0.05, right=0.97, top=1 - head / whole, bottom=foot / whole, wspace=0.06, hspace=0.08
    )
    if title:
        figure.text(0.05, 1 - 0.3 / whole, title, fontsize=12, fontweight="bold", va="center")
    for index, row in enumerate(rows):
        axes = [figure.add_subplot(grid[index, column]) for column in range(4)]
        for axis, column in zip(axes, COLUMNS, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if index == 0:
                axis.set_title(column, fontsize=10, color="#444444")
        _draw_pictures(axes, row, scale)
        _draw_decision(axes[3], row, score_limits)
    _draw_legend(figure, scale, foot / whole, rows)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(aside, dpi=120)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _draw_pictures(axes: Sequence[Axes], row: SheetRow, scale: tuple[float, float]) -> None:
    photo = Image.fromarray(_pixels(row.image))
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    pixels = np.asarray(photo)
    axes[0].imshow(pixels)
    axes[0].set_ylabel(textwrap.fill(row.category, 18), fontsize=9)
    if row.mask is None:
        axes[1].text(0.5, 0.5, "not given", ha="center", va="center", color="#888888", transform=axes[1].transAxes)
    elif not np.any(row.mask):
        axes[1].imshow(pixels)
        axes[1].set_xlabel("no defect", fontsize=7, color="#888888", labelpad=1)
    else:
        truth = _resize_map(np.asarray(row.mask) > 0, pixels.shape[:2]) > 0  # any share: no small defect gets lost
        axes[1].imshow(draw_contour(np.where(truth[..., None], pixels, pixels // 2), truth, TRUTH))
    axes[2].imshow(heat_map_overlay(pixels, row.anomaly_map, threshold=row.pixel_threshold, scale=scale, alpha=0.75))


def _draw_decision(axis: Axes, row: SheetRow, limits: tuple[float, float]) -> None:
    """The verdict, and a bar from the lowest to the highest score of the sheet with a tick at the threshold."""
    flagged = row.threshold is not None and row.score > row.threshold
    colour = "#444444" if row.threshold is None else ANOMALOUS_TEXT if flagged else NORMAL_TEXT
    wrong = ""
    if row.mask is not None and row.threshold is not None and flagged != bool(np.any(row.mask)):
        wrong = "false alarm" if flagged else "missed"
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.text(0.08, 0.76, row.decision, fontsize=12, fontweight="bold", color=colour, va="center")
    axis.text(0.08, 0.22, row.name, fontsize=7, color="#888888", va="center")
    axis.text(0.94, 0.76, wrong, fontsize=9, style="italic", color=ANOMALOUS_TEXT, ha="right", va="center")
    low, high = limits
    at = [0.08 + 0.86 * (value - low) / (high - low) for value in (low, row.score)]
    axis.barh(0.52, 0.86, left=0.08, height=0.1, color="#eeeeee")
    axis.barh(0.52, at[1] - at[0], left=0.08, height=0.1, color=colour)
    caption = f"score {row.score:.3g}"
    if row.threshold is not None:
        tick = 0.08 + 0.86 * (row.threshold - low) / (high - low)
        axis.plot([tick, tick], [0.44, 0.6], color="black", linewidth=1.5)
        caption += f"   threshold {row.threshold:.3g}"
    axis.text(0.08, 0.36, caption, fontsize=8, color="#444444", va="center")


def _draw_legend(figure: Figure, scale: tuple[float, float], foot: float, rows: Sequence[SheetRow]) -> None:
    bar = figure.add_axes((0.55, foot * 0.5, 0.4, foot * 0.16))
    shades = ScalarMappable(Normalize(*scale), COLOR_MAP)
    figure.colorbar(shades, cax=bar, orientation="horizontal").ax.tick_params(labelsize=7)
    bar.set_xlabel("anomaly value, one scale for all rows", fontsize=7)
    lines = {"ground truth": TRUTH if any(row.mask is not None for row in rows) else None}
    lines["above the pixel threshold"] = DETECTED if any(row.pixel_threshold is not None for row in rows) else None
    handles = [
        Line2D([], [], color="#{:02x}{:02x}{:02x}".format(*colour), linewidth=2, label=label)
        for label, colour in lines.items()
        if colour
    ]
    if any(row.threshold is not None for row in rows):
        handles.append(Line2D([], [], color="black", marker="|", linestyle="", markersize=9, label="threshold"))
    if handles:
        figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(0.04, foot * 0.5), ncols=3, fontsize=7, frameon=False
        )


def _pixels(image: Image.Image | Pixels) -> Pixels:
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected a PIL image or uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    return pixels


def _resize_map(values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Bilinear, to (H, W); where it shrinks, PIL widens the filter, so that small spots are averaged, not skipped."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"expected a map (h, w), got shape {array.shape}; take one image of the batch")
    resized = Image.fromarray(array).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)
