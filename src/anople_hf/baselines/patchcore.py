"""PatchCore (Roth et al., CVPR 2022): nearest neighbors in a coreset of neighborhood-aware patch features.

A row of Tables 1 and 5, here with CLIP's tokens in place of a ResNet's.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .frozen import Features, FrozenDetector


class PatchCore(FrozenDetector):
    """Map: distance of each patch to the coreset. Score: the largest distance, weighted by how common its match is.

    Args:
        coreset: Share of the patches to keep; 0.1 is the paper's.
        neighborhood: Side of the averaged neighborhood in patches, odd; 3 is the paper's.
        reweigh: b, number of the matched patch's neighbors that weigh the score; 9 is the paper's.
        seed: Seed of the random projection and the first patch.
        others: As for `FrozenDetector`.
    """

    title: ClassVar[str] = "PatchCore"

    def __init__(
        self, *args: Any, coreset: float = 0.1, neighborhood: int = 3, reweigh: int = 9, seed: int = 0, **others: Any
    ) -> None:
        super().__init__(*args, **others)
        if not 0 < coreset <= 1 or neighborhood < 1 or neighborhood % 2 == 0 or reweigh < 1:
            raise ValueError(
                f"coreset={coreset}, neighborhood={neighborhood}, reweigh={reweigh}: expected a share in 0..1, an "
                "odd number of patches, and at least 1."
            )
        self.coreset, self.neighborhood, self.reweigh, self.seed = coreset, neighborhood, reweigh, seed
        self._cores: dict[tuple[str | None, int], Tensor] = {}

    def encode(self, pixel_values: Tensor) -> Features:
        """`patches` (B, n, L d): tokens averaged over their neighborhood, layers concatenated."""
        grid, pooled = self.config.grid_size, []
        for tokens in self.tokens(pixel_values, self.layers):
            cells = tokens.transpose(1, 2).unflatten(2, (grid, grid))
            side = self.neighborhood
            pooled.append(F.avg_pool2d(cells, side, 1, side // 2, count_include_pad=False).flatten(2).transpose(1, 2))
        return {"patches": torch.cat(pooled, dim=-1)}

    def compare(self, queries: Features, gallery: Features, category: str | None) -> tuple[Tensor, Tensor]:
        """See the class."""
        rows = gallery["patches"].flatten(0, 1)
        key = (category, len(rows))  # a gallery only grows
        if key not in self._cores:
            self._cores[key] = rows[greedy_coreset(rows, max(1, round(self.coreset * len(rows))), self.seed)]
        core = self._cores[key]
        patches = queries["patches"]
        nearest = core[torch.cdist(patches.flatten(0, 1), core).argmin(dim=1)].view_as(patches)
        far = (patches - nearest).norm(dim=2)  # found by a fast product, measured exactly
        farthest = far.argmax(dim=1)
        photos = torch.arange(len(patches), device=patches.device)
        matched, worst = nearest[photos, farthest], patches[photos, farthest]
        count = min(self.reweigh, len(core))
        around = torch.cdist(matched, core).topk(count, dim=1, largest=False).indices
        distances = (worst[:, None] - core[around]).norm(dim=2)
        weights = 1 - torch.softmax(distances, dim=1)[:, 0] if count > 1 else 1.0
        grid = self.config.grid_size
        return far.amax(dim=1) * weights, far.unflatten(1, (grid, grid))


def greedy_coreset(rows: Tensor, count: int, seed: int = 0, width: int = 128) -> Tensor:
    """Choose rows that cover all others: each next row is the one farthest from those chosen (greedy k-center).

    Args:
        rows: (R, d).
        count: Number of rows, 1..R.
        seed: Seed of the projection and the first row.
        width: Rows with more dimensions than this are first projected at random to this many.

    Example:
        >>> sorted(greedy_coreset(torch.tensor([[0.0], [0.1], [5.0], [9.0]]), 3).tolist())[-2:]
        [2, 3]
    """
    generator = torch.Generator().manual_seed(seed)
    if rows.shape[1] > width:
        rows = rows @ (torch.randn(rows.shape[1], width, generator=generator) / width**0.5).to(rows)
    chosen = [int(torch.randint(len(rows), (), generator=generator))]
    far = (rows - rows[chosen[0]]).square().sum(dim=1)
    while len(chosen) < count:
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, (rows - rows[chosen[-1]]).square().sum(dim=1))
    return torch.tensor(chosen, device=rows.device)


__all__ = ["PatchCore", "greedy_coreset"]
