"""Reads VisA as downloaded: `split_csv/1cls.csv` lists every photo, its label and its mask.

One of the data sets of sec. 4.1. The reorganized tree `1cls/<category>/train/good` is read by `mvtec.py`.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .schema import make_row


def find_categories(root: Path) -> dict[str, Path]:
    """Find the categories in the split file, sorted. Empty if there is no such file.

    Args:
        root: Folder with `split_csv`.
    """
    return {name: root / name for name in sorted({line["object"] for line in _lines(root)})}


def iterate_rows(root: Path, category: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one category, sorted by path; masks hold class indices 1..9, so anything above 0 is defective.

    Args:
        root: Folder that the CSV file's paths are relative to.
        category: Name of the category.
        folder: Not used: the CSV file has all paths.
    """
    for line in sorted(_lines(root), key=lambda line: line["image"]):
        if line["object"] != category:
            continue
        normal = line["label"] == "normal"
        mask = None if normal or not line["mask"] else root / line["mask"]
        defect = "good" if normal else "bad"
        yield make_row(root, category, root / line["image"], split=line["split"], defect=defect, mask=mask)


def _lines(root: Path) -> list[dict[str, str]]:
    file = root / "split_csv" / "1cls.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))
