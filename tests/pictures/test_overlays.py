"""Heat maps and outlines: what is painted where, and on which scale.

Where in the paper: sec. 4.4, fig. 3.
"""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from anople_hf.pictures.overlays import draw_contour, heat_map_overlay, write_legend
from anople_hf.pictures.palette import COLOR_MAP, DETECTED, EDGE


def photo(shape=(60, 80), level=90):
    return np.full((*shape, 3), level, np.uint8)


def spot(shape=(60, 80), value=1.0):
    values = np.zeros(shape, np.float32)
    values[20:30, 40:60] = value
    return values


def test_map_at_the_bottom_leaves_the_photo_alone():
    values = np.random.default_rng(0).uniform(-1, 0.2, (15, 15))
    assert np.array_equal(heat_map_overlay(photo(), values, scale=(0.2, 1.0)), photo())


def test_top_of_the_scale_shows_the_top_color():
    overlay = heat_map_overlay(photo(), spot(), alpha=1.0)
    top = np.rint(np.array(matplotlib.colormaps[COLOR_MAP](1.0)[:3]) * 255)
    assert np.array_equal(overlay[25, 50], top)
    assert np.array_equal(overlay[5, 5], photo()[5, 5])


def test_alpha_blends_photo_and_color():
    full, half = (heat_map_overlay(photo(), spot(), alpha=alpha)[25, 50].astype(float) for alpha in (1.0, 0.5))
    assert np.abs(half - (full + 90) / 2).max() <= 1


def test_colors_depend_on_the_value_and_not_on_the_rest_of_the_map():
    weak = spot(value=0.5)
    both = weak.copy()
    both[0, 0] = 1.0
    assert np.array_equal(heat_map_overlay(photo(), weak)[25, 50], heat_map_overlay(photo(), both)[25, 50])
    assert not np.array_equal(heat_map_overlay(photo(), weak), heat_map_overlay(photo(), spot()))


def test_threshold_contour_surrounds_what_lies_above():
    overlay = heat_map_overlay(photo(), spot(), threshold=0.5)
    line = (overlay == DETECTED).all(axis=2)
    expected = np.zeros((60, 80), np.bool_)
    expected[20:30, 40:60] = True
    expected[21:29, 41:59] = False
    assert np.array_equal(line, expected)
    above = heat_map_overlay(photo(), spot(), threshold=1.0)
    assert not (above == DETECTED).all(axis=2).any()  # strictly above, as the decision is


def test_contour_of_one_pixel_and_of_the_whole_frame():
    one = np.zeros((60, 80), np.bool_)
    one[3, 4] = True
    assert np.array_equal((draw_contour(photo(), one, DETECTED) == DETECTED).all(axis=2), one)
    whole = draw_contour(photo(), np.ones((60, 80), np.bool_), DETECTED)
    assert np.array_equal(whole, photo())  # the frame is no border of the region


def test_edge_lies_outside_the_contour_and_shows_on_white():
    white = draw_contour(photo(level=255), spot() > 0, DETECTED)
    edge = (white == EDGE).all(axis=2)
    expected = np.zeros((60, 80), np.bool_)
    expected[19:31, 40:60] = expected[20:30, 39:61] = True
    expected[20:30, 40:60] = False
    assert np.array_equal(edge, expected)


def test_contour_grows_with_the_photo():
    region = np.zeros((640, 640), np.bool_)
    region[200:400, 200:400] = True
    drawn = draw_contour(photo((640, 640)), region, DETECTED)
    assert (drawn[300, 200:208] == DETECTED).all(axis=1).sum() == 4
    assert (drawn[300, 190:200] == EDGE).all(axis=1).sum() == 2


def test_contour_leaves_its_input_alone():
    image = photo()
    draw_contour(image, spot() > 0, DETECTED)
    assert np.array_equal(image, photo())


def test_pil_images_and_small_maps_are_taken():
    gray = Image.fromarray(photo()[..., 0])
    values = np.zeros((6, 8))
    values[2, 5] = 1
    overlay = heat_map_overlay(gray, values)
    assert overlay.shape == (60, 80, 3)
    changed = np.argwhere((overlay != 90).any(axis=2))
    assert np.allclose(changed.mean(axis=0), (24.5, 54.5), atol=1)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="low < high"):
        heat_map_overlay(photo(), spot(), scale=(1.0, 1.0))
    with pytest.raises(ValueError, match="one image of the batch"):
        heat_map_overlay(photo(), spot()[None])
    with pytest.raises(ValueError, match="float64"):
        heat_map_overlay(photo() / 255.0, spot())


def test_legend_shows_the_scale_and_the_threshold(tmp_path):
    def colors(path):
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)

    marked, bare = (
        colors(write_legend(tmp_path / "a.png", (0, 1), 0.5)),
        colors(write_legend(tmp_path / "b.png", (0, 1))),
    )
    for level in (0.1, 0.4, 0.9):
        wanted = np.array(matplotlib.colormaps[COLOR_MAP](level)[:3]) * 255
        assert np.abs(marked - wanted).max(axis=1).min() < 5
    assert np.abs(marked - DETECTED).max(axis=1).min() < 5 < np.abs(bare - DETECTED).max(axis=1).min()
    shares = colors(write_legend(tmp_path / "c.png", None))  # each product has its own scale
    assert np.abs(shares - DETECTED).max(axis=1).min() < 5
