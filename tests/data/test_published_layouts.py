"""Published layouts and their traps, on small made trees: VisA, Real-IAD, BTAD."""

import json

import numpy as np
import pytest
from PIL import Image

from anople_hf.data import load_inspection_data
from anople_hf.images import read_mask


def save(path, level=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((18, 24), level, np.uint8)).save(path)


def test_visa_masks_of_class_indices_are_not_empty(tmp_path):
    images = "candle/Data/Images"
    for name in ("Normal/0000.JPG", "Normal/0001.JPG", "Anomaly/000.JPG"):
        save(tmp_path / images / name)
    save(tmp_path / "candle/Data/Masks/Anomaly/000.png", level=1)
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\n"
        f"candle,test,anomaly,{images}/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        f"candle,train,normal,{images}/Normal/0000.JPG,\ncandle,test,normal,{images}/Normal/0001.JPG,\n"
    )
    splits = load_inspection_data(tmp_path)
    assert splits["train"]["path"][:] == [f"{images}/Normal/0000.JPG"]
    assert splits["test"]["label"][:] == [1, 0]
    assert read_mask(splits["test"][0]["mask"]).all() and splits["test"][1]["mask"] is None


@pytest.mark.parametrize("lists", ["realiad_jsons", "realiad_jsons/realiad_jsons", "realiad_jsons_sv"])
def test_real_iad_json_decides_not_the_folder(tmp_path, lists):
    photos = tmp_path / "realiad_512" / "mint"
    for name in ("OK/S1/a.jpg", "NG/QS/S2/b.jpg", "NG/QS/S2/c.jpg", "NG/QS/S2/c.png"):
        save(photos / name)

    def sample(path, kind, mask=None):
        return {"category": "mint", "anomaly_class": kind, "image_path": path, "mask_path": mask}

    content = {
        "meta": {"prefix": "mint/", "normal_class": "OK"},
        "train": [sample("OK/S1/a.jpg", "OK")],
        "test": [sample("NG/QS/S2/c.jpg", "QS", "NG/QS/S2/c.png"), sample("NG/QS/S2/b.jpg", "OK")],
    }
    (tmp_path / lists).mkdir(parents=True)
    (tmp_path / lists / "mint.json").write_text(json.dumps(content))
    test = load_inspection_data(tmp_path)["test"]
    assert test["part"][:] == ["mint/NG/QS/S2"] * 2
    assert [(row["path"][-5:], row["label"], row["defect"], row["mask"] is None) for row in test] == [
        ("b.jpg", 0, "good", True),
        ("c.jpg", 1, "QS", False),
    ]


def test_btad_ok_is_good_and_masks_match_whatever_their_suffix(tmp_path):
    for name in ("train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png"):
        save(tmp_path / "01" / name)
    splits = load_inspection_data(tmp_path)
    rows = {row["path"]: row for row in splits["test"]}
    assert rows["01/test/ok/0.bmp"]["label"] == 0 and rows["01/test/ok/0.bmp"]["defect"] == "good"
    assert rows["01/test/ko/0.bmp"]["label"] == 1 and rows["01/test/ko/0.bmp"]["mask"].size == (24, 18)
    assert set(splits["train"]["defect"]) == {"good"}


def test_a_layout_can_be_asked_for_and_is_checked(tmp_path):
    with pytest.raises(ValueError, match="layout='mvtc'; expected auto, table or one of visa"):
        load_inspection_data(tmp_path, layout="mvtc")
    save(tmp_path / "0.png")
    assert len(load_inspection_data(tmp_path, layout="folder")["train"]) == 1
    with pytest.raises(ValueError, match="no photos in a known layout"):
        load_inspection_data(tmp_path, layout="visa")


BMAD_LAYOUTS = {
    "published": ("Brain_AD", "train/good/img", "test/good/img", "test/Ungood/img", "test/Ungood/anomaly_mask"),
    "flat": ("Brain", "train/good", "test/good/img", "test/Ungood/img", "test/Ungood/label"),
    "like mvtec": ("Brain", "train/good", "test/good", "test/Ungood", "ground_truth/Ungood"),
}


@pytest.mark.parametrize("layout", BMAD_LAYOUTS)
def test_bmad_in_its_layouts(tmp_path, layout):
    root = tmp_path / "img of brains"  # "img" in the root must not disturb the pairing
    category, train, good, bad, masks = BMAD_LAYOUTS[layout]
    for index in range(2):
        save(root / category / train / f"{index}.png", level=index)
    save(root / category / good / "7.png")
    save(root / category / bad / "8.png")
    save(root / category / masks / "8.png", level=255)
    save(root / category / "valid" / "Ungood" / "img" / "9.png")
    splits = load_inspection_data(root)
    assert splits["train"]["category"][:] == ["Brain", "Brain"]
    rows = {row["path"].rsplit("/", 1)[-1]: row for row in splits["test"]}
    assert set(rows) == {"7.png", "8.png"}  # valid/ is for tuning
    assert rows["8.png"]["label"] == 1 and read_mask(rows["8.png"]["mask"]).all()
    assert rows["7.png"]["label"] == 0 and rows["7.png"]["mask"] is None
    single = load_inspection_data(root / category)
    assert single["train"]["category"][:] == ["Brain", "Brain"] and len(single["test"]) == 2
