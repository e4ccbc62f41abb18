"""Real-IAD: one JSON per category says what is normal, what is a test photo and where its mask lies.

Where in the paper: sec. 4.1 (Real-IAD [43]). The JSON decides: thousands of photos under `NG/` are labeled OK.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LISTS = ("realiad_jsons", "realiad_jsons_sv")  # multi-view, as in the paper's quoted baselines, before single view
PHOTOS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")


def find_categories(root: Path) -> dict[str, Path]:
    """The JSON of each category, sorted, in a flat or nested folder; empty if there is none.

    Args:
        root: Holds `realiad_jsons` (or, for single view, only `realiad_jsons_sv`) and the photos' folder.
    """
    for name in LISTS:
        for folder in (root / name / name, root / name):
            if found := {path.stem: path for path in sorted(folder.glob("*.json"))}:
                return found
    return {}


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, train before test, each sorted by path.

    Args:
        root: Paths in the table are relative to it.
        category: Its name.
        folder: Its JSON.
    """
    content = json.loads(folder.read_text(encoding="utf-8"))
    normal, prefix = content["meta"]["normal_class"], content["meta"].get("prefix", category)
    photos = next((root / name for name in PHOTOS if (root / name).is_dir()), root) / prefix
    for split in ("train", "test"):
        for sample in sorted(content[split], key=lambda sample: sample["image_path"]):
            good = sample["anomaly_class"] == normal
            photo = photos / sample["image_path"]
            yield {
                "image": str(photo),
                "mask": None if good or not sample["mask_path"] else str(photos / sample["mask_path"]),
                "label": int(not good),
                "category": category,
                "defect": "good" if good else sample["anomaly_class"],
                "path": photo.relative_to(root).as_posix(),
                "split": split,
            }
