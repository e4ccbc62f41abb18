"""What a training is resumed from: weights, optimizers and step, replaced in one go."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.optim import Optimizer
from transformers import CLIPModel


def save_state(
    path: Path, clip: CLIPModel, optimizers: Sequence[Optimizer], step: int, steps: int, hours: float
) -> None:
    """Write `path`, with the place in a training of `steps`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {"clip": clip.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
             "step": step, "steps": steps, "hours": hours}  # fmt: skip
    torch.save(saved, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def load_state(
    path: Path, clip: CLIPModel, optimizers: Sequence[Optimizer], steps: int | None = None
) -> tuple[int, float]:
    """Go on from `path`: its step and hours, or 0 and 0 if there is none (or none of a training of `steps`)."""
    saved = torch.load(path, weights_only=True) if path.exists() else None
    if saved is None or saved["steps"] != (steps or saved["steps"]):
        return 0, 0.0
    clip.load_state_dict(saved["clip"])
    for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return saved["step"], saved["hours"]
