"""`render()`: writes a table as Markdown and as a plot, our figures beside the paper's and the protocol below.

For Tables 1 to 5 and Figure 1b. Quoted figures are marked.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..benchmark import quoted
from ..metric_names import METRIC_NAMES
from ..output.whole import write_whole
from ..pictures.palette import DEFECTIVE, GOOD, png
from .cells import CellResult
from .lines import SHOWN, Line, make_lines
from .plans import Plan


def render(plan: Plan, results: Sequence[CellResult], folder: Path) -> str:
    """Write `table.md` and `table.png`.

    Args:
        plan: The table.
        results: Results of its cells, in its order.
        folder: Output folder.

    Returns:
        The Markdown.
    """
    lines = make_lines(plan, results)
    text = "\n".join([*_table(plan, lines), "", *_categories(plan, results), "", *_footer(plan, results)]) + "\n"
    write_whole(folder / "table.md", text)
    write_whole(folder / "table.png", _plot(plan, lines))
    return text


def _table(plan: Plan, lines: list[Line]) -> list[str]:
    metrics = SHOWN[plan.table]
    unit = "images per second" if plan.table == "figure1b" else "percent"
    text = [f"# {plan.table}", "", f"Mean ± deviation over seeds, in {unit} (the paper's figure, difference).", ""]
    text += [f"| data | | | {' | '.join(METRIC_NAMES[m] for m in metrics)} | against the paper's protocol |"]
    text += [f"|---|---|---|{'---|' * len(metrics)}---|"]
    for line in lines:
        cells = [_cell(line.values.get(metric, []), (line.paper or {}).get(metric)) for metric in metrics]
        known = "quoted from the paper" if line.quoted else (
            f"differs: {', '.join(line.differs)}" if line.differs else "equal as far as published"
        )  # fmt: skip
        text.append(f"| {line.dataset} | {line.group} | {line.label} | {' | '.join(cells)} | {known} |")
    return text


def _cell(values: list[float], paper: float | None) -> str:
    """A table cell such as `60.2 ± 0.2 (96.4, -36.2)`, or `(96.4)` if nothing was measured."""
    if not values:
        return "-" if paper is None else f"({paper:.1f})"
    mean = statistics.mean(values)
    own = f"{mean:.1f} ± {statistics.pstdev(values):.1f}"
    return own if paper is None else f"{own} ({paper:.1f}, {mean - paper:+.1f})"


def _categories(plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """Every category, averaged over seeds, if the table itself has only means."""
    if plan.table not in ("table1", "compare"):
        return []
    metrics = SHOWN[plan.table]
    heads = " | ".join(METRIC_NAMES[m] for m in metrics)
    text = ["## By category", "", f"| data | shots | category | method | {heads} |"]
    text.append(f"|---|---|---|---|{'---|' * len(metrics)}")
    found: dict[tuple[str, int, str, str], dict[str, list[float]]] = {}
    for row in (row for result in results for row in result.rows):
        own = found.setdefault((row["dataset"], row["shots"], row["category"], row["method"]), {})
        for metric in metrics:
            own.setdefault(metric, []).extend([] if row[metric] is None else [100 * row[metric]])
    for (dataset, shots, category, method), values in sorted(found.items(), key=lambda item: item[0][:3]):
        cells = " | ".join(_cell(values[metric], None) for metric in metrics)
        text.append(f"| {dataset} | {shots} | {category} | {method} | {cells} |")
    return text


def _footer(plan: Plan, results: Sequence[CellResult]) -> list[str]:
    """The protocol."""
    cell, protocol = plan.cells[0], results[0].protocol
    seeds = sorted({cell.seed for cell in plan.cells})
    told = "told" if cell.route else "not told"
    versions = ", ".join(f"{name} {number}" for name, number in protocol["versions"].items())
    size = f"{protocol['image_size']} px, masks {protocol['mask_size']} px ({protocol['mask_rule']})"
    text = [
        "## Protocol",
        "",
        f"- Seeds {', '.join(map(str, seeds))}; {cell.shot_mode} shots, listed in `shots.json`; category {told}.",
        f"- Backbone `{cell.backbone}`; images and maps {size}; smoothing sigma {protocol['smoothing_sigma']} px.",
        f"- Image AUPR: {protocol['image_aupr']}. AUPRO: {protocol['aupro']}.",
        f"- Training as in `TrainingConfig`, but for {cell.training or 'nothing'}; the paper's is not published.",
        f"- {versions}.",
    ]
    text += [f"- {note}" for note in [*plan.notes, *filter(None, [quoted.figures()["notes"].get(plan.table)])]]
    return [*text, f"- In brackets and quoted: {quoted.figures()['source']}"]


def _plot(plan: Plan, lines: list[Line]) -> bytes:
    """Bars of the first metric, one panel per data set, with the paper's figures as open diamonds."""
    metric = SHOWN[plan.table][0]
    names = list(dict.fromkeys(line.dataset for line in lines))
    most = max(sum(line.dataset == name for line in lines) for name in names)
    figure = Figure(figsize=(6.5 * len(names), 1.2 + 0.28 * most), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)
    for name, panel in zip(names, panels[0], strict=True):
        own = [line for line in lines if line.dataset == name]
        for place, line in enumerate(own):
            values = line.values.get(metric, [])
            if values:
                deviation = statistics.pstdev(values)
                panel.barh(place, statistics.mean(values), xerr=deviation, color=GOOD, height=0.7, capsize=2)
            if (paper := (line.paper or {}).get(metric)) is not None:
                panel.plot(paper, place, marker="D", markersize=6, color=DEFECTIVE, fillstyle="none", linestyle="")
        panel.set_yticks(range(len(own)), [f"{line.group}  {line.label}" for line in own], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel(f"{METRIC_NAMES[metric]}{'' if metric == 'images_per_second' else ', %'}")
        panel.set_title(f"{name} (diamonds: quoted from the paper)", fontsize=9)
        panel.grid(axis="x", alpha=0.3)
        panel.set_xlim(left=0)
    return png(figure)


__all__ = ["render"]
