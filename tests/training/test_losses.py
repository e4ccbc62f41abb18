"""Losses against closed forms, bounds and numerical gradients.

Where in the paper: sec. 3.3, eq. 8-13.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from anople_hf.training.losses import (
    LOSS_TERMS,
    alignment_loss,
    contrastive_loss,
    dice_loss,
    equal_shares,
    focal_loss,
    image_loss,
    total_loss,
)


def batch(seed=0, views=4, width=8, side=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image_features": F.normalize(torch.randn(views, width, generator=generator), dim=1).to(dtype),
        "patch_features": torch.randn(views, width, side, side, generator=generator).to(dtype),
        "abnormal_probability": torch.rand(views, side, side, generator=generator).to(dtype),
        "text_features": F.normalize(torch.randn(2, width, generator=generator), dim=1).to(dtype),
        "masks": (torch.rand(views, side, side, generator=generator) > 0.7),
        "labels": torch.tensor([0, 1] * (views // 2)),
        "latent_features": F.normalize(torch.randn(2, width, generator=generator), dim=1).to(dtype),
    }


@pytest.mark.parametrize(
    ("probability", "mask", "expected"),
    [(0.0, 1.0, 1 - 1 / 101), (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1 - 1 / 101), (0.5, 1.0, 1 - 101 / 151)],
)
def test_dice_closed_form(probability, mask, expected):
    loss = dice_loss(torch.full((2, 10, 10), probability), torch.full((2, 10, 10), mask))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_dice_is_a_mean_over_images_not_over_pixels():
    probability, masks = torch.zeros(2, 10, 10), torch.zeros(2, 10, 10)
    masks[0] = 1
    assert dice_loss(probability, masks).item() == pytest.approx((1 - 1 / 101) / 2, abs=1e-6)


@pytest.mark.parametrize("mask", [0, 1])
def test_focal_closed_form(mask):
    masks = torch.full((2, 3, 3), mask)
    half = torch.full((2, 3, 3), 0.5)
    assert focal_loss(half, masks).item() == pytest.approx(0.173287, abs=1e-6)
    assert focal_loss(half, masks, gamma=0.0).item() == pytest.approx(math.log(2), abs=1e-6)
    right = 0.9 if mask else 0.1
    assert focal_loss(torch.full((2, 3, 3), right), masks).item() == pytest.approx(-0.01 * math.log(0.9), abs=1e-6)


def test_saturated_map_has_finite_loss_and_gradient():
    probability = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], requires_grad=True)
    loss = focal_loss(probability, torch.tensor([[[1, 0], [1, 0]]]))
    loss.backward()
    assert loss.isfinite()
    assert loss > 5  # two pixels of four are as wrong as can be
    assert probability.grad.isfinite().all()


def test_image_loss_with_equal_logits_is_two_ln_two():
    z = F.normalize(torch.ones(4, 6), dim=1)
    w = F.normalize(torch.ones(2, 6), dim=1)
    pixel, latent = image_loss(z, w, torch.tensor([0, 0, 1, 1]), 0.01, z[:2])
    assert pixel.item() == pytest.approx(math.log(2), abs=1e-6)
    assert (pixel + latent).item() == pytest.approx(1.386294, abs=1e-6)


def test_row_zero_is_normal_and_latent_is_abnormal():
    w = torch.eye(2)
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = image_loss(z, w, torch.tensor([0, 1]), 0.1, torch.tensor([[0.0, 1.0]]))
    wrong = image_loss(z, w, torch.tensor([1, 0]), 0.1, torch.tensor([[1.0, 0.0]]))
    assert max(right) < 1e-4
    assert min(wrong) > 9.9


def test_latent_term_leaves_out_pixel_anomalies():
    data = batch()
    arguments = (data["text_features"], data["labels"], 0.07, data["latent_features"])
    moved = data["image_features"].clone()
    moved[data["labels"] == 1] = -moved[data["labels"] == 1]
    before, after = image_loss(data["image_features"], *arguments), image_loss(moved, *arguments)
    assert before[1] == after[1]
    assert before[0] != after[0]


def test_batch_of_anomalies_alone_has_no_latent_term():
    z = F.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    _, latent = image_loss(z, z, torch.ones(2), 0.07, z[:0])
    assert latent.item() == 0.0


@pytest.mark.parametrize("mode", ["weighted", "mean"])
@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 2.0)])
def test_alignment_parallel_and_opposite(mode, sign, expected):
    z = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    patches = sign * 4 * z[..., None, None].expand(3, 8, 5, 5)
    loss = alignment_loss(z, patches, torch.full((3, 5, 5), 1e-6), mode)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_alignment_weights_choose_the_evidence():
    z = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # left cell along z, right cell across
    left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert alignment_loss(z, patches, left).item() == pytest.approx(0.0, abs=1e-6)
    assert alignment_loss(z, patches, right).item() == pytest.approx(1.0, abs=1e-6)
    assert alignment_loss(z, patches, right, "mean").item() == pytest.approx(1 - 0.5**0.5, abs=1e-6)


def test_alignment_of_empty_map_is_one_with_finite_gradients():
    data = batch()
    tensors = [data[name].requires_grad_() for name in ("image_features", "patch_features")]
    probability = torch.zeros_like(data["abnormal_probability"]).requires_grad_()
    loss = alignment_loss(*tensors, probability)
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert all(tensor.grad.abs().max() == 0 for tensor in (*tensors, probability))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-6, 1e4))
def test_bounds_and_scale(seed, scale):
    data = batch(seed)
    maps = (data["image_features"], data["patch_features"], data["abnormal_probability"])
    assert 0 <= dice_loss(data["abnormal_probability"], data["masks"]) < 1
    assert focal_loss(data["abnormal_probability"], data["masks"]) >= 0
    aligned = alignment_loss(*maps)
    assert 0 <= aligned <= 2
    rescaled = alignment_loss(maps[0], maps[1], maps[2] * scale)
    assert rescaled.item() == pytest.approx(aligned.item(), abs=1e-4)


def test_numerical_gradients():
    data = {
        key: value.double() if value.is_floating_point() else value
        for key, value in batch(views=2, width=4, side=3).items()
    }

    def loss(probability, image, patches, text):
        # float32 inside, so compare with a wide step
        return total_loss(
            **{
                **data,
                "abnormal_probability": probability,
                "image_features": image,
                "patch_features": patches,
                "text_features": text,
            },
            temperature=0.5,
        )["total"].double()

    names = ("abnormal_probability", "image_features", "patch_features", "text_features")
    data["abnormal_probability"] = data["abnormal_probability"].clamp(
        0.05, 0.95
    )  # away from the clamp of the logarithm
    leaves = tuple(data[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-2, atol=5e-3, rtol=2e-2)


def test_total_is_the_weighted_sum_of_its_terms():
    data = batch()
    losses = total_loss(**data, temperature=0.07)
    assert tuple(losses) == (*LOSS_TERMS, "total")
    assert losses["total"].item() == pytest.approx(sum(losses[name].item() for name in LOSS_TERMS), rel=1e-6)
    weights = {"align": 0.0, "image": 0.5}
    weighted = total_loss(**data, temperature=0.07, weights=weights)
    expected = sum(weights.get(name, 1.0) * losses[name].item() for name in LOSS_TERMS)
    assert weighted["total"].item() == pytest.approx(expected, rel=1e-6)
    assert weighted["align"] == losses["align"]


def test_align_channel_weighs_normal_views_by_their_normal_patches():
    """A normal view with one suspicious patch: the letter of eq. 11 looks at it, `label` at the others."""
    z = torch.tensor([[1.0, 0.0]])
    patches = torch.zeros(1, 2, 1, 4)
    patches[0, 0, 0, :3] = 1.0  # three patches along z_0, one across
    patches[0, 1, 0, 3] = 1.0
    map_ = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])
    data = {**batch(views=1, width=2, side=4), "image_features": z, "patch_features": patches}
    data |= {"abnormal_probability": map_, "masks": torch.zeros(1, 1, 4), "labels": torch.zeros(1, dtype=torch.long)}
    losses = {c: total_loss(**data, temperature=0.07, align_channel=c)["align"].item() for c in ("abnormal", "label")}
    assert losses == pytest.approx({"abnormal": 1.0, "label": 0.0}, abs=1e-6)
    with pytest.raises(ValueError, match="align_channel"):
        total_loss(**data, temperature=0.07, align_channel="both")


def test_half_precision_inputs_are_computed_in_float32():
    half = batch(dtype=torch.bfloat16)
    full = {key: value.float() if value.is_floating_point() else value for key, value in half.items()}
    for name, value in total_loss(**half, temperature=0.07).items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(total_loss(**full, temperature=0.07)[name].item(), rel=1e-6)


def test_errors_say_what_was_expected():
    data = batch()
    with pytest.raises(ValueError, match=r"\(B, h, w\)"):
        dice_loss(data["abnormal_probability"], data["masks"][:, :2])
    with pytest.raises(ValueError, match=r"rows \(normal, abnormal\)"):
        contrastive_loss(data["image_features"], data["text_features"][:1], data["labels"], 0.07)
    with pytest.raises(ValueError, match="expected one of"):
        alignment_loss(data["image_features"], data["patch_features"], data["abnormal_probability"], "none")
    with pytest.raises(ValueError, match="'alignment'"):
        total_loss(**data, temperature=0.07, weights={"alignment": 1.0})


def test_dice_of_the_total_counts_only_views_that_show_an_anomaly():
    torch.manual_seed(0)
    masks = torch.zeros(3, 4, 4)
    masks[1, :2] = 1
    given = {
        "image_features": F.normalize(torch.randn(3, 8), dim=1),
        "patch_features": torch.randn(3, 8, 4, 4),
        "abnormal_probability": torch.rand(3, 4, 4),
        "text_features": F.normalize(torch.randn(2, 8), dim=1),
        "labels": torch.tensor([0, 1, 0]),
        "latent_features": torch.zeros(0, 8),
        "temperature": 0.07,
    }
    shown = dice_loss(given["abnormal_probability"][1:2], masks[1:2])
    assert torch.equal(total_loss(masks=masks, **given)["pixel_dice"], shown)
    assert total_loss(masks=torch.zeros_like(masks), **given)["pixel_dice"] == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(3, 6)), min_size=1, max_size=12))
def test_every_photo_counts_alike_however_many_of_its_views_are_chosen(views):
    chosen, photos = torch.tensor([one for one, _ in views]), torch.tensor([number for _, number in views])
    shares = equal_shares(chosen, photos)
    assert (shares[~chosen] == 0).all()
    for number in photos.unique():
        own = photos == number
        expected = 1 / len(photos.unique()) if chosen[own].any() else 0
        assert shares[own].sum().item() == pytest.approx(expected, rel=1e-5)
        assert shares[own & chosen].unique().numel() <= 1
