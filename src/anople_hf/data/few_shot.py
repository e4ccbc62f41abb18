"""Chooses the shots: the good photos that a detector learns from, by a seed or a list, and records them.

Implements the few-shot setting of sec. 4.1 (k = 1, 2, 4 per category). The paper does not say which photos it takes;
the rule here is ours.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from datasets import Dataset, Image

from ..images import UnreadableImageError, why_unusable
from ..output.whole import write_whole

logger = logging.getLogger(__name__)

ShotMode = Literal["seeded", "first_k"]


def choose_shots(
    train: Dataset,
    shots: int,
    *,
    seed: int = 0,
    mode: ShotMode = "seeded",
    nested: bool = True,
    listed: Mapping[str, list[str]] | None = None,
    skip_bad: bool = False,
) -> dict[str, list[int]]:
    """Choose k good photos of each category.

    The seed shuffles the sorted photos of each category by itself, and the first k are taken. The 1-shot choice is
    part of the 2-shot choice, and does not depend on the other categories.

    Args:
        train: Good photos in the package's schema.
        shots: k.
        seed: Seed of the order; not used by `first_k`.
        mode: `seeded`, or `first_k`: the first k photos by name, as in some published code.
        nested: Whether the 1-shot choice is part of the 2-shot choice. If not, each k has its own order, as in
            PromptAD's lists.
        listed: Take exactly these photos instead (`path` values by category), and only of these categories.
        skip_bad: Replace an unreadable photo by the next in the order; skip it if it is a listed one.

    Returns:
        Row numbers of `train` by category, categories sorted.

    Raises:
        ValueError: `shots` is less than 1, the mode is unknown, there are too few photos, or a listed photo is missing
            or ambiguous.
        UnreadableImageError: A chosen photo cannot be read.
    """
    if shots < 1:
        raise ValueError(f"shots={shots}: expected at least 1 good photo per category.")
    if mode not in get_args(ShotMode):
        raise ValueError(f"shot mode {mode!r}: expected one of {', '.join(get_args(ShotMode))}.")
    rows: dict[str, dict[str, int]] = {}
    for index, (category, path, label) in enumerate(
        zip(train["category"], train["path"], train["label"], strict=True)
    ):
        if label == 0:
            rows.setdefault(category, {})[path] = index
    if listed is not None:
        taken_of = {}
        for category in sorted(listed):
            wanted = _listed(rows, category, listed[category])
            taken_of[category] = _readable(train, wanted, len(wanted), skip_bad)
            if not taken_of[category]:
                raise ValueError(f"none of the listed photos of category {category!r} can be read; list others.")
        return taken_of
    chosen = {}
    for category in sorted(rows):
        paths = sorted(rows[category])
        if len(paths) < shots:
            raise ValueError(
                f"category {category!r} has {len(paths)} good photos, {shots} shots were asked for: add photos, "
                f"or ask for at most {len(paths)}."
            )
        order = (
            range(len(paths)) if mode == "first_k" else _order(seed, category, len(paths), None if nested else shots)
        )
        taken = _readable(train, [rows[category][paths[i]] for i in order], shots, skip_bad)
        if len(taken) < shots:
            raise ValueError(
                f"category {category!r} has only {len(taken)} readable good photos, {shots} shots were asked for: "
                f"replace the unreadable ones, add photos, or ask for fewer."
            )
        chosen[category] = taken
    return chosen


def write_shots(path: str | Path, chosen: Mapping[str, list[str]], *, shots: int, seed: int) -> None:
    """Write `shots.json`."""
    content = {"seed": seed, "shots": shots, "categories": {name: list(paths) for name, paths in chosen.items()}}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_shots(path: str | Path) -> dict[str, list[str]]:
    """Read the photos of a `shots.json`, by category.

    Raises:
        ValueError: The file is not a `shots.json`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(name): [str(photo) for photo in photos] for name, photos in content["categories"].items()}
    except (KeyError, AttributeError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} lists no shots; expected {{"categories": {{"name": ["path", ...]}}}}.') from error


def read_index_files(folder: str | Path, train: Dataset, shots: int) -> dict[str, list[str]]:
    """Read the photos of index files as PromptAD publishes them: `<category>/selected_samples_per_run.txt`.

    Their lines have the form `#k: i j ...`. The original indices follow the order of the authors' file system, which
    nobody else can know. Here they count the photos sorted by name, so the same lists give the same photos everywhere.

    Args:
        folder: Folder with one subfolder per category.
        train: Good photos in the package's schema.
        shots: k.

    Returns:
        `path` values by category, for `choose_shots(listed=...)`.

    Raises:
        FileNotFoundError: A category has no file.
        ValueError: A file has no line for k, or an index is out of range.
    """
    chosen = {}
    for category in sorted(set(train["category"])):
        file = Path(folder) / category / "selected_samples_per_run.txt"
        if not file.is_file():
            raise FileNotFoundError(f"no {file}; expected one such file for each category.")
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
        try:
            indices = [int(index) for index in lines[f"#{shots}"].split()]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file} has no line '#{shots}: i j ...' for {shots} shots.") from error
        paths = sorted(
            path
            for path, name, label in zip(train["path"], train["category"], train["label"], strict=True)
            if name == category and label == 0
        )
        if outside := [index for index in indices if not 0 <= index < len(paths)]:
            raise ValueError(f"{file}: index {outside[0]} for {len(paths)} good photos of {category!r}.")
        chosen[category] = [paths[index] for index in indices]
    return chosen


def _order(seed: int, category: str, count: int, shots: int | None) -> np.ndarray:
    own = int.from_bytes(hashlib.sha256(category.encode()).digest()[:8], "big")  # hash() differs from run to run
    return np.random.default_rng([seed, own] if shots is None else [seed, own, shots]).permutation(count)


def _readable(train: Dataset, order: list[int], shots: int, skip_bad: bool) -> list[int]:
    files = train.cast_column("image", Image(decode=False))
    taken: list[int] = []
    skipped = 0
    for index in order:
        if len(taken) == shots:
            break
        source = files[index]["image"]
        # If a row holds its photo's bytes (Parquet, the Hub), its path need not exist on this machine.
        reason = why_unusable(source if source["bytes"] is not None else source["path"])
        if reason is None:
            taken.append(index)
        elif skip_bad:
            skipped += 1
            logger.warning("skipped: %s", reason)
        else:
            raise UnreadableImageError(f"{reason}. Replace it, or take another photo instead with --skip-bad.")
    if skipped:
        logger.warning("%d unreadable photos skipped.", skipped)
    return taken


def _listed(rows: dict[str, dict[str, int]], category: str, paths: list[str]) -> list[int]:
    if category not in rows:
        raise ValueError(f"the shot list names category {category!r}; known: {', '.join(sorted(rows))}.")
    if len(set(paths)) < len(paths):
        raise ValueError(f"the shot list of {category!r} names a photo twice; name each once.")
    if not paths or (unknown := [path for path in paths if path not in rows[category]]):
        raise ValueError(
            f"the shot list of {category!r} names {unknown[:3] if paths else 'no photo'}; expected paths of "
            f"good photos such as {next(iter(rows[category]))!r}."
        )
    return [rows[category][path] for path in paths]
