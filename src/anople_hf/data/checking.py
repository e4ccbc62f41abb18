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
from ..framing import Framing
from ..images import UnreadableImageError, find_images, is_text, printable, read_mask, read_photo
from ..ranges import describe, measure, misfit
from ..sight import PAPER_GRID, cell_size, describe_sight, suggest_tiles
from .hub import PREFIX

COLUMNS = ("category", "train", "good", "defective", "masks", "kinds", "sizes", "cell", "tiles", "published")
MOST_OF_IT = 0.5
"""Share of a photo that a mask of a defect hardly ever covers. Ours."""
FEW = 20
"""A mask of up to so many values above 0, none higher, holds numbers of kinds, as VisA's do; more are soft edges."""


@dataclass
class DataReport:
    """The result of `check_data()`.

    Attributes:
        dataset: The published data set that it seems to be, or None.
        categories: One row per category: training photos, good and defective test photos, masks, kinds of defects,
            sizes, pixels of a photo that a cell of the grid covers, the same with tiles, and a comparison with the
            published counts ("as published", the differences, or "").
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
    if not isinstance(data, DatasetDict) and Path(data).is_dir():
        report.problems += [
            f"{printable(path)}: its name is no UTF-8 text, so no table can hold it; rename it."
            for path in find_images(data, recursive=True)
            if not is_text(path)
        ]
    digests: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for split, table in splits.items():
        _look(table, split, rows, digests, report)
    for name, row in sorted(rows.items()):
        _look_at_depths(name, row, report)
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
                                                "sizes": Counter(), "found": {}, "numbered": []})  # fmt: skip
        own["train" if split == "train" else ("defective" if row["label"] else "good")] += 1
        own["kinds"].update([row["defect"]] if row["label"] else [])
        where = row["path"]
        source = row["image"]["bytes"] if row["image"]["bytes"] is not None else row["image"]["path"]
        try:
            photo = read_photo(row["image"] if row["image"]["bytes"] is not None else source)
        except UnreadableImageError as error:
            report.problems.append(f"{where}: {error}")
            continue
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        own["sizes"].update([photo.size])
        own["found"][where] = split, photo.depth, photo.extremes
        seen = f"{photo.size} {hashlib.sha256(photo.pixels.tobytes()).hexdigest()}"
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
            _look_at_mask(row, photo.size, own, report)


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
    _look_at_values(row, mask, own, report)
    if not np.any(mask):
        report.problems.append(f"{row['path']}: its mask {row['mask']['path'] or ''} is empty.")
    if mask.shape != size[::-1]:
        report.problems.append(
            f"{row['path']}: the photo has {size[0]}x{size[1]} pixels, its mask {mask.shape[1]}x{mask.shape[0]}."
        )


def _look_at_values(row: dict[str, Any], mask: np.ndarray, own: dict[str, Any], report: DataReport) -> None:
    """Note what a mask's file says beyond good and defective: it is read as defective wherever it is above 0."""
    where = row["path"]
    with PillowImage.open(
        row["mask"]["path"] if row["mask"]["bytes"] is None else BytesIO(row["mask"]["bytes"])
    ) as file:
        form, mode = file.format, file.mode
        values = np.unique(np.asarray(file)) if mode not in ("P", "PA") else np.zeros(1)
    share = mask.mean()
    if mode in ("RGBA", "LA", "PA"):
        report.problems.append(f"{where}: its mask has transparency, which is not read; save it black and white.")
    elif form in ("JPEG", "MPO"):
        report.problems.append(
            f"{where}: its mask is a JPEG: edges are blurred, and all above 0 is read as defective; save it as PNG."
        )
    elif values[-1] > FEW and len(values[values > 0]) > 1:
        report.problems.append(
            f"{where}: its mask is soft, it has {len(values)} values, and all above 0 is read as defective; save it "
            "black and white."
        )
    elif len(values[values > 0]) > 1:
        own["numbered"].append((where, [int(value) for value in values if value > 0]))
    if share > MOST_OF_IT:
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
        inverted = "; it looks inverted: defects have to be white" if edge > 0.9 and share < 1 else ""
        report.problems.append(f"{where}: its mask covers {share:.0%} of the photo{inverted}.")


def _look_at_depths(name: str, row: dict[str, Any], report: DataReport) -> None:
    """Note how deep photos are read and which do not fit, extreme shapes, and numbers in masks."""
    found = row["found"]
    learned = {where: (depth, values) for where, (split, depth, values) in found.items() if split == "train"}
    depths = Counter(depth for depth, _ in learned.values()) or Counter(depth for _, depth, _ in found.values())
    usual = depths.most_common(1)[0][0] if depths else "uint8"
    values = [values for depth, values in learned.values() if depth == usual and values is not None]
    ranges = {usual: measure(usual, values)} if values or usual == "uint8" else {}
    if values:
        report.remarks.append(f"{name}: its photos are read as {describe(usual, ranges[usual])}.")
    for where, (_, depth, extremes) in found.items():
        if why := misfit(depth, extremes, ranges):
            report.problems.append(f"{where}: {why}.")
    if row["sizes"]:
        report.remarks += [
            f"{name}: {line}." for line in describe_sight(row["sizes"].most_common(1)[0][0], PAPER_GRID)[1:]
        ]
    if row["numbered"]:
        where, numbers = row["numbered"][0]
        shown = " and ".join(map(str, numbers)) if len(numbers) < 4 else f"{numbers[0]} to {numbers[-1]}"
        report.remarks.append(
            f"{name}: {len(row['numbered'])} masks hold several values ({shown} in that of {where}); all above 0 is "
            "defective."
        )


def _summary(name: str, row: dict[str, Any]) -> dict[str, Any]:
    sizes = [size for size, _ in row["sizes"].most_common()]
    shown = ", ".join("{}x{}".format(*size) for size in sizes[:2])
    shown += f" and {len(sizes) - 2} more" if len(sizes) > 2 else ""
    cell = tiles = ""
    if sizes:
        cell = "x".join(f"{side:.0f}" for side in cell_size(sizes[0], PAPER_GRID))
        rows, columns = suggest_tiles(sizes[0])
        smaller = Framing("", rows, columns).cell(sizes[0], PAPER_GRID)
        tiles = f"{rows}x{columns}: {'x'.join(f'{side:.0f}' for side in smaller)}"
    counts = {name: row[name] for name in ("train", "good", "defective", "masks")}
    return {"category": name, **counts, "kinds": len(row["kinds"]), "sizes": shown, "cell": cell, "tiles": tiles,
            "published": ""}  # fmt: skip


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
