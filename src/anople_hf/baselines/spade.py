"""SPADE (Cohen and Hoshen, 2020): distance to the nearest photos, then to the patches of these photos alone.

A row of Table 1, here with CLIP's tokens in place of a ResNet's pyramid.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .frozen import Features, FrozenDetector


class Spade(FrozenDetector):
    """Image score: mean distance of the image feature to its K nearest photos. Map: distance to their nearest patch.

    Args:
        neighbors: K; None takes the number of photos per product, because the original K = 50 is for whole data sets.
        others: As for `FrozenDetector`.
    """

    title: ClassVar[str] = "SPADE"

    def __init__(self, *args: Any, neighbors: int | None = None, **others: Any) -> None:
        super().__init__(*args, **others)
        if neighbors is not None and neighbors < 1:
            raise ValueError(f"neighbors={neighbors}: expected at least 1.")
        self.neighbors = neighbors

    def encode(self, pixel_values: Tensor) -> Features:
        """`image` (B, d) of unit length, `patches` (B, n, L d): unit-length tokens of all layers, concatenated."""
        tokens = [F.normalize(found, dim=-1) for found in self.tokens(pixel_values, self.layers)]
        image = self.clip.get_image_features(pixel_values=pixel_values).pooler_output.float()
        return {"image": F.normalize(image, dim=-1), "patches": torch.cat(tokens, dim=-1)}

    def compare(self, queries: Features, gallery: Features, category: str | None) -> tuple[Tensor, Tensor]:
        """See the class."""
        far = torch.cdist(queries["image"], gallery["image"], compute_mode="donot_use_mm_for_euclid_dist")
        counts = [len(self.memory.references(name)) for name in self.memory.categories]
        nearest = far.topk(min(self.neighbors or max(counts), far.shape[1]), dim=1, largest=False)
        maps = []
        for patches, photos in zip(queries["patches"], nearest.indices, strict=True):
            rows = gallery["patches"][photos].flatten(0, 1)
            nearest_rows = rows[torch.cdist(patches, rows).argmin(dim=1)]
            maps.append((patches - nearest_rows).norm(dim=1))  # found by a fast product, measured exactly
        grid = self.config.grid_size
        return nearest.values.mean(dim=1), torch.stack(maps).unflatten(1, (grid, grid))


__all__ = ["Spade"]
