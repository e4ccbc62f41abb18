"""Scores and anomaly maps: pure functions on tensors.

Where in the paper: eq. 9 (image probability), eq. 15 (fusion of the maps), eq. 16 (score).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

EPSILON = 1e-6
"""Smallest value of a factor in a fusion: a patch that equals its reference gives 1 - cos slightly below 0 in
float32."""


class Seen(NamedTuple):
    """What the towers and the decoder make of views; a branch that is left out leaves its fields None.

    Attributes:
        probability: (B,) p-hat.
        decoder_map: (B, h, w) M-hat.
        remembered: (B, L, n, d) what the memory compares.
        image_features: (B, d).
        patch_features: (B, d, h, w).
        text_features: (2, d).
    """

    probability: Tensor | None = None
    decoder_map: Tensor | None = None
    remembered: Tensor | None = None
    image_features: Tensor | None = None
    patch_features: Tensor | None = None
    text_features: Tensor | None = None


def abnormal_probability(features: Tensor, text_features: Tensor, temperature: float) -> Tensor:
    """Softmax over {normal, abnormal} of cosine / temperature; the abnormal channel (eq. 9, and M-hat of eq. 8).

    Args:
        features: (B, d) image features or (B, d, h, w) decoder features, any length.
        text_features: (2, d) unit vectors w+ and w-.
        temperature: tau > 0.

    Returns:
        (B,) or (B, h, w) in 0..1, float32.

    Example:
        >>> abnormal_probability(torch.tensor([[1.0, 1.0]]), torch.eye(2), temperature=0.07)
        tensor([0.5000])
    """
    features = F.normalize(features.float(), dim=1)
    # Two classes: the softmax is the sigmoid of the difference, one product instead of two.
    direction = (text_features[1] - text_features[0]).float()
    return torch.sigmoid(torch.einsum("bd...,d->b...", features, direction) / temperature)


def fuse(a: Tensor, b: Tensor) -> Tensor:
    """1 / (1/a + 1/b), the paper's harmonic mean without the factor 2 (eq. 15, 16).

    Example:
        >>> round(fuse(torch.tensor(0.8), torch.tensor(0.2)).item(), 6)
        0.16
    """
    return 1.0 / (1.0 / a.clamp_min(EPSILON) + 1.0 / b.clamp_min(EPSILON))


def image_scores(fused: Tensor, probability: Tensor | None) -> Tensor:
    """(B,) of eq. 16: the highest value of each map (B, h, w), fused with p-hat (B,) where there is one.

    Example:
        >>> image_scores(torch.tensor([[[0.2, 0.5]]]), torch.tensor([0.5]))
        tensor([0.2500])
    """
    peak = fused.flatten(1).amax(dim=1)
    return peak if probability is None else fuse(probability, peak)


def resize_map(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Bilinear resize of maps (B, h, w) to `size` (side, or height and width) pixels."""
    size = (size, size) if isinstance(size, int) else size
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def shrink_map(maps: Tensor, side: int) -> Tensor:
    """Maps (B, H, W) at `side` x `side` pixels, each a weighted mean of all that it covers."""
    if tuple(maps.shape[-2:]) == (side, side):
        return maps
    return F.interpolate(maps[:, None], size=(side, side), mode="bilinear", antialias=True)[:, 0]


def fuse_maps(decoder_map: Tensor | None, memory_map: Tensor | None, side: int) -> Tensor:
    """M_q of eq. 15, before blurring; the only map if one branch stands alone.

    Both maps are enlarged first. On the decoder's grid of twice the patches, where no cell lies on a patch's center, a
    peak of one patch would keep 0.56 of its height; at 16 pixels a patch it keeps 0.94.

    Args:
        decoder_map: (B, h, h), or None.
        memory_map: (B, g, g), or None, but not both.
        side: Of the view, in pixels: where the maps are fused and the score's maximum is taken.

    Returns:
        (B, side, side); the only map as it is.
    """
    maps = [found for found in (decoder_map, memory_map) if found is not None]
    return maps[0] if len(maps) == 1 else fuse(*(resize_map(found, side) for found in maps))


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (B, H, W) by `sigma` pixels, edges replicated; 0 leaves them as they are.

    Example:
        >>> flat = torch.full((1, 8, 8), 0.25)
        >>> torch.allclose(smooth(flat, 2.0), flat)
        True
    """
    if sigma == 0:
        return maps
    rows, columns = (blur_matrix(side, sigma).to(maps.device, maps.dtype) for side in maps.shape[-2:])
    return rows @ maps @ columns.T


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept has to serve calls with gradients, too
def blur_matrix(side: int, sigma: float) -> Tensor:
    """(side, side) weights of a 1-D Gaussian blur, three sigmas wide, edges replicated; each row adds up to 1.

    As a matrix product the blur takes the same short time at every batch size; a convolution of one channel does not.
    """
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    sources = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)
    weights = (kernel / kernel.sum()).expand(side, -1)
    return torch.zeros(side, side).scatter_add_(1, sources, weights)
