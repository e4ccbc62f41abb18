"""Reads one plain folder of good photos per category, or a single folder of good photos.

This is what a factory has on the first day.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..images import IMAGE_SUFFIXES, find_images
from .schema import make_row

logger = logging.getLogger(__name__)


def find_categories(root: Path) -> dict[str, Path]:
    """Find folders of photos, sorted; `root` itself if it holds photos and no such folders.

    Args:
        root: An existing folder.

    Raises:
        ValueError: There is a folder `good` beside others, which probably hold defects and must not be trained on.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: path for path in folders if _holds_photos(path)}
    if "good" in found and len(found) > 1:
        others = ", ".join(name for name in found if name != "good")
        raise ValueError(
            f"{root} looks like the test photos of one product (a folder good beside {others}), but every folder "
            f"here is taken for a product and its photos for good ones. Give {root / 'good'} alone, or arrange the "
            "photos as <category>/train/good and <category>/test/<defect or good>."
        )
    loose = [path for path in find_images(root) if path.suffix.lower() in IMAGE_SUFFIXES]
    if found and loose:
        logger.warning("%d photos directly in %s belong to no category and are left out.", len(loose), root)
    if found and (empty := [path.name for path in folders if path.name not in found]):
        logger.warning("%s: no photos directly in %s; left out.", root, ", ".join(empty))
    return found or ({root.resolve().name: root} if loose else {})


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, sorted; all of them good.

    Args:
        root: Folder that the table's paths are relative to.
        category: Name of the category.
        folder: Folder of the category.
    """
    for photo in find_images(folder):
        yield make_row(root, category, photo, split="train")


def _holds_photos(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in find_images(folder))
