"""`NearestPatch`: the cosine of each query with its nearest row of a bank, exactly or found in bfloat16.

Where in the paper: the minimum of eq. 14. The fast way is ours.

A shared bank of 15 products x 4 shots holds 13,500 patches a layer: in float32, comparing one photo with it costs a
fifth of the whole vision tower. A processor that multiplies bfloat16 finds the nearest row several times as fast. Only
the search is coarse, the cosine with the row that was found is float32's. Three steps keep the search fine:

- queries and rows are centred, because features share a large mean that would use up bfloat16's eight bits;
- the parts that centring leaves out travel along in extra columns, each split into three bfloat16 terms;
- so does -1: products come out as cos - 1, which is close to 0, and finely rounded, for just the nearest rows.

An exported graph searches exactly, on whatever machine it was made: it will run on others.
"""

from typing import Any, cast

import torch
from torch import Tensor

CACHED = 2**20
"""Similarities computed at a time by the exact search; 4 MB of float32."""
QUERIES = 512
"""Queries compared at a time by the coarse search."""
PART = 4096
"""Rows compared at a time in an exported graph, whose parts cannot depend on the number of queries."""
LARGE = 8192
"""Rows from which a bank is searched in bfloat16; a smaller one costs little beside the tower."""


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
            centred = self.rows - self._mean
            self._coarse = _with_columns(centred, centred @ self._mean, ones_first=True)

    def cosine(self, queries: Tensor) -> Tensor:
        """The largest cosine of each query with any row.

        Args:
            queries: (Q, d) unit vectors, float32.

        Returns:
            (Q,) in -1..1. After a coarse search it may be that of a row almost as near as the nearest.
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
        if self._is_coarse():
            rows = cast(Tensor, self._coarse).T
            index = torch.cat([(self._prepared(part) @ rows).max(dim=1).indices for part in queries.split(QUERIES)])
            return (queries * self.rows[index]).sum(dim=1), index
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
