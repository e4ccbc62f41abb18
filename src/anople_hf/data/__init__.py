"""Data sets of good and defective photos, read from their layouts into one schema."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from datasets import DatasetDict

from ..data import bmad, folder, mvtec, real_iad, visa
from ..images import UnreadableImageError, check_images, is_text, printable
from .few_shot import choose_shots, read_shots, write_shots
from .hub import PREFIX, HubSource, find_table, load_hub_data
from .schema import FEATURES, make_dataset

logger = logging.getLogger(__name__)

LAYOUT_READERS = {"visa": visa, "real_iad": real_iad, "bmad": bmad, "mvtec": mvtec, "folder": folder}  # in this order
LAYOUTS = (
    "<category>/train/good/*.png with test/<defect or good>/ and ground_truth/<defect>/ beside it (MVTec-AD), "
    "or <category>/*.png with good photos only; or hub:OWNER/NAME on the Hub"
)


def load_inspection_data(
    root: str | Path,
    *,
    categories: Sequence[str] | None = None,
    skip_bad: bool = False,
    layout: str = "auto",
    check: bool = True,
) -> DatasetDict:
    """Read a data set from disk; photos are decoded when a row is read.

    Test photos and their masks are decoded once beforehand, so that a bad file is found before hours of work.

    Args:
        root: A folder, which may be that of a single category; or `hub:OWNER/NAME`, see `anople_hf.data.hub`.
        categories: Only these.
        skip_bad: Skip unreadable test photos (counted in the log) instead of raising an error.
        layout: auto, or one of visa (raw), real_iad, bmad, mvtec (also BTAD, MPDD, reorganized VisA), folder, table
            (Parquet, or `imagefolder` with metadata).
        check: Decode test photos and masks beforehand.

    Returns:
        Split `train` (good photos) and, where the layout has one, `test`.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The layout or a category is unknown, the folder is empty, or a category has no photos.
        UnreadableImageError: A test photo cannot be read; names it.
    """
    if str(root).startswith(PREFIX):
        return cast(DatasetDict, load_hub_data(str(root), categories=categories))
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}; expected {LAYOUTS}.")
    if layout not in ("auto", "table", *LAYOUT_READERS):
        raise ValueError(f"layout={layout!r}; expected auto, table or one of {', '.join(LAYOUT_READERS)}.")
    if layout in ("auto", "table") and (table := find_table(root)):
        return cast(DatasetDict, load_hub_data(table, categories=categories))
    if layout == "table":
        raise ValueError(f"{root} holds neither Parquet files nor metadata.csv or .jsonl beside photos.")
    for reader in LAYOUT_READERS.values() if layout == "auto" else [LAYOUT_READERS[layout]]:
        if found := reader.find_categories(root):
            break
    if not found:
        raise ValueError(f"{root} holds no photos in a known layout; expected {LAYOUTS}.")
    if unknown := sorted(set(categories or ()) - set(found)):
        raise ValueError(f"{root} has no category {', '.join(unknown)}; it has {', '.join(found)}.")
    rows = []
    for name in categories or found:
        own = list(reader.iterate_rows(root, name, found[name]))
        if not any(row["split"] == "train" for row in own):
            raise ValueError(f"category {name!r} has no good photos in {found[name]}; expected {LAYOUTS}.")
        rows += own
    if strange := [row["image"] for row in rows if not is_text(row["image"])]:
        named = f"{', '.join(map(printable, strange[:5]))}{', ...' if len(strange) > 5 else ''}"
        if check and not skip_bad:
            raise UnreadableImageError(
                f"{len(strange)} file names are no UTF-8 text, so no table can hold them: {named}. Rename them, or "
                "leave them out with --skip-bad."
            )
        logger.warning("%d photos skipped, whose names are no UTF-8 text: %s", len(strange), named)
        rows = [row for row in rows if is_text(row["image"])]
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    files = [Path(row[part]) for row in test for part in ("image", "mask") if row[part]] if check else []
    good, bad = check_images(files, skip_bad)
    if bad:
        logger.warning("%d unreadable test photos or masks skipped:\n%s", len(bad), "\n".join(bad))
        readable = {None, *map(str, good)}  # a photo whose mask is broken goes, too
        test = [row for row in test if row["image"] in readable and row["mask"] in readable]
    splits = {"train": make_dataset(train)}
    if test:
        splits["test"] = make_dataset(test)
    return DatasetDict(splits)


__all__ = [
    "FEATURES",
    "HubSource",
    "UnreadableImageError",
    "choose_shots",
    "load_hub_data",
    "load_inspection_data",
    "make_dataset",
    "read_shots",
    "write_shots",
]
