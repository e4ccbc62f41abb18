"""Reads any data set of the `datasets` library (the Hub, Parquet, `imagefolder`), with its columns mapped by name.

hub:owner/name                                      a data set written by `anople data push`
hub:owner/name@v1.0?image=photo&mask=ground_truth   a revision of another data set, with its column names
hub:owner/name?label=state&good=fine&config=small   the value that means good, and a configuration
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from datasets import DatasetDict, Image, IterableDataset, load_dataset

from .schema import FEATURES

logger = logging.getLogger(__name__)

PREFIX = "hub:"
COLUMNS = ("image", "mask", "label", "category", "defect", "path", "part")
GOOD = ("good", "normal", "ok", "0", "false")


@dataclass(frozen=True)
class HubSource:
    """A data set by its address.

    Attributes:
        repo: `owner/name` on the Hub, or another argument of `load_dataset`: a folder, `parquet`, `imagefolder`.
        revision: Branch, tag or commit.
        config: Configuration of the data set.
        columns: Our column names, from `COLUMNS`, to theirs. Columns that are not listed keep our names, if present.
        good: Values of the label column, or else of the defect column, that mean good; compared as lower-case text.
        folders: For `imagefolder`: the folder of each split.
    """

    repo: str
    revision: str | None = None
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    good: tuple[str, ...] = GOOD
    folders: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: str) -> "HubSource":
        """Parse an address such as `hub:owner/name@v1?mask=ground_truth&good=ok,fine`.

        Raises:
            ValueError: The address is malformed or has an unknown key.

        Example:
            >>> HubSource.parse("hub:me/parts@v1?image=photo").columns
            {'image': 'photo'}
        """
        place, _, query = address.removeprefix(PREFIX).partition("?")
        repo, _, revision = place.partition("@")
        values = dict(parse_qsl(query))
        columns = {name: values.pop(name) for name in COLUMNS if name in values}
        good = tuple(word.strip().lower() for word in values.pop("good", ",".join(GOOD)).split(","))
        config = values.pop("config", None)
        if not repo or values:
            raise ValueError(
                f"{address}: {'unknown ' + ', '.join(values) if values else 'no data set'}; expected "
                f"hub:OWNER/NAME[@REVISION][?KEY=VALUE&...] with keys out of {', '.join(COLUMNS)}, good, config."
            )
        return cls(repo, revision or None, config, columns, good)


def load_hub_data(
    source: HubSource | str, *, categories: Sequence[str] | None = None, streaming: bool = False, **options: Any
) -> DatasetDict | dict[str, IterableDataset]:
    """Load a data set into the package's schema; photos are decoded when a row is read.

    Without a category column, the data set's name is the category. The split `train` gives the good photos. The test
    split is `test` if it exists, and otherwise all other splits, such as `validation`.

    Args:
        source: The source, or its address.
        categories: Only these.
        streaming: Read rows on demand; returns `IterableDataset`s.
        options: Passed to `load_dataset`: `cache_dir`, `token`, ...

    Returns:
        `train` and, if there is one, `test`.

    Raises:
        ValueError: The image column is missing, label and defect columns are both missing, or a category is unknown.
        FileNotFoundError, datasets.exceptions.DatasetNotFoundError: As for `load_dataset`.
    """
    source = HubSource.parse(source) if isinstance(source, str) else source
    given = {"revision": source.revision, "streaming": streaming, **options}
    if source.folders:  # one by one: their metadata may have different columns, such as masks in test alone
        found = {
            split: load_dataset(source.repo, data_dir=str(folder), split="train", **given)
            for split, folder in source.folders.items()
        }
    else:
        found = load_dataset(source.repo, source.config, **given)
    if "train" not in found:
        raise ValueError(f"{source.repo} has the splits {', '.join(found)}; expected one named train, of good photos.")
    tests = ["test"] if "test" in found else [name for name in found if name != "train"][:1]
    splits = {"train": _arrange(found["train"], source, "train", categories)}
    for name in tests:
        splits["test"] = _arrange(found[name], source, "test", categories)
    return splits if streaming else DatasetDict(splits)


def _arrange(table: Any, source: HubSource, split: str, categories: Sequence[str] | None) -> Any:
    """Bring one split into the package's schema."""
    theirs = {name: source.columns.get(name, name) for name in COLUMNS}
    if unknown := sorted(set(source.columns.values()) - set(table.column_names)):
        raise ValueError(
            f"{source.repo} has no column {', '.join(unknown)}; it has {', '.join(table.column_names)}. Name them as "
            "hub:OWNER/NAME?image=THEIRS&mask=THEIRS."
        )
    if theirs["image"] not in table.column_names or not {theirs["label"], theirs["defect"]} & set(table.column_names):
        raise ValueError(
            f"{source.repo} has the columns {', '.join(table.column_names)}; expected image, and label or defect. "
            "Name them as hub:OWNER/NAME?image=THEIRS&label=THEIRS."
        )
    present = {ours: name for ours, name in theirs.items() if name in table.column_names}
    words = {ours: getattr(table.features[name], "int2str", None) for ours, name in present.items()}

    def values_of(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The row without its images, with our column names."""
        word = {
            ours: row[present[ours]] for ours in ("label", "defect", "category", "path", "part") if ours in present
        }
        word = {k: words[k](v) if words[k] and v is not None else v for k, v in word.items()}  # type: ignore[misc]
        good = str(word["label" if word.get("label") is not None else "defect"]).lower() in source.good
        photo = row[present["image"]]
        path = word.get("path") or (photo or {}).get("path") or f"{split}/{index:06}"
        return {
            "label": int(not good),
            "category": str(word.get("category") or source.repo.rstrip("/").rsplit("/", 1)[-1]),
            "defect": "good" if good else str(word.get("defect") or "anomaly"),
            "path": str(path),
            "split": split,
            "part": str(word.get("part") or ""),
        }

    pictures = {ours: present[ours] for ours in ("image", "mask") if ours in present}
    plain = table
    for name in pictures.values():
        plain = plain.cast_column(name, Image(decode=False))
    if isinstance(table, IterableDataset):

        def generate() -> Iterator[dict[str, Any]]:
            for index, row in enumerate(plain):
                values = values_of(row, index)
                if (categories is None or values["category"] in categories) and (
                    split == "test" or not values["label"]
                ):
                    yield {"mask": None} | {ours: row[name] for ours, name in pictures.items()} | values

        return IterableDataset.from_generator(generate, features=FEATURES)
    # Photo names come from the photos only if no column has them, because this reads every byte.
    others = [name for name in plain.column_names if name not in pictures.values()]
    others += [] if "path" in present else [pictures["image"]]
    rows = [
        values_of({pictures["image"]: None, **row}, index) for index, row in enumerate(plain.select_columns(others))
    ]
    known = sorted({row["category"] for row in rows})
    if unknown := sorted(set(categories or ()) - set(known)):
        raise ValueError(f"{source.repo} has no category {', '.join(unknown)}; it has {', '.join(known)}.")
    if split == "train" and (left := sum(row["label"] for row in rows)):
        logger.warning("%s: %d defective photos in train left out; detectors learn from good ones.", source.repo, left)
    kept = [
        index
        for index, row in enumerate(rows)
        if (categories is None or row["category"] in categories) and (split == "test" or row["label"] == 0)
    ]
    arranged = table.select_columns(list(pictures.values())).rename_columns({v: k for k, v in pictures.items()})
    for name, feature in FEATURES.items():
        if name in pictures:
            arranged = arranged.cast_column(name, feature)
        else:
            arranged = arranged.add_column(name, [row.get(name) for row in rows], feature=feature)
    return arranged.select_columns(list(FEATURES)).select(kept)


def find_table(root: Path) -> HubSource | None:
    """Find a folder that `datasets` reads: Parquet, or `imagefolder` with metadata; otherwise None.

    Args:
        root: An existing folder.
    """
    if any(root.glob("*/metadata.*")) or any(root.glob("metadata.*")):
        folders = {path.name: path for path in sorted(root.iterdir()) if any(path.glob("metadata.*"))}
        return HubSource("imagefolder", folders=folders or {"train": root})
    return HubSource(str(root)) if any(root.rglob("*.parquet")) else None


__all__ = ["HubSource", "find_table", "load_hub_data"]
