"""Pseudo anomalies: their masks, their textures, their randomness; and the views of an image.

Where in the paper: sec. 3.2 and 3.3.2.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anople_hf.training.shapes import perlin_mask, perlin_noise, product_mask
from anople_hf.training.synthesis import KINDS, AnomalySynthesizer, latent_anomalies, local_views
from anople_hf.training.textures import PROCEDURES


def photo(shape=(480, 480), seed=0):
    rng = np.random.default_rng(seed)
    image = np.full((*shape, 3), rng.uniform(60, 200, 3))
    image[shape[0] // 4 : shape[0] // 2, shape[1] // 4 :] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def texture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures")
    (folder / "wood").mkdir()
    for name, seed in (("wood/a.png", 3), ("b.JPG", 4)):
        Image.fromarray(photo((50, 70), seed)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(params=["mixed", "procedural", "shots", "folder", "cutpaste", "scar"])
def synthesizer(request, texture_folder):
    if request.param in KINDS:
        return AnomalySynthesizer(kinds=[request.param])
    return AnomalySynthesizer(texture_folder if request.param == "folder" else request.param)


def test_equal_seeds_give_equal_anomalies_and_others_differ(synthesizer):
    image, others = photo(), [photo(seed=1), photo((100, 130), seed=2)]
    first, again, other = (synthesizer(image, np.random.default_rng(seed), others) for seed in (7, 7, 8))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("shape", [(480, 480), (240, 240), (97, 131), (33, 250), (16, 16)])
def test_mask_is_exactly_what_changed(synthesizer, shape):
    image = photo(shape)
    before = image.copy()
    for seed in range(4):
        anomalous, mask = synthesizer(image, np.random.default_rng(seed))
        assert anomalous.shape == image.shape
        assert anomalous.dtype == np.uint8
        assert mask.shape == shape
        assert mask.dtype == np.bool_
        assert mask.any()
        change = np.abs(anomalous.astype(int) - image).max(axis=2)
        assert not change[~mask].any()
        assert (change[mask] >= 4).mean() >= 0.8
    assert np.array_equal(image, before)


def test_mean_mask_area_is_about_five_percent_and_never_empty():
    rng = np.random.default_rng(0)
    areas = [perlin_mask((480, 480), rng).mean() for _ in range(150)]
    assert 0.04 < np.mean(areas) < 0.07
    assert min(areas) >= 5e-4


def test_masks_reach_every_corner():
    rng = np.random.default_rng(0)
    hits = sum(perlin_mask((64, 64), rng).astype(int) for _ in range(300))
    assert min(hits[0, 0], hits[0, -1], hits[-1, 0], hits[-1, -1]) > 0


def test_mask_falls_back_where_noise_never_rises():
    mask = perlin_mask((40, 40), np.random.default_rng(0), threshold=5.0)
    assert 0.03 < mask.mean() < 0.1


def test_noise_is_zero_on_lattice_points_and_smooth():
    noise = perlin_noise((500, 500), (10, 10), np.random.default_rng(0))
    assert noise.dtype == np.float32
    # Pixel centers lie half a pixel beside the lattice points, a hundredth of a cell.
    assert np.abs(noise[::50, ::50]).max() < 0.04
    assert np.abs(np.diff(noise, axis=0)).max() < 0.15
    assert 0.5 < np.abs(noise).max() <= 1.5


@pytest.mark.parametrize("scale", [(32, 32), (1, 32), (7, 3), (2.5, 31.9)])
def test_noise_needs_no_scale_that_divides_the_size(scale):
    noise = perlin_noise((240, 225), scale, np.random.default_rng(0))
    assert noise.shape == (240, 225)
    assert np.isfinite(noise).all()
    assert noise.std() > 0.1


def test_noise_follows_its_scale_per_axis():
    noise = perlin_noise((256, 256), (2, 32), np.random.default_rng(0))
    along_y, along_x = (np.abs(np.diff(noise, axis=axis)).mean() for axis in (0, 1))
    assert along_x > 5 * along_y


def test_image_like_its_texture_still_changes():
    class Unlucky(AnomalySynthesizer):
        def _texture(self, image, rng, others):
            return image

    image = photo()
    anomalous, mask = Unlucky()(image, np.random.default_rng(0))
    assert (anomalous[mask] != image[mask]).all()
    assert np.array_equal(anomalous[~mask], image[~mask])


def disc(shape=(240, 240), radius=60):
    """A grainy disc on a plain ground, and where it is."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside = (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2 <= radius**2
    image = np.where(inside[..., None], 150, 40) + np.random.default_rng(0).normal(0, 6, (*shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_product_means_not_on_the_background(kind):
    image, inside = disc()
    seeds = [np.random.default_rng(seed) for seed in range(12)]
    anywhere = [AnomalySynthesizer(kinds=[kind])(image, rng)[1] for rng in seeds]
    on_product = [AnomalySynthesizer(kinds=[kind], on_product=True)(image, rng)[1] for rng in seeds]
    assert np.mean([mask[~inside].sum() / mask.sum() for mask in on_product]) < 0.05  # its edge is a guess
    assert np.mean([mask[~inside].sum() / mask.sum() for mask in anywhere]) > 0.2
    assert all(mask.any() for mask in on_product)


def test_kinds_have_their_shapes():
    """A box of CutPaste covers 2 to 15 %, a scar below 1 % and is thin."""
    image = photo()
    for kind, low, high in (("cutpaste", 0.004, 0.16), ("scar", 1e-5, 0.0065)):  # boxes may be cut off by the border
        shares = [AnomalySynthesizer(kinds=[kind])(image, np.random.default_rng(s))[1].mean() for s in range(20)]
        assert low <= min(shares) and max(shares) <= high, kind


def test_every_asked_kind_is_drawn():
    image = photo()
    synthesizer = AnomalySynthesizer(kinds=["scar", "cutpaste"])
    shares = np.array([synthesizer(image, np.random.default_rng(seed))[1].mean() for seed in range(30)])
    assert (shares < 0.007).any() and (shares > 0.02).any()


def test_a_box_shows_another_place_of_the_photo():
    """Of a photo in two colors, a pasted box holds nearly these colors; a texture need not."""
    image = np.full((120, 120, 3), 60, np.uint8)
    image[:, 60:] = 180
    for seed in range(8):
        anomalous, mask = AnomalySynthesizer(kinds=["cutpaste"])(image, np.random.default_rng(seed))
        pasted = anomalous[mask].astype(int)
        near = np.minimum(np.abs(pasted - 60), np.abs(pasted - 180))
        assert near.max() <= 26 + 13  # a tenth of the range brighter, a tenth more contrast


def test_product_mask_finds_the_product_or_takes_all():
    image, inside = disc()
    found = product_mask(image)
    assert (found & inside).sum() / (found | inside).sum() > 0.9
    cloth = np.random.default_rng(0).integers(0, 255, (100, 100, 3)).astype(np.uint8)
    assert product_mask(cloth).all()


def test_blend_zero_paints_the_texture_itself():
    class White(AnomalySynthesizer):
        def _texture(self, image, rng, others):
            return np.full(image.shape, 255, np.uint8)

    anomalous, mask = White(max_blend=0.0)(photo(), np.random.default_rng(0))
    assert (anomalous[mask] == 255).all()
    faint, _ = White(max_blend=0.8)(np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0))
    assert 0.2 * 255 - 1 <= faint[faint > 0].min() < 255


def test_shots_source_uses_the_other_photos():
    image = photo()
    seeds = range(6)
    alone = [AnomalySynthesizer("shots")(image, np.random.default_rng(seed))[0] for seed in seeds]
    shared = [AnomalySynthesizer("shots")(image, np.random.default_rng(seed), [photo(seed=9)])[0] for seed in seeds]
    assert any(not np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_procedural_textures_are_varied_colors(procedure):
    textures = [procedure((60, 90), np.random.default_rng(seed)) for seed in range(5)]
    for texture in textures:
        assert texture.shape == (60, 90, 3)
        assert texture.min() >= 0
        assert texture.max() <= 255
    means = np.array([texture.mean(axis=(0, 1)) for texture in textures])
    assert means.std(axis=0).min() > 10


def test_unusable_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="a folder that holds images"):
        AnomalySynthesizer(tmp_path)
    with pytest.raises(ValueError, match="'perlin'"):
        AnomalySynthesizer("perlin")
    with pytest.raises(ValueError, match="max_blend"):
        AnomalySynthesizer(max_blend=1.0)
    with pytest.raises(ValueError, match="'smear'"):
        AnomalySynthesizer(kinds=["smear"])
    with pytest.raises(ValueError, match="float32"):
        AnomalySynthesizer()(photo().astype(np.float32), np.random.default_rng(0))


def test_crops_reassemble_to_the_image_and_the_mask():
    image, mask = AnomalySynthesizer()(photo(), np.random.default_rng(3))
    for array in (image, mask):
        whole, *crops = local_views(array)
        assert [view.shape[:2] for view in (whole, *crops)] == [(240, 240)] * 5
        rows = [np.concatenate(crops[start : start + 2], axis=1) for start in (0, 2)]
        assert np.array_equal(np.concatenate(rows, axis=0), array)
        assert whole.dtype == array.dtype


def test_global_mask_covers_the_same_region_and_keeps_thin_scratches():
    mask = np.zeros((480, 480), np.bool_)
    mask[101, 20:400] = True  # one pixel thin
    mask[200:300, 200:300] = True
    mask[470, 470] = True  # a quarter of a cell
    whole = local_views(mask)[0]
    expected = np.zeros((240, 240), np.bool_)
    expected[50, 10:200] = True
    expected[100:150, 100:150] = True
    assert np.array_equal(whole, expected)


def test_global_view_is_bicubic():
    image = photo()
    expected = np.asarray(Image.fromarray(image).resize((240, 240), Image.Resampling.BICUBIC))
    assert np.array_equal(local_views(image)[0], expected)


@pytest.mark.parametrize("shape", [(480, 479), (479, 479)])
def test_views_refuse_other_than_even_squares(shape):
    with pytest.raises(ValueError, match="even square"):
        local_views(np.zeros((*shape, 3), np.uint8))


@pytest.mark.parametrize(("width", "expected"), [(640, 0.9349), (896, 0.9123)])
def test_latent_noise_turns_a_unit_vector_by_the_expected_cosine(width, expected):
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(1, width, generator=generator), dim=1).expand(2000, width)
    noisy = latent_anomalies(features, generator=generator)
    cosine = (noisy * features).sum(dim=1)
    assert cosine.mean().item() == pytest.approx(expected, abs=1e-3)
    assert torch.allclose(noisy.norm(dim=1), torch.ones(2000))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_latent_noise_does_not_depend_on_the_length_of_the_feature(scale, seed):
    features = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    plain, scaled = (
        latent_anomalies(f, 0.1, generator=torch.Generator().manual_seed(1)) for f in (features, features * scale)
    )
    assert torch.allclose(plain, scaled, atol=1e-5)


def test_latent_noise_without_spread_shifts_by_its_mean_and_passes_gradients():
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    assert torch.allclose(latent_anomalies(features, sigma=0.0), torch.tensor([[0.6, 0.8]]))
    shifted = latent_anomalies(features, sigma=0.0, mean=1.0)
    assert torch.allclose(shifted, F.normalize(torch.tensor([[1.6, 1.8]]), dim=1))
    shifted[0, 0].backward()
    assert features.grad.abs().sum() > 0


def test_latent_noise_keeps_the_dtype():
    assert latent_anomalies(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
