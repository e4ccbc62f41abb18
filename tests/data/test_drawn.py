"""The sample data set: repeatable, exact masks, every defect visible, normals that vary."""

import numpy as np
import pytest
from PIL import Image

from anople_hf.data import load_inspection_data
from anople_hf.data.drawn import MIN_CHANGE, draw_dataset, render, render_defective
from anople_hf.data.drawn_products import PRODUCTS

SIDE = 72
KINDS = [(name, defect) for name, product in PRODUCTS.items() for defect in product.defects]


def test_the_data_set_loads_as_it_was_drawn(tmp_path):
    names = draw_dataset(tmp_path, categories=["capsule"], train=2, test_good=1, test_defective=5, size=SIDE)
    splits = load_inspection_data(tmp_path)
    assert names == ["capsule"] and len(splits["train"]) == 2 and len(splits["test"]) == 6
    defective = [row for row in splits["test"] if row["label"]]
    assert {row["defect"] for row in defective} == set(PRODUCTS["capsule"].defects)
    for row in defective:
        assert row["image"].size == row["mask"].size == (SIDE, SIDE)
        assert set(np.unique(np.asarray(row["mask"]))) == {0, 255}


def test_the_same_seed_draws_the_same_bytes(tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_dataset(
            tmp_path / folder, categories=["biscuit"], train=1, test_good=0, test_defective=1, size=SIDE, seed=seed
        )
    files = {
        folder: [path.read_bytes() for path in sorted((tmp_path / folder).rglob("*.png"))]
        for folder in ("a", "b", "c")
    }
    assert len(files["a"]) == 3
    assert files["a"] == files["b"]
    assert files["a"][1:] != files["c"][1:]


def test_a_category_does_not_depend_on_the_others(tmp_path):
    few = {"train": 1, "test_good": 0, "test_defective": 0, "size": SIDE}
    draw_dataset(tmp_path / "one", categories=["capsule"], **few)
    draw_dataset(tmp_path / "two", categories=["brass_gear", "capsule"], **few)
    part = "capsule/train/good/000.png"
    np.testing.assert_array_equal(Image.open(tmp_path / "one" / part), Image.open(tmp_path / "two" / part))


@pytest.mark.parametrize(("name", "defect"), KINDS, ids=["-".join(kind) for kind in KINDS])
def test_masks_are_exact(name, defect):
    product, seed = PRODUCTS[name], [0, 1, 2, 3]
    good = render(product, seed, SIDE)
    photo, mask = render_defective(product, defect, seed, SIDE)
    change = np.abs(photo.astype(int) - good).max(axis=-1)
    assert mask.any() and mask.mean() < 0.3
    assert not change[~mask].any()
    assert change[mask].max() >= 3 * MIN_CHANGE  # there to be seen
    assert np.mean(change[mask] > 0) > 0.8


@pytest.mark.parametrize("name", PRODUCTS)
def test_good_photos_vary_and_are_well_lit(name):
    first, second = (render(PRODUCTS[name], [0, 1, 0, index], SIDE).astype(int) for index in (0, 1))
    assert np.abs(first - second).mean() > 1
    assert first.std() > 10 and 20 < first.mean() < 235
    assert np.mean(first == 255) < 0.05


def test_a_good_photo_is_repeatable_and_a_defect_can_move():
    product = PRODUCTS["brass_gear"]
    np.testing.assert_array_equal(render(product, [1], SIDE), render(product, [1], SIDE))
    assert (render(product, [1], SIDE, "stain", 0) != render(product, [1], SIDE, "stain", 1)).any()


def test_unknown_categories_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no drawn category bolt; there are brass_gear, .*biscuit"):
        draw_dataset(tmp_path, categories=["bolt", "capsule"])
    assert not list(tmp_path.iterdir())


def test_a_defect_that_cannot_be_seen_is_an_error():
    product = PRODUCTS["capsule"]
    blank = type(product)(product.draw, {"nothing": lambda canvas, rng: None})
    with pytest.raises(RuntimeError, match="no visible 'nothing'"):
        render_defective(blank, "nothing", [0], 32)
