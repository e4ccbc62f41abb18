"""The recipe of the embedded backbone, without its teacher: photos, views, damage, the student's start, its texts."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "tiny_clip"))

from features import agreement
from measure import auroc, measure
from photos import PhotoPool, class_names
from states import load_state, save_state
from student import GRID, TRUNK, make_student, make_tokenizer, normalize, patches_of, trunk_tokens
from supply import KINDS, Views
from texts import encode, state_texts
from views import DAMAGES, make_view


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Colored noise as photos, and a sheet for mosaics."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (root / "own").mkdir()
    (root / "sheets").mkdir()
    for i in range(30):
        small = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(root / "own" / f"{i:02}.png")
    for i in range(2):  # the first of a kind is held back
        Image.fromarray(generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(root / "sheets" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def student():
    photos = torch.randint(0, 256, (8, 3, 15, 15), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    photos = torch.nn.functional.interpolate(photos.float(), size=240, mode="bicubic").clamp(0, 255).byte()
    tokenizer = make_tokenizer()
    return make_student(tokenizer, patches_of(photos), seed=0).eval(), tokenizer, photos


def test_held_back_photos_are_never_trained_on(folder):
    mine, theirs = PhotoPool(folder), PhotoPool(folder, held_back=True)
    assert not set(mine.paths) & set(theirs.paths) and len(mine.paths) + len(theirs.paths) == 30
    assert len(theirs.paths) == 2
    with pytest.raises(FileNotFoundError, match="no photos in"):
        PhotoPool(folder / "own" / "nothing")


def test_class_names_come_from_the_file_names(tmp_path):
    for i in range(1000):
        (tmp_path / f"n{10000000 + 7 * i}_wall_clock_{i}.jpg").touch()
    names = class_names(tmp_path)
    assert names[0] == "wall clock 0" and names[999] == "wall clock 999"
    (tmp_path / "n10000000_wall_clock_0.jpg").unlink()
    with pytest.raises(ValueError, match="names 999 ImageNet classes"):
        class_names(tmp_path)


def test_a_view_follows_from_its_number_and_its_mask_is_where_it_was_damaged(folder):
    pool, kinds = PhotoPool(folder), set()
    for index in range(60):
        view, again = make_view(pool, index, seed=3), make_view(PhotoPool(folder), index, seed=3)
        assert np.array_equal(view.image, again.image) and np.array_equal(view.mask, again.mask)
        assert view.image.shape == (240, 240, 3) and view.image.dtype == np.uint8
        changed = np.abs(view.image.astype(int) - view.clean).max(axis=2)
        assert bool(view.damage) == view.mask.any()
        assert changed[~view.mask].max(initial=0) <= 7  # noise is rounded after the damage
        if view.damage:
            assert changed[view.mask].mean() > 6
        kinds.add(view.damage)
    assert kinds == {"", *DAMAGES}


def test_each_head_of_the_trunk_starts_on_one_neighbor(student):
    clip, _, photos = student
    tower = clip.vision_model
    with torch.no_grad():
        hidden = tower.pre_layrnorm(tower.embeddings(normalize(photos[:1])))
        attention = tower.encoder.layers[0].self_attn
        tokens = tower.encoder.layers[0].layer_norm1(hidden)[0]
        query, key = (f(tokens).unflatten(1, (8, 32)).transpose(0, 1) for f in (attention.q_proj, attention.k_proj))
        strongest = (query @ key.transpose(1, 2)).argmax(dim=2)[:, 1:] - 1  # without CLS: (heads, 225)
    inner = torch.arange(GRID**2).view(GRID, GRID)[1:-1, 1:-1].flatten()
    offsets = [GRID * y + x for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for head, offset in enumerate(offsets):
        assert (strongest[head][inner] == inner + offset).float().mean() > 0.75  # by chance 0.004


def test_extra_tokens_are_appended_and_replaced_and_leave_the_patches_in_place(student):
    clip, _, photos = student
    with torch.no_grad():
        plain = trunk_tokens(clip, photos[:2])
        layers = clip.vision_model(normalize(photos[:2]), output_hidden_states=True).hidden_states
        assert torch.allclose(plain, layers[TRUNK], atol=1e-5)
        extra = [torch.full((9, 256), float(i)) for i in range(TRUNK)]
        assert trunk_tokens(clip, photos[:2], extra).shape == (2, 226 + 9, 256)


def test_the_tokenizer_spells_every_name_and_texts_differ_by_the_state_alone(student):
    _, tokenizer, _ = student
    ids = encode(tokenizer, ["abnormal Zündschloß 3.", "nut."], slots=2)
    assert ids.shape[0] == 2 and (ids[:, 1:3] == 0).all()
    spelled = tokenizer.decode(ids[0][3:], skip_special_tokens=True).replace(" ", "")
    assert spelled == "abnormalzündschloß3."
    texts = state_texts(["nut", "gear"], torch.tensor([0, KINDS.index("scratched")]), np.random.default_rng(0))
    for sound, damaged in zip(texts[:2], texts[2:], strict=True):
        assert damaged != sound and len(damaged.split()) == len(sound.split()) + 1
        assert set(sound.strip(".").split()) <= set(damaged.strip(".").split())


def test_agreement_is_exact_for_equal_tokens_and_zero_for_none():
    features = torch.randn(2, 225, 256, generator=torch.Generator().manual_seed(0))
    loss, explained, cosine = agreement(features, features)
    assert loss == pytest.approx(0, abs=1e-5) and explained == pytest.approx(1) and cosine == pytest.approx(1)
    assert agreement(torch.zeros_like(features), features)[1] == pytest.approx(0)


def test_mirrored_views_keep_features_over_their_cells():
    columns = torch.arange(15.0).repeat_interleave(16)
    image = columns.to(torch.uint8).expand(2, 3, 240, 240)
    features = torch.arange(15.0)[None, None, :, None].expand(2, 15, 15, 256)
    views = Views(image, image, features[..., 0], torch.tensor([1, 2]), features, torch.zeros(2, 1000))
    mirrored = views.mirrored(torch.tensor([True, False]))
    for one in (mirrored.features[..., 0], mirrored.damaged, mirrored.clean[:, 0, ::16, ::16].float()):
        assert torch.equal(one, mirrored.image[:, 0, ::16, ::16].float())
    assert torch.equal(mirrored.image[1], image[1]) and not torch.equal(mirrored.image[0], image[0])


def test_a_state_is_resumed_by_a_training_of_the_same_length_only(tmp_path, student):
    clip = student[0]
    optimizer = torch.optim.AdamW(clip.parameters(), lr=0.1)
    save_state(tmp_path / "own" / "falling.pt", clip, [optimizer], step=7, steps=9, hours=0.5)
    path = tmp_path / "own" / "falling.pt"
    assert [p.name for p in path.parent.iterdir()] == ["falling.pt"]
    assert load_state(path, clip, [optimizer], steps=9) == load_state(path, clip, [optimizer]) == (7, 0.5)
    assert (
        load_state(path, clip, [optimizer], steps=8) == load_state(tmp_path / "none.pt", clip, [optimizer]) == (0, 0)
    )


def test_measured_auroc_is_that_of_the_farthest_patch(tmp_path):
    assert auroc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.3])) == pytest.approx(0.875)
    for split, tone in (("train/good", 100), ("test/good", 100), ("test/dark", 20), ("ground_truth/dark", 255)):
        (tmp_path / "part" / split).mkdir(parents=True)
        for i in range(3):
            photo = Image.new("RGB", (240, 240), (100 + i, 100, 100))
            photo.paste((tone, 100, 100), (0, 0, 120, 120))  # a defect in one place; the others are good
            photo.save(tmp_path / "part" / split / f"{i}.png")
    colors = lambda photos: photos[:, :, ::120, ::120].flatten(2).transpose(1, 2).float()  # noqa: E731
    assert measure(colors, tmp_path, shots=2, seeds=1) == {"part": 1.0, "mean": 1.0}
