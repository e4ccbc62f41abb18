"""`train()`: learn prompts and decoder from a few good photos, then build the memory and calibrate.

Where in the paper: sec. 3.3 for the objective (eq. 8-13), sec. 4.1 for the views. The optimiser and its schedule are
not published; the values here are ours.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import accelerate
import datasets
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed, tqdm
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from .calibration import calibrate
from .class_names import class_names_for
from .data.few_shot import choose_shots, write_shots
from .losses import total_loss
from .modeling_anople import AnoPLeModel, AnoPLeOutput
from .pairs import AnomalyPairs, collate_pairs
from .processing_anople import AnoPLeProcessor
from .synthesis import AnomalySynthesizer, latent_anomalies

logger = logging.getLogger(__name__)


@dataclass
class TrainingConfig:
    """How a run learns. What the model is stands in `AnoPLeConfig`.

    Attributes:
        shots: k, good photos per category.
        seed: Fixes shots, initial prompts, pseudo anomalies and their order.
        max_steps: Optimiser steps. Ours.
        batch_size: Good photos a step, over all processes; each becomes 2 x 5 views. Ours.
        learning_rate: AdamW's peak. Ours.
        weight_decay: AdamW's, on projections and decoder weights. Ours.
        warmup_share: Share of the steps with a rising rate, then cosine to 0. Ours.
        anomaly_source: Texture of the pseudo anomalies, see `anople_hf.synthesis`.
        latent_sigma: Deviation of the latent anomalies on the unit sphere (eq. 10); SimpleNet's 0.015.
        multi_scale: Train on global and local views (Table 4c).
        alignment: L_align with the `weighted` sum (the paper's), the `mean`, or `none` (Table 4b).
        mixed_precision: `no`, `fp16` or `bf16`.
        num_workers: Processes that prepare samples.
        false_alarm_rate: Asked share of good parts called defective.
        calibration_views: Views scored per good photo for the thresholds.
        settings: Fields of `AnoPLeConfig` that differ from their defaults.
    """

    shots: int = 4
    seed: int = 0
    max_steps: int = 200
    batch_size: int = 2
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    anomaly_source: str = "mixed"
    latent_sigma: float = 0.015
    multi_scale: bool = True
    alignment: Literal["weighted", "mean", "none"] = "weighted"
    mixed_precision: str = "no"
    num_workers: int = 0
    false_alarm_rate: float = 0.05
    calibration_views: int = 8
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("shots", "max_steps", "batch_size", "calibration_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")
        if self.alignment not in ("weighted", "mean", "none"):
            raise ValueError(f"alignment={self.alignment!r}: expected 'weighted', 'mean' or 'none'.")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate={self.false_alarm_rate}: expected a share between 0 and 1.")


@dataclass
class TrainingRun:
    """What `train()` gives back.

    Attributes:
        model: Trained, with memory, text vectors and thresholds.
        processor: Its processor.
        shots: The chosen photos by category, as paths.
        history: One dict of loss terms per step.
        config: How it was trained.
    """

    model: AnoPLeModel
    processor: AnoPLeProcessor
    shots: dict[str, list[str]]
    history: list[dict[str, float]]
    config: TrainingConfig

    def save(self, folder: Path) -> None:
        """Write checkpoint, processor, `shots.json`, `training_args.json` and `training_log.jsonl` into `folder`."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_shots(folder / "shots.json", self.shots, shots=self.config.shots, seed=self.config.seed)
        versions = {m.__name__: m.__version__ for m in (torch, transformers, accelerate, datasets)}
        arguments = {"backbone": self.model.config.backbone, **asdict(self.config), "versions": versions}
        (folder / "training_args.json").write_text(json.dumps(arguments, indent=2) + "\n")
        lines = (json.dumps({"step": step, **terms}) for step, terms in enumerate(self.history, start=1))
        (folder / "training_log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def train(
    data: datasets.Dataset,
    config: TrainingConfig,
    *,
    backbone: str,
    backbone_revision: str | None = None,
    class_names: Mapping[str, str] | None = None,
    listed_shots: Mapping[str, list[str]] | None = None,
    skip_bad: bool = False,
) -> TrainingRun:
    """Learn one detector for all categories of `data`.

    Args:
        data: Good photos in the package's schema, the train split.
        config: How to learn.
        backbone: The frozen CLIP, see `anople_hf.backbones`.
        backbone_revision: Its revision on the Hub.
        class_names: Words for the text prompts, by category; see `class_names_for`.
        listed_shots: Take exactly these photos (paths by category) instead of choosing by seed.
        skip_bad: Skip unreadable photos instead of refusing them.

    Raises:
        ValueError: Too few photos, unknown names; says which and what to do.
        FloatingPointError: The loss is not finite; names step, terms and photos.
    """
    set_seed(config.seed)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # One global batch is split over the processes, so their number does not change what a step sees.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    chosen = choose_shots(data, config.shots, seed=config.seed, listed=listed_shots, skip_bad=skip_bad)
    names = class_names_for(chosen, class_names)
    shots = data.select([index for indices in chosen.values() for index in indices])

    model = AnoPLeModel.from_backbone(backbone, revision=backbone_revision, **config.settings)
    processor = AnoPLeProcessor.from_backbone(backbone, model.config, revision=backbone_revision)
    prompts = processor.class_prompts(list(names.values()))
    history = _learn(model, processor, shots, prompts, config, accelerator)

    model.set_class_names(names, **prompts)
    photos = {}
    for category in names:
        rows = shots.filter(lambda row, wanted=category: row == wanted, input_columns="category")
        photos[category] = processor(images=list(rows["image"]))["pixel_values"]
        model.memorize(photos[category], category, names=list(rows["path"]))
    calibrate(
        model,
        photos,
        false_alarm_rate=config.false_alarm_rate,
        views=config.calibration_views,
        seed=config.seed,
    )
    paths = {category: [data[index]["path"] for index in indices] for category, indices in chosen.items()}
    return TrainingRun(model, processor, paths, history, config)


def _learn(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    shots: datasets.Dataset,
    prompts: Mapping[str, Tensor],
    config: TrainingConfig,
    accelerator: Accelerator,
) -> list[dict[str, float]]:
    """The optimisation; leaves the trained weights in `model`, in eval mode on its device."""
    pairs = AnomalyPairs(
        shots,
        processor,
        AnomalySynthesizer(config.anomaly_source),
        length=config.max_steps * config.batch_size,
        multi_scale=config.multi_scale,
        seed=config.seed,
    )
    loader = DataLoader(pairs, batch_size=config.batch_size, collate_fn=collate_pairs, num_workers=config.num_workers)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, round(config.warmup_share * config.max_steps), config.max_steps
    )
    wrapped, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    prompts = {name: value.to(accelerator.device) for name, value in prompts.items()}

    history: list[dict[str, float]] = []
    bar = tqdm(loader, desc="learning", unit="step", main_process_only=True)
    for step, batch in enumerate(bar):
        with accelerator.autocast():
            output = wrapped(batch["pixel_values"], branch="prompt", views=batch["views"], **prompts)
        terms = training_losses(
            output,
            batch,
            config,
            model.config.temperature,
            step * accelerator.num_processes + accelerator.process_index,
        )
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not torch.isfinite(terms["total"]):
            raise FloatingPointError(f"the loss is not finite at step {step + 1}: {values}; photos {batch['names']}.")
        accelerator.backward(terms["total"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        history.append(values)
        bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
    model.eval()
    return history


def training_losses(
    output: AnoPLeOutput, batch: Mapping[str, Any], config: TrainingConfig, temperature: float, draw: int
) -> dict[str, Tensor]:
    """Eq. 8-13 on one batch of views.

    Args:
        output: Of the model's trainable path, `branch="prompt"` with class prompts.
        batch: From `collate_pairs`.
        config: Alignment and latent noise.
        temperature: tau of eq. 9.
        draw: Number that, with the seed, fixes the latent noise.
    """
    assert output.decoder_maps is not None and output.patch_features is not None  # branch="prompt" gives them
    assert output.text_features is not None
    height, width = output.decoder_maps.shape[-2:]
    masks = F.adaptive_avg_pool2d(batch["masks"].float()[:, None], (height, width))[:, 0]  # a cell's anomalous share
    labels = batch["labels"]
    generator = torch.Generator(output.image_features.device).manual_seed(config.seed * 1_000_003 + draw)
    latent = latent_anomalies(output.image_features[labels == 0], config.latent_sigma, generator=generator)
    return total_loss(
        image_features=output.image_features,
        patch_features=output.patch_features,
        abnormal_probability=output.decoder_maps,
        text_features=output.text_features,
        masks=masks,
        labels=labels,
        latent_features=latent,
        temperature=temperature,
        align_mode="mean" if config.alignment == "mean" else "weighted",
        weights={"align": 0.0} if config.alignment == "none" else None,
    )


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What learns, in two groups: matrices decay, vectors (prompts, prefix, biases, norms) do not."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p for name, p in learning if name.endswith("weight") and p.ndim > 1]
    others = [p for name, p in learning if not (name.endswith("weight") and p.ndim > 1)]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
