"""Nearest rows: the exact search by definition, and how near the coarse one comes to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from anople_hf import nearest
from anople_hf.memory import MemoryBank
from anople_hf.nearest import NearestPatch


def crowded(seed, rows=600, queries=40, width=48, spread=0.1):
    """Unit vectors around one direction, as a tower's tokens are: their cosines are all close to 1."""
    generator = torch.Generator().manual_seed(seed)
    centre = normalize(torch.randn(width, generator=generator), dim=0)
    both = centre + spread * torch.randn(rows + queries, width, generator=generator) / width**0.5
    return normalize(both, dim=1).split([rows, queries])


@pytest.mark.parametrize("cached", [1, 2**20])  # 1: parts of 512 rows, the last one shorter
def test_exact_search_is_the_maximum(cached, monkeypatch):
    monkeypatch.setattr(nearest, "CACHED", cached)
    rows, queries = crowded(0, rows=1200)
    assert torch.allclose(NearestPatch(rows, coarse=False).cosine(queries), (queries @ rows.T).amax(1), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.02, 0.1, 0.5, 5.0]))
def test_coarse_search_loses_little_of_the_distance(seed, spread):
    """Plain bfloat16 cannot tell 0.999 from 0.998; here even a spread of 0.02 keeps its order."""
    rows, queries = crowded(seed, spread=spread)
    exact = 1 - NearestPatch(rows, coarse=False).cosine(queries)
    coarse = 1 - NearestPatch(rows, coarse=True).cosine(queries)
    assert (coarse >= exact - 1e-6).all()  # the cosine with some row: never above the largest
    assert (coarse - exact).mean() <= 0.01 * exact.mean()


@pytest.mark.parametrize("cached", [1, 2**20])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_distance_counts_as_its_own_row_does(coarse, cached, monkeypatch):
    monkeypatch.setattr(nearest, "CACHED", cached)
    rows, queries = crowded(0, rows=1200)
    weights = torch.rand(1200, generator=torch.Generator().manual_seed(0))
    layer = NearestPatch(rows, weights, coarse=coarse)
    cosine, index = layer.nearest(queries)
    assert torch.allclose(cosine, (queries * rows[index]).sum(1), atol=1e-6)
    assert torch.allclose(layer.distance(queries), (1 - cosine) / 2 * weights[index])
    if not coarse:
        assert torch.equal(index, (queries @ rows.T).argmax(1))


def test_plain_bfloat16_would_fail_that_bound():
    rows, queries = crowded(0, spread=0.1)
    exact = 1 - (queries @ rows.T).amax(1)
    found = (queries.bfloat16() @ rows.bfloat16().T).max(1).indices
    assert (1 - (queries * rows[found]).sum(1) - exact).mean() > 0.05 * exact.mean()


def test_a_known_patch_is_found_again_by_the_coarse_search():
    rows, _ = crowded(3)
    assert torch.allclose(NearestPatch(rows, coarse=True).cosine(rows), torch.ones(len(rows)), atol=1e-6)


def test_only_a_large_bank_on_a_fitting_processor_is_searched_coarsely(monkeypatch):
    used = []
    monkeypatch.setattr(nearest, "LARGE", 100)
    for able in (True, False):
        monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda device, able=able: able)
        for photos in (1, 3):
            bank = MemoryBank([0])
            bank.add("gear", torch.randn(photos, 1, 50, 8, generator=torch.Generator().manual_seed(0)))
            used.append([layer._coarse is not None for layer in bank._matcher._search(None, False)])
    assert used == [[False], [True], [False], [False]]


def test_what_a_processor_can_do_is_read_from_torch(monkeypatch):
    for capabilities, able in (({"avx512_bf16": True}, True), ({"avx2": True, "avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert nearest.multiplies_bfloat16(torch.device("cpu")) is able


@pytest.mark.parametrize("coarse", [False, True])
def test_an_exported_search_is_exact_and_serves_any_number_of_queries(coarse, monkeypatch):
    """In a fixed number of parts, whatever was prepared on the machine it was exported on."""
    monkeypatch.setattr(nearest, "PART", 100)
    rows, queries = crowded(0)
    search = torch.nn.Module()
    search.forward = NearestPatch(rows, coarse=coarse).cosine
    shapes = {"queries": {0: torch.export.Dim("queries")}}
    graph = torch.export.export(search, (), {"queries": queries}, dynamic_shapes=shapes).module()
    for count in (2, 7, len(queries)):
        assert torch.allclose(graph(queries=queries[:count]), (queries[:count] @ rows.T).amax(1), atol=1e-6)
