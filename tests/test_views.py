"""Remembered photos as the model saw them: exact for CLIP's pixels, shown as they were, copies told from others."""

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.views import View, are_copies, load_views, save_views


def test_a_photo_comes_back_exactly(processor):
    photo = Image.fromarray(render(PRODUCTS["capsule"], [7, 1], 48))
    pixels = processor(images=photo)["pixel_values"][0]
    view = View.of(pixels)
    assert torch.equal(view.pixels(), pixels)  # also where a score amplifies what is rounded
    assert np.array_equal(np.asarray(view.image()), np.asarray(photo))


def test_values_of_another_normalization_come_back_to_half_a_level(photos):
    view = View.of(photos[0])
    half = (photos[0].amax() - photos[0].amin()) / 510
    assert (view.pixels() - photos[0]).abs().max() <= half + 1e-6
    flat = View.of(torch.full((3, 8, 8), 9.0))
    assert torch.allclose(flat.pixels(), torch.full((3, 8, 8), 9.0))


def test_copies_are_told_from_other_photos(processor):
    views = [View.of(processor(images=render(PRODUCTS["capsule"], [7, index], 96))["pixel_values"][0]).cells()
             for index in range(4)]  # fmt: skip
    assert not any(are_copies(views[0], other) for other in views[1:])
    assert are_copies(views[0], views[0] + 0.02)


def test_the_file_holds_what_is_asked_for_and_a_foreign_one_is_refused(photos, tmp_path):
    save_views(tmp_path / "v.safetensors", {"a": View.of(photos[0]), "b": View.of(photos[1])})
    found = load_views(tmp_path / "v.safetensors", ["b", "c"])
    assert list(found) == ["b"] and torch.equal(found["b"].levels, View.of(photos[1]).levels)
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]
    (tmp_path / "v.safetensors").write_bytes(b"no views")
    with pytest.raises(ValueError, match=r"v.safetensors is damaged"):
        load_views(tmp_path / "v.safetensors", ["a"])
