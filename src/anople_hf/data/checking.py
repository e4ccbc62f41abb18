"""`check_data()`: counts a data set by category and lists every problem by file, before anyone spends hours on it.

It looks for the problems that the data sets of sec. 4.1 have.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PillowImage

from ..data import published
from ..images import read_image, read_mask, why_unusable
from .hub import PREFIX

COLUMNS = ("category", "train", "good", "defective", "masks", "kinds", "sizes", "published")


@dataclass
class DataReport:
    """The result of `check_data()`.

    Attributes:
        dataset: The published data set that it seems to be, or None.
        categories: One row per category: training photos, good and defective test photos, masks, kinds of defects,
            sizes, and a comparison with the published counts ("as published", the differences, or "").
        problems: Files that cannot be used or would distort results, each with the reason.
        remarks: Notes, such as counts that differ from the published ones.
    """

    dataset: str | None
    categories: list[dict[str, Any]]
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def table(self) -> str:
        """The rows as text, columns aligned."""
        rows = [COLUMNS, *([str(row[name]) for name in COLUMNS] for row in self.categories)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def check_data(data: str | Path | DatasetDict) -> DataReport:
    """Look at every photo and mask of a data set.

    Args:
        data: An argument of `load_inspection_data`, or its result.

    Raises:
        FileNotFoundError, ValueError: There is no data set.
    """
    if isinstance(data, DatasetDict):
        splits = data
    else:
        from ..data import load_inspection_data

        root = data if str(data).startswith(PREFIX) else Path(data)
        splits = load_inspection_data(root, check=False)
    report = DataReport(published.recognize(sorted(set(splits["train"]["category"]))), [])
    digests: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for split, table in splits.items():
        _look(table, split, rows, digests, report)
    report.categories = [_summary(name, row) for name, row in sorted(rows.items())]
    _compare(report)
    return report


def _look(
    table: Dataset, split: str, rows: dict[str, dict[str, Any]], digests: dict[str, str], report: DataReport
) -> None:
    """Count one split into `rows` and note its problems."""
    for column in ("image", "mask"):
        table = table.cast_column(column, Image(decode=False))
    for row in table:
        assert isinstance(row, dict)
        own = rows.setdefault(row["category"], {"train": 0, "good": 0, "defective": 0, "masks": 0, "kinds": Counter(),
                                                "sizes": Counter()})  # fmt: skip
        own["train" if split == "train" else ("defective" if row["label"] else "good")] += 1
        own["kinds"].update([row["defect"]] if row["label"] else [])
        where = row["path"]
        source = row["image"]["bytes"] if row["image"]["bytes"] is not None else row["image"]["path"]
        if reason := why_unusable(row["image"] if row["image"]["bytes"] is not None else source):
            report.problems.append(f"{where}: {reason}")
            continue
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with PillowImage.open(BytesIO(content)) as photo:
            size = photo.size
        own["sizes"].update(["{}x{}".format(*size)])
        pixels = read_image(content)
        seen = f"{pixels.size} {hashlib.sha256(pixels.tobytes()).hexdigest()}"
        digest = hashlib.sha256(content).hexdigest()
        if digest in digests:
            report.problems.append(f"{where}: the same file as {digests[digest]}; remove one of them.")
        elif seen in digests:
            report.problems.append(
                f"{where}: the same pixels as {digests[seen]}, in another file or format; remove one of them."
            )
        digests.setdefault(digest, where)
        digests.setdefault(seen, where)
        if row["label"]:
            _look_at_mask(row, size, own, report)


def _look_at_mask(row: dict[str, Any], size: tuple[int, int], own: dict[str, Any], report: DataReport) -> None:
    """Count a defective photo's mask and note what is wrong with it."""
    if row["mask"] is None:
        report.problems.append(f"{row['path']}: defective and without a mask; its category gets no pixel metrics.")
        return
    try:
        mask = read_mask(row["mask"]["path"] if row["mask"]["bytes"] is None else BytesIO(row["mask"]["bytes"]))
    except (ValueError, OSError) as error:
        report.problems.append(f"{row['path']}: its mask cannot be read ({error}).")
        return
    own["masks"] += 1
    if not np.any(mask):
        report.problems.append(f"{row['path']}: its mask {row['mask']['path'] or ''} is empty.")
    if mask.shape != size[::-1]:
        report.problems.append(
            f"{row['path']}: the photo has {size[0]}x{size[1]} pixels, its mask {mask.shape[1]}x{mask.shape[0]}."
        )


def _summary(name: str, row: dict[str, Any]) -> dict[str, Any]:
    sizes = [size for size, _ in row["sizes"].most_common()]
    shown = ", ".join(sizes[:2]) + (f" and {len(sizes) - 2} more" if len(sizes) > 2 else "")
    return {"category": name, **row, "kinds": len(row["kinds"]), "sizes": shown, "published": ""}


def _compare(report: DataReport) -> None:
    """Fill in the column `published`, and note the differences."""
    if report.dataset is None:
        return
    counts = published.PUBLISHED.get(report.dataset, {})
    for row in report.categories:
        if expected := counts.get(row["category"]):
            found = row["train"], row["good"], row["defective"]
            row["published"] = "as published" if found == expected else "published {} / {} / {}".format(*expected)
    names = set(counts) or set(published.REAL_IAD)
    if missing := sorted(names - {row["category"] for row in report.categories}):
        report.remarks.append(f"{report.dataset} has {len(missing)} more categories: {', '.join(missing)}.")
    differing = [row["category"] for row in report.categories if row["published"].startswith("published")]
    if differing:
        report.remarks.append(f"other counts than the published ones: {', '.join(differing)}.")
    if totals := published.TOTALS.get(report.dataset):
        sums = tuple(sum(row[part] for row in report.categories) for part in ("train", "good", "defective"))
        if not missing and sums not in totals:
            report.remarks.append(f"train / good / defective {sums}; published {' or '.join(map(str, totals))}.")


__all__ = ["DataReport", "check_data"]
