"""The MVTec-AD layout: `<category>/train/good`, `test/<defect or good>`, `ground_truth/<defect>/<stem>_mask.png`.

One of the data sets of sec. 4.1. MPDD has the same layout; BTAD calls good parts `ok`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..images import find_images
from .schema import make_row

logger = logging.getLogger(__name__)


def find_categories(root: Path) -> dict[str, Path]:
    """Find the categories of a folder in this layout, sorted; `root` may itself be one. Empty if the layout differs.

    Folders without `train/good` are skipped and named in the log.

    Args:
        root: An existing folder.
    """
    if _good_folder(root).is_dir():
        return {root.resolve().name: root}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: path for path in folders if _good_folder(path).is_dir()}
    if found and (others := [path.name for path in folders if path.name not in found]):
        logger.warning("%s: no train/good in %s; left out.", root, ", ".join(others))
    return found


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, train before test, every listing sorted.

    A mask belongs to the photo with the same stem (`<stem>_mask.*` or `<stem>.*`), whatever the order. A defective
    photo without a mask is kept with mask None, because it counts for image metrics.

    Args:
        root: Folder that the table's paths are relative to.
        category: Name of the category.
        folder: Folder of the category.
    """
    for photo in find_images(_good_folder(folder)):
        yield make_row(root, category, photo, split="train")
    if not (folder / "test").is_dir():
        return
    missing = []
    for kind in sorted(
        path for path in (folder / "test").iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        defect = "good" if kind.name == "ok" else kind.name
        masks = {}
        if defect != "good" and (folder / "ground_truth" / kind.name).is_dir():
            masks = {
                path.stem.removesuffix("_mask"): path for path in find_images(folder / "ground_truth" / kind.name)
            }
        for photo in find_images(kind):
            mask = masks.get(photo.stem)
            if defect != "good" and mask is None:
                missing.append(photo)
            yield make_row(root, category, photo, split="test", defect=defect, mask=mask)
    if missing:
        logger.warning(
            "%s: %d defective test images have no mask (first: %s); pixel metrics are left out for this category.",
            category,
            len(missing),
            missing[0],
        )


def _good_folder(category: Path) -> Path:
    return category / "train" / ("ok" if (category / "train" / "ok").is_dir() else "good")
