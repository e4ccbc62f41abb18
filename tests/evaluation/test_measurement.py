"""`evaluate()`: the table against scikit-learn, the branches, missing masks."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from anople_hf.data import load_inspection_data
from anople_hf.data.schema import as_files
from anople_hf.evaluation import evaluate
from anople_hf.evaluation.measurement import mean_of
from anople_hf.evaluation.metrics import ALL_METRICS
from anople_hf.images import measure_reading
from anople_hf.thresholds import Thresholds


@pytest.fixture(scope="module")
def test_split(drawn):
    return load_inspection_data(drawn, categories=["brass_gear", "capsule"])["test"]


@pytest.fixture
def taught(make_model, processor, drawn):
    train = load_inspection_data(drawn, categories=["brass_gear", "capsule"])["train"]
    model = make_model()
    for category in ("brass_gear", "capsule"):
        rows = [row for row in train if row["category"] == category][:2]
        model.memorize(processor(images=[row["image"] for row in rows])["pixel_values"], category)
    return model


def test_table_agrees_with_scikit_learn(taught, processor, test_split):
    result = evaluate(taught, processor, test_split, progress=False)
    for category in ("brass_gear", "capsule"):
        rows = [row for row in result.images if row["category"] == category]
        labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
        assert result.categories[category]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert result.categories[category]["image_aupr"] == pytest.approx(average_precision_score(labels, scores))
    for metric in ALL_METRICS:
        both = [result.categories[c][metric] for c in result.categories]
        assert result.mean[metric] == pytest.approx(sum(both) / 2)
        assert all(0 <= value <= 1 for value in both)
    assert result.images_per_second > 0


def test_protocol_says_how(taught, processor, test_split):
    open_, routed = (evaluate(taught, processor, test_split, route=r, progress=False) for r in (False, True))
    assert not open_.protocol["category_known"] and routed.protocol["category_known"]
    assert open_.protocol["shots"] == {"brass_gear": 2, "capsule": 2}
    assert json.loads(json.dumps(open_.to_dict()))["protocol"] == open_.protocol
    assert "mean" in open_.table() and "capsule" in open_.table()


def test_parts_are_measured_by_their_worst_view(taught, processor, test_split):
    def part_of(path):
        return f"{path.split('/')[2]} {int(path[-6:-4]) // 2}" if "capsule" in path else ""

    result = evaluate(taught, processor, test_split, part_of=part_of, progress=False)
    plain = evaluate(taught, processor, test_split, progress=False)
    assert result.categories == plain.categories and plain.parts == {} and "parts" not in plain.to_dict()
    parts = {}
    for row in result.images:
        if row["part"]:
            parts.setdefault(row["part"], []).append((row["score"], row["label"]))
    scores, labels = zip(*(map(max, zip(*views, strict=True)) for views in parts.values()), strict=True)
    assert set(result.parts) == {"capsule"} and len(parts) < 7 and set(labels) == {0, 1}
    assert result.parts["capsule"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result.parts["capsule"]["image_aupr"] == pytest.approx(average_precision_score(labels, scores))
    assert result.part_mean == result.parts["capsule"] and "part AUROC" in result.part_table()
    assert result.protocol["parts"]["count"] == len(parts) and result.protocol["parts"]["images"] == 7
    assert json.loads(json.dumps(result.to_dict()))["parts"]["mean"]["image_auroc"] == result.part_mean["image_auroc"]
    told = test_split.map(lambda row: {"part": part_of(row["path"])})
    assert evaluate(taught, processor, told, progress=False).parts == result.parts  # as the data say, too


def test_recognition_and_decisions_are_counted(taught, processor, test_split):
    plain = evaluate(taught, processor, test_split, progress=False)
    assert plain.recognized is None and plain.errors() == (None, None)
    assert not plain.protocol["category_recognized"]
    taught.config.memory_search = "product"
    scores = sorted(row["score"] for row in plain.images)
    entry = Thresholds(scores[len(scores) // 2], 1.0)
    taught.memory.update("brass_gear", thresholds=entry)
    taught.memory.common = Thresholds(2.0, 1.0)
    found = evaluate(taught, processor, test_split, progress=False)
    assert found.protocol["category_recognized"]
    right = [row["recognized"] == row["category"] for row in found.images]
    assert found.recognized == sum(right) / len(right) > 0.9  # gears and capsules are told apart
    for row in found.images:  # capsules have no threshold of their own here, the common one holds
        assert row["threshold"] == pytest.approx(entry.threshold if row["recognized"] == "brass_gear" else 2.0)
    good, bad = ([r["score"] > r["threshold"] for r in found.images if r["label"] == label] for label in (0, 1))
    assert found.errors() == (sum(good) / len(good), 1 - sum(bad) / len(bad))


def test_route_asks_the_memory_of_the_own_product_only(taught, processor, test_split):
    open_ = evaluate(taught, processor, test_split, branch="memory", progress=False)
    gear, capsule = taught.memory.product("brass_gear"), taught.memory.product("capsule")
    taught.memory._replace({"brass_gear": capsule, "capsule": gear})  # swapped: the route now leads astray
    astray = evaluate(taught, processor, test_split, branch="memory", route=True, progress=False)
    again = evaluate(taught, processor, test_split, branch="memory", progress=False)
    scores = [torch.tensor([row["score"] for row in result.images]) for result in (open_, again, astray)]
    assert torch.allclose(scores[0], scores[1], atol=1e-6) and (scores[2] > scores[0]).float().mean() > 0.5


def test_batch_size_changes_no_score(taught, processor, test_split):
    one, many = (evaluate(taught, processor, test_split, batch_size=b, progress=False) for b in (1, 8))
    scores = [torch.tensor([row["score"] for row in result.images]) for result in (one, many)]
    assert torch.allclose(*scores, atol=1e-6)


def test_a_defect_without_mask_leaves_only_image_metrics(taught, processor, drawn, tmp_path):
    for category in ("brass_gear", "capsule"):
        shutil.copytree(drawn / category, tmp_path / category)
    next((tmp_path / "capsule/ground_truth").rglob("*.png")).unlink()
    without = load_inspection_data(tmp_path)["test"]
    result = evaluate(taught, processor, without, branch="memory", progress=False)
    assert result.categories["capsule"]["aupro"] is None and result.categories["capsule"]["pixel_auroc"] is None
    assert result.categories["capsule"]["image_auroc"] is not None
    assert result.mean["aupro"] == result.categories["brass_gear"]["aupro"]
    assert " - " in result.table() + " "


def test_mean_of_nothing_is_none():
    empty = dict.fromkeys(ALL_METRICS)
    assert mean_of([empty, {**empty, "aupro": 0.5}]) == {**empty, "aupro": 0.5}


def test_empty_set_is_refused(taught, processor, test_split):
    with pytest.raises(ValueError, match="empty"):
        evaluate(taught, processor, test_split.select([]), progress=False)


def test_deep_photos_are_measured_in_their_products_range(taught, processor, tmp_path):
    """12 bits in 16 were read almost black: what was told apart before was not any more."""
    rng = np.random.default_rng(0)
    for kind in ("plain", "deep"):
        for part in ("train/good", "test/good", "test/spot"):
            (tmp_path / kind / "nut" / part).mkdir(parents=True)
    for part, count in (("train/good", 2), ("test/good", 2), ("test/spot", 2)):
        for number in range(count):
            gray = rng.integers(90, 110, (48, 48)).astype(np.uint8)
            if part == "test/spot":
                gray[10:30, 10:30] = 250
            if (part, number) == ("train/good", 0):
                gray[0, 0] = 250  # a range of 12 bits, not of 10
            Image.fromarray(gray).save(tmp_path / "plain/nut" / part / f"{number}.png")
            deep = np.rint(gray * (4095 / 255)).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / "deep/nut" / part / f"{number}.png")
    scores = {}
    for kind in ("plain", "deep"):
        splits = load_inspection_data(tmp_path / kind)
        files = as_files(splits["train"])["image"]
        reading = measure_reading(files)
        taught.memorize(processor(images=list(files), ranges=reading["ranges"])["pixel_values"], "nut")
        taught.memory.update("nut", reading=reading)
        for route in (True, False):
            found = evaluate(taught, processor, splits["test"], route=route, progress=False)
            scores[kind, route] = [row["score"] for row in found.images]
        taught.memory.remove("nut")
    for route in (True, False):
        assert scores["deep", route] == pytest.approx(scores["plain", route], rel=2e-2)
