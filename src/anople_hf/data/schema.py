"""The schema of all data sets: the columns of a row. The modules beside this one read the layouts into it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, Value

FEATURES = Features(
    {
        "image": Image(),
        "mask": Image(),
        "label": ClassLabel(names=["normal", "defective"]),
        "category": Value("string"),
        "defect": Value("string"),
        "path": Value("string"),
        "split": Value("string"),
        "part": Value("string"),
    }
)
"""`image` and `mask` are decoded when a row is read; `mask` is None for good parts and where there is none.
`defect` is the kind of defect, "good" for good parts; `path` is where the photo lies, relative to the root. `part` is
the part of which the photo is one of several views; "" if nothing says so."""


def make_row(
    root: Path,
    category: str,
    photo: Path,
    *,
    split: str,
    defect: str = "good",
    mask: Path | None = None,
    part: str = "",
) -> dict[str, Any]:
    """Make the row of a photo that lies under `root`.

    Example:
        >>> row = make_row(Path("data"), "gear", Path("data/gear/test/scratch/1.png"), split="test", defect="scratch")
        >>> row["label"], row["path"]
        (1, 'gear/test/scratch/1.png')
    """
    return {
        "image": str(photo),
        "mask": str(mask) if mask else None,
        "label": int(defect != "good"),
        "category": category,
        "defect": defect,
        "path": photo.relative_to(root).as_posix(),
        "split": split,
        "part": part,
    }


def as_files(data: Dataset) -> Dataset:
    """The same rows with photos as files, `{"path", "bytes"}`: decoded by `datasets`, 16-bit colors lose 8 bits.

    `anople_hf.images.read_image` takes them.
    """
    return data.cast_column("image", Image(decode=False))


def make_dataset(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Make a lazily decoded `datasets.Dataset` from rows with file paths as `image` and `mask`.

    Example:
        >>> make_dataset([]).column_names
        ['image', 'mask', 'label', 'category', 'defect', 'path', 'split', 'part']
    """
    rows = [
        row | {part: os.path.abspath(row[part]) for part in ("image", "mask") if isinstance(row[part], str)}
        for row in rows
    ]  # absolute: a folder called a::b or file:x would be taken for an address
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES)
