"""Charts of scores: histograms, ROC and precision-recall curves, and bars per category.

The bars show the metrics of Tables 1-2; histograms and curves show what image AUROC and AUPR are computed from.

Each category has its own panel, instead of many lines in one: this reads in gray, with any number of categories.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..evaluation.metrics import METRICS, auroc, average_precision
from ..metric_names import METRIC_NAMES
from .palette import DEFECTIVE, FAINT, GOOD, INK, plain, save

UNKNOWN = "#a9a9a9"
PANELS_A_ROW = 3


@dataclass
class ScoreGroup:
    """The scores of one panel.

    Args:
        name: Its title, such as the category.
        scores: Image scores, higher is more anomalous.
        labels: 0 good, 1 defective, one per score; None if unknown.
        threshold: Score above which an image is called defective; None if not calibrated.
    """

    name: str
    scores: Sequence[float]
    labels: Sequence[int] | None = None
    threshold: float | None = None


def draw_histograms(groups: Sequence[ScoreGroup]) -> Figure:
    """Histograms of the scores on both sides of the thresholds, one panel per group, on a common axis.

    Args:
        groups: At least one, each with at least one score.

    Raises:
        ValueError: There is no group.
    """
    figure, axes = _panels(groups, height=1.7)
    known = [value for group in groups for value in [*group.scores, group.threshold] if value is not None]
    low, high = min(known), max(known)
    margin = 0.03 * (high - low) or 0.5
    bins = np.linspace(low - margin, high + margin, 31).tolist()
    for axis, group in zip(axes, groups, strict=True):
        scores = np.asarray(group.scores, dtype=float)
        if group.labels is None:
            axis.hist(scores, bins=bins, color=UNKNOWN)
        else:
            truth = np.asarray(group.labels) > 0
            axis.hist(scores[~truth], bins=bins, color=GOOD)
            axis.hist(scores[truth], bins=bins, facecolor=(DEFECTIVE, 0.35), edgecolor=DEFECTIVE, hatch="////")
        if group.threshold is not None:
            axis.axvline(group.threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axis.set_xlim(bins[0], bins[-1])
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_locator(MaxNLocator(5))
    _name_axes(figure, axes, "score", "photos")
    kinds: list[Patch | Line2D] = []
    if any(group.labels is None for group in groups):
        kinds.append(Patch(color=UNKNOWN, label="photos"))
    if any(group.labels is not None for group in groups):
        hatched = Patch(facecolor=(DEFECTIVE, 0.35), edgecolor=DEFECTIVE, hatch="////", label="defective")
        kinds += [Patch(color=GOOD, label="good"), hatched]
    if any(group.threshold is not None for group in groups):
        kinds.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="threshold"))
    _legend(figure, kinds)
    return figure


def draw_roc(groups: Sequence[ScoreGroup]) -> Figure:
    """ROC curves, one panel per group; a dot marks the group's own threshold.

    Args:
        groups: Groups with labels of both kinds; the panel of a group that lacks one kind says so.
    """
    figure, axes = _panels(groups, height=2.3)
    for axis, group in zip(axes, groups, strict=True):
        axis.plot([0, 1], [0, 1], color=UNKNOWN, linestyle=(0, (4, 2)), linewidth=1)
        _draw_curve(axis, group, precision=False)
    _name_axes(figure, axes, "false alarms: share of good parts", "found: share of defective parts")
    _legend(figure, [_mark("at the threshold"), _dashes("chance")])
    return figure


def draw_precision_recall(groups: Sequence[ScoreGroup]) -> Figure:
    """Precision-recall curves, one panel per group; a dot marks the group's own threshold.

    Args:
        groups: As for `draw_roc`.
    """
    figure, axes = _panels(groups, height=2.3)
    for axis, group in zip(axes, groups, strict=True):
        share = float(np.mean(np.asarray(group.labels) > 0))
        axis.plot([0, 1], [share, share], color=UNKNOWN, linestyle=(0, (4, 2)), linewidth=1)
        _draw_curve(axis, group, precision=True)
    _name_axes(figure, axes, "recall: share of defective parts found", "precision: share of alarms that are right")
    _legend(figure, [_mark("at the threshold"), _dashes("chance: all called defective")])
    return figure


def draw_category_bars(
    categories: Mapping[str, Mapping[str, float | None]], mean: Mapping[str, float | None]
) -> Figure:
    """Bars of every metric of every category in percent, one panel per metric, with a dashed line at the mean.

    Args:
        categories: Values in 0..1 by category and metric, as in `EvaluationResult.categories`; None leaves a gap.
        mean: By metric.
    """
    names = list(categories)
    rows = np.arange(len(names))
    height = 1.0 + 0.24 * len(names)
    figure = Figure(figsize=(8.4, height), facecolor="white")
    left = min(0.3, 0.04 + 0.0095 * max(map(len, names)))
    grid = figure.add_gridspec(
        1, len(METRICS), left=left, right=0.97, top=1 - 0.38 / height, bottom=0.45 / height, wspace=0.12
    )
    for column, metric in enumerate(METRICS):
        title = METRIC_NAMES[metric]
        axis = figure.add_subplot(grid[0, column])
        plain(axis)
        values = [categories[name].get(metric) for name in names]
        axis.barh(rows, [100 * (value or 0) for value in values], height=0.72, color=GOOD)
        for row, value in enumerate(values):
            text = "-" if value is None else f"{100 * value:.1f}"
            axis.text(3, row, text, va="center", fontsize=7, color=INK)
        if mean.get(metric) is not None:
            level = 100 * float(mean[metric] or 0)
            axis.axvline(level, color=INK, linewidth=1, linestyle=(0, (4, 2)))
            title += f"\nmean {level:.1f}"
        axis.set_title(title, fontsize=8, color=INK)
        axis.set_xlim(0, 100)
        axis.set_xticks([0, 50, 100])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_yticks(rows, names if column == 0 else [""] * len(names), color=INK)
        axis.tick_params(axis="y", length=0)
    figure.text(0.5 + left / 2, 0.08 / height, "%", fontsize=7, color=FAINT, ha="center")
    return figure


def write_plots(result: Any, folder: Path, thresholds: Mapping[str, float | None] | None = None) -> list[Path]:
    """Draw the result of `evaluate()`: `scores.png`, `roc.png`, `precision_recall.png`, `categories.png`.

    Args:
        result: An `EvaluationResult`.
        folder: Output folder; created if needed.
        thresholds: The detector's thresholds by category; None where it has none.

    Returns:
        The four paths.
    """
    groups = []
    for category in result.categories:
        rows = [row for row in result.images if row["category"] == category]
        scores, labels = [row["score"] for row in rows], [row["label"] for row in rows]
        groups.append(ScoreGroup(category, scores, labels, (thresholds or {}).get(category)))
    figures = {
        "scores": draw_histograms(groups),
        "roc": draw_roc(groups),
        "precision_recall": draw_precision_recall(groups),
        "categories": draw_category_bars(result.categories, result.mean),
    }
    return [save(figure, folder / f"{name}.png", dpi=150) for name, figure in figures.items()]


def curve_counts(scores: Sequence[float], labels: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of true and false positives at or above each distinct score, from the highest down, with a leading 0.

    Example:
        >>> [counts.tolist() for counts in curve_counts([0.1, 0.7, 0.7, 0.9], [0, 0, 1, 1])]
        [[0, 1, 2, 2], [0, 0, 1, 2]]
    """
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels) > 0
    levels, index = np.unique(-values, return_inverse=True)
    hits = np.bincount(index, weights=truth, minlength=len(levels)).cumsum()
    alarms = np.bincount(index, weights=~truth, minlength=len(levels)).cumsum()
    return np.append(0, hits).astype(int), np.append(0, alarms).astype(int)


def _draw_curve(axis: Axes, group: ScoreGroup, *, precision: bool) -> None:
    labels = np.asarray(group.labels if group.labels is not None else [])
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.05)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    if len(set(labels.tolist())) < 2:
        missing = "good" if labels.all() else "defective"
        axis.text(0.5, 0.5, f"no {missing} photos", ha="center", va="center", fontsize=8, color=FAINT)
        return
    hits, alarms = curve_counts(group.scores, group.labels or [])
    found, false = hits / hits[-1], alarms / alarms[-1]
    right = hits[1:] / (hits[1:] + alarms[1:])
    value = average_precision(group.scores, labels) if precision else auroc(group.scores, labels)
    if precision:  # a step function: that is what average precision is the area of
        axis.step(found, np.append(right[0], right), where="pre", color=INK, linewidth=1.4)
    else:
        axis.fill_between(false, found, color=GOOD, alpha=0.35, linewidth=0)
        axis.plot(false, found, color=INK, linewidth=1.4)
    axis.text(0.97, 0.06, f"{'AUPR' if precision else 'AUROC'} {100 * value:.1f}", ha="right", fontsize=8, color=INK)
    if group.threshold is not None:
        over = np.asarray(group.scores) > group.threshold
        hit, alarm = int((over & (labels > 0)).sum()), int((over & (labels == 0)).sum())
        if precision and not hit + alarm:
            return  # no alarm, no precision
        at = (hit / hits[-1], hit / (hit + alarm)) if precision else (alarm / alarms[-1], hit / hits[-1])
        axis.plot(*at, marker="o", markersize=6, color=DEFECTIVE, markeredgecolor="white", clip_on=False, zorder=3)


def _panels(groups: Sequence[ScoreGroup], height: float) -> tuple[Figure, list[Axes]]:
    if not groups:
        raise ValueError("a chart needs at least one group of scores, got none")
    columns = min(PANELS_A_ROW, len(groups))
    rows = math.ceil(len(groups) / columns)
    whole = rows * (height + 0.3) + 0.75
    figure = Figure(figsize=(1.2 + 2.5 * columns, whole), facecolor="white")
    width = figure.get_figwidth()
    grid = figure.add_gridspec(
        rows, columns, left=0.6 / width, right=1 - 0.15 / width, top=1 - 0.3 / whole, bottom=0.75 / whole,
        hspace=0.5 / height, wspace=0.2,
    )  # fmt: skip
    axes = [figure.add_subplot(grid[index // columns, index % columns]) for index in range(len(groups))]
    for axis, group in zip(axes, groups, strict=True):
        plain(axis)
        axis.set_title(group.name, fontsize=9, color=INK, loc="left")
    return figure, axes


def _name_axes(figure: Figure, axes: Sequence[Axes], x: str, y: str) -> None:
    """Label the axes once for all panels: at the left and below the bottom row."""
    whole = figure.get_figheight()
    figure.text(0.5, 0.36 / whole, x, fontsize=8, color=FAINT, ha="center")
    figure.text(0.12 / figure.get_figwidth(), 0.5 + 0.2 / whole, y, fontsize=8, color=FAINT, va="center", rotation=90)


def _legend(figure: Figure, kinds: Sequence[Patch | Line2D]) -> None:
    foot = (0.5, 0.02 / figure.get_figheight())
    figure.legend(
        handles=list(kinds),
        loc="lower center",
        bbox_to_anchor=foot,
        ncols=4,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )


def _mark(label: str) -> Line2D:
    return Line2D([], [], color=DEFECTIVE, marker="o", markersize=6, markeredgecolor="white", linewidth=0, label=label)


def _dashes(label: str) -> Line2D:
    return Line2D([], [], color=UNKNOWN, linestyle=(0, (4, 2)), linewidth=1, label=label)
