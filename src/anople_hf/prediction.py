"""Score photos from disk: decisions, heat maps and masks as files.

Where in the paper: sec. 3.4 for the scores (Fig. 3 shows such heat maps); the decision is ours.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils.logging import tqdm

from .images import read_image
from .modeling_anople import SHARED, AnoPLeModel
from .overlays import heat_map_overlay
from .processing_anople import AnoPLeProcessor

COLUMNS = ("path", "category", "score", "threshold", "label", "regions", "heat_map", "mask")


@dataclass
class Prediction:
    """One photo judged.

    Attributes:
        path: The file.
        category: The product it was routed to, or None.
        result: As from `AnoPLeProcessor.post_process`.
    """

    path: Path
    category: str | None
    result: dict[str, Any]


@torch.inference_mode()
def predict(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    paths: Sequence[Path],
    *,
    category: str | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Iterator[Prediction]:
    """Judge photos one batch at a time; memory does not grow with their number.

    Args:
        model: Trained, with memory.
        processor: Its processor.
        paths: Readable photos, see `anople_hf.images.check_images`.
        category: Route to a known product.
        batch_size: Photos per pass.
        progress: Show a bar.

    Raises:
        KeyError: Unknown category; lists the known ones.
    """
    starts = range(0, len(paths), batch_size)
    for start in tqdm(starts, desc="scoring", unit="batch", disable=not progress):
        chunk = paths[start : start + batch_size]
        photos = [read_image(path) for path in chunk]
        pixels = processor(images=photos)["pixel_values"].to(model.device, model.dtype)
        sizes = [photo.size[::-1] for photo in photos]
        results = processor.post_process(model(pixels, category=category), target_sizes=sizes)
        yield from (Prediction(path, category, result) for path, result in zip(chunk, results, strict=True))


def write_predictions(
    predictions: Iterator[Prediction], folder: Path, *, scale: tuple[float, float]
) -> dict[str, int]:
    """Write `scores.csv`, `heat_maps/` (overlays) and `masks/`.

    Scores are written with every digit, so a table read back holds the same numbers.

    Args:
        predictions: From `predict`.
        folder: Existing folder.
        scale: Lowest and highest map value of the colours, one for all photos: a good part stays dark.

    Returns:
        How many photos got which label.
    """
    counts: dict[str, int] = {}
    taken: set[str] = set()
    for name in ("heat_maps", "masks"):
        (folder / name).mkdir()
    with open(folder / "scores.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for prediction in predictions:
            result, name = prediction.result, _free_name(prediction.path, taken)
            label = result["label"] or ""
            counts[label] = counts.get(label, 0) + 1
            pixels = np.asarray(read_image(prediction.path))
            limit = result["pixel_threshold"] if result["label"] == "defective" else None
            overlay = heat_map_overlay(pixels, result["heat_map"], scale=scale, threshold=limit)
            Image.fromarray(overlay).save(folder / "heat_maps" / name)
            Image.fromarray(result["mask"].astype(np.uint8) * 255).save(folder / "masks" / name)
            table.writerow(
                {
                    "path": str(prediction.path),
                    "category": prediction.category or "",
                    "score": repr(result["score"]),
                    "threshold": "" if result["threshold"] is None else repr(result["threshold"]),
                    "label": label,
                    "regions": json.dumps(result["regions"]),
                    "heat_map": f"heat_maps/{name}",
                    "mask": f"masks/{name}",
                }
            )
    return counts


def colour_scale(model: AnoPLeModel, category: str | None = None) -> tuple[float, float]:
    """Map values at the two ends of the colours; the pixel threshold lies in their middle, whatever a photo shows."""
    entry = (model.config.calibration or {}).get(category or SHARED, {})
    return 0.0, 2 * float(entry.get("pixel_threshold", 0.25))


def _free_name(path: Path, taken: set[str]) -> str:
    """A PNG name for a photo; photos of the same name from different folders do not overwrite each other."""
    name, number = f"{path.stem}.png", 2
    if name in taken:
        name = f"{path.parent.name}_{path.stem}.png"
    while name in taken:
        name, number = f"{path.parent.name}_{path.stem}_{number}.png", number + 1
    taken.add(name)
    return name
