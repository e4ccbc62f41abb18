"""Recognising the product and discounting what good photos do not share: closed forms, and what must not change."""

import gc

import pytest
import torch
from torch.nn.functional import normalize

from anople_hf import matching
from anople_hf.matching import Matcher, spread
from anople_hf.memory import MemoryBank
from anople_hf.references import Reference


def unit(*angles):
    """(1, n, 2) unit vectors at these angles in degrees, at one layer."""
    angles = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def apart(degrees):
    return 0.5 * (1 - torch.deg2rad(torch.tensor(float(degrees))).cos().item())


def test_spread_is_the_distance_to_the_other_photos():
    photos = [Reference(unit(0, 90)), Reference(unit(10, 170))]
    expected = torch.tensor([[apart(10), apart(80), apart(10), apart(80)]])
    assert torch.allclose(spread(photos), expected, atol=1e-6)
    assert spread(photos[:1]).isnan().all()


def test_a_patch_near_one_that_good_photos_do_not_share_counts_for_less():
    gear = [Reference(unit(0, 90)), Reference(unit(0, 180))]
    tokens = unit(-20, 110)[None]  # each 20 degrees from its nearest good patch: at 0, shared, and at 90, not
    plain = Matcher({"gear": gear}).distances(tokens)
    assert torch.allclose(plain, torch.full((1, 2), apart(20)), atol=1e-6)
    found = Matcher({"gear": gear}).distances(tokens, discount=True)
    usual = (0 + apart(90) + 0 + apart(90)) / 4
    expected = apart(20) * torch.tensor([[1.0, (usual / (usual + apart(90))) ** 0.5]])
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_only_photo_of_a_product_keeps_its_order():
    matcher = Matcher({"gear": [Reference(unit(0, 90))]})
    tokens = unit(3, 20, 45)[None]
    assert torch.allclose(matcher.distances(tokens, discount=True), matcher.distances(tokens) * 0.5**0.5, atol=1e-6)


def test_a_discount_never_raises_a_distance_and_products_do_not_lend_it():
    generator = torch.Generator().manual_seed(0)
    photos = {name: [Reference(normalize(torch.randn(2, 9, 6, generator=generator), dim=-1)) for _ in range(3)]
              for name in ("gear", "nut")}  # fmt: skip
    tokens = torch.randn(4, 2, 9, 6, generator=generator)
    both, alone = Matcher(photos), Matcher({"gear": photos["gear"]})
    assert (both.distances(tokens, discount=True) <= both.distances(tokens) + 1e-6).all()
    assert torch.equal(both.distances(tokens, "gear", discount=True), alone.distances(tokens, "gear", discount=True))


def banked(seed=0):
    """Two products whose patches lie around different directions."""
    generator = torch.Generator().manual_seed(seed)
    bank, centres = MemoryBank([0, 1]), torch.eye(8)[:2]
    for name, centre in zip(("gear", "nut"), centres, strict=True):
        bank.add(name, centre + 0.3 * torch.randn(2, 2, 9, 8, generator=generator))
    photos = torch.cat([centres[i] + 0.3 * torch.randn(1, 2, 9, 8, generator=generator) for i in (1, 0, 1)])
    return bank, photos


def test_the_product_is_recognised_and_searched_alone():
    bank, photos = banked()
    places = bank.recognize(photos)
    assert places.tolist() == [1, 0, 1] and bank.names(places) == ["nut", "gear", "nut"]
    for discount in (False, True):
        found = bank.match(photos, places, discount=discount)
        assert torch.equal(found, bank.match(photos, ["nut", "gear", "nut"], discount=discount))
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
    expected = bank.match(photos, places, discount=True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(bank.match(photos, places, discount=True), expected, atol=1e-6)


def test_work_is_shared_by_banks_and_let_go_with_the_photos(monkeypatch):
    bank, photos = banked()
    bank.match(photos, "gear", discount=True)
    monkeypatch.setattr(matching, "NearestPatch", None)  # comparing two photos again would fail
    assert spread(bank.without([]).references("gear")).shape == (2, 18)
    monkeypatch.undo()
    before = len(matching._nearness)
    del bank
    gc.collect()
    assert len(matching._nearness) <= before - 2


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


def test_a_photo_and_its_copy_are_no_trouble():
    """Distances of rounding alone; a root of a negative one would be no number, and no defect."""
    features = normalize(torch.randn(2, 400, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    photos = {"gear": [Reference(features), Reference(features.clone())]}
    assert (spread(photos["gear"]) >= 0).all()
    tokens = torch.randn(3, 2, 9, 64, generator=torch.Generator().manual_seed(1))
    found, plain = (Matcher(photos).distances(tokens, discount=discount) for discount in (True, False))
    assert found.isfinite().all() and (found <= plain + 1e-6).all()
    assert torch.allclose(found, plain, rtol=0.2)  # what is rounding discounts next to nothing
