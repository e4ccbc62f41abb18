"""`time_scoring()`: how many images a second a detector judges, from decoded photo to score and map.

Where in the paper: Figure 1b, which does not say what is timed. Reading files and computing metrics are no part here.
"""

import time
from collections.abc import Callable
from statistics import median

import datasets
import torch

from ..evaluation.measurement import Detector
from ..images import read_image
from ..modeling_anople import Branch
from ..processing_anople import AnoPLeProcessor

BATCHES = (1, 16)
ROUNDS = 5
"""Of which the median counts; one more goes before, to warm up."""


@torch.inference_mode()
def time_scoring(
    name: str,
    model: Detector,
    processor: AnoPLeProcessor,
    test: datasets.Dataset,
    *,
    branch: Branch = "both",
    route: bool = False,
) -> dict[str, float]:
    """Images per second, one at a time and in batches of 16, preprocessing included.

    Args:
        name: Key of the first figure; that of the second ends in ", batches of 16".
        model: Ready to score.
        processor: Its processor.
        test: The first of its photos are judged, again and again.
        branch: As for `evaluate`.
        route: Tell the model each image's product.
    """
    rows = test.select(range(min(len(test), max(BATCHES))))
    photos = [read_image(photo) for photo in rows["image"]]
    known = list(rows["category"])
    found = {}
    for size in BATCHES:
        batch = [photos[place % len(photos)] for place in range(size)]
        names = [known[place % len(known)] for place in range(size)] if route else None

        def score(batch: list = batch, names: list[str] | None = names) -> None:
            pixels = processor(images=batch)["pixel_values"].to(model.device, model.dtype)
            model(pixels, category=names, branch=branch)

        score()
        seconds = median(_seconds(score, model.device) for _ in range(ROUNDS))
        found[name if size == 1 else f"{name}, batches of {size}"] = size / seconds
    return found


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """How long it takes until the device is done, not until it was told."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


__all__ = ["time_scoring"]
