"""Overlays and contact sheets: what is painted where, and on which scale.

Where in the paper: sec. 4.4, fig. 3.
"""

import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from anople_hf.visualization import DETECTED, SheetRow, contact_sheet, draw_contour, heat_map_overlay


def photo(shape=(60, 80), level=90):
    return np.full((*shape, 3), level, np.uint8)


def spot(shape=(60, 80), value=1.0):
    values = np.zeros(shape, np.float32)
    values[20:30, 40:60] = value
    return values


def test_map_at_the_bottom_leaves_the_photo_alone():
    values = np.random.default_rng(0).uniform(-1, 0.2, (15, 15))
    assert np.array_equal(heat_map_overlay(photo(), values, scale=(0.2, 1.0)), photo())


def test_top_of_the_scale_shows_the_top_colour():
    overlay = heat_map_overlay(photo(), spot(), alpha=1.0)
    top = np.rint(np.array(matplotlib.colormaps["inferno"](1.0)[:3]) * 255)
    assert np.array_equal(overlay[25, 50], top)
    assert np.array_equal(overlay[5, 5], photo()[5, 5])


def test_alpha_blends_photo_and_colour():
    full, half = (heat_map_overlay(photo(), spot(), alpha=alpha)[25, 50].astype(float) for alpha in (1.0, 0.5))
    assert np.abs(half - (full + 90) / 2).max() <= 1


def test_colours_depend_on_the_value_and_not_on_the_rest_of_the_map():
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


def test_contour_leaves_its_input_alone():
    image = photo()
    draw_contour(image, spot() > 0, DETECTED)
    assert np.array_equal(image, photo())


def test_pil_images_and_small_maps_are_taken():
    grey = Image.fromarray(photo()[..., 0])
    values = np.zeros((6, 8))
    values[2, 5] = 1
    overlay = heat_map_overlay(grey, values)
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
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], "sheet.png")


def rows():
    return [
        SheetRow(photo(), spot(value=0.1), 0.1, "normal", "gear", mask=np.zeros((60, 80)), threshold=0.5),
        SheetRow(photo(), spot(), 1.0, "anomalous", "gear", mask=spot() > 0, threshold=0.5, pixel_threshold=0.5),
        SheetRow(Image.fromarray(photo()), np.zeros((4, 4)), 0.0, "not calibrated", "a product with a long name"),
    ]


def test_sheet_is_written_whole_and_alone(tmp_path):
    path = contact_sheet(rows(), tmp_path / "new" / "sheet.png", title="demo")
    assert path == tmp_path / "new" / "sheet.png"
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    one = contact_sheet(rows()[:1], tmp_path / "one.png", title="demo")
    with Image.open(one) as sheet:
        assert sheet.width == pixels.shape[1]
        assert pixels.shape[0] - sheet.height == pytest.approx(2 * 1.8 * 120, abs=2)
    # The contour of the second row, and nothing hot in the sheet but its spot and the colour bar.
    assert (np.abs(pixels.astype(int) - DETECTED).max(axis=2) < 40).any()


def test_failed_sheet_keeps_the_old_one_and_leaves_nothing_aside(tmp_path, monkeypatch):
    path = contact_sheet(rows(), tmp_path / "sheet.png")
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        file.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        contact_sheet(rows(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def texts(monkeypatch, tmp_path, sheet_rows):
    from matplotlib.text import Text

    seen = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: _note(self, file))

    def _note(figure, file):
        seen.extend(text.get_text() for text in figure.findobj(Text))
        file.write_bytes(b"")

    contact_sheet(sheet_rows, tmp_path / "sheet.png", scale=(0.0, 1.0))
    return seen


def test_wrong_decisions_are_marked(monkeypatch, tmp_path):
    right = texts(monkeypatch, tmp_path, rows())
    assert "missed" not in right
    assert "false alarm" not in right
    defect = spot() > 0
    wrong = [
        SheetRow(photo(), spot(), 0.2, "normal", "gear", mask=defect, threshold=0.5),
        SheetRow(photo(), spot(), 0.7, "anomalous", "gear", mask=~defect & defect, threshold=0.5),
    ]
    marked = texts(monkeypatch, tmp_path, wrong)
    assert marked.count("missed") == marked.count("false alarm") == 1
    assert "score 0.7   threshold 0.5" in marked


def test_flat_maps_and_negative_scores_make_a_sheet(tmp_path):
    flat = [SheetRow(photo(), np.zeros((4, 4)), score, "normal", "gear", threshold=0.0) for score in (0.0, -2.0)]
    assert contact_sheet(flat, tmp_path / "sheet.png").stat().st_size > 1000


def test_no_pyplot_state():
    import subprocess

    code = "import sys, anople_hf.visualization; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
