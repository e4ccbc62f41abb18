"""`train()`: choose shots, learn prompts and decoder from them, then build the memory and calibrate.

Where in the paper: sec. 3.3 (learning), 3.4 (memory), 4.1 (shots).
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import accelerate
import datasets
import torch
import transformers
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, parse_flag_from_env, set_seed

from ..data.class_names import class_names_for
from ..data.few_shot import choose_shots, write_shots
from ..data.schema import as_files
from ..framing import Framing, FramingRequest
from ..modeling_anople import AnoPLeModel
from ..processing_anople import AnoPLeProcessor
from ..teaching import Report, describe_change, teach
from .configuration import TrainingConfig
from .loop import above_chance, learn
from .losses import CHANCE
from .pairs import AnomalyPairs
from .synthesis import AnomalySynthesizer

logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """What `train()` gives back.

    Attributes:
        model: Trained, with memory, text vectors and thresholds.
        processor: Its processor.
        shots: The chosen photos by category, as paths.
        history: One dict of loss terms per step.
        config: How it was trained.
        reports: By product, what its shots taught: copies among them, photos far from the others, the threshold.
    """

    model: AnoPLeModel
    processor: AnoPLeProcessor
    shots: dict[str, list[str]]
    history: list[dict[str, float]]
    config: TrainingConfig
    reports: list[Report] = field(default_factory=list)

    @property
    def odd(self) -> list[str]:
        """A line for each thing that somebody should look at: photos, their depths, losses that taught nothing."""
        chance = [
            f"the loss term {name} ended at {value:.3f}, and guessing costs {CHANCE[name]:.3f}: nothing was learned "
            "from it"
            for name, value in above_chance(self.history).items()
        ]
        return list(dict.fromkeys([*(line for report in self.reports for line in report.odd), *chance]))

    def lines(self) -> list[str]:
        """For people: products, photos, thresholds with what they promise, and what looked odd."""
        known = {report.product: len(self.model.memory.references(report.product)) for report in self.reports}
        products = f"{len(known)} product{'' if len(known) == 1 else 's'}"
        found = [f"trained on {sum(known.values())} photos of {products}, {len(self.history)} steps"]
        for report in self.reports:
            photos = f"{known[report.product]} photo{'' if known[report.product] == 1 else 's'}"
            found.append(f"{report.product}: {photos}, {describe_change(None, report.after)}")
            found += [f"  {line}" for line in report.read]
        odd = self.odd
        return [*found, "looks odd:", *(f"  {line}" for line in odd)] if odd else [*found, "nothing looks odd"]

    def save(self, folder: Path) -> None:
        """Write checkpoint, processor, `shots.json`, `training_args.json` and `training_log.jsonl` into `folder`."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_shots(folder / "shots.json", self.shots, shots=self.config.shots, seed=self.config.seed)
        versions = {m.__name__: m.__version__ for m in (torch, transformers, accelerate, datasets)}
        arguments = {
            "backbone": self.model.config.backbone,
            **asdict(self.config),
            "processes": PartialState(cpu=on_cpu()).num_processes,
            "versions": versions,
        }
        (folder / "training_args.json").write_text(json.dumps(arguments, indent=2) + "\n")
        lines = (json.dumps({"step": step, **terms}) for step, terms in enumerate(self.history, start=1))
        (folder / "training_log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def train(
    data: datasets.Dataset,
    config: TrainingConfig,
    *,
    backbone: str | None = None,
    backbone_revision: str | None = None,
    init_from: str | os.PathLike | None = None,
    class_names: Mapping[str, str] | None = None,
    listed_shots: Mapping[str, list[str]] | None = None,
    framings: Mapping[str, FramingRequest] | None = None,
    skip_bad: bool = False,
    work_folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainingRun:
    """Learn one detector for all categories of `data`. Under `accelerate launch`, every process calls it alike.

    Args:
        data: Good photos in the package's schema, the train split.
        config: How to learn.
        backbone: The frozen CLIP, see `anople_hf.backbones`; or None, with `init_from`.
        backbone_revision: Its revision on the Hub.
        init_from: A trained detector whose prompts and decoder training starts from. Its memory is built anew, from
            `data` alone, because its features move.
        class_names: Words for the text prompts, by category; see `class_names_for`.
        listed_shots: Take exactly these photos (paths by category) instead of choosing by seed.
        framings: Region and tiles by category; "" is the only one of a data set with one.
        skip_bad: Skip unreadable photos instead of refusing them.
        work_folder: Where states to resume from and the trackers' logs go; None saves neither.
        resume: Go on from the newest state in `work_folder`.
        progress: Show a bar with the time that is left.

    Raises:
        ValueError: Too few photos, unknown names, settings that contradict each other; says which and what to do.
        FloatingPointError: The loss is not finite; names step, terms and photos.
    """
    if (backbone is None) == (init_from is None):
        raise ValueError("give either a backbone or init_from, a trained detector to start from.")
    if work_folder is None and (resume or config.report_to):
        raise ValueError("resume and report_to need a work_folder for saved states and logs.")
    set_seed(config.seed, deterministic=config.deterministic)
    AcceleratorState._reset_state()  # a second training in one process may ask for another precision
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=None if config.mixed_precision == "no" else config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=list(config.report_to) or None,
        project_config=ProjectConfiguration(str(work_folder)) if work_folder else None,
        # One global batch is split over the processes, so their number does not change what a step sees.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    chosen = choose_shots(
        data,
        config.shots,
        seed=config.seed,
        mode=config.shot_mode,
        nested=config.nested_shots,
        listed=listed_shots,
        skip_bad=skip_bad,
    )
    names = class_names_for(chosen, class_names)
    shots = as_files(data.select([index for indices in chosen.values() for index in indices]))
    turns = config.turns_of(list(names))
    asked = framings_of(framings or {}, list(names))

    model, processor = _start(config, backbone, backbone_revision, init_from)
    photos: dict[str, torch.Tensor] = {}
    readings: dict[str, dict[str, Any]] = {}
    paths_of: dict[str, list[str]] = {}
    for name in names:
        rows = shots.filter(lambda row, wanted=name: row == wanted, input_columns="category")
        photos[name], readings[name] = processor.read_good(
            rows["image"], asked=asked.get(name), grid=model.config.grid_size
        )
        paths_of[name] = list(rows["path"])
        if name in turns:
            readings[name]["turns"] = turns[name]
    framed = {name: framing for name, reading in readings.items() if (framing := Framing.of(reading)) is not None}
    config = config.completed(model.config.backbone, len(shots))
    assert config.max_steps is not None
    prompts = processor.class_prompts(list(names.values()))
    pairs = AnomalyPairs(
        shots,
        processor,
        AnomalySynthesizer(config.anomaly_source, kinds=config.anomaly_kinds, on_product=config.anomalies_on_product),
        length=config.max_steps * config.batch_size,
        multi_scale=config.multi_scale,
        changes=config.normal_views,
        ranges={name: reading["ranges"] for name, reading in readings.items()},
        turns=turns,
        framings=framed,
        seed=config.seed,
    )
    states = work_folder / "states" if work_folder else None
    history = learn(model, pairs, prompts, config, accelerator, states=states, resume=resume, progress=progress)

    if progress and accelerator.is_main_process:
        logger.info("remembering %d photos, and judging each by the others", len(shots))
    model.set_class_names(names, **prompts)
    reports = teach(
        model,
        photos,
        names=paths_of,
        words=names,
        readings=readings,
        false_alarm_rate=config.false_alarm_rate,
        views=config.calibration_views,
        seed=config.seed,
    )
    paths = {category: [data[index]["path"] for index in indices] for category, indices in chosen.items()}
    return TrainingRun(model, processor, paths, history, config, reports)


def framings_of(framings: Mapping[str, FramingRequest], products: list[str]) -> dict[str, FramingRequest]:
    """What is asked for, by the products' names.

    Args:
        framings: Region and tiles by product; "" is the only one of a data set with one.
        products: Those of the data set.

    Raises:
        ValueError: A product is named that is not there, or none is where there are several.
    """
    if "" in framings and len(products) != 1:
        raise ValueError(f"--region and --tiles need a product, such as {products[0]}=...: there are {len(products)}.")
    named = {name or products[0]: wish for name, wish in framings.items()}
    if unknown := sorted(set(named) - set(products)):
        raise ValueError(f"--region or --tiles for {', '.join(unknown)}; the data have {', '.join(products)}.")
    return named


def on_cpu() -> bool:
    """Whether to train on the CPU: no accelerator, or told so. Accelerate has to know before it joins processes."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def _start(
    config: TrainingConfig, backbone: str | None, revision: str | None, init_from: str | os.PathLike | None
) -> tuple[AnoPLeModel, AnoPLeProcessor]:
    if init_from is not None:
        if config.settings:
            raise ValueError(f"settings={config.settings}: what {init_from} is cannot be changed by training it on.")
        model = cast(AnoPLeModel, AnoPLeModel.from_pretrained(init_from, memory=False))
        return model, AnoPLeProcessor.from_pretrained(init_from)
    assert backbone is not None
    model = AnoPLeModel.from_backbone(backbone, revision=revision, **config.settings)
    return model, AnoPLeProcessor.from_backbone(backbone, model.config, revision=revision)
