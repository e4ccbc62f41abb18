"""Latent anomalies: good views that noise makes abnormal, inside the encoder or behind it.

Where in the paper: sec. 3.3.2 and eq. 10, z_latent = z+ + eps. Which z is meant is open: eq. 4 calls the
encoder's input z_0, eq. 9 its output.

Behind the encoder, small noise of mean zero on a unit vector hardly changes a cosine difference: the expected logit
is 0.94 of the good view's, so no two text vectors tell them apart. In front of frozen layers it becomes something
that the layers respond to.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..configuration_anople import LOCAL_VIEWS, AnoPLeConfig
from .configuration import TrainingConfig
from .synthesis import latent_anomalies


def with_latent(
    batch: Mapping[str, Any], model: AnoPLeConfig, config: TrainingConfig
) -> tuple[dict[str, Any], tuple[int, Tensor] | None]:
    """A batch with the views that become latent anomalies inside the encoder, and the noise that makes them so.

    One for each good photo, of its global view, which is what is judged later: a tenth more work, not as much again.

    Args:
        batch: From `collate_pairs`.
        model: Depth, width and grid of its tower.
        config: `latent_noise`, and how much.

    Returns:
        The batch; `pixel_values` and `views` have the latent ones behind, `made_latent` (B,) tells which they are.
        Layer and noise for `AnoPLeModel.forward`, or None without any.
    """
    inside = config.latent_noise in ("patches", "middle")
    chosen = (batch["labels"] == 0) & (batch["views"] == LOCAL_VIEWS) & inside
    extended = {**batch, "made_latent": chosen}
    if not chosen.any():
        return extended, None
    for name in ("pixel_values", "views"):
        extended[name] = torch.cat([batch[name], batch[name][chosen]])
    shape = (model.grid_size**2, model.vision_config.hidden_size)
    numbers = batch["photos"][chosen].tolist()
    noise = torch.stack([_noise(shape, number, config, batch["pixel_values"].device) for number in numbers])
    return extended, (model.vision_config.num_hidden_layers // 2 * (config.latent_noise == "middle"), noise)


def _noise(shape: tuple[int, ...], number: int, config: TrainingConfig, device: torch.device) -> Tensor:
    """A photo's noise follows from its number alone."""
    assert config.latent_sigma is not None
    generator = _generator(number, config, device)
    return torch.empty(shape, device=device).normal_(config.latent_mean, config.latent_sigma, generator=generator)


def _generator(number: int, config: TrainingConfig, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(config.seed * 1_000_003 + number)


def latent_features(features: Tensor, batch: Mapping[str, Any], config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """z_latent, and which photo each shows.

    Args:
        features: z_0 of all views, the latent ones behind; or without these, then one is made of each normal view.
        batch: From `with_latent`.
        config: How they are made.
    """
    if config.latent_noise != "image":
        return features[len(batch["labels"]) :], batch["photos"][batch["made_latent"]]
    assert config.latent_sigma is not None
    found = []
    for number in batch["photos"].unique_consecutive().tolist():
        generator = _generator(number, config, features.device)
        normal = (batch["photos"] == number) & (batch["labels"] == 0)
        found.append(latent_anomalies(features[normal], config.latent_sigma, config.latent_mean, generator))
    return torch.cat(found), batch["photos"][batch["labels"] == 0]
