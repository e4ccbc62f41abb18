"""PatchCore: the coreset against a search by hand, neighborhoods, and the weight of the score."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anople_hf.baselines import PatchCore
from anople_hf.baselines.patchcore import greedy_coreset


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 20))
def test_coreset_takes_the_farthest_row_each_time(seed, count):
    rows = torch.rand(20, 5, generator=torch.Generator().manual_seed(seed))
    chosen = greedy_coreset(rows, count, seed)
    assert len(set(chosen.tolist())) == count
    for index in range(1, count):
        far = torch.cdist(rows, rows[chosen[:index]]).amin(dim=1)
        assert far[chosen[index]] == pytest.approx(far.max().item(), abs=1e-6)


def test_wide_rows_are_projected_but_still_spread():
    rows = torch.zeros(40, 300)
    rows[7], rows[21] = 5.0, -5.0
    assert {7, 21} <= set(greedy_coreset(rows, 3).tolist())


def test_with_all_patches_kept_a_known_photo_is_at_distance_zero(tiny_clip, photos):
    detector = PatchCore.from_backbone(tiny_clip, coreset=1.0)
    detector.memorize(photos[:2], "gear")
    output = detector(photos[:1])
    torch.testing.assert_close(output.memory_maps, torch.zeros_like(output.memory_maps), atol=1e-4, rtol=0)
    assert detector(photos[3:4]).scores > 0.1


def test_share_neighborhood_and_weight_change_the_scores(tiny_clip, photos):
    def score(**arguments):
        detector = PatchCore.from_backbone(tiny_clip, **arguments)
        detector.memorize(photos[:3], "gear")
        return detector(photos[4:]).scores

    plain = score()
    for arguments in ({"coreset": 0.5}, {"neighborhood": 1}, {"reweigh": 1}, {"seed": 5}):
        assert not torch.allclose(score(**arguments), plain), arguments


def test_weight_is_the_published_one(tiny_clip, photos):
    detector = PatchCore.from_backbone(tiny_clip, coreset=1.0, reweigh=4)
    detector.memorize(photos[:2], "gear")
    rows = detector.encode(photos[:2])["patches"].flatten(0, 1)
    far = torch.cdist(detector.encode(photos[4:5])["patches"][0], rows)
    worst = far.amin(dim=1).argmax()
    matched = far[worst].argmin()
    around = torch.cdist(rows[matched][None], rows)[0].topk(4, largest=False).indices
    weight = 1 - far[worst, matched].exp() / far[worst, around].exp().sum()
    assert detector(photos[4:5]).scores.item() == pytest.approx((weight * far[worst, matched]).item(), rel=1e-3)


def test_a_new_photo_renews_the_coreset(tiny_clip, photos):
    detector = PatchCore.from_backbone(tiny_clip, coreset=1.0)
    detector.memorize(photos[:1], "gear")
    before = detector(photos[4:5]).scores
    detector.memorize(photos[4:5], "gear")
    assert detector(photos[4:5]).scores < before


@pytest.mark.parametrize("arguments", [{"coreset": 0}, {"coreset": 1.5}, {"neighborhood": 2}, {"reweigh": 0}])
def test_settings_that_make_no_sense_are_refused(tiny_clip, arguments):
    with pytest.raises(ValueError, match="expected a share in 0..1, an odd number"):
        PatchCore.from_backbone(tiny_clip, **arguments)
