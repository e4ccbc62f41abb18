"""Scores, fusion, smoothing and thresholds against closed forms and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from anople_hf.scoring import (
    abnormal_probability,
    fuse,
    fuse_maps,
    image_scores,
    resize_map,
    shrink_map,
    smooth,
)

unit = st.floats(1e-4, 1.0)


def test_fusion_closed_forms():
    """Method notes 4.4: no factor 2."""
    assert fuse(torch.tensor(0.8), torch.tensor(0.2)).item() == pytest.approx(0.16)
    assert fuse(torch.tensor(0.6), torch.tensor(0.16)).item() == pytest.approx(0.126316, abs=1e-6)


@given(a=unit, b=unit)
def test_fusion_is_symmetric_below_both_and_half_of_equals(a, b):
    x, y = torch.tensor(a), torch.tensor(b)
    assert fuse(x, y) == fuse(y, x)
    assert fuse(x, y) <= min(a, b) + 1e-6
    assert fuse(x, x).item() == pytest.approx(a / 2, rel=1e-5)


def test_a_peak_of_one_patch_keeps_its_height():
    """On the decoder's grid of twice the patches 0.56 of it would be left, because no cell lies on its center."""
    memory, decoder = torch.zeros(1, 15, 15), torch.full((1, 30, 30), 0.5)
    memory[0, 7, 7] = 1.0
    assert resize_map(memory, 30).max().item() == pytest.approx(0.5625)
    fused = fuse_maps(decoder, memory, 240)
    left = (1 - 1 / 32) ** 2
    assert fused.shape == (1, 240, 240) and fused.max().item() == pytest.approx(1 / (1 / 0.5 + 1 / left), rel=1e-5)
    assert fuse_maps(None, memory, 240) is memory


def test_fusion_survives_a_distance_below_zero():
    found = fuse(torch.tensor([-1e-8, 0.0]), torch.tensor([0.5, 0.0]))
    assert torch.isfinite(found).all() and (found > 0).all() and found.max() < 1e-5


def test_an_images_score_is_its_maps_peak_fused_with_p_hat():
    fused = torch.tensor([[[0.1, 0.5]], [[0.8, 0.2]]])
    assert image_scores(fused, None).tolist() == pytest.approx([0.5, 0.8])
    assert image_scores(fused, torch.tensor([0.5, 0.2])).tolist() == pytest.approx([0.25, 0.16])


def test_probability_is_the_softmax_of_two_cosines():
    torch.manual_seed(0)
    features, text = torch.randn(4, 8), torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    cosines = torch.nn.functional.normalize(features, dim=-1) @ text.T
    assert torch.allclose(abnormal_probability(features, text, 0.07), (cosines / 0.07).softmax(dim=1)[:, 1], atol=1e-6)
    maps = features[:, :, None, None].expand(-1, -1, 3, 2)
    assert torch.allclose(abnormal_probability(maps, text, 0.07)[:, 1, 1], abnormal_probability(features, text, 0.07))


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.1, 15.0), seed=st.integers(0, 99))  # up to wider than the map
def test_smoothing_agrees_with_scipy(sigma, seed):
    picture = np.random.default_rng(seed).random((24, 30)).astype(np.float32)
    radius = int(np.ceil(3 * sigma))
    expected = gaussian_filter(picture, sigma, mode="nearest", radius=radius)
    assert np.allclose(smooth(torch.from_numpy(picture)[None], sigma)[0].numpy(), expected, atol=1e-5)


def test_no_smoothing_and_no_resizing_return_the_map():
    maps = torch.rand(2, 8, 8)
    assert smooth(maps, 0.0) is maps and resize_map(maps, 8) is maps
    assert resize_map(maps, (4, 6)).shape == (2, 4, 6)


def test_shrinking_takes_all_pixels_in_and_smaller_maps_are_enlarged():
    maps = torch.zeros(1, 8, 8)
    maps[0, 3, 4] = 1  # bilinear resizing to 2 x 2 would read other pixels alone
    assert shrink_map(maps, 2).sum() > 0 and shrink_map(maps, 8) is maps
    assert shrink_map(torch.rand(1, 2, 2), 4).shape == (1, 4, 4)
