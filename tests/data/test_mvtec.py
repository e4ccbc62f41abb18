"""The MVTec-AD layout: masks by stem, missing ones reported, one category as root."""

import logging

from anople_hf.data import load_inspection_data
from anople_hf.data import mvtec as layout


def by_path(dataset):
    return {row["path"]: row for row in dataset}


def test_masks_are_paired_by_stem(mvtec):
    rows = by_path(load_inspection_data(mvtec)["test"])
    levels = {path: row["mask"] and row["mask"].getpixel((0, 0)) for path, row in rows.items()}
    assert levels == {
        "gear/test/bent/000.png": None,
        "gear/test/bent/001.png": 211,  # <stem>.png is accepted, too
        "gear/test/good/000.png": None,
        "gear/test/scratch/000.png": 200,
        "gear/test/scratch/001.png": 201,
    }
    assert list(levels) == sorted(levels)


def test_labels_come_from_the_folder_not_from_the_mask(mvtec):
    rows = by_path(load_inspection_data(mvtec)["test"])
    assert rows["gear/test/bent/000.png"]["label"] == 1 and rows["gear/test/bent/000.png"]["defect"] == "bent"
    assert rows["gear/test/good/000.png"]["label"] == 0 and rows["gear/test/good/000.png"]["defect"] == "good"


def test_a_missing_mask_is_counted_and_named(mvtec, caplog):
    with caplog.at_level(logging.WARNING):
        load_inspection_data(mvtec)
    warning = next(record.getMessage() for record in caplog.records if "no mask" in record.getMessage())
    assert warning.startswith("gear: 1 defective") and str(mvtec / "gear" / "test" / "bent" / "000.png") in warning


def test_root_may_be_one_category(mvtec):
    splits = load_inspection_data(mvtec / "gear")
    assert set(splits["train"]["category"]) == {"gear"} and len(splits["test"]) == 5
    assert splits["train"]["path"][0] == "train/good/000.png"


def test_folders_of_another_kind_are_named_not_read(mvtec, caplog):
    (mvtec / "spare").mkdir()
    (mvtec / ".cache").mkdir()
    with caplog.at_level(logging.WARNING):
        assert list(layout.find_categories(mvtec)) == ["gear", "nut"]
    assert "train/good in spare" in caplog.text and ".cache" not in caplog.text
