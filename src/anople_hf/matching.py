"""How photos are compared with the remembered ones: `Reference`, `NearestPatch` (one layer), `Matcher` (all layers).

Where in the paper: eq. 14, for all products or one that is told. What follows is ours.

A shared bank of 15 products x 4 shots holds 13,500 patches a layer: in float32, comparing one photo with it costs a
fifth of the whole vision tower. A processor that multiplies bfloat16 finds near rows several times as fast. Only the
search is coarse: float32 decides among the few best candidates, and where these may lack the nearest row, it searches
all rows. So scores are the same on every machine. Three steps keep the search fine:

- queries and rows are centered, because features share a large mean that would use up bfloat16's eight bits;
- the parts that centring leaves out travel along in extra columns, each split into three bfloat16 terms;
- so does -1: products come out as cos - 1, which is close to 0, and finely rounded, for just the nearest rows.

An exported graph searches exactly, on whatever machine it was made: it will run on others.

Off unless the config says so:

- Recognition: which product a photo shows is plain from its patches on the whole. Searched in that product alone, a
  defect cannot hide behind another product's patches, and nobody has to tell the product.
- Discount: some good patches are like those of the product's other good photos; others, such as an edge that lies a
  little differently in each, never are. What is nearest to one of those is less strange than its distance says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

EVERY = 4
"""A photo's product is recognized by every fourth of its patches."""
SAMPLE = 512
"""Patches of a remembered photo, of all its views, that are enough to recognize the product and to measure spread."""
CACHED = 2**20
"""Similarities computed at a time by the exact search; 4 MB of float32."""
QUERIES = 512
"""Queries compared at a time by the coarse search."""
PART = 4096
"""Rows compared at a time in an exported graph, whose parts cannot depend on the number of queries."""
CANDIDATES = 4
"""Rows of the coarse search that float32 decides among."""
DOUBT = 2.0**-7
"""How far a coarse cos - 1 may be off, as a share of it and of the lengths that were multiplied: nearly twice the most
that was seen on half a million pairs, at widths of 64 and 896, crowded and not."""
LARGE = 8192
"""Rows from which a bank is searched in bfloat16; a smaller one costs little beside the tower."""


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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; elsewhere the exact search is the faster one."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, "get_capabilities", None)  # younger than the oldest torch we accept
    able = cast(dict[str, Any], known()) if device.type == "cpu" and known else {}
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def is_exporting() -> bool:
    """Whether `torch.export` is tracing this call."""
    known = getattr(torch.compiler, "is_exporting", None)  # younger than the oldest torch we accept
    return bool(known and known())


class NearestPatch:
    """Rows of one layer, prepared for searching.

    Args:
        rows: (R, d) unit vectors.
        weights: (R,) what a distance to each row counts, 0..1; None: all count in full.
        coarse: Search in bfloat16; None decides by size and device.

    Example:
        >>> rows = torch.eye(4)
        >>> NearestPatch(rows).cosine(torch.tensor([[0.0, 0.6, 0.8, 0.0]]))
        tensor([0.8000])
    """

    def __init__(self, rows: Tensor, weights: Tensor | None = None, *, coarse: bool | None = None) -> None:
        self.rows = rows.float()
        self.weights = weights
        if coarse is None:
            coarse = len(rows) >= LARGE and multiplies_bfloat16(rows.device)
        self._mean = self.rows.mean(dim=0)
        self._coarse = None
        if coarse:
            centered = self.rows - self._mean
            self._longest = centered.norm(dim=1).amax()
            self._coarse = _with_columns(centered, centered @ self._mean, ones_first=True)

    def cosine(self, queries: Tensor) -> Tensor:
        """The largest cosine of each query with any row.

        Args:
            queries: (Q, d) unit vectors, float32.

        Returns:
            (Q,) in -1..1.
        """
        if self._is_coarse():
            return self.nearest(queries)[0]
        # Part by part, so that the similarities are still in the cache when their maximum is taken.
        parts = self._parts(queries)
        best = (queries @ parts[0].T).amax(dim=1)
        for part in parts[1:]:
            best = torch.maximum(best, (queries @ part.T).amax(dim=1))
        return best

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """As `cosine`, slower, and beside it the place of that row: twice (Q,)."""
        if not self._is_coarse():
            return self._exactly(queries)
        found = [self._coarsely(part) for part in queries.split(QUERIES)]
        best, index, doubtful = (torch.cat(parts) for parts in zip(*found, strict=True))
        if doubtful.any():
            best[doubtful], index[doubtful] = self._exactly(queries[doubtful])
        return best, index

    def _coarsely(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `nearest`, and which queries are in doubt (Q,): other rows may be as near as the best candidate."""
        products = self._prepared(queries) @ cast(Tensor, self._coarse).T  # cos - 1
        coarse, candidates = products.topk(min(CANDIDATES, products.shape[1]), dim=1)
        cosines = torch.einsum("qd,qcd->qc", queries, self.rows[candidates])
        best, place = cosines.max(dim=1)
        last = coarse[:, -1].float()
        off = DOUBT * (last.abs() + (queries - self._mean).norm(dim=1) * self._longest / queries.shape[1] ** 0.5)
        return best, candidates.gather(1, place[:, None])[:, 0], last + off > best - 1

    def _exactly(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self._parts(queries)
        best, index = (queries @ first.T).max(dim=1)
        offset = len(first)
        for part in others:
            cosine, place = (queries @ part.T).max(dim=1)
            index = torch.where(cosine > best, place + offset, index)
            best = torch.maximum(best, cosine)
            offset += len(part)
        return best, index

    def distance(self, queries: Tensor) -> Tensor:
        """(1 - cos) / 2 of each query (Q, d) to its nearest row, times the weight of that row: (Q,) in 0..1."""
        if self.weights is None:
            return _apart(self.cosine(queries))
        cosine, index = self.nearest(queries)
        return _apart(cosine) * self.weights[index]

    def _is_coarse(self) -> bool:
        return self._coarse is not None and not is_exporting()

    def _parts(self, queries: Tensor) -> tuple[Tensor, ...]:
        return self.rows.split(PART if is_exporting() else max(512, CACHED // max(1, len(queries))))

    def _prepared(self, queries: Tensor) -> Tensor:
        # <q, r> - 1 = <q - m, r - m> + (<q, m> - 1) + <m, r - m>
        return _with_columns(queries - self._mean, queries @ self._mean - 1.0, ones_first=False)


def _apart(cosine: Tensor) -> Tensor:
    return (0.5 * (1.0 - cosine)).clamp(0.0, 1.0)


def _with_columns(vectors: Tensor, term: Tensor, *, ones_first: bool) -> Tensor:
    """(N, d) in bfloat16 with six more columns: three that add up to `term`, and three ones for the other side's."""
    terms = []
    for _ in range(3):
        terms.append(term.bfloat16())
        term = term - terms[-1].float()
    split = torch.stack(terms, dim=1)
    ones = torch.ones_like(split)
    return torch.cat([vectors.bfloat16(), *((ones, split) if ones_first else (split, ones))], dim=1)


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


_nearness: WeakKeyDictionary[Reference, WeakKeyDictionary[Reference, Tensor]] = WeakKeyDictionary()
"""By photo and other photo, so that banks that share photos (each judged by the others) share the work."""


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


__all__ = ["Matcher", "NearestPatch", "Reference", "spread"]
