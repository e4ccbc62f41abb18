"""Predictions as files: exact scores, no name lost."""

import csv

import numpy as np
import pytest
from PIL import Image

from anople_hf.prediction import COLUMNS, colour_scale, predict, write_predictions


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    model.memorize(photos[:3], "gear")
    model.config.calibration = {"gear": {"threshold": 1e-6, "pixel_threshold": 1e-6}}
    return model


def test_files(taught, processor, tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("1.png", "2.png"):
            paths.append(tmp_path / folder / name)
            noise = np.random.default_rng(len(paths)).integers(0, 255, (40, 60, 3), np.uint8)
            Image.fromarray(noise).save(paths[-1])
    (tmp_path / "out").mkdir()
    judged = list(predict(taught, processor, paths, category="gear", batch_size=3, progress=False))
    counts = write_predictions(iter(judged), tmp_path / "out", scale=colour_scale(taught, "gear"))
    assert counts == {"defective": 4}
    with open(tmp_path / "out/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and [row["path"] for row in rows] == [str(path) for path in paths]
    assert [float(row["score"]) for row in rows] == [p.result["score"] for p in judged]
    assert len({row["heat_map"] for row in rows}) == 4
    for row in rows:
        assert Image.open(tmp_path / "out" / row["heat_map"]).size == (60, 40)
        assert np.asarray(Image.open(tmp_path / "out" / row["mask"])).any()


def test_unknown_category(taught, processor, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(KeyError, match="known: gear"):
        list(predict(taught, processor, [tmp_path / "a.png"], category="bolt", progress=False))


def test_colours_do_not_depend_on_the_photo(taught):
    assert colour_scale(taught, "gear") == (0.0, 2e-6) and colour_scale(taught) == (0.0, 0.5)
