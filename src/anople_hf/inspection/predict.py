"""Judges photos batch by batch: scores, decisions and maps.

The scores are those of sec. 3.4; the decision is ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils.logging import tqdm

from ..decisions import fit_within
from ..framed import least_side, score_views, shape_misfit
from ..images import SCREEN, UnreadableImageError, read_photo
from ..modeling_anople import AnoPLeModel
from ..output.progress import seconds_between
from ..photos import Photo
from ..processing_anople import AnoPLeProcessor


@dataclass
class Prepared:
    """A photo as the model takes it and as people look at it; the photo itself, which may be large, is let go.

    Attributes:
        path: The file.
        views: (1, 3, height, width) for the model, by (height, width), see `AnoPLeProcessor.views`.
        picture: For people, at the photo's size or smaller.
        size: (width, height) of the photo.
        remark: Why it does not fit what its product was taught with, by name, or "".
    """

    path: Path
    views: dict[tuple[int, int], torch.Tensor]
    picture: Image.Image
    size: tuple[int, int]
    remark: str = ""


@dataclass
class Prediction:
    """One judged photo.

    Attributes:
        path: The file.
        photo: A picture of it, as large as the result's maps.
        size: (width, height) of the photo; boxes and areas are in its pixels.
        category: The given or recognized product; None if the photo was compared with all products.
        result: The result of `AnoPLeProcessor.post_process`.
        remark: Why the photo does not fit what its product was taught with, by name, or "".
    """

    path: Path
    photo: Image.Image
    size: tuple[int, int]
    category: str | None
    result: dict[str, Any]
    remark: str = ""


def prepare(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    path: Path,
    category: str | None = None,
    *,
    photo: Photo | None = None,
    longest: int | None = SCREEN,
) -> Prepared:
    """Read a photo, once.

    Args:
        model: A trained model with memory.
        processor: Its processor.
        path: The file.
        category: Its product, if it is told: that says which values are black and white.
        photo: What was decoded already.
        longest: Most pixels of the longer side of the picture; None keeps the photo's size.

    Raises:
        UnreadableImageError: Names the photo.
    """
    memory, side = model.memory, model.config.image_size
    least = None if longest is None else max(longest, least_side(memory, category, side))
    photo, ranges = photo or read_photo(path, least=least), memory.ranges(category)
    remark, size = photo.misfit(ranges) or shape_misfit(memory, category, photo), photo.size
    picture = photo.to_rgb(ranges)
    del photo  # deep ones are twice as large as what was made of them
    views = processor.views(picture, memory.sizes(category, side))
    if longest is not None and max(size) > longest:
        picture = picture.resize(fit_within(size, longest), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Prepared(path, views, picture, size, remark)


@torch.inference_mode()
def judge(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    photos: Sequence[Prepared],
    category: str | Sequence[str] | None = None,
    *,
    longest: int | None = SCREEN,
    **how: Any,
) -> list[Prediction]:
    """Judge one batch of photos in one pass; in one for each way of framing, if products are framed.

    Args:
        model: A trained model with memory.
        processor: Its processor.
        photos: At least one, see `prepare`.
        category: Route to a known product, or one for each photo.
        longest: As for `prepare`, and of the maps.
        how: `unknown` and `gray_zone`, as for `AnoPLeProcessor.post_process`.

    Raises:
        KeyError: Unknown category; lists the known ones.
    """
    found: dict[int, Prediction] = {}
    for places, outputs, names in score_views(model, [photo.views for photo in photos], category):
        chosen = [photos[place] for place in places]
        sizes = [photo.size[::-1] for photo in chosen]
        results = processor.post_process(outputs, target_sizes=sizes, longest=longest, **how)
        for place, photo, name, result in zip(places, chosen, names, results, strict=True):
            found[place] = Prediction(photo.path, photo.picture, photo.size, name, result, photo.remark)
    return [found[place] for place in range(len(photos))]


def predict(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    paths: Sequence[Path],
    *,
    category: str | None = None,
    batch_size: int = 16,
    skip: Callable[[str], None] | None = None,
    progress: bool = True,
    longest: int | None = SCREEN,
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
        longest: As for `judge`.
        how: As for `judge`.

    Raises:
        UnreadableImageError: Names the photo.
        KeyError: Unknown category; lists the known ones.
    """
    often = seconds_between()
    with tqdm(total=len(paths), desc="judging", unit="photo", disable=not progress, mininterval=often) as bar:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            read = partial(prepare, model, processor, category=category, longest=longest)
            if photos := list(_read(chunk, read, skip)):
                yield from judge(model, processor, photos, category, longest=longest, **how)
            bar.update(len(chunk))


def _read(
    paths: Sequence[Path], read: Callable[[Path], Prepared], skip: Callable[[str], None] | None
) -> Iterator[Prepared]:
    for path in paths:
        try:
            yield read(path)
        except UnreadableImageError as error:
            if skip is None:
                raise UnreadableImageError(f"{error}; replace the file, or leave it out with --skip-bad.") from error
            skip(str(error))
