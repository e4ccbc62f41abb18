"""Contact sheets: a test set as judged (a good part and one of each kind of defect), and what training learns from.

Where in the paper: Fig. 3 shows rows of the first kind.
"""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from .images import read_image, read_mask
from .modeling_anople import AnoPLeModel
from .overlays import draw_contour
from .pairs import AnomalyPairs
from .palette import TRUTH
from .prediction import colour_scale
from .processing_anople import AnoPLeProcessor
from .visualization import SheetRow, contact_sheet


def pick_rows(test: datasets.Dataset, per_category: int = 3) -> list[int]:
    """Indices for a sheet: in each category the first good part, then the first of each kind of defect.

    Args:
        test: In the package's schema.
        per_category: Rows a category gets at most.
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
        model: Trained, with memory.
        processor: Its processor.
        test: In the package's schema.
        path: The PNG.
        route: Tell the model each image's product.
        per_category: Rows a category gets at most.

    Returns:
        The path.
    """
    rows = []
    for index in pick_rows(test, per_category):
        row = test[index]
        photo, category = read_image(row["image"]), row["category"]
        pixels = processor(images=photo)["pixel_values"].to(model.device, model.dtype)
        outputs = model(pixels, category=category if route else None)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    return contact_sheet(rows, path, scale=colour_scale(model), title=f"{len(rows)} of {len(test)} test images")


def write_pairs(pairs: AnomalyPairs, path: Path) -> Path:
    """Draw all samples of `pairs`, two a row: the good photo, its twin, and the twin with its anomaly outlined.

    Args:
        pairs: As short as the picture shall be.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    sheet.save(temporary, format="PNG")
    return temporary.replace(path)


def _truth(row: dict[str, Any], photo: Image.Image) -> np.ndarray | None:
    """The ground truth of a row: empty for a good part, None for a defective one whose mask is missing."""
    if row["mask"] is not None:
        return read_mask(row["mask"])
    return None if row["label"] else np.zeros(photo.size[::-1], bool)
