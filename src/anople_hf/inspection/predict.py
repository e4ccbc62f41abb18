"""Score photos from disk, batch by batch: decisions and maps.

Where in the paper: sec. 3.4 for the scores; the decision is ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils.logging import tqdm

from ..images import UnreadableImageError, read_photo
from ..modeling_anople import AnoPLeModel
from ..output.progress import seconds_between
from ..processing_anople import AnoPLeProcessor


@dataclass
class Prediction:
    """One photo judged.

    Attributes:
        path: The file.
        photo: What was read from it.
        category: The product that was told, or that it was recognized as; None if it was compared with all.
        result: As from `AnoPLeProcessor.post_process`.
    """

    path: Path
    photo: Image.Image
    category: str | None
    result: dict[str, Any]


@torch.inference_mode()
def judge(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    photos: Sequence[tuple[Path, Image.Image]],
    category: str | None = None,
) -> list[Prediction]:
    """Judge one batch of photos in one pass.

    Args:
        model: Trained, with memory.
        processor: Its processor.
        photos: At least one: its path, and what `read_photo` made of it.
        category: Route to a known product.

    Raises:
        KeyError: Unknown category; lists the known ones.
    """
    images = [image for _, image in photos]
    pixels = processor(images=images)["pixel_values"].to(model.device, model.dtype)
    sizes = [image.size[::-1] for image in images]
    outputs = model(pixels, category=category)
    results = processor.post_process(outputs, target_sizes=sizes)
    names = [category] * len(photos) if outputs.products is None else model.memory.names(outputs.products)
    return [
        Prediction(path, image, name, result)
        for (path, image), name, result in zip(photos, names, results, strict=True)
    ]


def predict(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    paths: Sequence[Path],
    *,
    category: str | None = None,
    batch_size: int = 16,
    skip: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Iterator[Prediction]:
    """Judge photos one batch at a time; memory does not grow with their number.

    Args:
        model: Trained, with memory.
        processor: Its processor.
        paths: Photos; each is read once, when its batch comes.
        category: Route to a known product.
        batch_size: Photos per pass.
        skip: Takes a line for each photo that cannot be read, which is left out; None refuses it.
        progress: Show a bar, with the time that is left.

    Raises:
        UnreadableImageError: Names the photo.
        KeyError: Unknown category; lists the known ones.
    """
    often = seconds_between()
    with tqdm(total=len(paths), desc="judging", unit="photo", disable=not progress, mininterval=often) as bar:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            if photos := list(_read(chunk, skip)):
                yield from judge(model, processor, photos, category)
            bar.update(len(chunk))


def _read(paths: Sequence[Path], skip: Callable[[str], None] | None) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, read_photo(path)
        except UnreadableImageError as error:
            if skip is None:
                raise UnreadableImageError(f"{error}; replace the file, or leave it out with --skip-bad.") from error
            skip(str(error))
