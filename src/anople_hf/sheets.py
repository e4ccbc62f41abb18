"""A contact sheet of a test set: per category a good part and one defective part of each kind, as judged.

Where in the paper: Fig. 3 shows such rows.
"""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from .images import read_image, read_mask
from .modeling_anople import AnoPLeModel
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
                pixel_threshold=result["pixel_threshold"],
                name=f"{row['defect']}/{Path(row['path']).name}",
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return contact_sheet(rows, path, scale=colour_scale(model), title=f"{len(rows)} of {len(test)} test images")


def _truth(row: dict[str, Any], photo: Image.Image) -> np.ndarray | None:
    """The ground truth of a row: empty for a good part, None for a defective one whose mask is missing."""
    if row["mask"] is not None:
        return read_mask(row["mask"])
    return None if row["label"] else np.zeros(photo.size[::-1], bool)
