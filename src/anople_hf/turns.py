"""`turned`: good photos as if their part lay at another angle. For parts that lie as they fall; ours.

A memory of parts in one position finds a turned one strange. So the memory, thresholds and training get turned copies.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

COPIES = {"none": 1, "4": 4, "8": 8, "free": 16}
"""Turned copies of a photo in the memory, at equal angles; the first is the photo itself. `free`: each 22.5 degrees,
so that no angle is farther than 11.25 from a copy; at random angles, training and thresholds see those between, too.
Ours."""


def named_turns(turns: str | int) -> str:
    """One of `COPIES`, also from a number.

    Raises:
        ValueError: It is none.
    """
    if str(turns) not in COPIES:
        raise ValueError(f"turns={turns!r}: expected 4 (right angles), 8 (and those between), free, or none.")
    return str(turns)


def turned(images: Tensor, degrees: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Turn views about their center, counterclockwise, as if the part had been turned under the camera.

    Right angles of square photos, and half turns, move pixels and change none. Other angles are bilinear; what comes
    into view at the border is the border's own pixels again.

    Args:
        images: (B, 3, H, W) views, each of a whole photo.
        degrees: (B,) angles.
        size: (width, height) of the photos that were squeezed into the views; None: they were square.

    Example:
        >>> view = torch.arange(12.0).view(1, 3, 2, 2)
        >>> bool((turned(view, torch.tensor([90.0])) == view.rot90(1, (2, 3))).all())
        True
    """
    width, height = size or (1, 1)
    quarters = degrees / 90
    square = width == height and images.shape[-2] == images.shape[-1]
    exact = (quarters == quarters.round()) & ((quarters % 2 == 0) | square)
    cos, sin = (degrees * math.pi / 180).cos(), (degrees * math.pi / 180).sin()
    zero = torch.zeros_like(cos)
    theta = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).to(images.dtype)
    for place in exact.nonzero()[:, 0].tolist():
        moved[place] = images[place].rot90(int(quarters[place]), (1, 2))
    return moved


def turned_copies(image: Tensor, reading: Mapping[str, Any]) -> Tensor:
    """A photo in all positions that its product may lie in, itself first.

    Args:
        image: (3, S, S) view.
        reading: Of its product, see `Product.reading`: its `turns` and its photos' `size`.

    Returns:
        (copies, 3, S, S).
    """
    count = COPIES[reading.get("turns", "none")]
    if count == 1:
        return image[None]
    degrees = torch.arange(count) * (360 / count)
    return turned(image.expand(count, -1, -1, -1), degrees, reading.get("size"))


def draw_degrees(turns: str, count: int, generator: torch.Generator) -> Tensor:
    """(count,) angles at random, out of those that a part with these `turns` lies in."""
    share = torch.rand(count, generator=generator)
    return 360 * share if turns == "free" else (COPIES[turns] * share).floor() * (360 / COPIES[turns])


__all__ = ["COPIES", "draw_degrees", "named_turns", "turned", "turned_copies"]
