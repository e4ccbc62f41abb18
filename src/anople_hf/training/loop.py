"""`learn()`: the optimization of prompts and decoder, by Accelerate, on one process or many.

Where in the paper: sec. 3.3 (eq. 8-13). What a step sees follows from its number alone, and every photo counts alike
in every loss term: so neither the number of processes, nor accumulation, nor an interruption changes what is learned.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object, tqdm
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Subset
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import get_cosine_schedule_with_warmup

from ..framing import Framing
from ..modeling_anople import AnoPLeModel, AnoPLeOutput
from ..output.progress import seconds_between
from .configuration import TrainingConfig
from .latent import latent_features, with_latent
from .losses import CHANCE, total_loss
from .pairs import AnomalyPairs, collate_pairs
from .states import TrainingStates

logger = logging.getLogger(__name__)

PARTS = (  # beginnings of names; the first that fits decides
    ("decoder.project.", "project_rate"),
    ("decoder.", "decoder_rate"),
    ("prompts.vision_to_text.", "projection_rate"),
    ("prompts.text_to_vision.", "projection_rate"),
)
"""Which parts of a model have a rate of their own."""
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} steps, {remaining} left"
TOLD = 20
"""How many times a training tells its loss terms, where they are asked for: at the level DEBUG."""


def learn(
    model: AnoPLeModel,
    pairs: AnomalyPairs,
    prompts: Mapping[str, Tensor],
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    states: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train; leaves the weights in `model`, in eval mode on its device.

    Args:
        model: Untrained, or to be trained on.
        pairs: `max_steps` x `batch_size` samples.
        prompts: Class prompts from the processor.
        config: How to learn; `completed` by the number of photos, or else it is taken from its shots.
        accelerator: Made with `gradient_accumulation_steps=config.accumulate` and split batches.
        states: Folder of saved states; None saves none.
        resume: Go on from the newest state there.
        progress: Show a bar with the time that is left. The loss terms go to the trackers, and to this module's
            logger at the level DEBUG.

    Returns:
        Loss terms of each step, means over its photos.

    Raises:
        ValueError: The batch cannot be split evenly over the processes, or Accelerate is set to FSDP.
        FloatingPointError: The loss is not finite; names step, terms and photos. The state before it is saved.
    """
    config = config.completed(model.config.backbone, config.shots * prompts["input_ids"].shape[1])
    assert config.max_steps is not None
    micro = config.batch_size // config.accumulate
    if micro % accelerator.num_processes:
        raise ValueError(
            f"batch_size={config.batch_size} in {config.accumulate} parts cannot be split evenly over "
            f"{accelerator.num_processes} processes; choose a multiple of "
            f"{config.accumulate * accelerator.num_processes}."
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "FSDP cannot shard transformers' CLIPModel (its logit_scale is a scalar), and would save little: CLIP is "
            "frozen, so it has neither gradients nor optimizer states. Choose plain multi-GPU training (DDP), and "
            "--gradient-checkpointing or --mixed-precision bf16 if memory is short."
        )
    if config.project_rate == 0 and model.config.decoder_init == "clip":
        model.decoder.project.requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, round(config.warmup_share * config.max_steps), config.max_steps
    )
    _prepare_towers(model, config)
    wrapped, optimizer = accelerator.prepare(model.train(), optimizer)
    accelerator.register_for_checkpointing(schedule)
    keeper = None
    step = 0
    history: list[dict[str, float]] = []
    if states is not None:
        identity = {"backbone": model.config.backbone, "photos": pairs.names, **config.identity()}
        if framed := [framing.to_dict() for framing in pairs.framings if framing != Framing()]:
            identity["region and tiles"] = framed
        keeper = TrainingStates(states, accelerator, identity, keep=config.keep_checkpoints)
        if resume:
            step, history = keeper.restore()
    rest = Subset(pairs, range(step * config.batch_size, len(pairs)))
    loader = accelerator.prepare(
        DataLoader(rest, batch_size=micro, collate_fn=collate_pairs, num_workers=config.num_workers)
    )
    prompts = {name: value.to(accelerator.device) for name, value in prompts.items()}

    bar = tqdm(
        total=config.max_steps,
        initial=step,
        desc="training",
        bar_format=BAR,
        disable=not progress,
        mininterval=seconds_between(),
    )
    parts: list[dict[str, float]] = []
    often = max(1, config.max_steps // TOLD)
    with bar, logging_redirect_tqdm(), trackers(accelerator, config):
        for batch in loader:
            with accelerator.accumulate(wrapped):
                batch, noise = with_latent(batch, model.config, config)
                with accelerator.autocast():
                    output = wrapped(
                        batch["pixel_values"], branch="prompt", views=batch["views"], noise=noise, **prompts
                    )
                terms = training_losses(output, batch, config, model.config.temperature)
                parts.append(_mean_over_processes(terms, accelerator))
                if not all(map(math.isfinite, parts[-1].values())):
                    if keeper is not None:
                        keeper.save(step, history)
                    names = sorted(set(gather_object(batch["names"])))
                    raise FloatingPointError(
                        f"the loss is not finite at step {step + 1}: {parts[-1]}; photos {names}. Lower the learning "
                        "rate, or train in float32."
                    )
                accelerator.backward(terms["total"])
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            step += 1
            history.append({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})
            parts = []
            accelerator.log(history[-1], step=step)
            if accelerator.is_main_process and (step % often == 0 or step == config.max_steps):
                terms_now = ", ".join(f"{name} {value:.3f}" for name, value in mean_terms(history[-often:]).items())
                logger.debug("step %d of %d: %s", step, config.max_steps, terms_now)
            bar.update()
            if keeper is not None and step % config.checkpoint_every == 0:
                keeper.save(step, history)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # takes autocast off the model's forward again
    _release_towers(model, config)
    model.eval()
    return history


def mean_terms(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The loss terms of some steps, averaged."""
    return {name: sum(terms[name] for terms in history) / len(history) for name in history[0]}


def above_chance(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Which loss terms end above what guessing costs: such a term has taught nothing, and may hold others back.

    Args:
        history: Of `learn`; its last fifth is looked at.

    Returns:
        Their means there, by name.
    """
    last = mean_terms(history[-max(1, len(history) // 5) :])
    return {name: last[name] for name, chance in CHANCE.items() if last[name] > chance}


def training_losses(
    output: AnoPLeOutput, batch: Mapping[str, Any], config: TrainingConfig, temperature: float
) -> dict[str, Tensor]:
    """Eq. 8-13 on one batch of views.

    Args:
        output: Of the model's trainable path, `branch="prompt"` with class prompts.
        batch: From `with_latent`.
        config: Alignment and latent noise.
        temperature: tau of eq. 9.
    """
    assert output.decoder_maps is not None and output.patch_features is not None  # branch="prompt" gives them
    assert output.text_features is not None and output.image_features is not None
    views = len(batch["labels"])  # latent anomalies stand behind them
    height, width = output.decoder_maps.shape[-2:]
    latent, latent_photos = latent_features(output.image_features, batch, config)
    masks = F.adaptive_avg_pool2d(batch["masks"].float()[:, None], (height, width))[:, 0]  # a cell's anomalous share
    return total_loss(
        image_features=output.image_features[:views],
        patch_features=output.patch_features[:views],
        abnormal_probability=output.decoder_maps[:views],
        text_features=output.text_features,
        masks=masks,
        labels=batch["labels"],
        latent_features=latent,
        photos=batch["photos"],
        latent_photos=latent_photos,
        temperature=temperature,
        align_mode="mean" if config.alignment == "mean" else "weighted",
        align_channel=config.align_channel,
        weights={"align": 0.0} if config.alignment == "none" else None,
    )


def parameter_groups(model: torch.nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """What learns, in groups with their own rate and decay: vectors (prompts, prefix, biases, norms) do not decay.

    Args:
        model: What of it learns is what asks for gradients.
        config: `completed`; rates and decay.
    """
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next((rate for start, rate in PARTS if name.startswith(start)), "")
            groups.setdefault((part, name.endswith("weight") and parameter.ndim > 1), []).append(parameter)
    shares = {"": 1.0, **{part: getattr(config, part) for _, part in PARTS}}
    shares["project_rate"] = shares["project_rate"] or shares["decoder_rate"]  # at 0 it learns if it starts from noise
    return [
        {
            "params": found,
            "lr": shares[part] * config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (part, decays), found in groups.items()
    ]


@contextmanager
def trackers(accelerator: Accelerator, config: TrainingConfig) -> Iterator[None]:
    """Start the asked trackers, and close them however training ends."""
    if config.report_to:
        accelerator.init_trackers("anople", config={k: str(v) for k, v in config.identity().items()})
    try:
        yield
    finally:
        if config.report_to:
            accelerator.end_training()


def _prepare_towers(model: AnoPLeModel, config: TrainingConfig) -> None:
    if config.gradient_checkpointing:
        model.clip.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.compile:
        for tower in (model.clip.vision_model, model.clip.text_model):
            tower.compile(backend=config.compile)  # in place: names of weights stay


def _release_towers(model: AnoPLeModel, config: TrainingConfig) -> None:
    if config.gradient_checkpointing:
        model.clip.activation_checkpointing_disable()


def _mean_over_processes(terms: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    values = accelerator.reduce(torch.stack([term.detach() for term in terms.values()]), reduction="mean")
    return dict(zip(terms, values.tolist(), strict=True))
