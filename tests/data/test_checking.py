"""The report on a data set: counts, published counts, and every problem by its file."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anople_hf.cli import app
from anople_hf.data import load_inspection_data, published
from anople_hf.data.checking import check_data
from anople_hf.images import UnreadableImageError


@pytest.fixture
def tidy(tmp_path):
    """One category without any problem."""
    rng = np.random.default_rng(0)

    def save(name, content):
        path = tmp_path / "zipper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)

    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/split/0.png"):
        save(name, rng.integers(0, 255, (20, 30, 3), np.uint8))
    save("ground_truth/split/0_mask.png", np.eye(20, 30, dtype=np.uint8) * 255)
    return tmp_path


def test_a_tidy_set_is_counted_and_has_no_problems(tidy):
    report = check_data(tidy)
    assert report.problems == [] and report.dataset == "MVTec-AD"
    (row,) = report.categories
    assert {key: row[key] for key in ("train", "good", "defective", "masks", "kinds")} == {
        "train": 2, "good": 1, "defective": 1, "masks": 1, "kinds": 1,
    }  # fmt: skip
    assert row["sizes"] == "30x20" and row["published"] == "published 240 / 32 / 119"
    assert "14 more categories: bottle" in report.remarks[0] and "zipper" in report.remarks[1]
    assert check_data(load_inspection_data(tidy)) == report


def test_every_problem_is_named_by_its_file(tidy, truncate):
    root = tidy / "zipper"
    shutil.copy(root / "train/good/0.png", root / "test/good/9.png")  # a test photo that was learned
    shutil.copy(root / "test/split/0.png", root / "test/split/2.png")  # and one without a mask
    Image.new("RGB", (30, 20), 7).save(root / "test/split/3.png")
    Image.new("L", (30, 20), 0).save(root / "ground_truth/split/3_mask.png")
    Image.new("RGB", (30, 20), 9).save(root / "test/split/4.png")
    Image.new("L", (20, 30), 1).save(root / "ground_truth/split/4_mask.png")
    with Image.open(root / "train/good/0.png") as photo:
        photo.save(root / "test/good/8.bmp")  # equal pixels in another format, learned and tested
    truncate(root / "train/good/1.png")
    problems = "\n".join(check_data(tidy).problems)
    for expected in (
        "test/good/9.png: the same file as zipper/train/good/0.png",
        "test/good/8.bmp: the same pixels as zipper/train/good/0.png, in another file or format",
        "test/split/2.png: defective and without a mask",
        "test/split/3.png: its mask",
        "test/split/4.png: its mask covers 100%",
        "test/split/4.png: the photo has 30x20 pixels, its mask 20x30",
        "train/good/1.png: ",
    ):
        assert f"zipper/{expected}" in problems
    assert len(problems.splitlines()) == 8  # 2.png is a copy, too


def test_the_command_prints_the_table_and_fails_on_problems(tidy):
    done = CliRunner().invoke(app, ["data", "check", str(tidy)])
    assert done.exit_code == 0 and "zipper" in done.stdout and "0 problems" in done.stdout
    Image.new("L", (30, 20), 0).save(tidy / "zipper/ground_truth/split/0_mask.png")
    done = CliRunner().invoke(app, ["data", "check", str(tidy), "--json"])
    assert done.exit_code == 1 and len(json.loads(done.stdout)["problems"]) == 1


def test_published_counts_add_up_to_the_published_sums():
    def sums(name):
        return tuple(map(sum, zip(*published.PUBLISHED[name].values(), strict=True)))

    assert sums("MVTec-AD") == (3629, 467, 1258)
    assert sums("VisA") == (8659, 962, 1200)
    assert sums("MPDD") == (888, 176, 282)
    assert sums("BTAD") == (1799, 451, 290)
    assert len(published.REAL_IAD) == 30


def test_a_complete_set_is_as_published(tmp_path, photo, monkeypatch):
    monkeypatch.setitem(published.PUBLISHED, "MVTec-AD", {"zipper": (1, 1, 0)})
    photo(tmp_path / "zipper/train/good/0.png", 1)
    photo(tmp_path / "zipper/test/good/0.png", 2)
    report = check_data(tmp_path)
    assert report.categories[0]["published"] == "as published" and report.remarks == []


def test_masks_that_would_distort_results_are_named(tidy):
    root, rng = tidy / "zipper", np.random.default_rng(5)
    spot = np.zeros((20, 30), np.uint8)
    spot[5:9, 5:9] = 255
    soft, numbered, clear = spot.copy(), spot.copy(), np.dstack([spot] * 4)
    soft[4, 5:9] = 90
    numbered[numbered > 0] = 1
    numbered[5, 5] = 2
    for name, content, suffix in (
        ("inverted", 255 - spot, "png"), ("most", np.full_like(spot, 255), "png"), ("soft", soft, "png"),
        ("blurred", spot, "jpg"), ("numbered", numbered, "png"), ("clear", clear, "png"),
    ):  # fmt: skip
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(root / f"test/split/{name}.png")
        Image.fromarray(content).save(root / f"ground_truth/split/{name}_mask.{suffix}")
    report = check_data(tidy)
    said = "\n".join(report.problems)
    for expected in (
        "split/inverted.png: its mask covers 97% of the photo; it looks inverted",
        "split/most.png: its mask covers 100% of the photo.",
        "split/soft.png: its mask is soft, it has 3 values",
        "split/blurred.png: its mask is a JPEG",
        "split/clear.png: its mask has transparency",
    ):
        assert expected in said
    assert len(report.problems) == 5
    assert any(
        "1 masks hold several values (1 and 2 in that of zipper/test/split/numbered.png)" in r for r in report.remarks
    )


def test_depths_and_shapes_are_named(tmp_path):
    rng = np.random.default_rng(1)
    for part in ("train/good", "test/good"):
        (tmp_path / "nut" / part).mkdir(parents=True)
        for number in range(2):
            values = rng.integers(0, 4096, (20, 500)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "nut" / part / f"{number}.png")
    Image.fromarray(rng.integers(0, 20000, (20, 500)).astype(np.uint16)).save(tmp_path / "nut/test/good/8.png")
    Image.fromarray(rng.integers(0, 256, (20, 500)).astype(np.uint8)).save(tmp_path / "nut/test/good/9.png")
    report = check_data(tmp_path)
    assert report.remarks[0] == "nut: its photos are read as 12 bits in uint16, 0 is black and 4095 is white."
    assert "500 x 20 pixels are 25:1" in report.remarks[1] and report.categories[0]["cell"] == "33x1"
    assert report.categories[0]["tiles"] == "1x25: 2x1" and "with tiles 1x25" in report.remarks[1]
    bright, shallow = report.problems
    assert "nut/test/good/8.png: its brightest value is 199" in bright and "read up to 4095" in bright
    assert "nut/test/good/9.png: its depth is uint8" in shallow


def test_names_that_are_no_text_and_links(tidy, tmp_path_factory, caplog):
    strange = os.fsdecode(b"caf\xe9.png")
    shutil.copy(tidy / "zipper/train/good/0.png", tidy / "zipper/train/good" / strange)
    assert any("caf\\xe9.png: its name is no UTF-8 text" in problem for problem in check_data(tidy).problems)
    with pytest.raises(UnreadableImageError, match=r"caf\\xe9\.png.*Rename"):
        load_inspection_data(tidy)
    assert len(load_inspection_data(tidy, skip_bad=True)["train"]) == 2 and "caf\\xe9.png" in caplog.text
    linked = tmp_path_factory.mktemp("linked")
    (tidy / "zipper/train/good" / strange).unlink()
    (linked / "zipper").symlink_to(tidy / "zipper", target_is_directory=True)
    assert check_data(linked).categories == check_data(tidy).categories


@pytest.mark.parametrize("name", ["a::b", "file:x"])
def test_folders_that_look_like_addresses(tidy, name, monkeypatch):
    (tidy / "zipper").rename(tidy / "inner")
    (tidy / name).mkdir()
    (tidy / "inner").rename(tidy / name / "zipper")
    monkeypatch.chdir(tidy)
    splits = load_inspection_data(name)
    assert splits["train"][0]["image"].size == (30, 20) and check_data(name).problems == []
