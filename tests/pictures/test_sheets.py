"""Contact sheets: rows, wrong decisions, and files that appear whole.

Where in the paper: sec. 4.4, fig. 3.
"""

import sys

import numpy as np
import pytest
from PIL import Image

from anople_hf.pictures.palette import DETECTED
from anople_hf.pictures.sheets import SheetRow, contact_sheet


def photo(shape=(60, 80), level=90):
    return np.full((*shape, 3), level, np.uint8)


def spot(shape=(60, 80), value=1.0):
    values = np.zeros(shape, np.float32)
    values[20:30, 40:60] = value
    return values


def test_no_rows_are_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], tmp_path / "sheet.png")


def rows():
    return [
        SheetRow(photo(), spot(value=0.1), 0.1, "normal", "gear", mask=np.zeros((60, 80)), threshold=0.5),
        SheetRow(photo(), spot(), 1.0, "anomalous", "gear", mask=spot() > 0, threshold=0.5, mask_level=0.5),
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
    # The contour of the second row, and nothing hot in the sheet but its spot and the color bar.
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

    code = "import sys; from anople_hf.pictures import charts, sheets; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
