"""`make_lines()`: turns the results of all cells into the lines of a table, with the paper's figures beside ours.

Averages as the paper's tables do: over categories within a seed, then mean and deviation over seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..benchmark import quoted
from ..evaluation.measurement import mean_of
from ..evaluation.metrics import METRICS
from .ablations import ABLATIONS
from .cells import Cell, CellResult
from .plans import UNSEEN, Plan

TWO = ("image_auroc", "pixel_auroc")
SHOWN: dict[str, tuple[str, ...]] = {
    "table1": METRICS,
    "table2": TWO,
    "table3": ("image_auroc",),
    "table4": (*TWO, "aupro"),  # AUPRO is ours: the paper's Table 4 has no PRO
    "table5": TWO,
    "figure1b": ("images_per_second",),
    "compare": METRICS,
}
"""Metrics of each table, as in the paper."""


@dataclass
class Line:
    """One line of a table.

    Attributes:
        dataset: The data set.
        group: The column before the method: shots, or a category.
        label: Method, or row of Table 4.
        values: One value per seed for each metric, in percent (or images per second).
        paper: The paper's figures, or None.
        differs: Known differences from the paper's protocol; empty for a quoted line.
    """

    dataset: str
    group: str
    label: str
    values: dict[str, list[float]]
    paper: dict[str, float] | None = None
    differs: list[str] = field(default_factory=list)

    @property
    def quoted(self) -> bool:
        """Whether the line is only quoted."""
        return not self.values


def make_lines(plan: Plan, results: Iterable[CellResult]) -> list[Line]:
    """Make the lines in the table's order; methods that are only quoted come after ours.

    Args:
        plan: The table.
        results: Results of its cells, in its order.
    """
    pairs = list(zip(plan.cells, results, strict=True))
    kind = {"table2": _held_out, "table3": _by_category, "table5": _by_category, "figure1b": _speed}
    lines = kind.get(plan.table, _means)(plan, pairs)
    return lines + [line for line in _only_quoted(plan) if not _has(lines, line)]


Pairs = list[tuple[Cell, CellResult]]
Rows = list[dict[str, Any]]


def _means(plan: Plan, pairs: Pairs) -> list[Line]:
    """Tables 1 and 4: mean over categories."""
    lines: dict[tuple[str, ...], Line] = {}
    for cell, result in pairs:
        for method in dict.fromkeys(row["method"] for row in result.rows):
            label = cell.row + method.removeprefix("AnoPLe") if cell.row else method  # a branch alone says so
            line = _line(lines, plan, cell, f"{cell.shots}-shot", _scoped(cell, label))
            if plan.table == "table4":
                line.paper = quoted.find("table4", cell.dataset, label)
            else:
                line.paper = quoted.find("table1", cell.dataset, str(cell.shots), method)
            _add(line, [row for row in result.rows if row["method"] == method], SHOWN[plan.table])
    return list(lines.values())


def _held_out(plan: Plan, pairs: Pairs) -> list[Line]:
    """Table 2: trained categories and the held-out category, averaged over what is held out, and for each alone."""
    lines: dict[tuple[str, ...], Line] = {}
    collected: dict[tuple[str, str], dict[tuple[int, str], Rows]] = {}
    for cell, result in pairs:
        for method in dict.fromkeys(row["method"] for row in result.rows):
            own = [row for row in result.rows if row["method"] == method]
            held = [row for row in own if row["category"] == cell.held_out]
            rest = [row for row in own if row["category"] != cell.held_out]
            for part, rows in (("train", rest), ("held-out", held)):
                if rows:
                    line = _line(lines, plan, cell, f"{part}, {cell.shots}-shot", _scoped(cell, method))
                    line.paper = quoted.find("table2", cell.dataset, part, method)
                    places = collected.setdefault((id_of(line), line.label), {})
                    places.setdefault((cell.seed, cell.held_out), []).extend(rows)
            if held:
                alone = _line(lines, plan, cell, f"without {cell.held_out}", _scoped(cell, method))
                _add(alone, held, SHOWN["table2"])
    for line in lines.values():
        places = collected.get((id_of(line), line.label), {})
        for seed in dict.fromkeys(seed for seed, _ in places):
            means = [mean_of(rows) for (own, _), rows in places.items() if own == seed]
            _add(line, means, SHOWN["table2"])
    return sorted(lines.values(), key=lambda line: (line.dataset, line.group.startswith("without")))


def id_of(line: Line) -> str:
    """What identifies a line."""
    return f"{line.dataset}|{line.group}|{line.label}"


def _by_category(plan: Plan, pairs: Pairs) -> list[Line]:
    """Tables 3 and 5: each category separately."""
    lines: dict[tuple[str, ...], Line] = {}
    for cell, result in pairs:
        names = list(dict.fromkeys(row["category"] for row in result.rows))
        if plan.table == "table3":
            names = [name for name in names if name in UNSEEN] or names
        for name in names:
            for method in dict.fromkeys(row["method"] for row in result.rows):
                line = _line(lines, plan, cell, f"{name}, {cell.shots}-shot", _scoped(cell, method))
                task = next((task for task in quoted.BMAD if name.lower().startswith(task.lower())), name)
                path = (cell.dataset, name) if plan.table == "table3" else (task,)
                line.paper = quoted.find(plan.table, *path, method)
                rows = [row for row in result.rows if row["method"] == method and row["category"] == name]
                _add(line, rows, SHOWN[plan.table])
    return sorted(lines.values(), key=lambda line: (line.dataset, line.group))


def _speed(plan: Plan, pairs: Pairs) -> list[Line]:
    """Figure 1b: images per second."""
    lines: dict[tuple[str, ...], Line] = {}
    for cell, result in pairs:
        for method, value in result.images_per_second.items():
            line = _line(lines, plan, cell, f"{cell.shots}-shot", _scoped(cell, method))
            line.paper = quoted.find("figure1b", cell.dataset, method)
            line.values.setdefault("images_per_second", []).append(value)
    return list(lines.values())


def _only_quoted(plan: Plan) -> list[Line]:
    """The paper's lines for methods that were not run."""
    found: list[Line] = []
    for dataset in plan.counts:
        shots = sorted({cell.shots for cell in plan.cells if cell.dataset == dataset})
        if plan.table in ("table1", "compare"):
            for k in shots:
                named = quoted.find("table1", dataset, str(k)) or {}
                found += [Line(dataset, f"{k}-shot", name, {}, paper) for name, paper in named.items()]  # type: ignore
        elif plan.table == "table2":
            for part in ("train", "held-out"):
                named = quoted.find("table2", dataset, part) or {}
                found += [Line(dataset, f"{part}, {shots[0]}-shot", n, {}, p) for n, p in named.items()]  # type: ignore
        elif plan.table in ("table3", "table5"):
            for category in plan.counts[dataset]:
                task = next((task for task in quoted.BMAD if category.lower().startswith(task.lower())), category)
                named = quoted.find(plan.table, *((dataset, category) if plan.table == "table3" else (task,))) or {}
                found += [Line(dataset, f"{category}, {shots[0]}-shot", n, {}, p) for n, p in named.items()]  # type: ignore
        elif plan.table == "table4":
            named = quoted.find("table4", dataset) or {}
            found += [Line(dataset, "1-shot", n, {}, p) for n, p in named.items() if n in ABLATIONS]  # type: ignore
    return found


def _scoped(cell: Cell, label: str) -> str:
    """A label that tells the cells apart which a table has of one method."""
    parts = {"all": "all memories", "product": "own memory"}
    remembered = ["held-out class remembered"] if cell.held_out_memory else []
    return ", ".join([label, *([parts[cell.scope]] if cell.scope else []), *remembered])


def _has(lines: list[Line], other: Line) -> bool:
    return any((line.dataset, line.group, line.label) == (other.dataset, other.group, other.label) for line in lines)


def _line(lines: dict[tuple[str, ...], Line], plan: Plan, cell: Cell, group: str, label: str) -> Line:
    found = lines.setdefault((cell.dataset, group, label), Line(cell.dataset, group, label, {}))
    for difference in quoted.differences(plan.table, cell, plan.counts[cell.dataset]):
        if difference not in found.differs:
            found.differs.append(difference)
    return found


def _add(line: Line, rows: Rows, metrics: Iterable[str]) -> None:
    """Add one seed's mean over its rows."""
    means = mean_of(rows)
    for metric in metrics:
        values = line.values.setdefault(metric, [])
        if (value := means.get(metric)) is not None:
            values.append(100 * value)


__all__ = ["SHOWN", "Line", "make_lines"]
