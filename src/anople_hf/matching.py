"""`Matcher`: photos compared with the remembered patches of all products, of one, or of the one they are most like.

Where in the paper: eq. 14, for all products or one that is told. What follows is ours, off unless the config says so.

- Recognition: which product a photo shows is plain from its patches on the whole. Searched in that product alone, a
  defect cannot hide behind another product's patches, and nobody has to tell the product.
- Discount: some good patches are like those of the product's other good photos; others, such as an edge that lies a
  little differently in each, never are. What is nearest to one of those is less strange than its distance says.
"""

from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .nearest import NearestPatch
from .references import Reference

EVERY = 4
"""A photo's product is recognised by every fourth of its patches."""
SAMPLE = 512
"""Patches of a remembered photo, of all its views, that are enough to recognise the product and to measure spread."""

_nearness: WeakKeyDictionary[Reference, WeakKeyDictionary[Reference, Tensor]] = WeakKeyDictionary()
"""By photo and other photo, so that banks that share photos (each judged by the others) share the work."""


class Matcher:
    """Remembered photos, prepared for searching when first asked.

    Args:
        references: Photos by product; at least one each.
        coarse: Search in bfloat16, see `NearestPatch`; None decides by size and device.

    Example:
        >>> rows = torch.eye(4)
        >>> gear, nut = Reference(rows[None, :2]), Reference(rows[None, 2:])
        >>> matcher = Matcher({"gear": [gear], "nut": [nut]})
        >>> photo = torch.tensor([[[[0.0, 0.0, 0.8, 0.6]]]])  # 1 photo, 1 layer, 1 patch
        >>> matcher.distances(photo, "nut"), matcher.recognize(photo)
        (tensor([[0.1000]]), tensor([1]))
    """

    def __init__(self, references: Mapping[str, Sequence[Reference]], *, coarse: bool | None = None) -> None:
        self.references = references
        self.coarse = coarse
        self._searches: dict[tuple[str | None, bool], list[NearestPatch]] = {}
        self._samples: list[list[NearestPatch]] = []

    def distances(self, tokens: Tensor, category: str | None = None, *, discount: bool = False) -> Tensor:
        """(B, n) distances in 0..1 of tokens (B, L, n, d) to the patches of one product, or of all."""
        return _mean_distance(tokens, self._search(category, discount))

    def recognize(self, tokens: Tensor) -> Tensor:
        """(B,) index of the product that the patches (B, L, n, d) of each photo are nearest to, in the mean."""
        some = tokens[:, :, ::EVERY]
        return torch.stack([_mean_distance(some, product).mean(dim=1) for product in self._sampled()]).argmin(dim=0)

    def prepare(self, categories: Iterable[str | None], *, discount: bool = False) -> None:
        """Prepare these searches, and recognition, now."""
        self._sampled()
        for category in categories:
            self._search(category, discount)

    @torch.inference_mode(False)  # what is kept has to serve torch.export, too
    def _sampled(self) -> list[list[NearestPatch]]:
        """Some rows of each product, by layer, prepared once."""
        if not self._samples:
            layers = [torch.cat([_sample(r.features) for r in photos], dim=1) for photos in self.references.values()]
            self._samples = [[NearestPatch(rows, coarse=self.coarse) for rows in product] for product in layers]
        return self._samples

    @torch.inference_mode(False)
    def _search(self, category: str | None, discount: bool) -> list[NearestPatch]:
        """The rows of one product or of all, by layer, prepared once."""
        prepared = self._searches.get((category, discount))
        if prepared is None:
            products = list(self.references.values()) if category is None else [self.references[category]]
            layers = torch.cat([reference.features for photos in products for reference in photos], dim=1)
            weights = _weights(products) if discount else [None] * len(layers)
            prepared = [NearestPatch(rows, weight, coarse=self.coarse)
                        for rows, weight in zip(layers, weights, strict=True)]  # fmt: skip
            self._searches[category, discount] = prepared
        return prepared


def _mean_distance(tokens: Tensor, layers: Sequence[NearestPatch]) -> Tensor:
    """(B, n): distances of tokens (B, L, n, d) to their nearest rows, averaged over the layers."""
    total = torch.zeros(tokens.shape[0], tokens.shape[2], device=tokens.device)
    for index, layer in enumerate(layers):
        queries = F.normalize(tokens[:, index].float(), dim=-1).flatten(0, 1)
        total += layer.distance(queries).view_as(total)
    return (total / len(layers)).clamp(0.0, 1.0)


def _weights(products: Sequence[Sequence[Reference]]) -> Tensor:
    """(L, R) of sqrt(m / (m + s)): s is how far each row is from the product's other photos, m the mean of all s.

    The only photo of a product has no others; its rows count as usual ones, s = m. Without the root, photos of real
    parts gain more, and drawn ones lose.
    """
    spreads = torch.cat([spread(photos) for photos in products], dim=1)
    usual = spreads.nanmean(dim=1, keepdim=True).nan_to_num(1.0).clamp_min(1e-6)  # photos and their copies: rounding
    return (usual / (usual + torch.where(spreads.isnan(), usual, spreads))).sqrt()


def spread(photos: Sequence[Reference]) -> Tensor:
    """How far the patches of good photos are from those of the other good photos of their product.

    Args:
        photos: Of one product.

    Returns:
        (L, R) of (1 - cos) / 2 to the nearest of a sample of the others' patches, NaN if there are no others; R counts
        all photos' patches.
    """
    rows = []
    for photo in photos:
        others = [_nearness_to(photo, other) for other in photos if other is not photo]
        nothing = torch.full(photo.features.shape[:2], float("nan"), device=photo.features.device)
        rows.append(torch.stack(others).amin(dim=0) if others else nothing)
    return torch.cat(rows, dim=1)


def _nearness_to(photo: Reference, other: Reference) -> Tensor:
    """(L, n): distance of each patch of a photo to the nearest of the other's."""
    known = _nearness.setdefault(photo, WeakKeyDictionary())
    found = known.get(other)
    if found is None:
        layers = zip(photo.features.float(), _sample(other.features), strict=True)
        found = known[other] = torch.stack([NearestPatch(rows).distance(queries) for queries, rows in layers])
    return found


def _sample(features: Tensor) -> Tensor:
    """At most `SAMPLE` patches of (L, n, d), from everywhere in all views, and the same ones every time."""
    count = features.shape[1]
    if count <= SAMPLE:
        return features
    return features[:, torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values]


__all__ = ["Matcher", "spread"]
