"""Judges photos batch by batch: scores, decisions and maps.

The scores are those of sec. 3.4; the decision is ours.
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
    """One judged photo.

    Attributes:
        path: The file.
        photo: The photo that was read from it.
        category: The given or recognized product; None if the photo was compared with all products.
        result: The result of `AnoPLeProcessor.post_process`.
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
    category: str | Sequence[str] | None = None,
    **how: Any,
) -> list[Prediction]:
    """Judge one batch of photos in one pass.

    Args:
        model: A trained model with memory.
        processor: Its processor.
        photos: At least one photo: its path, and what `read_photo` returned.
        category: Route to a known product, or one for each photo.
        how: `unknown` and `gray_zone`, as for `AnoPLeProcessor.post_process`.

    Raises:
        KeyError: Unknown category; lists the known ones.
    """
    images = [image for _, image in photos]
    pixels = processor(images=images)["pixel_values"].to(model.device, model.dtype)
    sizes = [image.size[::-1] for image in images]
    outputs = model(pixels, category=category)
    results = processor.post_process(outputs, target_sizes=sizes, **how)
    told = [category] * len(photos) if category is None or isinstance(category, str) else category
    names = told if outputs.products is None else model.memory.names(outputs.products)
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
    **how: Any,
) -> Iterator[Prediction]:
    """Judge photos one batch at a time, so that memory does not grow with their number.

    Args:
        model: A trained model with memory.
        processor: Its processor.
        paths: Photos; each is read once, when its batch comes.
        category: Route to a known product.
        batch_size: Photos per pass.
        skip: Called with the reason for each photo that cannot be read; the photo is left out. None raises.
        progress: Show a bar, with the time that is left.
        how: As for `judge`.

    Raises:
        UnreadableImageError: Names the photo.
        KeyError: Unknown category; lists the known ones.
    """
    often = seconds_between()
    with tqdm(total=len(paths), desc="judging", unit="photo", disable=not progress, mininterval=often) as bar:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            if photos := list(_read(chunk, skip)):
                yield from judge(model, processor, photos, category, **how)
            bar.update(len(chunk))


def _read(paths: Sequence[Path], skip: Callable[[str], None] | None) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, read_photo(path)
        except UnreadableImageError as error:
            if skip is None:
                raise UnreadableImageError(f"{error}; replace the file, or leave it out with --skip-bad.") from error
            skip(str(error))
