"""The drawn data set: deterministic, exact masks, every defect visible."""

import numpy as np
import pytest

from anople_hf.data import load_inspection_data
from anople_hf.data.drawn import draw_dataset, render, render_defective
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.images import read_mask

CASES = [(name, defect) for name, product in PRODUCTS.items() for defect in product.defects]


@pytest.mark.parametrize(("name", "defect"), CASES)
def test_mask_is_what_the_defect_changed(name, defect):
    seed = [1, 2, 3]
    good = render(PRODUCTS[name], seed, 96)
    photo, mask = render_defective(PRODUCTS[name], defect, seed, 96)
    assert 3 <= mask.sum() < 0.3 * mask.size
    assert (photo[~mask] == good[~mask]).all()
    assert np.abs(photo[mask].astype(int) - good[mask]).mean() > 5


def test_same_seed_same_photo_and_parts_vary():
    product = PRODUCTS["brass_gear"]
    assert (render(product, [0, 1], 64) == render(product, [0, 1], 64)).all()
    assert (render(product, [0, 1], 64) != render(product, [0, 2], 64)).mean() > 0.2


def test_data_set_on_disk(drawn):
    splits = load_inspection_data(drawn)
    assert len(PRODUCTS) >= 4 and splits["train"].unique("category") == sorted(PRODUCTS)
    for row in splits["test"]:
        assert row["label"] == 0 or read_mask(row["mask"]).any()
    for name, product in PRODUCTS.items():
        kinds = {r["defect"] for r in splits["test"] if r["category"] == name}
        assert kinds == set(product.defects) | {"good"}


def test_unknown_category(tmp_path):
    with pytest.raises(ValueError, match="teapot"):
        draw_dataset(tmp_path, categories=["teapot"])
    assert not any(tmp_path.iterdir())
