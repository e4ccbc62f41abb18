"""Data sets that the `datasets` library reads: Parquet, imagefolder with metadata, columns mapped by name."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value

from anople_hf.data import load_inspection_data
from anople_hf.data.hub import HubSource, load_hub_data
from anople_hf.data.schema import FEATURES


def picture(level):
    return np.full((12, 16, 3), level, np.uint8)


@pytest.fixture
def parquet(tmp_path):
    """Another's data set: own column names, a class label in their words, a defective photo in train."""
    features = Features(
        {
            "photo": Image(),
            "gt": Image(),
            "state": ClassLabel(names=["broken", "fine"]),
            "product": Value("string"),
            "note": Value("string"),
        }
    )

    def table(rows):
        columns = zip(*rows, strict=True)
        return Dataset.from_dict(dict(zip(features, map(list, columns), strict=True)), features=features)

    train = [(picture(1), None, 1, "nut", ""), (picture(2), None, 0, "nut", "bad"), (picture(3), None, 1, "cog", "")]
    test = [(picture(4), None, 1, "cog", ""), (picture(5), np.eye(12, 16, dtype=np.uint8), 0, "nut", "bad")]
    root = tmp_path / "others"
    for name, rows in (("train", train), ("test", test)):
        (root / "data").mkdir(parents=True, exist_ok=True)
        table(rows).to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


COLUMNS = {"image": "photo", "mask": "gt", "label": "state", "category": "product", "part": "note"}


@pytest.fixture
def source(parquet):
    return HubSource(str(parquet), columns=COLUMNS, good=("fine",))


def levels(table):
    return [np.asarray(row["image"])[0, 0, 0] for row in table]


def test_columns_are_mapped_and_labels_read_by_their_words(source, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        splits = load_hub_data(source, cache_dir=str(tmp_path / "cache"))
    assert splits["train"].features == FEATURES and splits["test"].features == FEATURES
    assert levels(splits["train"]) == [1, 3] and "1 defective photos in train left out" in caplog.text
    assert splits["train"]["category"][:] == ["nut", "cog"]
    test = splits["test"]
    assert test["label"][:] == [0, 1] and test["defect"][:] == ["good", "anomaly"]
    assert test["part"][:] == ["", "bad"]
    assert test[0]["mask"] is None
    np.testing.assert_array_equal(np.asarray(test[1]["mask"]) > 0, np.eye(12, 16) > 0)
    assert len(set(test["path"])) == 2


def test_streaming_gives_the_same_rows(source, tmp_path):
    whole = load_hub_data(source, cache_dir=str(tmp_path / "cache"))
    streamed = load_hub_data(source, streaming=True, categories=["nut"])
    assert isinstance(streamed["train"], IterableDataset)
    rows = list(streamed["test"])
    assert len(rows) == 1 and rows[0]["category"] == "nut" and rows[0]["label"] == 1
    assert [row["path"] for row in streamed["train"]] == [whole["train"][0]["path"]]
    np.testing.assert_array_equal(np.asarray(rows[0]["mask"]), np.asarray(whole["test"][1]["mask"]))


def test_only_some_categories(source, tmp_path):
    splits = load_hub_data(source, categories=["cog"], cache_dir=str(tmp_path / "cache"))
    assert levels(splits["train"]) == [3] and levels(splits["test"]) == [4]
    with pytest.raises(ValueError, match="no category gear; it has cog, nut"):
        load_hub_data(source, categories=["gear"], cache_dir=str(tmp_path / "cache"))


def test_missing_columns_are_named_with_what_to_do(parquet, tmp_path):
    cache = str(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"expected image, and label or defect. Name them as hub:"):
        load_hub_data(HubSource(str(parquet)), cache_dir=cache)
    with pytest.raises(ValueError, match=r"no column masks; it has photo, gt"):
        load_hub_data(HubSource(str(parquet), columns={**COLUMNS, "mask": "masks"}), cache_dir=cache)


def test_imagefolder_with_metadata(tmp_path, photo):
    root = tmp_path / "shop"
    for split, names in (("train", ["a", "b"]), ("test", ["c", "d"])):
        for name in names:
            photo(root / split / f"{name}.png", level=ord(name))
    photo(root / "test" / "masks" / "d.png", level=255)
    (root / "train" / "metadata.csv").write_text("file_name,label,category\na.png,good,cup\nb.png,good,cup\n")
    (root / "test" / "metadata.csv").write_text(
        "file_name,label,category,mask_file_name\nc.png,good,cup,\nd.png,chipped,cup,masks/d.png\n"
    )
    splits = load_inspection_data(root)
    assert splits["train"]["label"][:] == [0, 0] and splits["test"]["label"][:] == [0, 1]
    assert splits["test"][1]["mask"] is not None and splits["test"][0]["mask"] is None
    assert levels(splits["test"].cast_column("image", Image(mode="RGB"))) == [ord("c"), ord("d")]


def test_ours_saved_as_parquet_loads_back_equal(mvtec, tmp_path):
    ours = load_inspection_data(mvtec)
    for name, table in ours.items():
        (tmp_path / "saved").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "saved" / f"{name}.parquet")
    back = load_inspection_data(tmp_path / "saved")
    assert isinstance(back, DatasetDict) and set(back) == set(ours)
    for name in ours:
        assert back[name].features == ours[name].features
        for mine, theirs in zip(ours[name], back[name], strict=True):
            assert {k: v for k, v in mine.items() if k not in ("image", "mask")} == {
                k: v for k, v in theirs.items() if k not in ("image", "mask")
            }
            np.testing.assert_array_equal(np.asarray(mine["image"]), np.asarray(theirs["image"]))
            assert (mine["mask"] is None) == (theirs["mask"] is None)


def test_addresses():
    source = HubSource.parse("hub:me/parts@v1.0?image=photo&good=Fine,ok&config=small")
    assert (source.repo, source.revision, source.config) == ("me/parts", "v1.0", "small")
    assert source.columns == {"image": "photo"} and source.good == ("fine", "ok")
    for address in ("hub:", "hub:me/parts?picture=x"):
        with pytest.raises(ValueError, match="expected hub:OWNER/NAME"):
            HubSource.parse(address)


def test_a_folder_that_is_no_table_says_so(mvtec):
    with pytest.raises(ValueError, match="neither Parquet files nor metadata"):
        load_inspection_data(mvtec, layout="table")
