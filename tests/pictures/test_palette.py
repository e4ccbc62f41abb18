"""The visual language holds in gray and for color-blind eyes, by measured lightness."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from anople_hf.pictures import palette


def linear(rgb):
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return linear(rgb) @ (0.2126, 0.7152, 0.0722)


def lightness(rgb):
    """CIE L*, 0..100, of sRGB in 0..1."""
    y = luminance(rgb)
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def deuteranope(rgb):
    """What a green-blind eye makes of linear RGB (Machado et al. 2009, severity 1)."""
    matrix = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    return linear(rgb) @ np.transpose(matrix)


def test_more_anomalous_is_always_lighter_by_even_steps():
    steps = np.diff(lightness(palette.paint(np.linspace(0, 1, 256)) / 255))
    assert steps.min() > 0
    assert steps.max() < 3 * np.median(steps)


def test_good_and_defective_differ_in_gray_and_for_green_blind_eyes():
    good, defective = to_rgb(palette.GOOD), to_rgb(palette.DEFECTIVE)
    assert lightness(good) - lightness(defective) > 30
    assert np.abs(deuteranope(good) - deuteranope(defective)).max() > 0.4


@pytest.mark.parametrize("color", [palette.GOOD_TEXT, palette.DEFECTIVE_TEXT, palette.INK, palette.FAINT])
def test_text_can_be_read_on_white(color):
    assert 1.05 / (luminance(to_rgb(color)) + 0.05) > 4.5  # WCAG AA


@pytest.mark.parametrize("color", [palette.DETECTED, palette.TRUTH])
def test_contours_stand_out_of_their_edge(color):
    assert lightness(np.array(color) / 255) - lightness(np.array(palette.EDGE) / 255) > 60


def test_contour_is_no_color_of_the_map():
    assert np.abs(palette.paint(np.linspace(0, 1, 256)) - palette.DETECTED).max(axis=1).min() > 80


def test_figures_are_bytes_or_whole_files(tmp_path):
    assert palette.png(Figure(figsize=(1, 1))).startswith(b"\x89PNG")
    palette.save(Figure(figsize=(1, 1)), tmp_path / "new" / "a.svg")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.svg"]
