"""Plain folders of good photos, and the one arrangement that must not pass for them."""

import logging

import pytest

from anople_hf.data import load_inspection_data


def test_one_folder_per_category(tmp_path, photo):
    for name in ("b", "a"):
        for category in ("nut", "gear"):
            photo(tmp_path / category / f"{name}.png")
    splits = load_inspection_data(tmp_path)
    assert list(splits) == ["train"]
    assert splits["train"]["path"][:] == ["gear/a.png", "gear/b.png", "nut/a.png", "nut/b.png"]
    assert set(splits["train"]["label"]) == {0} and set(splits["train"]["defect"]) == {"good"}


def test_root_may_be_one_category(tmp_path, photo):
    photo(tmp_path / "gear" / "a.png")
    (tmp_path / "gear" / ".thumbnails").mkdir()
    train = load_inspection_data(tmp_path / "gear")["train"]
    assert train["category"][:] == ["gear"] and train["path"][:] == ["a.png"]


def test_what_is_left_out_is_said(tmp_path, photo, caplog):
    photo(tmp_path / "gear" / "a.png")
    photo(tmp_path / "loose.png")
    (tmp_path / "nut").mkdir()
    with caplog.at_level(logging.WARNING):
        assert set(load_inspection_data(tmp_path)["train"]["category"]) == {"gear"}
    assert "1 photos directly in" in caplog.text and "nut; left out" in caplog.text


def test_test_photos_do_not_pass_for_good_ones(mvtec):
    with pytest.raises(ValueError, match="looks like the test photos of one product") as refusal:
        load_inspection_data(mvtec / "gear" / "test")
    assert "bent, scratch" in str(refusal.value)
