"""Texture descriptors that the tiny CLIP is taught: oriented wave energies over five octaves, and colours.

Where in the paper: nowhere, this is ours. On drawn products, a memory bank (eq. 14) of such descriptors finds far more
defects than one of tokens learnt by contrast alone in the minutes that a CPU affords; so tokens are taught to be them.

The descriptors of a patch look a little beyond it and do not depend on where in the patch a wave begins, nor, but for
one value an octave, on its direction. That is what lets four photos stand for a product.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS, OCTAVES, SIGMA = 4, 5, 1.0
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
"""Brightness, red against green, yellow against blue."""


def describe(images: Tensor, cells: int, reach: float) -> Tensor:
    """Descriptors of a grid of patches.

    Args:
        images: (B, 3, S, S) in 0..1.
        cells: Patches along a side.
        reach: Deviation of the Gaussian that gathers a patch's surroundings, in pixels.

    Returns:
        (B, cells * cells, 24): for each octave the mean amplitude of brightness and its spread over
        directions, and, but for the finest, of both colours; then blurred colours at 2 pixels and at `reach`.
    """
    colours = torch.einsum("bchw,dc->bdhw", images, torch.tensor(OPPONENT, device=images.device))
    waves, level, found = _waves().to(images.device), colours, []
    radius = waves.shape[-1] // 2
    for octave in range(OCTAVES):
        for channel in range(3 if octave else 1):
            padded = F.pad(level[:, channel : channel + 1], (radius,) * 4, mode="reflect")
            energy = F.conv2d(padded, waves).unflatten(1, (DIRECTIONS, 2)).square().sum(dim=2).sqrt()
            mean = energy.mean(dim=1, keepdim=True)
            values = mean if channel else torch.cat([mean, energy.std(dim=1, keepdim=True)], dim=1)
            found.append(_gather(values, cells, reach / 2**octave).sqrt())
        level = F.avg_pool2d(level, 2)
    found += [2 * _gather(colours, cells, spread) for spread in (2.0, reach)]
    return torch.cat(found, dim=1).flatten(2).mT


def _waves() -> Tensor:
    """Pairs of even and odd Gabor waves (2 * DIRECTIONS, 1, k, k), of no mean and unit absolute sum."""
    radius = int(3 * SIGMA)
    y, x = torch.meshgrid(*[torch.arange(-radius, radius + 1.0)] * 2, indexing="ij")
    window = torch.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    waves = []
    for direction in range(DIRECTIONS):
        angle = math.pi * direction / DIRECTIONS
        along = (x * math.cos(angle) + y * math.sin(angle)) * 2 / SIGMA
        for wave in (torch.cos(along) * window, torch.sin(along) * window):
            wave = wave - window * wave.sum() / window.sum()
            waves.append(wave / wave.abs().sum())
    return torch.stack(waves)[:, None]


def _gather(values: Tensor, cells: int, spread: float) -> Tensor:
    """Values (B, C, H, W) blurred by `spread` of their pixels, at the centres of a grid of cells."""
    spread = max(spread, 0.5)
    radius = min(math.ceil(3 * spread), values.shape[-1] - 1)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1.0, device=values.device) / spread) ** 2)
    line, count = line / line.sum(), values.shape[1]
    values = F.pad(values, (radius,) * 4, mode="replicate")
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        values = F.conv2d(values, line.view(shape).repeat(count, 1, 1, 1), groups=count)
    centre = (torch.arange(cells, device=values.device) + 0.5) / cells * 2 - 1
    grid = torch.stack(torch.meshgrid(centre, centre, indexing="ij")[::-1], dim=-1)
    return F.grid_sample(values, grid.expand(len(values), -1, -1, -1), align_corners=False, padding_mode="border")
