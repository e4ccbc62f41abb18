"""`Cell`: the smallest unit of a table: one method, one data set, k shots, one seed.

A cell holds everything that its numbers depend on, and its key is computed from that. The same key means the same
numbers, so an interrupted table continues where it stopped.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import datasets
import torch

from ..backbones import recommended_settings
from ..configuration_anople import AnoPLeConfig
from ..data import choose_shots, load_inspection_data
from ..data.schema import as_files
from ..evaluation.measurement import EvaluationResult, evaluate
from ..modeling_anople import Branch
from ..training.configuration import TrainingConfig
from ..training.run import train
from .speed import time_scoring

BRANCHES: dict[str, Branch] = {"AnoPLe": "both", "AnoPLe, prompts alone": "prompt", "AnoPLe, memory alone": "memory"}
"""The parts of AnoPLe that one training gives."""
PACKAGES = ("anople-hf", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    Attributes:
        dataset: Name of the data set.
        root: Its folder; not part of the key.
        method: `anople` or a name of `baselines.METHODS`.
        shots: k.
        seed: Seed of shots and training.
        backbone: As for `load_backbone`.
        row: The table's row, such as one of Table 4.
        held_out: A category that is tested, but has neither training photos nor memory.
        categories: Only these; empty for all.
        branches: For `anople`, the branches to measure: keys of `BRANCHES`.
        training: Fields of `TrainingConfig` that differ from the defaults.
        settings: Fields of `AnoPLeConfig`, or arguments of a baseline, that differ from the defaults.
        shot_mode: As for `choose_shots`.
        route: Give each image's category.
        scope: Which memories a photo is compared with if its category is not given, `all` or `product`, the two
            readings of R in eq. 14; empty: as the settings say.
        held_out_memory: Remember the shots of the held-out category, after training without it.
        timed: Measure how many images a second, see `time_scoring`.
    """

    dataset: str
    root: str
    method: str
    shots: int
    seed: int
    backbone: str
    row: str = ""
    held_out: str = ""
    categories: tuple[str, ...] = ()
    branches: tuple[str, ...] = ("AnoPLe",)
    training: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    shot_mode: str = "seeded"
    route: bool = False
    scope: str = ""
    held_out_memory: bool = False
    timed: bool = False

    @property
    def settings_in_use(self) -> dict[str, Any]:
        """`settings` and scope, and for `anople` those recommended for the backbone where nothing else is said."""
        scope = {"memory_search": self.scope} if self.scope else {}
        return (recommended_settings(self.backbone) if self.method == "anople" else {}) | self.settings | scope

    @property
    def key(self) -> str:
        """File name of the result, readable and unique to these settings."""
        content = asdict(self) | {"root": "", "row": "", "photos": _fingerprint(self.root)}
        content["settings"] = self.settings_in_use
        if self.method == "anople":  # defaults and recipes may change
            content["settings"] = changed(AnoPLeConfig, content["settings"])
            content["training"] = asdict(TrainingConfig(**self.training).completed(self.backbone, photos=1))
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.dataset}-{self.method}-{self.shots}shot-seed{self.seed}-{digest}".replace("/", "_")


def changed(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are not the default of the field of their name.

    Args:
        owner: A dataclass: `AnoPLeConfig` or `TrainingConfig`.
        values: Some of its fields.

    Example:
        >>> changed(TrainingConfig, {"alignment": "weighted", "batch_size": 4})
        {'batch_size': 4}
    """
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(owner)
    }
    return {name: value for name, value in values.items() if _plain(value) != _plain(defaults.get(name, ...))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass
class CellResult:
    """The result of a cell.

    Attributes:
        cell: The cell as plain values.
        rows: One row per method or branch and category, with all metrics.
        images: One row per method or branch and test image: path, category, defect, label, score.
        shots: Paths of the training photos, by category.
        protocol: How the numbers were measured, including versions.
        images_per_second: Speed by method or branch, and by that with ", batches of 16" behind it, if the cell is
            `timed`; kept apart because it differs between runs.
    """

    cell: dict[str, Any]
    rows: list[dict[str, Any]]
    images: list[dict[str, Any]]
    shots: dict[str, list[str]]
    protocol: dict[str, Any]
    images_per_second: dict[str, float]


@lru_cache(maxsize=4)
def load(root: str) -> datasets.DatasetDict:
    """Load a data set, once for all its cells.

    Raises:
        ValueError: The data set has no test split.
    """
    splits = load_inspection_data(root)
    if "test" not in splits:
        raise ValueError(f"{root} has no test photos, so it cannot be measured on.")
    return splits


@lru_cache(maxsize=16)
def _fingerprint(root: str) -> str:
    """Digest of the names and labels of all photos, so that a different data set of the same name is new work."""
    digest = hashlib.sha256()
    for _, table in sorted(load(root).items()):
        for row in zip(table["path"], table["category"], table["label"], strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def measure(cell: Cell) -> CellResult:
    """Train or teach, then evaluate.

    Args:
        cell: The cell.

    Raises:
        ValueError, KeyError: There are too few photos, or a name or category is unknown.
    """
    splits = load(cell.root)
    wanted = set(cell.categories or splits["train"]["category"])
    if unknown := sorted({*wanted, *filter(None, [cell.held_out])} - set(splits["train"]["category"])):
        raise ValueError(f"{cell.dataset} has no category {', '.join(unknown)}.")
    pick = {name: [i for i, c in enumerate(table["category"]) if c in wanted] for name, table in splits.items()}
    train_split, test = splits["train"].select(pick["train"]), splits["test"].select(pick["test"])
    held_out = train_split.select([])
    if cell.held_out_memory:
        held_out = train_split.select([i for i, c in enumerate(train_split["category"]) if c == cell.held_out])
        kept = choose_shots(held_out, cell.shots, seed=cell.seed, mode=cell.shot_mode)  # type: ignore[arg-type]
        held_out = held_out.select(kept[cell.held_out])
    if cell.held_out:
        train_split = train_split.select([i for i, c in enumerate(train_split["category"]) if c != cell.held_out])
    chosen = choose_shots(train_split, cell.shots, seed=cell.seed, mode=cell.shot_mode)  # type: ignore[arg-type]
    shots = {name: [train_split[index]["path"] for index in rows] for name, rows in chosen.items()}
    if cell.method == "anople":
        results, speed = _anople(cell, train_split, test, shots, held_out)
    else:
        results, speed = _baseline(cell, train_split, test, chosen)
    shots |= {cell.held_out: list(held_out["path"])} if cell.held_out_memory else {}
    first = next(iter(results.values()))
    protocol = first.protocol | {"versions": {name: version(name) for name in PACKAGES}}
    protocol.pop("branch", None)
    rows, images = [], []
    for name, result in results.items():
        own = {"dataset": cell.dataset, "method": name, "row": cell.row, "shots": cell.shots, "seed": cell.seed}
        own["held_out"] = cell.held_out
        for category, values in result.categories.items():
            rows.append({**own, "category": category, **values})
        images += [{**own, **image} for image in result.images]
    return CellResult(asdict(cell), rows, images, shots, protocol, speed)


def _anople(
    cell: Cell,
    train_split: datasets.Dataset,
    test: datasets.Dataset,
    shots: dict[str, list[str]],
    held_out: datasets.Dataset,
) -> tuple[dict[str, EvaluationResult], dict[str, float]]:
    settings = cell.settings | ({"memory_search": cell.scope} if cell.scope else {})
    config = TrainingConfig(**{"shots": cell.shots, "seed": cell.seed, "settings": settings, **cell.training})
    run = train(train_split, config, backbone=cell.backbone, listed_shots=shots, progress=False)
    run.model.eval()
    if len(held_out):
        photos = as_files(held_out)["image"]
        pixels, reading = run.processor.read_good(photos)
        run.model.memorize(pixels, cell.held_out, names=list(held_out["path"]))
        run.model.memory.update(cell.held_out, reading=reading)
    results = {
        name: evaluate(run.model, run.processor, test, branch=BRANCHES[name], route=cell.route, progress=False)
        for name in cell.branches
    }
    speed: dict[str, float] = {}
    for name in cell.branches if cell.timed else ():
        speed |= time_scoring(name, run.model, run.processor, test, branch=BRANCHES[name], route=cell.route)
    return results, speed


def _baseline(
    cell: Cell, train_split: datasets.Dataset, test: datasets.Dataset, chosen: dict[str, list[int]]
) -> tuple[dict[str, EvaluationResult], dict[str, float]]:
    from ..baselines import METHODS
    from ..processing_anople import AnoPLeProcessor

    torch.manual_seed(cell.seed)
    detector = METHODS[cell.method].from_backbone(cell.backbone, **cell.settings)
    processor = AnoPLeProcessor.from_backbone(cell.backbone, detector.config)
    for category, indices in chosen.items():
        rows = train_split.select(indices)
        pixels = processor(images=list(rows["image"]))["pixel_values"]
        detector.memorize(pixels, category, names=list(rows["path"]))
    result = evaluate(detector, processor, test, route=cell.route, progress=False)
    title = METHODS[cell.method].title
    return {title: result}, time_scoring(title, detector, processor, test, route=cell.route) if cell.timed else {}


__all__ = ["BRANCHES", "Cell", "CellResult", "load", "measure"]
