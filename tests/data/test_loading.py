"""Loading from disk: layouts, masks by stem, and what must be refused."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from anople_hf.data import FEATURES, UnreadableImageError, load_inspection_data


def save(path, value=120):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 24, 3), value, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two categories; masks listed in another order than the photos they belong to."""
    for category in ("nut", "bolt"):
        for index in range(3):
            save(tmp_path / category / f"train/good/{index}.png")
        save(tmp_path / category / "test/good/0.png")
        for stem, value in (("10", 10), ("9", 9)):
            save(tmp_path / category / f"test/dent/{stem}.png", value)
            save(tmp_path / category / f"ground_truth/dent/{stem}_mask.png", value)
    (tmp_path / "license.txt").write_text("text beside the categories is fine")
    return tmp_path


def test_mvtec_layout(tree):
    splits = load_inspection_data(tree)
    assert splits["train"].features == FEATURES and len(splits["train"]) == 6 and len(splits["test"]) == 6
    assert splits["train"].unique("category") == ["bolt", "nut"]
    for row in splits["test"]:
        assert (row["mask"] is not None) == bool(row["label"]) == (row["defect"] == "dent")
        if row["mask"] is not None:  # paired by stem
            assert np.asarray(row["mask"])[0, 0, 0] == np.asarray(row["image"])[0, 0, 0]
    assert splits["test"][0]["path"] == "bolt/test/dent/10.png"


def test_root_may_be_one_category(tree):
    splits = load_inspection_data(tree / "nut")
    assert splits["train"].unique("category") == ["nut"] and len(splits["test"]) == 3


def test_plain_folders(tmp_path):
    for name in ("cap/1.png", "cap/2.png", "lid/1.jpg"):
        save(tmp_path / name)
    splits = load_inspection_data(tmp_path)
    assert list(splits) == ["train"] and splits["train"]["category"][:] == ["cap", "cap", "lid"]
    assert load_inspection_data(tmp_path / "cap")["train"]["path"][:] == ["1.png", "2.png"]


def test_chosen_categories(tree):
    assert load_inspection_data(tree, categories=["nut"])["train"].unique("category") == ["nut"]
    with pytest.raises(ValueError, match="no category teapot; it has bolt, nut"):
        load_inspection_data(tree, categories=["teapot"])


def test_defective_photo_without_mask_stays_and_is_warned(tree, caplog):
    (tree / "nut/ground_truth/dent/9_mask.png").unlink()
    with caplog.at_level(logging.WARNING):
        test = load_inspection_data(tree)["test"]
    assert "nut: 1 defective test images have no mask" in caplog.text
    row = next(row for row in test if row["path"] == "nut/test/dent/9.png")
    assert row["mask"] is None and row["label"] == 1


def test_bad_test_photo(tree, caplog):
    victim = tree / "nut/test/good/0.png"
    victim.write_bytes(victim.read_bytes()[:50])
    with pytest.raises(UnreadableImageError, match="nut/test/good/0.png"):
        load_inspection_data(tree)
    with caplog.at_level(logging.WARNING):
        assert len(load_inspection_data(tree, skip_bad=True)["test"]) == 5
    assert "1 unreadable" in caplog.text


def test_refusals(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_inspection_data(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="holds no photos"):
        load_inspection_data(tmp_path / "void")
    shutil.rmtree(tree / "nut/train/good")
    (tree / "nut/train/good").mkdir()
    with pytest.raises(ValueError, match="'nut' has no good photos"):
        load_inspection_data(tree)
