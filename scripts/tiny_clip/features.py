"""First phase: the trunk's tokens learn the teacher's patch features, by squared error plus cosine.

Muon turns the blocks' matrices, AdamW everything else. The rate is constant and falls to 0 over the last 30 % of the
views; the state from before the fall is kept, so that a longer training can go on from there.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from states import load_state, save_state
from student import EXTRA, TRUNK, trunk_tokens
from supply import Supply, Views
from teacher import GRID, WIDTH
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import CLIPModel

FALL = 0.3
"""Share of the views over which the rate falls to 0."""


def trunk_optimizers(clip: CLIPModel) -> list[Optimizer]:
    """Muon for the matrices of the trunk's blocks, AdamW for all else that the trunk's tokens depend on."""
    tower = clip.vision_model
    inside = [p for layer in tower.encoder.layers[:TRUNK] for p in layer.parameters()]
    small = [p for p in inside if p.ndim != 2] + [*tower.pre_layrnorm.parameters()]
    groups = [{"params": small, "lr": 1e-3}, {"params": [*tower.embeddings.parameters()], "lr": 3e-4}]
    return [
        torch.optim.Muon([p for p in inside if p.ndim == 2], lr=0.02, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def agreement(tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, explained variance (R2) and cosine of tokens (B, 225, 256) with the teacher's features."""
    error = (tokens - features).square().mean() / features.square().mean()
    cosine = F.cosine_similarity(tokens, features, dim=-1).mean()
    return error + (1 - cosine), 1 - error, cosine


def random_extra(generator: torch.Generator, device: str) -> list[Tensor]:
    """Tokens as AnoPLe appends them, so that prompts do not disturb the features."""
    size = 0.02 * 15 ** float(torch.rand((), generator=generator))
    return list((torch.randn(TRUNK, EXTRA, WIDTH, generator=generator) * size).to(device))


def learn_features(
    clip: CLIPModel,
    supply: Callable[[int], Supply],
    held_back: Views,
    *,
    total: int,
    batch: int,
    state: Path,
    device: str,
    seed: int,
    report: Callable[[int, float], None],
    compiled: bool,
) -> None:
    """Train the trunk in place until `total` views, from `state` if it is there.

    Args:
        clip: The student.
        supply: Makes the supply of views for a step to start from.
        held_back: Views of photos that are never trained on, for R2 and cosine.
        total: Views to train for.
        batch: Views a step.
        state: Folder for states.
        device: Where to train.
        seed: Of the extra tokens.
        report: Called every 512 steps with views and hours, to measure on the way.
        compiled: Whether to compile the trunk.
    """
    steps = total // batch
    falls = int(steps * (1 - FALL))
    optimizers = trunk_optimizers(clip)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    # A state whose rate has begun to fall is of use for the same number of views only.
    steady, falling = state / "steady.pt", state / "falling.pt"
    step, hours = load_state(falling, clip, optimizers, steps)
    if not step:
        step, hours = load_state(steady, clip, optimizers)
        if step > falls:
            raise ValueError(
                f"{steady} has seen {step * batch:,} views at the full rate: ask for more than {total:,}."
            )
    if step == steps:
        return
    source, started = supply(step), time.time() - 3600 * hours
    run = torch.compile(trunk_tokens) if compiled else trunk_tokens
    target = held_back.features.flatten(1, 2).float()
    seen = 0.0
    while step < steps:
        share = min(1.0, (step + 1) / 100) * min(1.0, (steps - step) / (steps - falls))
        for group, rate in zip((g for o in optimizers for g in o.param_groups), rates, strict=True):
            group["lr"] = rate * share
        views = source.next().to(device)
        generator = torch.Generator().manual_seed(seed * 104729 + step)
        extra = random_extra(generator, device) if step % 2 else None
        with torch.autocast(device, torch.bfloat16):
            tokens = run(clip, views.image, extra)
        loss, explained, _ = agreement(tokens[:, 1 : 1 + GRID**2].float(), views.features.flatten(1, 2).float())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        seen = explained.item() if not seen else 0.95 * seen + 0.05 * explained.item()
        if step % 32 == 0 or step == steps:
            hours = (time.time() - started) / 3600
            left = hours / step * (steps - step)
            print(
                f"features {step * batch:,} of {total:,} views, {hours:.2f} h, {left:.2f} h left, R2 {seen:.3f}",
                flush=True,
            )
        if step % 128 == 0 or step in (falls, steps):
            save_state(
                steady if step <= falls else falling, clip, optimizers, step, steps, (time.time() - started) / 3600
            )
        if step % 512 == 0 or step == steps:
            with torch.no_grad():
                parts = [trunk_tokens(clip, p.to(device))[:, 1:].cpu() for p in held_back.image.split(16)]
                _, explained, cosine = agreement(torch.cat(parts), target)
            print(f"held back at {step * batch:,} views: R2 {explained:.3f}, cosine {cosine:.3f}", flush=True)
            report(step * batch, (time.time() - started) / 3600)
