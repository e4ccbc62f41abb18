"""Reads Real-IAD: one JSON file per category lists normal photos, test photos and their masks.

One of the data sets of sec. 4.1. Labels come from the JSON, not from folders: it labels thousands of photos under
`NG/` as OK.
A part's views, taken by five cameras, lie in a folder of their own, such as `NG/QS/S0012`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .schema import make_row

LISTS = ("realiad_jsons", "realiad_jsons_sv")  # multi-view, as in the paper's quoted baselines, before single view
PHOTOS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")


def find_categories(root: Path) -> dict[str, Path]:
    """Find the JSON file of each category, sorted, in a flat or nested folder. Empty if there is none.

    Args:
        root: Folder with `realiad_jsons` (or, for single view, only `realiad_jsons_sv`) and the folder of photos.
    """
    for name in LISTS:
        for folder in (root / name / name, root / name):
            if found := {path.stem: path for path in sorted(folder.glob("*.json"))}:
                return found
    return {}


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, train before test, each sorted by path.

    Args:
        root: Folder that the table's paths are relative to.
        category: Name of the category.
        folder: JSON file of the category.
    """
    content = json.loads(folder.read_text(encoding="utf-8"))
    normal, prefix = content["meta"]["normal_class"], content["meta"].get("prefix", category)
    photos = next((root / name for name in PHOTOS if (root / name).is_dir()), root) / prefix
    for split in ("train", "test"):
        for sample in sorted(content[split], key=lambda sample: sample["image_path"]):
            good = sample["anomaly_class"] == normal
            defect = "good" if good else sample["anomaly_class"]
            mask = None if good or not sample["mask_path"] else photos / sample["mask_path"]
            photo = photos / sample["image_path"]
            part = (Path(category) / sample["image_path"]).parent.as_posix()
            yield make_row(root, category, photo, split=split, defect=defect, mask=mask, part=part)
