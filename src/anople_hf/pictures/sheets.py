"""Contact sheets of a judged test set (a good part and one of each kind of defect), and of the training pairs.

The first kind of sheet is Figure 3 of the paper (sec. 4.4).

Nothing here uses pyplot, so servers and threads share no state.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from PIL import Image

from ..data.schema import as_files
from ..framed import score_views
from ..images import read_image, read_mask
from ..modeling_anople import AnoPLeModel
from ..output.whole import whole_file
from ..processing_anople import AnoPLeProcessor
from ..training.pairs import AnomalyPairs
from .overlays import Pixels, as_pixels, color_scale, draw_color_bar, draw_contour, heat_map_overlay, resize_to
from .palette import DEFECTIVE_TEXT, DETECTED, EDGE, FAINT, GOOD_TEXT, INK, TRUTH, css, save

COLUMNS = ("image", "ground truth", "heat map", "decision")


THUMBNAIL = 320  # pixels a side in a contact sheet


@dataclass
class SheetRow:
    """One image of a contact sheet.

    Args:
        image: Photo, PIL or uint8 (H, W, 3).
        anomaly_map: (h, w) of any size, larger where more anomalous.
        score: The image's anomaly score.
        decision: The detector's decision, such as "normal" or "anomalous".
        category: The product.
        mask: Ground truth, (h, w), non-zero on defects; None if unknown.
        threshold: Score above which an image is called anomalous; None if not calibrated.
        mask_level: Value of the map above which a contour is drawn; None for no contour.
        name: The photo's name, printed below the decision.
    """

    image: Image.Image | Pixels
    anomaly_map: ArrayLike
    score: float
    decision: str
    category: str
    mask: ArrayLike | None = None
    threshold: float | None = None
    mask_level: float | None = None
    name: str = ""


def contact_sheet(
    rows: Sequence[SheetRow], path: str | Path, *, scale: tuple[float, float] | None = None, title: str = ""
) -> Path:
    """Write a sheet with one row per image: photo, ground truth, heat map, and the score against its threshold.

    Args:
        rows: The rows to show, in this order.
        path: The picture to write (.png, .pdf, .svg, ...). It appears complete or not at all.
        scale: Map values at the bottom and top of the color map; by default the lowest and highest value of all maps
            on the sheet.
        title: Title of the sheet.

    Returns:
        The path.

    Raises:
        ValueError: There are no rows.
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
                axis.set_title(column, fontsize=10, color=INK)
        _draw_pictures(axes, row, scale)
        _draw_decision(axes[3], row, score_limits)
    _draw_legend(figure, scale, foot / whole, rows)

    return save(figure, path)


def _draw_pictures(axes: Sequence[Axes], row: SheetRow, scale: tuple[float, float]) -> None:
    photo = Image.fromarray(as_pixels(row.image))
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    pixels = np.asarray(photo)
    axes[0].imshow(pixels)
    axes[0].set_ylabel(textwrap.fill(row.category, 18), fontsize=9)
    if row.mask is None:
        axes[1].text(0.5, 0.5, "not given", ha="center", va="center", color=FAINT, transform=axes[1].transAxes)
    elif not np.any(row.mask):
        axes[1].imshow(pixels)
        axes[1].set_xlabel("no defect", fontsize=7, color=FAINT, labelpad=1)
    else:
        truth = resize_to(np.asarray(row.mask) > 0, pixels.shape[:2]) > 0  # any share: no small defect gets lost
        axes[1].imshow(draw_contour(np.where(truth[..., None], pixels, pixels // 2), truth, TRUTH))
    axes[2].imshow(heat_map_overlay(pixels, row.anomaly_map, threshold=row.mask_level, scale=scale, alpha=0.75))


def _draw_decision(axis: Axes, row: SheetRow, limits: tuple[float, float]) -> None:
    """Draw the decision, and a bar from the lowest to the highest score of the sheet with a tick at the threshold."""
    flagged = row.threshold is not None and row.score > row.threshold
    color = INK if row.threshold is None else DEFECTIVE_TEXT if flagged else GOOD_TEXT
    wrong = ""
    if row.mask is not None and row.threshold is not None and flagged != bool(np.any(row.mask)):
        wrong = "false alarm" if flagged else "missed"
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.text(0.08, 0.76, row.decision, fontsize=12, fontweight="bold", color=color, va="center")
    axis.text(0.08, 0.22, row.name, fontsize=7, color=FAINT, va="center")
    axis.text(0.94, 0.93, wrong, fontsize=9, style="italic", color=DEFECTIVE_TEXT, ha="right", va="center")
    low, high = limits
    at = [0.08 + 0.86 * (value - low) / (high - low) for value in (low, row.score)]
    axis.barh(0.52, 0.86, left=0.08, height=0.1, color="#eeeeee")
    axis.barh(0.52, at[1] - at[0], left=0.08, height=0.1, color=color)
    caption = f"score {row.score:.3g}"
    if row.threshold is not None:
        tick = 0.08 + 0.86 * (row.threshold - low) / (high - low)
        axis.plot([tick, tick], [0.44, 0.6], color="black", linewidth=1.5)
        caption += f"   threshold {row.threshold:.3g}"
    axis.text(0.08, 0.36, caption, fontsize=8, color=INK, va="center")


def _draw_legend(figure: Figure, scale: tuple[float, float], foot: float, rows: Sequence[SheetRow]) -> None:
    bar = figure.add_axes((0.55, foot * 0.5, 0.4, foot * 0.16))
    draw_color_bar(bar, scale, "anomaly value, one scale for all rows")
    lines = {"ground truth": TRUTH if any(row.mask is not None for row in rows) else None}
    lines["marked as defective"] = DETECTED if any(row.mask_level is not None for row in rows) else None
    handles = [
        Patch(facecolor=css(color), edgecolor=css(EDGE), label=label) for label, color in lines.items() if color
    ]
    if handles:
        figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(0.04, foot * 0.5), ncols=3, fontsize=7, frameon=False
        )


def pick_rows(test: datasets.Dataset, per_category: int = 3) -> list[int]:
    """Choose rows for a sheet: in each category the first good part, then the first of each kind of defect.

    Args:
        test: Photos in the package's schema.
        per_category: Maximum number of rows per category.
    """
    seen: dict[str, dict[str, int]] = {}
    for index, (category, defect) in enumerate(zip(test["category"], test["defect"], strict=True)):
        seen.setdefault(category, {}).setdefault(defect, index)
    picked = []
    for kinds in seen.values():
        good = [kinds.pop("good")] if "good" in kinds else []
        picked += (good + list(kinds.values()))[:per_category]
    return picked


@torch.inference_mode()
def write_sheet(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    test: datasets.Dataset,
    path: Path,
    *,
    route: bool = False,
    per_category: int = 3,
) -> Path:
    """Judge a few images of each category and draw them: image, ground truth, heat map, decision.

    Args:
        model: A trained model with memory.
        processor: Its processor.
        test: Photos in the package's schema.
        path: The PNG.
        route: Give the model each image's product.
        per_category: Maximum number of rows per category.

    Returns:
        The path.
    """
    rows, test = [], as_files(test)
    for index in pick_rows(test, per_category):
        row = test[index]
        category = row["category"]
        photo = read_image(row["image"], model.memory.ranges(category if route else None))
        told = category if route else None
        views = processor.views(photo, model.memory.sizes(told, model.config.image_size))
        ((_, outputs, _),) = score_views(model, [views], told)
        result = processor.post_process(outputs, target_sizes=[photo.size[::-1]])[0]
        rows.append(
            SheetRow(
                image=photo,
                anomaly_map=result["heat_map"],
                score=result["score"],
                decision=result["label"] or "no threshold",
                category=category,
                mask=_truth(row, photo),
                threshold=result["threshold"],
                mask_level=result["mask_level"],
                name=f"{row['defect']}/{Path(row['path']).name}",
            )
        )
    return contact_sheet(rows, path, scale=color_scale(model), title=f"{len(rows)} of {len(test)} test images")


def write_pairs(pairs: AnomalyPairs, path: Path) -> Path:
    """Draw all samples of `pairs`, two per row: the good photo, its twin, and the twin with its anomaly outlined.

    Args:
        pairs: The samples; all of them are drawn.
        path: The PNG.

    Returns:
        The path.
    """
    side, gap, columns = 200, 8, 6
    height = (len(pairs) + 1) // 2 * (side + gap) + gap
    sheet = Image.new("RGB", (columns * (side + gap) + gap, height), "white")
    for number in range(len(pairs)):
        photo, twin, mask, _ = pairs.draw(number)
        for column, picture in enumerate((photo, twin, draw_contour(twin, mask, TRUTH))):
            x = (number % 2 * 3 + column) * (side + gap) + gap
            sheet.paste(Image.fromarray(picture).resize((side, side)), (x, number // 2 * (side + gap) + gap))
    with whole_file(path) as file:
        sheet.save(file, format="PNG")
    return path


def _truth(row: dict[str, Any], photo: Image.Image) -> np.ndarray | None:
    """The ground truth of a row: empty for a good part, None for a defective part without a mask."""
    if row["mask"] is not None:
        return read_mask(row["mask"])
    return None if row["label"] else np.zeros(photo.size[::-1], bool)
