"""`evaluate()`: measures a detector on a test set, per category and on average, and records the protocol.

Implements the evaluation of sec. 4.1: image AUROC and AUPR, pixel AUROC and PRO, and their unweighted mean.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from PIL import Image
from transformers.utils.logging import tqdm

from ..data.schema import as_files
from ..framed import score_views
from ..images import read_image, read_mask
from ..metric_names import METRIC_NAMES
from ..modeling_anople import Branch
from ..output.progress import seconds_between
from ..processing_anople import AnoPLeProcessor
from ..scoring import shrink_map
from .metrics import ALL_METRICS, METRICS, MORE_METRICS, OF_SCORES, ScoreAccumulator

FPR_LIMIT = 0.3


class Detector(Protocol):
    """What `evaluate()` needs from a detector: `AnoPLeModel`, or one of `anople_hf.baselines`."""

    config: Any
    memory: Any

    @property
    def device(self) -> torch.device:
        """The device it runs on."""

    @property
    def dtype(self) -> torch.dtype:
        """The data type it computes in."""

    def __call__(self, pixel_values: torch.Tensor, category: Any = None, branch: Any = "both") -> Any:
        """Scores and maps, as in `AnoPLeOutput`."""


@dataclass
class EvaluationResult:
    """What `evaluate()` found.

    Attributes:
        categories: Metric values in 0..1 by category; None where the data do not define them.
        mean: Unweighted mean over the categories that have a value.
        protocol: How the numbers were measured: branch, route, sizes, rules.
        images: One row per image: path, category, defect, label, part, score, decision threshold and recognized
            product, or None where there is none.
        images_per_second: Scoring speed, including reading the files.
        parts: As `categories`, the metrics of scores for parts that are seen in several views; empty without any.
    """

    categories: dict[str, dict[str, float | None]]
    mean: dict[str, float | None]
    protocol: dict[str, Any]
    images: list[dict[str, Any]]
    images_per_second: float
    parts: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`categories`, `mean` and `protocol`, for JSON; and `parts`, if there are any."""
        found = {"categories": self.categories, "mean": self.mean, "protocol": self.protocol}
        return found | ({"parts": {"categories": self.parts, "mean": self.part_mean}} if self.parts else {})

    @property
    def part_mean(self) -> dict[str, float | None]:
        """Unweighted mean of `parts` over the categories that have a value."""
        return mean_of(list(self.parts.values()), OF_SCORES)

    @property
    def recognized(self) -> float | None:
        """Share of the images whose product was recognized correctly; None if recognition was not used."""
        asked = [row["recognized"] == row["category"] for row in self.images if row["recognized"] is not None]
        return sum(asked) / len(asked) if asked else None

    def errors(self) -> tuple[float | None, float | None]:
        """Shares of good images called defective, and of defective images called good; None without such images."""
        shares: list[float | None] = []
        for label in (0, 1):
            judged = [row for row in self.images if row["label"] == label and row["threshold"] is not None]
            wrong = sum((row["score"] > row["threshold"]) != bool(label) for row in judged)
            shares.append(wrong / len(judged) if judged else None)
        return shares[0], shares[1]

    def table(self, *, more: bool = False) -> str:
        """The paper's metrics in percent, as text; `more` gives the additional metrics."""
        return _table({**self.categories, "mean": self.mean}, MORE_METRICS if more else METRICS)

    def part_table(self, *, more: bool = False) -> str:
        """The same of `parts`."""
        shown = [name for name in OF_SCORES if (name in MORE_METRICS) == more]
        names = {name: METRIC_NAMES[name].replace("image", "part") for name in shown}
        return _table({**self.parts, "mean": self.part_mean}, shown, names)


@torch.inference_mode()
def evaluate(
    model: Detector,
    processor: AnoPLeProcessor,
    test: datasets.Dataset,
    *,
    branch: Branch | None = None,
    route: bool = False,
    part_of: Callable[[str], str] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> EvaluationResult:
    """Score a test set and measure.

    Args:
        model: A trained detector with memory, or a baseline.
        processor: Its processor.
        test: The test split, in the package's schema.
        branch: `both` is the paper's; `prompt` and `memory` are its two parts. None: the one that decides, both for a
            trained detector.
        route: Give the model each image's product. Results are better, but it is a different protocol: never mix the
            two in one table.
        part_of: The part that the photo at a path, relative to the data's root, is a view of, "" for none, such as
            `Grouping.part_of`. None: as the data say, as Real-IAD's do.
        batch_size: Images per pass.
        progress: Show a bar.

    Raises:
        KeyError: With `route`, a category that the model does not know.
        ValueError: An empty test set.
    """
    if not len(test):
        raise ValueError("the test set is empty: expected images under test/<defect or good>/.")
    branch = branch or getattr(model, "decision_branch", "both")  # a baseline has no branches
    side = model.config.image_size
    scores = ScoreAccumulator(fpr_limit=FPR_LIMIT)
    images: list[dict[str, Any]] = []
    waiting = Counter(test["category"])
    test = as_files(test)
    ranges = {name: model.memory.ranges(name) for name in (None, *waiting)}
    started = time.perf_counter()
    starts = range(0, len(test), batch_size)
    often = seconds_between()
    for start in tqdm(starts, desc="evaluating", unit="batch", disable=not progress, mininterval=often):
        rows = test[start : start + batch_size]
        told = rows["category"] if route else [None] * len(rows["category"])
        cut = [processor.views(read_image(photo, ranges[name]), model.memory.sizes(name, side))
                 for photo, name in zip(rows["image"], told, strict=True)]  # fmt: skip
        judged: dict[int, dict[str, Any]] = {}
        for places, output, names in score_views(model, cut, rows["category"] if route else None, branch=branch):
            maps = shrink_map(output.anomaly_maps.float(), side).cpu().numpy()
            limits = [None if x != x else x for x in _listed(output.thresholds, len(places))]  # NaN: no threshold
            recognized = [None] * len(places) if output.products is None else names
            for column in zip(places, output.scores.tolist(), limits, recognized, maps, strict=True):
                judged[column[0]] = dict(zip(("score", "threshold", "recognized", "map"), column[1:], strict=True))
        for index, category in enumerate(rows["category"]):
            label, given, found = rows["label"][index], rows["mask"][index], judged[index]
            scores.add(
                category,
                score=found["score"],
                label=label,
                anomaly_map=found.pop("map"),
                mask=_truth(given, label, side),
            )
            path = rows["path"][index]
            part = (rows["part"][index] if "part" in rows else "") if part_of is None else part_of(path)
            found = {"part": part, **found}
            images.append({k: rows[k][index] for k in ("path", "category", "defect", "label")} | found)
            waiting[category] -= 1
            if not waiting[category]:
                scores.finish(category)  # its maps are let go: memory stays that of one category
    seconds = time.perf_counter() - started
    categories = scores.compute()
    protocol = {
        "branch": branch,
        "category_known": route,
        "category_recognized": any(row["recognized"] is not None for row in images),
        "shots": {c: len(model.memory.references(c)) for c in model.memory.categories},
        "backbone": model.config.backbone or "in the checkpoint",
        "image_size": side,
        "mask_size": side,
        "mask_rule": "nearest, > 0",
        "smoothing_sigma": model.config.smoothing_sigma,
        "aupro": f"exact, FPR limit {FPR_LIMIT}, 8-connected",
        "aupro_200": f"200 thresholds, FPR limit {FPR_LIMIT}, 8-connected",
        "image_aupr": "average precision",
        "images": len(test),
    }
    views = _views(images)
    parts = scores.compute_parts(views)
    if parts:
        protocol["parts"] = {
            "count": sum(map(len, views.values())),
            "images": sum(len(places) for own in views.values() for places in own.values()),
            "score": "highest score of its views",
            "label": "defective if any of its views is",
        }
    mean = mean_of(list(categories.values()))
    return EvaluationResult(categories, mean, protocol, images, len(test) / seconds, parts)


def _views(images: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """By category and part, the places of its views among the category's images; nothing if no part has several."""
    found: dict[str, dict[str, list[int]]] = {}
    seen: Counter[str] = Counter()
    for row in images:
        if row["part"]:
            found.setdefault(row["category"], {}).setdefault(row["part"], []).append(seen[row["category"]])
        seen[row["category"]] += 1
    return found if any(len(places) > 1 for own in found.values() for places in own.values()) else {}


def _table(
    rows: Mapping[str, Mapping[str, float | None]], shown: Sequence[str], names: Mapping[str, str] = METRIC_NAMES
) -> str:
    width = max(len(name) for name in [*rows, "category"])
    columns = {name: max(13, len(names[name]) + 2) for name in shown}
    lines = [f"{'category':{width}}" + "".join(f"{names[name]:>{columns[name]}}" for name in shown)]
    for name, values in rows.items():
        cells = {m: "-" if values[m] is None else f"{100 * float(values[m] or 0):.1f}" for m in shown}
        lines.append(f"{name:{width}}" + "".join(f"{cell:>{columns[m]}}" for m, cell in cells.items()))
    return "\n".join(lines)


def _listed(values: torch.Tensor | None, count: int) -> list[Any]:
    return [None] * count if values is None else values.tolist()


def mean_of(
    tables: Sequence[Mapping[str, float | None]], metrics: Iterable[str] = ALL_METRICS
) -> dict[str, float | None]:
    """Unweighted mean of each metric over the categories that have a value, or None."""
    columns = {m: [float(t[m]) for t in tables if t[m] is not None] for m in metrics}  # type: ignore[arg-type]
    return {m: float(np.mean(values)) if values else None for m, values in columns.items()}


def _truth(given: Image.Image | None, label: int, side: int) -> np.ndarray | None:
    """Ground truth at the map's size; None for a defective image whose mask is missing."""
    if not label:
        return np.zeros((side, side), bool)
    if given is None:
        return None
    mask = Image.fromarray(read_mask(given))
    return np.asarray(mask.resize((side, side), Image.Resampling.NEAREST))
