"""Reads BMAD's three tasks with masks (brain MRI, liver CT, retinal OCT) in the layouts in circulation.

The data of Table 5. `valid/` is for tuning and is never read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..images import find_images
from .schema import make_row

MASKS = ("anomaly_mask", "label", "ground_truth")


def find_categories(root: Path) -> dict[str, Path]:
    """Find folders that look like BMAD by name (`Brain_AD` is Brain), sorted; `root` may itself be one. Empty if none.

    A folder `test/Ungood`, or photos in `train/good/img`, identify the layout. Folders in the MVTec-AD layout are left
    to that reader.

    Args:
        root: An existing folder.
    """
    if _is_one(root):
        return {_name(root.resolve()): root}
    return {_name(path): path for path in sorted(root.iterdir()) if path.is_dir() and _is_one(path)}


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, train before test, every listing sorted; masks are paired by stem.

    Args:
        root: Folder that the table's paths are relative to.
        category: Name of the category.
        folder: Folder of the category.
    """
    for photo in _photos(folder / "train" / "good"):
        yield make_row(root, category, photo, split="train")
    for kind in sorted(path for path in (folder / "test").glob("*") if path.is_dir()):
        good = kind.name.lower() == "good"
        masks: dict[str, Path] = {}
        if not good:
            places = [kind / name for name in MASKS] + [folder / "ground_truth" / kind.name]
            found = next((place for place in places if place.is_dir()), None)
            masks = {path.stem.removesuffix("_mask"): path for path in find_images(found)} if found else {}
        for photo in _photos(kind):
            defect = "good" if good else "anomaly"
            yield make_row(root, category, photo, split="test", defect=defect, mask=masks.get(photo.stem))


def _is_one(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() and (
        _ungood(folder) is not None or (folder / "train" / "good" / "img").is_dir()
    )


def _ungood(folder: Path) -> Path | None:
    return next((path for path in (folder / "test").glob("*") if path.name.lower() == "ungood"), None)


def _name(folder: Path) -> str:
    return folder.name.removesuffix("_AD")


def _photos(folder: Path) -> list[Path]:
    return find_images(folder / "img" if (folder / "img").is_dir() else folder)
