"""Tensors of framed photos: views cut from a canvas, and one map of it from the maps of the views. See `framing.py`.

A canvas (B, C, h, w) is a photo at the size that its tiles are cut from; `side` is that of a view, in pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .framing import Framing
from .scoring import smooth


def mask_of(framing: Framing, side: int) -> Tensor | None:
    """(h, w) bool on the canvas: what counts; None if all of it does."""
    mask = framing.mask(side)
    return None if mask is None else torch.from_numpy(mask)


def only(framing: Framing, canvas: Tensor, side: int) -> Tensor:
    """A canvas or its map (..., h, w) with 0 where it does not count: for normalized pixels, CLIP's mean color."""
    mask = mask_of(framing, side)
    return canvas if mask is None else torch.where(mask.to(canvas.device), canvas, 0)


def continued(framing: Framing | None, canvas: Tensor, side: int) -> Tensor:
    """A canvas (..., h, w), beyond the region as in a mirror, that is to be moved or turned: see `Framing.sources`."""
    found = framing.sources(side) if framing else None
    return canvas if found is None else canvas[..., torch.from_numpy(found[0]), torch.from_numpy(found[1])]


def cut(framing: Framing, canvas: Tensor, side: int) -> Tensor:
    """(B, T, C, side, side): the tiles of a canvas, row by row.

    Example:
        >>> cut(Framing(rows=2, columns=3), torch.zeros(1, 3, 450, 660), 240).shape
        torch.Size([1, 6, 3, 240, 240])
    """
    corners = framing.corners(side)
    return torch.stack([canvas[..., top : top + side, left : left + side] for top, left in corners], dim=1)


def whole(canvas: Tensor, side: int) -> Tensor:
    """The model's square (B, C, side, side) of all of a canvas."""
    if tuple(canvas.shape[-2:]) == (side, side):
        return canvas
    return F.interpolate(canvas.float(), size=(side, side), mode="bicubic", antialias=True).to(canvas.dtype)


def counting_cells(framing: Framing, side: int, grid: int) -> Tensor:
    """(T, grid, grid) bool: cells of the tiles of which at least half counts; if there are none, all with anything."""
    mask = mask_of(framing, side)
    if mask is None:
        return torch.ones(framing.rows * framing.columns, grid, grid, dtype=torch.bool)
    share = F.adaptive_avg_pool2d(cut(framing, mask[None, None].float(), side)[0], grid)[:, 0]
    return share >= 0.5 if (share >= 0.5).any() else share > 0


def stitch(framing: Framing, maps: Tensor) -> Tensor:
    """One map (B, h, w) of the canvas from those of its tiles (B, T, side, side); 0 where it does not count.

    Where tiles overlap, the value fades from one into the next: each counts by how far it is from its tile's edge.
    """
    side = maps.shape[-1]
    ramp = torch.arange(1, side + 1, device=maps.device, dtype=maps.dtype)
    tent = torch.minimum(ramp, ramp.flip(0))
    weight = tent[:, None] * tent
    total = maps.new_zeros(maps.shape[0], *framing.canvas(side))
    weights = maps.new_zeros(framing.canvas(side))
    for number, (top, left) in enumerate(framing.corners(side)):
        total[:, top : top + side, left : left + side] += maps[:, number] * weight
        weights[top : top + side, left : left + side] += weight
    return only(framing, total / weights.clamp_min(1e-6), side)


def smooth_within(framing: Framing, maps: Tensor, sigma: float, side: int) -> Tensor:
    """Maps (B, h, w) of the canvas, blurred as `scoring.smooth` does, but not across the border of the region."""
    mask = mask_of(framing, side)
    if mask is None or sigma == 0:
        return smooth(maps, sigma)
    inside = smooth(mask[None].to(maps.device, maps.dtype), sigma).clamp_min(1e-6)
    return only(framing, smooth(maps, sigma) / inside, side)


__all__ = ["continued", "counting_cells", "cut", "mask_of", "only", "smooth_within", "stitch", "whole"]
