"""The paper's published figures, marked as quoted, and the differences between its protocol and ours.

The figures are those of Tables 1 to 5 and Figure 1b. Nothing here was measured with this package.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from ..backbones import full_name
from ..configuration_anople import AnoPLeConfig
from ..data import published
from ..training.configuration import TrainingConfig
from .ablations import ABLATIONS
from .cells import Cell, changed

PAPER_BACKBONE = ("plus-240", "plus_clip_240")
PAPER_SHOTS = {"table1": (1, 2, 4), "table2": (1,), "table3": (1,), "table4": (1,), "table5": (4,)}
BMAD = ("Brain", "Liver", "Retina")


@cache
def figures() -> dict[str, Any]:
    """All figures in percent, by table, then nested as in the table."""
    return json.loads((files("anople_hf") / "assets" / "paper_figures.json").read_text(encoding="utf-8"))


def find(table: str, *path: str) -> dict[str, float] | None:
    """Look up the paper's figures, or return None.

    Example:
        >>> find("table1", "MVTec-AD", "4", "AnoPLe")["aupro"]
        91.3
    """
    found: Any = figures().get(table, {})
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found or None


def recognize(categories: list[str]) -> str | None:
    """The data set's name in the paper, found by its categories, including BMAD's three."""
    if categories and all(any(name.lower().startswith(task.lower()) for task in BMAD) for name in categories):
        return "BMAD"
    return published.recognize(categories)


def differences(table: str, cell: Cell, counts: dict[str, tuple[int, int, int]]) -> list[str]:
    """List the known differences between a cell's protocol and the paper's, as far as the paper states its own.

    Args:
        table: The table, such as `table1`.
        cell: The cell.
        counts: Counts of the data set by category: good photos for training, good and defective photos for testing.
    """
    found, backbone = [], full_name(cell.backbone)
    if not any(mark in backbone.replace("_", "-").lower().replace("plus-clip", "plus_clip").replace(
        "plus_clip-240", "plus_clip_240") for mark in PAPER_BACKBONE):  # fmt: skip
        found.append(f"backbone {backbone.rstrip('/').rsplit('/', 1)[-1]}")
    expected = published.PUBLISHED.get(cell.dataset)
    if cell.dataset not in (*published.PUBLISHED, "Real-IAD", "BMAD"):
        found.append("data set")
    elif expected:
        if len(counts) < len(expected):
            found.append(f"{len(counts)} of {len(expected)} categories")
        if any(counts[name] != expected[name] for name in counts if name in expected):
            found.append("number of photos")
    elif cell.dataset == "Real-IAD" and len(counts) < len(published.REAL_IAD):
        found.append(f"{len(counts)} of {len(published.REAL_IAD)} categories")
    if cell.shots not in PAPER_SHOTS.get(table, (cell.shots,)):
        found.append(f"{cell.shots} shots")
    if cell.route:
        found.append("category told")
    return found + (_changed(cell) if cell.method == "anople" else [])


def _changed(cell: Cell) -> list[str]:
    """Every setting and training field of a cell that is not the default, such as `temperature=0.01`.

    What makes a row of the paper's Table 4 what it is, is no difference from that row.
    """
    training, settings = ({}, {}) if cell.row.startswith("ours") else ABLATIONS.get(cell.row, ({}, {}))
    plan = TrainingConfig(**cell.training).completed(cell.backbone, photos=1)
    recipe = [] if plan.recipe == "paper-like" else [f"recipe={plan.recipe}"]
    unlike = {**changed(AnoPLeConfig, cell.settings_in_use), **changed(TrainingConfig, cell.training)}
    known = {*settings, *training, "recipe", "shots", "seed", "settings"}
    return recipe + [f"{name}={value}" for name, value in unlike.items() if name not in known]


__all__ = ["differences", "figures", "find", "recognize"]
