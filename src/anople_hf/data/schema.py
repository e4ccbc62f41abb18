"""One table for every data set: what a row of the package's data holds.

Where in the paper: sec. 4.1 names the data sets; the layouts are in the modules beside this one.
"""

from collections.abc import Iterable
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
    }
)
"""`image` and `mask` are decoded when a row is read; `mask` is None for good parts and where there is none.
`defect` is the kind of defect, "good" for good parts; `path` is where the photo lies, relative to the root."""


def make_dataset(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows with file paths as `image` and `mask` to a lazily decoded `datasets.Dataset`.

    Example:
        >>> make_dataset([]).column_names
        ['image', 'mask', 'label', 'category', 'defect', 'path', 'split']
    """
    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES)
