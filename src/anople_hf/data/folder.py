"""A plain folder of good photos per category, or one folder of good photos.

Where in the paper: nowhere; it is what a factory has on the first day.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..images import IMAGE_SUFFIXES, find_images


def find_categories(root: Path) -> dict[str, Path]:
    """Folders of photos, sorted; `root` itself if it holds photos and no such folders.

    Args:
        root: An existing folder.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: path for path in folders if _holds_photos(path)}
    return found or ({root.resolve().name: root} if _holds_photos(root) else {})


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, sorted; all of them good.

    Args:
        root: Paths in the table are relative to it.
        category: Its name.
        folder: Its folder.
    """
    for photo in find_images(folder):
        yield {
            "image": str(photo),
            "mask": None,
            "label": 0,
            "category": category,
            "defect": "good",
            "path": photo.relative_to(root).as_posix(),
            "split": "train",
        }


def _holds_photos(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in find_images(folder))
