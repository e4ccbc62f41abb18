"""`Reference`: one remembered photo of a good part, its digest, and the views that are remembered of it.

Where in the paper: sec. 3.4; the views at several places of the patch grid are ours.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, eq=False)
class Reference:
    """One remembered photo.

    Attributes:
        features: (L, n, d) unit vectors: n patches (of all its remembered views) at L layers.
        name: Where the photo came from, or "" if nobody said.
        digest: SHA-256 of its pixels, or "".
    """

    features: Tensor
    name: str = ""
    digest: str = ""


def shifted_views(image: Tensor, count: int, patch: int) -> Tensor:
    """A photo at `count` x `count` evenly spaced places of the patch grid, its border mirrored. Ours.

    How an edge lies in its patch changes the tokens of a small backbone more than many a defect does. A bank that has
    seen a part in several places of the grid does not take that for a defect.

    Args:
        image: (3, H, W).
        count: Places along each axis; 1 gives the photo itself.
        patch: Side of a patch in pixels.

    Returns:
        (count * count, 3, H, W), moved by less than half a patch.

    Example:
        >>> shifted_views(torch.arange(8.0).expand(1, 8, 8), 2, patch=4)[:, 0, 0]
        tensor([[1., 2., 3., 4., 5., 6., 7., 6.],
                [1., 0., 1., 2., 3., 4., 5., 6.],
                [1., 2., 3., 4., 5., 6., 7., 6.],
                [1., 0., 1., 2., 3., 4., 5., 6.]])
    """
    height, width = image.shape[-2:]
    offsets = [round(((i + 0.5) / count - 0.5) * patch) for i in range(count)]
    reach = max(map(abs, offsets))
    padded = F.pad(image[None], (reach,) * 4, mode="reflect")[0]
    return torch.stack([
        padded[:, reach - y : reach - y + height, reach - x : reach - x + width] for y in offsets for x in offsets
    ])  # fmt: skip


def image_digest(image: Tensor) -> str:
    """SHA-256 of one view (3, H, W), taken from its float32 values."""
    return hashlib.sha256(image.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


__all__ = ["Reference", "image_digest", "shifted_views"]
