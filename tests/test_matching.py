"""The nearest good patch, in all memories or in the recognized product's: closed forms, and what must not change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from anople_hf import matching
from anople_hf.matching import NearestPatch
from anople_hf.memory import MemoryBank


def unit(*angles):
    """(1, n, 2) unit vectors at these angles in degrees, at one layer."""
    angles = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def apart(degrees):
    return 0.5 * (1 - torch.deg2rad(torch.tensor(float(degrees))).cos().item())


def banked(seed=0):
    """Two products whose patches lie around different directions."""
    generator = torch.Generator().manual_seed(seed)
    bank, centers = MemoryBank([0, 1]), torch.eye(8)[:2]
    for name, center in zip(("gear", "nut"), centers, strict=True):
        bank.add(name, center + 0.3 * torch.randn(2, 2, 9, 8, generator=generator))
    photos = torch.cat([centers[i] + 0.3 * torch.randn(1, 2, 9, 8, generator=generator) for i in (1, 0, 1)])
    return bank, photos


def test_the_product_is_recognized_and_searched_alone():
    bank, photos = banked()
    places = bank.recognize(photos)
    assert places.tolist() == [1, 0, 1] and bank.names(places) == ["nut", "gear", "nut"]
    assert torch.equal(bank.match(photos, places), bank.match(photos, ["nut", "gear", "nut"]))
    with pytest.raises(ValueError, match="the memory bank is empty"):
        MemoryBank([0]).recognize(photos[:, :1])


def test_a_defect_does_not_hide_behind_another_product():
    bank, photos = banked()
    nut = bank.references("nut")[0].features[:, 4]
    photos[1, :, 4] = nut  # a gear with a spot that looks just like a nut
    assert bank.match(photos)[1, 4] < 1e-6
    assert bank.names(bank.recognize(photos))[1] == "gear"
    assert bank.match(photos, bank.recognize(photos))[1, 4] > 0.2


def test_a_compiled_graph_gives_the_same(monkeypatch):
    bank, photos = banked()
    places = bank.recognize(photos)
    expected = bank.match(photos, places)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(bank.match(photos, places), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [14, 15, 16, 24])
def test_a_sample_is_from_everywhere_in_the_photo(grid):
    """Evenly spaced rows would be those of a few columns, on most grids."""
    places = torch.arange(16 * grid**2) % grid**2  # of 16 views
    sampled = matching._sample(places.expand(2, -1)[..., None])
    assert sampled.shape == (2, matching.SAMPLE, 1)
    assert torch.equal(sampled[:1], matching._sample(places[None, :, None]))
    assert len(set((sampled[0] % grid).flatten().tolist())) == grid
    assert len(set(sampled[0].flatten().tolist())) > 0.5 * min(grid**2, matching.SAMPLE)


def test_a_small_photo_is_its_own_sample():
    rows = torch.randn(2, 225, 4)
    assert matching._sample(rows) is rows
    turned = torch.randn(2, 4 * 225, 4)
    assert matching._sample(turned, copies=4) is turned and matching._sample(turned).shape[1] == matching.SAMPLE


def crowded(seed, rows=600, queries=40, width=48, spread=0.1):
    """Unit vectors around one direction, as a tower's tokens are: their cosines are all close to 1."""
    generator = torch.Generator().manual_seed(seed)
    center = normalize(torch.randn(width, generator=generator), dim=0)
    both = center + spread * torch.randn(rows + queries, width, generator=generator) / width**0.5
    return normalize(both, dim=1).split([rows, queries])


@pytest.mark.parametrize("cached", [1, 2**20])  # 1: parts of 512 rows, the last one shorter
def test_exact_search_is_the_maximum(cached, monkeypatch):
    monkeypatch.setattr(matching, "CACHED", cached)
    rows, queries = crowded(0, rows=1200)
    assert torch.allclose(NearestPatch(rows, coarse=False).cosine(queries), (queries @ rows.T).amax(1), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.02, 0.1, 0.5, 5.0]))
def test_coarse_search_loses_nothing_of_the_distance(seed, spread):
    """Plain bfloat16 cannot tell 0.999 from 0.998; here float32 decides, and searches again where it has to."""
    rows, queries = crowded(seed, spread=spread)
    exact = 1 - NearestPatch(rows, coarse=False).cosine(queries)
    coarse = 1 - NearestPatch(rows, coarse=True).cosine(queries)
    assert torch.allclose(coarse, exact, rtol=0, atol=1e-6)


def test_few_queries_are_searched_a_second_time():
    """Else the coarse search would save nothing; and none would be a margin that doubts nothing."""
    rows, queries = crowded(0, spread=0.5)
    layer = NearestPatch(rows, coarse=True)
    doubtful = layer._coarsely(queries)[2]
    assert doubtful.float().mean() < 0.5
    best, index, _ = layer._coarsely(queries)
    sure = ~doubtful
    assert torch.allclose(best[sure], (queries @ rows.T).amax(dim=1)[sure], rtol=0, atol=1e-6)
    assert torch.allclose(best, (queries * rows[index]).sum(dim=1), atol=1e-6)


@pytest.mark.parametrize("cached", [1, 2**20])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_row_that_is_found_has_that_cosine(coarse, cached, monkeypatch):
    monkeypatch.setattr(matching, "CACHED", cached)
    rows, queries = crowded(0, rows=1200)
    layer = NearestPatch(rows, coarse=coarse)
    cosine, index = layer.nearest(queries)
    assert torch.allclose(cosine, (queries * rows[index]).sum(1), atol=1e-6)
    assert torch.allclose(layer.distance(queries), (1 - cosine) / 2, atol=1e-6)
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
    monkeypatch.setattr(matching, "LARGE", 100)
    for able in (True, False):
        monkeypatch.setattr(matching, "multiplies_bfloat16", lambda device, able=able: able)
        for photos in (1, 3):
            bank = MemoryBank([0])
            bank.add("gear", torch.randn(photos, 1, 50, 8, generator=torch.Generator().manual_seed(0)))
            used.append([layer._coarse is not None for layer in bank._matcher._search(None)])
    assert used == [[False], [True], [False], [False]]


def test_what_a_processor_can_do_is_read_from_torch(monkeypatch):
    for capabilities, able in (({"avx512_bf16": True}, True), ({"avx2": True, "avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert matching.multiplies_bfloat16(torch.device("cpu")) is able


@pytest.mark.parametrize("coarse", [False, True])
def test_an_exported_search_is_exact_and_serves_any_number_of_queries(coarse, monkeypatch):
    """In a fixed number of parts, whatever was prepared on the machine it was exported on."""
    monkeypatch.setattr(matching, "PART", 100)
    rows, queries = crowded(0)
    search = torch.nn.Module()
    search.forward = NearestPatch(rows, coarse=coarse).cosine
    shapes = {"queries": {0: torch.export.Dim("queries")}}
    graph = torch.export.export(search, (), {"queries": queries}, dynamic_shapes=shapes).module()
    for count in (2, 7, len(queries)):
        assert torch.allclose(graph(queries=queries[:count]), (queries[:count] @ rows.T).amax(1), atol=1e-6)
