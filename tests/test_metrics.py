"""Metrics: closed forms, scikit-learn, and a brute-force AUPRO."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anople_hf.metrics import ScoreAccumulator, aupro, aupro_200, auroc, average_precision, f1_max

levels = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60)


@settings(deadline=None)
@given(levels)
def test_agrees_with_scikit_learn_ties_included(rows):
    scores, labels = np.array([r[0] / 7 for r in rows]), np.array([r[1] for r in rows])
    assume(labels.any() and not labels.all())
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert f1_max(scores, labels) == pytest.approx(best, abs=1e-9)


def brute_force(maps, masks, limit):
    """AUPRO by its definition: each distinct value once as a threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labelled == k + 1) for k in range(count)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        above = maps >= threshold
        overlap = np.mean([above[index][region].mean() for index, region in regions])
        points.append((above[masks == 0].mean(), overlap))
    rate, overlap = map(np.array, zip(*points, strict=True))
    xs = np.append(rate[rate <= limit], limit)
    return np.trapezoid(np.append(overlap[rate <= limit], np.interp(limit, rate, overlap)), xs) / limit


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), levels=st.sampled_from([3, 12, 10**6]), limit=st.sampled_from([0.05, 0.3, 0.7, 1.0])
)
def test_aupro_agrees_with_its_definition(seed, levels, limit):
    rng = np.random.default_rng(seed)
    maps, masks = rng.integers(0, levels, (3, 9, 9)) / levels, rng.random((3, 9, 9)) < 0.12
    assume(masks.any())
    assert aupro(maps, masks, limit) == pytest.approx(brute_force(maps, masks, limit), abs=1e-9)


def square():
    masks = np.zeros((2, 10, 10))
    masks[0, 2:5, 2:5] = 1
    return masks


def test_closed_forms():
    masks = square()
    assert aupro(masks, masks) == pytest.approx(1.0)
    assert aupro(np.ones_like(masks), masks) == pytest.approx(0.15)
    assert aupro(1 - masks, masks) == pytest.approx(0.0)
    assert math.isnan(aupro_200(masks, masks))


def test_case_d_of_the_method_notes():
    maps, masks = np.zeros((1, 10, 10)), np.zeros((1, 10, 10))
    masks[0, 0, 0], maps[0, 0, 0] = 1, 0.5
    masks[0, 5:8, 5:8], maps[0, 5:8, 5:8] = 1, 1.0
    maps[0, 2, :10] = 0.6
    assert aupro(maps, masks) == pytest.approx(22 / 27)
    assert aupro_200(maps, masks) == pytest.approx(0.5)
    assert auroc(maps, masks) == pytest.approx(890 / 900)
    assert average_precision(maps, masks) == pytest.approx(0.95)


def test_diagonal_pixels_are_one_region():
    masks = np.zeros((1, 8, 8))
    masks[0, 1, 1] = masks[0, 2, 2] = 1
    half = np.zeros_like(masks)
    half[0, 1, 1] = 1
    half[0, 5, 5] = 0.5
    # One region of which half is found at once; two regions would give the same mean, so a third pixel tells.
    masks[0, 6, 0] = half[0, 6, 0] = 1
    assert aupro(half, masks) == pytest.approx(brute_force(half, masks, 0.3))
    assert aupro(half, masks) > 0.74  # mean of 1/2 and 1, not of 0, 1 and 1


def test_undefined_values_are_nan():
    assert math.isnan(auroc([0.1, 0.2], [1, 1])) and math.isnan(average_precision([0.1], [0]))
    assert math.isnan(f1_max([0.1], [0])) and math.isnan(aupro(np.zeros((1, 4, 4)), np.zeros((1, 4, 4))))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        auroc([np.nan, 1], [0, 1])
    with pytest.raises(ValueError, match="shape"):
        auroc([1], [0, 1])
    with pytest.raises(ValueError, match="N, H, W"):
        aupro(np.zeros((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        aupro(np.full((1, 4, 4), np.nan), np.ones((1, 4, 4)))
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro(square(), square(), fpr_limit=0)


def test_accumulator_leaves_out_what_the_data_do_not_define():
    table, masks = ScoreAccumulator(), square()
    for category in ("full", "maskless"):
        table.add(category, score=0.1, label=0, anomaly_map=np.zeros((10, 10)), mask=masks[1])
        table.add(category, score=0.9, label=1, anomaly_map=masks[0], mask=masks[0] if category == "full" else None)
    table.add("one class", score=0.9, label=0)
    found = table.compute()
    assert found["full"] == {"image_auroc": 1.0, "image_aupr": 1.0, "pixel_auroc": 1.0, "aupro": pytest.approx(1.0)}
    assert found["maskless"]["image_auroc"] == 1.0 and found["maskless"]["aupro"] is None
    assert set(found["one class"].values()) == {None}
