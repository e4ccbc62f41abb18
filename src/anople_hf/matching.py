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

Off unless the config says so: recognition. Which product a photo shows is plain from its patches on the whole.
Searched in that product alone, a defect cannot hide behind another product's patches, and nobody has to tell the
product.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

EVERY = 4
"""A photo's product is recognized by every fourth of its patches."""
SAMPLE = 512
"""Patches of a remembered photo, or of one of its turned copies, that are enough to recognize the product."""
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
        features: (L, n, d) unit vectors: n patches at L layers, of the whole photo and its turned copies.
        framed: (T, L, n, d) those of its tiles, if its product is framed; see `framing.py`.
        name: Where the photo came from, or "" if nobody said.
        digest: SHA-256 of its pixels, or "".
        added: When it was remembered, ISO 8601, or "".
        copies: In how many positions it is remembered, see `turns.py`.
    """

    features: Tensor
    name: str = ""
    digest: str = ""
    added: str = ""
    copies: int = 1
    framed: Tensor | None = None


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
        coarse: Search in bfloat16; None decides by size and device.

    Example:
        >>> rows = torch.eye(4)
        >>> NearestPatch(rows).cosine(torch.tensor([[0.0, 0.6, 0.8, 0.0]]))
        tensor([0.8000])
    """

    def __init__(self, rows: Tensor, *, coarse: bool | None = None) -> None:
        self.rows = rows.float()
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
        """(1 - cos) / 2 of each query (Q, d) to its nearest row: (Q,) in 0..1."""
        return (0.5 * (1.0 - self.cosine(queries))).clamp(0.0, 1.0)

    def _is_coarse(self) -> bool:
        return self._coarse is not None and not is_exporting()

    def _parts(self, queries: Tensor) -> tuple[Tensor, ...]:
        return self.rows.split(PART if is_exporting() else max(512, CACHED // max(1, len(queries))))

    def _prepared(self, queries: Tensor) -> Tensor:
        # <q, r> - 1 = <q - m, r - m> + (<q, m> - 1) + <m, r - m>
        return _with_columns(queries - self._mean, queries @ self._mean - 1.0, ones_first=False)


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
        self._searches: dict[tuple[str | None, int | None], list[NearestPatch]] = {}
        self._samples: list[list[NearestPatch]] = []

    def distances(self, tokens: Tensor, category: str | None = None, tile: int | None = None) -> Tensor:
        """(B, n) distances in 0..1 of tokens (B, L, n, d) to the patches of one product, or of all.

        `tile` compares with that tile of a framed product, instead of with whole photos.
        """
        return _mean_distance(tokens, self._search(category, tile))

    def recognize(self, tokens: Tensor) -> Tensor:
        """(B,) index of the product that the patches (B, L, n, d) of each photo are nearest to, in the median."""
        return self.product_distances(tokens).argmin(dim=1)

    def product_distances(self, tokens: Tensor) -> Tensor:
        """(B, products) median distances of the patches (B, L, n, d) of each photo to those of each product.

        A defect covers less than half of a photo, so it moves the median little, but the mean a lot.
        """
        some = tokens[:, :, ::EVERY]
        nearer = (some.shape[2] + 1) // 2
        far = (_mean_distance(some, product) for product in self._sampled())
        return torch.stack([own.topk(nearer, dim=1, largest=False).values[:, -1] for own in far], dim=1)

    def prepare(self, categories: Iterable[str | None]) -> None:
        """Prepare these searches, and recognition, now."""
        self._sampled()
        for category in categories:
            self._search(category)

    @torch.inference_mode(False)  # what is kept has to serve torch.export, too
    def _sampled(self) -> list[list[NearestPatch]]:
        """Some rows of each product, by layer, prepared once."""
        if not self._samples:
            self._samples = [self._sample_of(name) for name in self.references]
        return self._samples

    def _sample_of(self, category: str) -> list[NearestPatch]:
        photos = self.references[category]
        if all(photo.features.shape[1] <= SAMPLE * photo.copies for photo in photos):
            return self._search(category)  # all of its rows: they are held once
        layers = torch.cat([_sample(photo.features, photo.copies) for photo in photos], dim=1)
        return [NearestPatch(rows, coarse=self.coarse) for rows in layers]

    @torch.inference_mode(False)
    def _search(self, category: str | None, tile: int | None = None) -> list[NearestPatch]:
        """The rows of one product or of all, or of a tile of one, by layer, prepared once."""
        prepared = self._searches.get((category, tile))
        if prepared is None:
            products = list(self.references.values()) if category is None else [self.references[category]]
            photos = [photo for product in products for photo in product]
            parts = [photo.features if tile is None else cast(Tensor, photo.framed)[tile] for photo in photos]
            prepared = [NearestPatch(rows, coarse=self.coarse) for rows in torch.cat(parts, dim=1)]
            self._searches[category, tile] = prepared
        return prepared


def _mean_distance(tokens: Tensor, layers: Sequence[NearestPatch]) -> Tensor:
    """(B, n): distances of tokens (B, L, n, d) to their nearest rows, averaged over the layers."""
    total = torch.zeros(tokens.shape[0], tokens.shape[2], device=tokens.device)
    for index, layer in enumerate(layers):
        queries = F.normalize(tokens[:, index].float(), dim=-1).flatten(0, 1)
        total += layer.distance(queries).view_as(total)
    return (total / len(layers)).clamp(0.0, 1.0)


def _sample(features: Tensor, copies: int = 1) -> Tensor:
    """At most `SAMPLE` patches of each copy, out of (L, n, d), from everywhere, and the same ones every time."""
    count, most = features.shape[1], SAMPLE * copies
    if count <= most:
        return features
    return features[:, torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values]


__all__ = ["Matcher", "NearestPatch", "Reference"]
