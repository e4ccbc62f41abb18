"""Plans the cells of each of the paper's tables.

Implements Table 1 (methods x shots), 2 (a category held out), 3 (unseen anomaly types), 4 (ablations), 5 (medical),
and Figure 1b (speed).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..benchmark import quoted
from .ablations import ABLATIONS
from .cells import Cell, load

PAPER_METHODS = ("spade", "patchcore", "winclip", "anople")
UNSEEN = ("screw", "bottle", "macaroni2", "pcb4")
"""Table 3's categories."""


@dataclass
class Plan:
    """The work of a table.

    Attributes:
        table: `table1` ... `table5`, `figure1b`, or `compare`.
        cells: The cells, in the table's order.
        counts: Photos per data set and category: good for training, good and defective for testing.
        notes: What the paper leaves open about this table, and what we chose.
    """

    table: str
    cells: list[Cell]
    counts: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Variants = Iterable[dict[str, Any]]
"""Fields of `Cell` in which the cells of one method, data set, number of shots and seed differ."""


def _plain(root: str, method: str) -> Variants:
    return [{}]


def _timed(root: str, method: str) -> Variants:
    return [{"timed": True}]


def _held_out(root: str, method: str, held_out: Sequence[str] = ()) -> Variants:
    return [
        {"held_out": category, "held_out_memory": remembered}
        for category in (held_out or sorted(set(load(root)["train"]["category"])))
        for remembered in ((False, True) if method == "anople" else (False,))
    ]


def _ablations(root: str, method: str, rows: Sequence[str] = ()) -> Variants:
    if unknown := sorted(set(rows) - set(ABLATIONS)):
        raise ValueError(f"Table 4 has no rows {unknown}; it has {', '.join(ABLATIONS)}.")
    if method != "anople":
        raise ValueError(f"Table 4 is about AnoPLe alone, it has no {method}: leave the method out.")
    return [{"row": row, "training": ABLATIONS[row][0], "settings": ABLATIONS[row][1]} for row in rows or ABLATIONS]


TABLES: dict[str, tuple[Callable[..., Variants], tuple[int, ...], tuple[str, ...], str]] = {
    "table1": (_plain, (1, 2, 4), PAPER_METHODS, ""),
    "table2": (_held_out, (1,), ("anople",), "The paper does not say how many shots Table 2 has (1 is ours), nor "
               "whether the held-out category has a memory: both are run. Text vectors are the mean over the trained "
               "categories."),
    "table3": (_plain, (1,), ("winclip", "anople"), "The paper does not say how many shots Table 3 has; 1 is ours. "
               "All categories are trained on; those of the paper are shown if they are there."),
    "table4": (_ablations, (1,), ("anople",), "Rows that begin with 'ours' are not in the paper."),
    "table5": (_plain, (4,), ("patchcore", "winclip", "anople"), "One model for all tasks; the paper does not say "
               "whether it has three."),
    "figure1b": (_timed, (1,), PAPER_METHODS, "Images per second on this machine, preprocessing and scoring alone, "
                 "one image at a time or in batches; only ratios within one run mean anything. The paper's are of "
                 "its own GPU; what they include, it does not say."),
    "compare": (_plain, (4,), PAPER_METHODS, ""),
}  # fmt: skip
"""For each table: its variants of a cell, shots, methods, and what the paper leaves open."""


def name_source(given: str) -> tuple[str, str]:
    """Split `NAME=FOLDER`; for a bare folder, find its name in the paper by its categories, or else take its own name.

    Raises:
        FileNotFoundError, ValueError: There is no data set, or it has no test photos.
    """
    name, equals, root = given.partition("=")
    if not equals:
        name, root = "", given
    categories = sorted(set(load(root)["train"]["category"]))
    return name or quoted.recognize(categories) or Path(root).resolve().name, root


def make_plan(
    table: str,
    data: Sequence[str],
    *,
    backbone: str,
    seeds: Sequence[int] = (0, 1, 2),
    shots: Sequence[int] = (),
    methods: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    scopes: Sequence[str] = (),
    **more: Any,
) -> Plan:
    """Plan the cells of a table.

    Args:
        table: A key of `TABLES`.
        data: Folders, or `NAME=FOLDER`.
        backbone: As for `load_backbone`.
        seeds: Seeds of shots and training.
        shots: Replace the table's.
        methods: Replace the table's.
        training: Fields of `TrainingConfig`, for every cell.
        settings: Fields of `AnoPLeConfig`, for AnoPLe's cells.
        scopes: Memories that AnoPLe's cells search, out of `all` and `product`, the two readings of eq. 14; every
            cell once for each. Empty: as the settings say.
        more: `held_out` (categories, Table 2), `rows` (Table 4), and fields of `Cell` for all: `branches`, `route`,
            `shot_mode`.

    Raises:
        ValueError: A table, method, row or category is unknown, or there are no test photos or too few good photos.
    """
    from ..baselines import METHODS

    if table not in TABLES:
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}.")
    variants, own_shots, own_methods, note = TABLES[table]
    methods = tuple(methods or own_methods)
    if unknown := sorted(set(methods) - {"anople", *METHODS}):
        raise ValueError(f"unknown methods {', '.join(unknown)}; expected anople, {', '.join(METHODS)}.")
    sources = dict(map(name_source, data))
    special = {key: more.pop(key) for key in ("held_out", "rows") if key in more}
    if beside := sorted(set(special) - set(inspect.signature(variants).parameters)):
        raise ValueError(f"{table} takes no {' and no '.join(beside)}: held_out is Table 2's, rows are Table 4's.")
    changes = {"training": dict(training or {}), "settings": dict(settings or {})}
    cells = [
        Cell(name, root, method, k, seed, backbone, **more | variant
             | {part: values | variant.get(part, {}) for part, values in changes.items()})
        for name, root in sources.items()
        for k in (shots or own_shots)
        for method in methods
        for variant in variants(root, method, **special)
        for seed in seeds
    ]  # fmt: skip
    if unknown := sorted(set(scopes) - {"all", "product"}):
        raise ValueError(f"unknown scopes {', '.join(unknown)}; expected all, product.")
    cells = [
        replace(cell, scope=scope)
        for cell in map(_for_method, cells)
        for scope in (scopes if scopes and cell.method == "anople" else ("",))
    ]
    counts = {name: count_photos(root) for name, root in sources.items()}
    for cell in cells:
        for category, (train, _, _) in counts[cell.dataset].items():
            if train < cell.shots and category != cell.held_out:
                raise ValueError(
                    f"{cell.dataset}: {category!r} has {train} good photos, {cell.shots} shots are planned."
                )
        if cell.held_out and cell.held_out not in counts[cell.dataset]:
            raise ValueError(f"{cell.dataset} has no category {cell.held_out!r}.")
    different: dict[str, Cell] = {}
    notes = {note: None} if note else {}
    for cell in cells:
        first = different.setdefault(cell.key, cell)
        if first.row != cell.row:
            notes[f"Row {cell.row!r} is left out: with this backbone and these settings it is {first.row!r}."] = None
    return Plan(table, list(different.values()), counts, list(notes))


def count_photos(root: str) -> dict[str, tuple[int, int, int]]:
    """Counts by category: good photos for training, good and defective photos for testing."""
    splits = load(root)
    found: dict[str, list[int]] = {}
    for split, table in splits.items():
        for category, label in zip(table["category"], table["label"], strict=True):
            place = 0 if split == "train" else 1 + label
            found.setdefault(category, [0, 0, 0])[place] += 1
    return {name: (train, good, bad) for name, (train, good, bad) in sorted(found.items())}


def _for_method(cell: Cell) -> Cell:
    """Remove AnoPLe's settings from the cells of baselines, which are not trained."""
    if cell.method == "anople":
        return cell
    return Cell(**{**vars(cell), "training": {}, "settings": {}, "branches": ()})


__all__ = ["ABLATIONS", "TABLES", "UNSEEN", "Plan", "count_photos", "make_plan", "name_source"]
