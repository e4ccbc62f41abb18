"""Parts: which part a photo shows, by folder, pattern or table; the worst view decides; mistakes are named."""

import csv

import pytest

from anople_hf.inspection.parts import Grouping, judge_parts


def view(part, path, ratio, label="normal", category="nut", time=""):
    return {"part": part, "path": path, "ratio": ratio, "label": label, "category": category, "time": time}


def test_folder_and_pattern():
    assert Grouping("folder").part_of("lot/0007/top.png") == Grouping("folder").part_of("lot/0007/side.png")
    named = Grouping(r"(?P<part>.+)_C[0-9]")
    assert named.part_of("a/nut_0007_C1.png") == named.part_of("b/nut_0007_C5.png") == "nut_0007"
    assert Grouping(r"^([0-9]+)-").part_of("12-left.png") == "12"  # the only group needs no name
    one_camera_one_folder = Grouping(r"lot(?P<part>[^/]+/[0-9]+)")
    assert one_camera_one_folder.part_of("line/lot3/007.png") == "3/007"  # with a /, the whole path is looked at
    assert named.part_of("a/C1.png") == "" and named.without_part(["x_C1.png", "y.png"]) == ["y.png"]


def test_a_pattern_that_matches_nothing_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"matches none of the 2 photos, such as a/1.png; expected folder"):
        Grouping(r"(?P<part>.+)_C[0-9]").without_part(["a/1.png", "a/2.png"])
    assert Grouping("folder").without_part([]) == []


@pytest.mark.parametrize("how", ["(", "no group", "(a)(b)"])
def test_what_is_no_grouping_is_refused(how):
    with pytest.raises(ValueError, match="expected folder"):
        Grouping(how)


def write(path, rows, head=("path", "serial")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return f"{path}:{head[-1]}"


def test_a_table_names_photos_from_its_own_folder_on(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    how = write(tmp_path / "parts.csv", [["photos/1.png", "A"], [tmp_path / "photos/2.png", "A"], ["3.png", " B "]])
    monkeypatch.chdir(tmp_path / "photos")
    told = Grouping(how)
    assert [told.part_of(name) for name in ("1.png", tmp_path / "photos/2.png", "../3.png", "4.png")] == [*"AAB", ""]
    assert Grouping(str(tmp_path / "parts.csv:serial")).part_of("1.png") == "A"
    with pytest.raises(ValueError, match="parts.csv has no column part; it has path, serial"):
        Grouping(str(tmp_path / "parts.csv"))
    with pytest.raises(ValueError, match="names none of the 1 photos, such as x.png"):
        told.without_part(["x.png"])


def test_a_table_that_cannot_be_meant_is_refused_by_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"line 3: 1.png shows A already, and now B"):
        Grouping(write(tmp_path / "twice.csv", [["1.png", "A"], ["1.png", "B"]]))
    with pytest.raises(ValueError, match=r"line 2: no serial"):
        Grouping(write(tmp_path / "hole.csv", [["1.png", ""]]))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        Grouping(str(tmp_path / "nowhere.csv:serial"))
    (tmp_path / "bytes.csv").write_bytes(b"path,serial\n\xff,1\n")
    with pytest.raises(ValueError, match="cannot be read as CSV in UTF-8"):
        Grouping(str(tmp_path / "bytes.csv:serial"))


def test_the_worst_view_decides_and_the_highest_ratio_is_the_parts():
    rows = [view("7", "a", 0.9), view("8", "b", 0.2, time="2026-01-02"), view("7", "c", 1.3, "defective", "lid"),
            view("", "alone", 9.0, "defective"), view("7", "d", 0.1)]  # fmt: skip
    seven, eight = judge_parts(rows)
    assert seven == {"part": "7", "category": "lid, nut", "views": 3, "ratio": 1.3, "label": "defective",
                     "not_normal": 1, "worst": "c", "time": ""}  # fmt: skip
    assert eight["label"] == "normal" and eight["views"] == 1 and eight["time"] == "2026-01-02"


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["normal", "uncertain"], "uncertain"),
        (["unknown product", "uncertain"], "unknown product"),
        (["unknown product", "defective"], "defective"),
        (["normal", ""], ""),  # without a threshold nobody can say that the part is good
        (["defective", ""], "defective"),
    ],
)
def test_the_label_of_a_part(labels, wanted):
    ratios = [None if label == "" else 0.5 + 0.1 * place for place, label in enumerate(labels)]
    rows = [view("7", str(place), ratios[place], label) for place, label in enumerate(labels)]
    (found,) = judge_parts(rows)
    assert found["label"] == wanted and found["worst"] == str(labels.index(wanted))
    assert found["ratio"] == max(ratio for ratio in ratios if ratio is not None)
