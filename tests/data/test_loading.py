"""`load_inspection_data`: both layouts, one schema, and what is refused."""

import logging

import pytest

from anople_hf.data import FEATURES, UnreadableImageError, load_inspection_data


def test_mvtec_tree_gives_both_splits_in_one_schema(mvtec):
    splits = load_inspection_data(mvtec)
    assert list(splits) == ["train", "test"]
    assert splits["train"].features == splits["test"].features == FEATURES
    assert splits["train"]["path"][:4] == [
        "gear/train/good/000.png",
        "gear/train/good/001.png",
        "gear/train/good/002.png",
        "nut/train/good/000.png",
    ]
    assert set(splits["train"]["split"]) == {"train"} and set(splits["test"]["split"]) == {"test"}
    row = splits["train"][4]
    assert row["image"].getpixel((0, 0)) == 11 and row["mask"] is None
    assert (row["category"], row["defect"], row["label"]) == ("nut", "good", 0)


def test_photos_are_decoded_when_read_not_before(mvtec):
    train = load_inspection_data(mvtec)["train"]
    (mvtec / "gear" / "train" / "good" / "001.png").unlink()
    assert train[0]["image"].size == (20, 20)
    with pytest.raises(FileNotFoundError):
        train[1]


def test_categories_are_chosen_by_name(mvtec):
    splits = load_inspection_data(mvtec, categories=["nut"])
    assert list(splits) == ["train"] and set(splits["train"]["category"]) == {"nut"}
    with pytest.raises(ValueError, match="no category bolt; it has gear, nut"):
        load_inspection_data(mvtec, categories=["bolt"])


def test_a_bad_test_photo_is_found_at_once(mvtec, truncate, caplog):
    path = truncate(mvtec / "gear" / "test" / "bent" / "001.png")
    with pytest.raises(UnreadableImageError) as refusal:
        load_inspection_data(mvtec)
    assert str(path) in str(refusal.value)
    with caplog.at_level(logging.WARNING):
        test = load_inspection_data(mvtec, skip_bad=True)["test"]
    assert len(test) == 4 and "gear/test/bent/001.png" not in test["path"]
    assert "1 unreadable" in caplog.text and str(path) in caplog.text


def test_a_bad_mask_takes_its_photo_along(mvtec, truncate):
    path = truncate(mvtec / "gear" / "ground_truth" / "scratch" / "000_mask.png")
    with pytest.raises(UnreadableImageError, match="000_mask"):
        load_inspection_data(mvtec)
    assert "gear/test/scratch/000.png" not in load_inspection_data(mvtec, skip_bad=True)["test"]["path"]
    assert path.exists()


def test_a_file_that_is_no_photo_is_not_passed_over(mvtec):
    (mvtec / "gear" / "test" / "good" / "notes.txt").write_text("hello")
    with pytest.raises(UnreadableImageError, match=r"notes\.txt is not an image file"):
        load_inspection_data(mvtec)


@pytest.mark.parametrize("make", ["missing", "empty", "no photos", "no good photos"])
def test_a_folder_without_data_is_refused_with_both_layouts(tmp_path, photo, make):
    root = tmp_path / "line"
    if make != "missing":
        root.mkdir()
    if make == "no photos":
        (root / "gear").mkdir()
        (root / "gear" / "notes.txt").touch()
    if make == "no good photos":
        (root / "gear" / "train" / "good").mkdir(parents=True)
        photo(root / "gear" / "test" / "bent" / "0.png")
    with pytest.raises(FileNotFoundError if make == "missing" else ValueError) as refusal:
        load_inspection_data(root)
    message = str(refusal.value)
    assert str(root) in message and "<category>/train/good" in message and "<category>/*.png" in message


def test_a_split_without_any_mask_can_be_read_and_filtered(mvtec):
    train = load_inspection_data(mvtec)["train"]
    kept = train.filter(lambda name: name == "nut", input_columns="category")
    assert kept.features == FEATURES and kept[0]["mask"] is None and list(kept["mask"]) == [None] * 3
