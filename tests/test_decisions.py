"""Decisions, and the regions of a mask."""

import numpy as np
import pytest

from anople_hf.decisions import decide, decide_parts, find_regions

RULE = {"threshold": 0.5, "pixel_threshold": 0.6, "labels": ("good", "bad"), "min_area": 1}


def test_regions_are_eight_connected_and_sorted_by_peak():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[5:7, 5:7] = True
    heat = mask * np.linspace(0.1, 1, 64).reshape(8, 8)
    regions = find_regions(heat, mask)
    assert [r["area"] for r in regions] == [4, 2]
    assert regions[0]["box"] == (5, 5, 7, 7)
    assert [r["area"] for r in find_regions(heat, mask, min_area=3)] == [4]


@pytest.mark.parametrize(
    ("score", "peak", "label", "level"),
    [(0.5, 0.9, "good", None), (0.51, 0.9, "bad", 0.6), (0.51, 0.5, "bad", 0.45)],
    ids=["at the threshold", "above", "above, with a faint map"],
)
def test_a_part_is_defective_above_the_threshold_and_then_marked(score, peak, label, level):
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = peak
    found = decide(score, heat, **RULE)
    assert found["label"] == label and found["mask_level"] == (None if level is None else pytest.approx(level))
    assert found["mask"].sum() == len(found["regions"]) == (level is not None)


def test_ratio_unknown_products_and_the_gray_zone():
    heat = np.full((4, 4), 0.9, np.float32)
    assert decide(0.75, heat, **RULE)["ratio"] == 1.5
    foreign = decide(0.75, heat, **RULE, unknown=True)
    assert foreign["label"] == "unknown product" and not foreign["mask"].any() and foreign["regions"] == []
    for score, label in ((0.44, "good"), (0.46, "uncertain"), (0.54, "uncertain"), (0.56, "bad")):
        found = decide(score, heat, **RULE, gray_zone=0.1)
        assert found["label"] == label and found["mask"].any() == (score > 0.5)


def test_what_has_no_threshold_is_not_decided_or_not_marked():
    heat = np.ones((4, 4), np.float32)
    assert decide(9.0, heat, **RULE | {"threshold": None})["label"] is None
    unmarked = decide(9.0, heat, **RULE | {"pixel_threshold": None})
    assert unmarked["label"] == "bad" and not unmarked["mask"].any()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_no_normal_part(score):
    with pytest.raises(ValueError, match="decides nothing"):
        decide(score, np.ones((4, 4), np.float32), **RULE)


def test_parts_are_decided_by_their_worst_view_in_the_order_they_came():
    rows = [("normal", 0.9, "nut"), ("normal", 0.2, "nut"), ("defective", 1.3, "lid"), ("defective", 9.0, "nut")]
    views = [dict(zip(("label", "ratio", "category"), row, strict=True)) for row in rows]
    seven, eight = decide_parts(views, ["7", "8", "7", ""])
    assert seven == {"part": "7", "category": "lid, nut", "label": "defective", "ratio": 1.3, "views": 2, "worst": 2}
    assert eight["part"] == "8" and eight["label"] == "normal" and eight["worst"] == 1
    unknown = {"label": "unknown product", "ratio": 0.5, "category": None}
    assert decide_parts([views[0], unknown], ["7", "7"])[0]["worst"] == 1  # what made the label, not what is highest
    untold = {"label": None, "ratio": None, "category": None}
    assert decide_parts([views[0], untold], ["7", "7"])[0]["label"] is None
    with pytest.raises(ValueError, match=r"3 parts for 4 photos: expected one for each"):
        decide_parts(views, ["7", "8", "7"])
