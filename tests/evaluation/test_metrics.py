"""The metrics against closed forms, scikit-learn and a brute-force PRO curve."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from anople_hf.evaluation.metrics import (
    ALL_METRICS,
    ScoreAccumulator,
    aupro,
    aupro_200,
    auroc,
    average_precision,
    f1_max,
    trapezoid_aupr,
)
from anople_hf.evaluation.ranking import Ranking
from anople_hf.metric_names import METRIC_NAMES


def case_d():
    """Two regions of unequal size and ten false pixels between their scores (method notes, 4.4)."""
    masks, maps = np.zeros((1, 10, 10)), np.zeros((1, 10, 10))
    masks[0, 0, 0] = masks[0, 5:8, 5:8] = 1
    maps[0, 0, 0], maps[0, 5:8, 5:8], maps[0, 9] = 0.5, 1.0, 0.6
    return maps, masks


def pro_by_hand(maps, masks, limit):
    """The definition, word for word: each distinct value is a threshold, each region counts alike."""
    regions = []
    for index, mask in enumerate(masks):
        labeled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labeled == number) for number in range(1, count + 1)]
    xs, ys = [0.0], [0.0]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        hit = maps >= threshold
        xs.append(hit[~masks].mean())
        ys.append(np.mean([hit[index][region].mean() for index, region in regions]))
    area = 0.0
    for (x0, x1), (y0, y1) in zip(zip(xs, xs[1:], strict=False), zip(ys, ys[1:], strict=False), strict=True):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def pro_200_as_published(maps, masks):
    """The loop of the published evaluation scripts."""
    low, high = maps.min(), maps.max()
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / 200):
        hit, shares = maps > threshold, []
        for found, mask in zip(hit, masks, strict=True):
            labeled, count = ndimage.label(mask, structure=np.ones((3, 3)))
            shares += [found[labeled == number].mean() for number in range(1, count + 1)]
        overlaps.append(np.mean(shares))
        rates.append(hit[~masks].mean())
    rate, overlap = np.array(rates), np.array(overlaps)
    rate, overlap = rate[rate < 0.3], overlap[rate < 0.3]
    return auc((rate - rate.min()) / (rate.max() - rate.min()), overlap)


def test_closed_form_two_regions():
    maps, masks = case_d()
    assert aupro(maps, masks) == pytest.approx(22 / 27, abs=1e-12)
    assert aupro_200(maps, masks) == pytest.approx(0.5, abs=1e-12)
    assert auroc(maps, masks) == pytest.approx(890 / 900, abs=1e-12)
    assert average_precision(maps, masks) == pytest.approx(0.95, abs=1e-12)
    assert trapezoid_aupr(maps, masks) == pytest.approx(0.948684, abs=1e-6)


def test_closed_form_perfect_constant_and_inverted_maps():
    _, masks = case_d()
    assert aupro(masks, masks) == 1.0
    assert aupro(np.full_like(masks, 0.7), masks) == pytest.approx(0.15, abs=1e-12)
    assert aupro(1 - masks, masks) == 0.0
    assert math.isnan(aupro_200(masks, masks))


def test_pixels_that_touch_at_a_corner_are_one_region():
    masks = np.zeros((1, 8, 8))
    masks[0, 2, 2] = masks[0, 3, 3] = masks[0, 6, 6] = 1
    maps = np.zeros_like(masks)
    maps[0, 6, 6] = 1
    # of two regions one is found: 0.5, then a straight line to (1, 1); of three it would start at 1/3
    assert aupro(maps, masks) == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-12)


def test_equal_regions_of_two_images_stay_apart():
    masks = np.zeros((2, 6, 6))
    masks[:, 2, 2] = 1
    maps = np.zeros_like(masks)
    maps[1, 2, 2] = 1
    assert aupro(maps, masks) == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-12)


def test_good_images_count_as_normal_pixels():
    maps, masks = case_d()
    loud = np.full_like(maps, 2.0)
    with_good = aupro(np.concatenate([maps, loud]), np.concatenate([masks, np.zeros_like(masks)]))
    assert with_good == 0.0  # all of the good image's pixels come first and use the limit up


maps_and_masks = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from([0.05, 0.3, 0.5, 1.0]))


@settings(max_examples=60, deadline=None)
@given(maps_and_masks)
def test_aupro_agrees_with_the_definition(drawn):
    seed, levels, limit = drawn  # few levels: many ties
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 7, 6)) > rng.uniform(0.5, 0.95)
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    maps = (rng.integers(0, levels, masks.shape) / levels + 0.4 * masks).astype(np.float32)
    assert aupro(maps, masks, limit) == pytest.approx(pro_by_hand(maps, masks, limit), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_aupro_200_agrees_with_the_published_loop(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 8, 8)) > 0.8
    masks[0, 0, 0], masks[0, 4] = True, False
    maps = np.round(rng.random(masks.shape) + 0.4 * masks, 1)
    assert aupro_200(maps, masks) == pytest.approx(pro_200_as_published(maps, masks), abs=1e-9)


scored = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@settings(max_examples=100, deadline=None)
@given(scored)
def test_image_metrics_agree_with_scikit_learn(rows):
    scores, labels = np.array([score for score, _ in rows], float), np.array([label for _, label in rows])
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    assert f1_max(scores, labels) == pytest.approx(best, abs=1e-6)
    assert trapezoid_aupr(scores, labels) == pytest.approx(auc(recall, precision), abs=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float16, np.float32, np.float64])
def test_number_types_do_not_matter(kind):
    scores, labels = np.array([0, 200, 3, 90], kind), [0, 1, 1, 0]  # -200 as uint8 would be 56
    assert auroc(scores, labels) == 0.75
    assert average_precision(scores, labels) == pytest.approx(5 / 6)
    maps = np.zeros((1, 4, 4), kind)
    maps[0, 1, 1] = 9
    assert aupro(maps, maps > 0) == 1.0


def test_undefined_is_nan():
    zeros, ones = np.zeros((1, 4, 4)), np.ones((1, 4, 4))
    assert all(math.isnan(auroc([0.1, 0.2], labels)) for labels in ([0, 0], [1, 1]))
    assert math.isnan(average_precision([0.1, 0.2], [0, 0])) and math.isnan(f1_max([0.1, 0.2], [0, 0]))
    assert all(math.isnan(metric(ones, masks)) for metric in (aupro, aupro_200) for masks in (zeros, ones))


def test_the_input_is_left_alone():
    maps, masks = case_d()
    maps[0] = maps[0].T.copy()
    before = maps.copy()
    aupro(maps, masks)
    auroc(maps, masks)
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, trapezoid_aupr])
def test_bad_scores_are_refused(metric):
    with pytest.raises(ValueError, match="expected the same"):
        metric([0.1, 0.2], [1])
    with pytest.raises(ValueError, match="not empty"):
        metric([], [])
    with pytest.raises(ValueError, match="NaN"):
        metric([0.1, math.nan], [0, 1])


@pytest.mark.parametrize("metric", [aupro, aupro_200])
def test_bad_maps_are_refused(metric):
    maps, masks = case_d()
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        metric(maps[0], masks[0])
    with pytest.raises(ValueError, match=r"\(1, 10, 9\)"):
        metric(maps[..., 1:], masks)
    with pytest.raises(ValueError, match="NaN"):
        metric(np.where(masks > 0, math.nan, maps), masks)
    with pytest.raises(ValueError, match="fpr_limit=0"):
        metric(maps, masks, fpr_limit=0)


def filled(dtype=np.float32):
    maps, masks = case_d()
    table = ScoreAccumulator()
    table.add("gear", score=0.1, label=0, anomaly_map=np.zeros((10, 10), dtype))
    table.add("gear", score=0.9, label=1, anomaly_map=maps[0].astype(dtype), mask=masks[0])
    return table


def test_accumulator_gives_each_category_its_own_row():
    maps, masks = case_d()
    both = np.concatenate([np.zeros_like(maps), maps]), np.concatenate([np.zeros_like(masks), masks])
    table = filled()
    table.add("nut", score=0.9, label=0)
    table.add("nut", score=0.1, label=1)
    rows = table.compute()
    assert rows["gear"]["pixel_auroc"] == pytest.approx(auroc(*both))
    assert rows["gear"]["aupro"] == pytest.approx(aupro(*both))
    assert rows["gear"]["image_auroc"] == rows["gear"]["image_aupr"] == 1.0
    assert rows["nut"]["image_auroc"] == 0.0 and rows["nut"]["image_aupr"] == 0.5
    assert {rows["nut"][name] for name in ALL_METRICS if not name.startswith("image")} == {None}


def test_accumulator_row_is_that_of_the_functions():
    rng = np.random.default_rng(3)
    masks = rng.random((6, 12, 12)) > 0.8
    masks[:2] = False
    maps = (rng.random(masks.shape) + 0.3 * masks).astype(np.float32)
    labels, scores = masks.any(axis=(1, 2)).astype(int), maps.max(axis=(1, 2))
    table = ScoreAccumulator(fpr_limit=0.2)
    for score, label, values, mask in zip(scores, labels, maps, masks, strict=True):
        table.add("gear", score=float(score), label=int(label), anomaly_map=values, mask=mask)
    expected = {
        "image_auroc": auroc(scores, labels),
        "image_aupr": average_precision(scores, labels),
        "image_aupr_trapezoid": trapezoid_aupr(scores, labels),
        "image_f1_max": f1_max(scores, labels),
        "pixel_auroc": auroc(maps, masks),
        "pixel_aupr": average_precision(maps, masks),
        "pixel_f1_max": f1_max(maps, masks),
        "aupro": aupro(maps, masks, 0.2),
        "aupro_200": aupro_200(maps, masks, 0.2),
        "aupro_5": aupro(maps, masks, 0.05),
    }
    assert table.compute()["gear"] == pytest.approx(expected, abs=1e-12)
    assert set(expected) == set(ALL_METRICS) == set(METRIC_NAMES) - {"images_per_second"}  # each has a name


def test_a_finished_category_lets_its_maps_go():
    table, whole = filled(), filled()
    row = table.finish("gear")
    assert not table._maps
    assert row == table.finish("gear") == table.compute()["gear"] == whole.compute()["gear"]
    with pytest.raises(ValueError, match="gear was finished"):
        table.add("gear", score=0.1, label=0)
    with pytest.raises(KeyError):
        table.finish("nut")


def test_regions_need_maps():
    with pytest.raises(ValueError, match="of_maps"):
        Ranking.of_scores([0.1, 0.2], [0, 1]).aupro()


def test_accumulator_keeps_half_precision_maps():
    exact, half = filled().compute()["gear"], filled(np.float16).compute()["gear"]
    assert half["aupro"] == pytest.approx(exact["aupro"], abs=1e-6)


def test_a_defect_without_mask_costs_the_pixel_metrics_only():
    table = filled()
    table.add("gear", score=0.8, label=1, anomaly_map=np.zeros((10, 10)), mask=None)
    row = table.compute()["gear"]
    assert row["pixel_auroc"] is None and row["aupro"] is None
    assert row["image_auroc"] == 1.0


def test_accumulator_without_good_images_has_no_image_metrics():
    table = ScoreAccumulator()
    table.add("gear", score=0.8, label=1)
    assert set(table.compute()["gear"].values()) == {None}


@pytest.mark.parametrize(
    "given",
    [
        {"score": math.nan, "label": 0},
        {"score": 0.1, "label": 2},
        {"score": 0.1, "label": 1, "anomaly_map": np.zeros((4, 4)), "mask": np.zeros((4, 5))},
        {"score": 0.1, "label": 1, "anomaly_map": np.full((4, 4), math.nan), "mask": np.zeros((4, 4))},
    ],
)
def test_accumulator_refuses_what_it_cannot_count(given):
    table = ScoreAccumulator()
    with pytest.raises(ValueError, match="gear"):
        table.add("gear", **given)
    assert table.compute() == {}  # nothing of the refused image was kept
