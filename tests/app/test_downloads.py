"""Results to take along, and a place that empties itself."""

import csv
import io
import os
import zipfile

import pytest
from PIL import Image

from anople_hf.app.downloads import Downloads, to_csv, to_zip


def test_table_and_pictures(inspector, products, holed, tmp_path):
    plain = Image.open(inspector_photo(tmp_path))
    found = [inspector.check(products, photo, "woven_cloth") for photo in (holed[0], plain)]
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert rows[0]["label"] == "defective" and int(rows[0]["regions"]) > 0
    assert float(rows[0]["score"]) == pytest.approx(found[0].score, abs=1e-6)
    with zipfile.ZipFile(io.BytesIO(to_zip(found))) as archive:
        assert archive.namelist() == ["scores.csv", "000_photo.png", "001_photo.png"]
        assert Image.open(archive.open("000_photo.png")).size == (96, 96)


def inspector_photo(folder):
    Image.new("RGB", (96, 96), (60, 80, 120)).save(folder / "plain.png")
    return folder / "plain.png"


def test_old_files_are_swept_away():
    downloads = Downloads(seconds=60)
    old = downloads.place("a.csv")
    old.write_text("a")
    os.utime(old.parent, (0, 0))
    new = downloads.place("a.csv")
    assert not old.exists() and new.parent.is_dir() and new != old
