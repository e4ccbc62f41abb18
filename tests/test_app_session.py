"""What the app does for one visitor: teach, check, threshold, forget; visitors do not see each other."""

import copy
import csv
import io
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf import app_session
from anople_hf.app_session import ANY, Inspector, to_csv, to_zip
from anople_hf.data.drawn import render, render_defective
from anople_hf.data.drawn_products import PRODUCTS


def good(name, index, size=96):
    return Image.fromarray(render(PRODUCTS[name], [7, index], size))


@pytest.fixture(scope="module")
def inspector():
    return Inspector.load()


@pytest.fixture(scope="module")
def taught_once(inspector):
    products = inspector.products()
    inspector.teach(products, "woven_cloth", [good("woven_cloth", index) for index in range(4)])
    return products


@pytest.fixture
def products(taught_once):
    return copy.deepcopy(taught_once)


@pytest.fixture
def holed():
    photo, mask = render_defective(PRODUCTS["woven_cloth"], "hole", [7, 50], 96)
    return Image.fromarray(photo), mask


def test_a_defect_is_found_where_it_is(inspector, products, holed):
    photo, mask = holed
    found = inspector.check(products, photo, "woven_cloth")
    assert found.label == "defective" and found.regions and found.heat_map.shape == mask.shape
    x0, y0, x1, y1 = found.regions[0]["box"]
    assert mask[y0:y1, x0:x1].any()
    known = inspector.check(products, good("woven_cloth", 0), "woven_cloth")
    assert known.label == "normal" and known.regions == [] and known.score < found.score
    assert found.evidence.size == (820, 400)  # the patch, and the good one it is nearest to


def test_evidence_is_the_nearest_good_patch(inspector, products, holed):
    """A known photo's strangest patch is nearest to a patch of that very photo, at the same place."""
    picture = inspector.check(products, good("woven_cloth", 2), "woven_cloth").evidence
    left, right = (np.asarray(picture.crop((x, 0, x + 400, 400)), float) for x in (0, 420))
    assert np.abs(left - right).mean() < 12  # box and photo alike, but for the smaller copy


def test_opacity_and_contour_change_the_overlay(inspector, products, holed):
    found = inspector.check(products, holed[0])
    pictures = [np.asarray(found.overlay(opacity)) for opacity in (0.0, 0.9)]
    assert pictures[0].shape == (96, 96, 3) and np.abs(pictures[0].astype(int) - pictures[1]).max() > 30


def test_threshold_moves_decisions_and_false_alarms(inspector, products, holed):
    scores = products.normal_scores["woven_cloth"]
    assert products.false_alarms("woven_cloth", max(scores)) == (0, len(scores))
    assert products.false_alarms(ANY, min(scores) - 1e-9) == (len(scores), len(scores))
    products.thresholds["woven_cloth"] = 1.0
    assert inspector.check(products, holed[0], "woven_cloth").label == "normal"


def test_any_product_uses_the_highest_threshold(inspector, products, holed):
    inspector.teach(products, "capsule", [good("capsule", index) for index in range(2)])
    assert products.bank.categories == ["woven_cloth", "capsule"]
    highest = max(products.thresholds.values())
    assert products.limits(ANY)[0] == highest
    assert inspector.check(products, holed[0]).threshold == pytest.approx(highest)


def test_what_is_forgotten_is_gone(inspector, products):
    products.remove("woven_cloth")
    assert not products.bank.categories and not products.photos and not products.thresholds
    with pytest.raises(ValueError, match="No product is known yet"):
        inspector.check(products, good("capsule", 0))
    with pytest.raises(KeyError):
        products.remove("woven_cloth")


def test_visitors_and_threads_do_not_see_each_other(inspector, products, holed):
    """Two visitors teach and check at the same time; each gets what they would get alone."""
    alone = inspector.check(products, holed[0], "woven_cloth").score
    own = [copy.deepcopy(products) for _ in range(2)]
    scores = [[], []]

    def visit(number):
        for index in range(3):
            inspector.teach(own[number], f"cup{number}", [good("capsule", 10 * number + index)])
            scores[number].append(inspector.check(own[number], holed[0], "woven_cloth").score)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert own[number].bank.categories == ["woven_cloth", f"cup{number}"]
        assert scores[number] == pytest.approx([alone] * 3, abs=1e-6)
    assert products.bank.categories == ["woven_cloth"] and len(inspector.model.memory) == 0


def test_a_trained_detector_brings_its_products(make_model, processor, photos):
    model = make_model()
    model.memorize(photos[:2], "gear")
    model.config.calibration = {"gear": {"threshold": 0.3, "pixel_threshold": 0.4}, "*": {"threshold": 0.5}}
    inspector = Inspector(model, processor)
    assert inspector.branch == "both"
    products = inspector.products()
    assert products.bank.categories == ["gear"] and products.limits("gear") == (0.3, 0.4)
    products.remove("gear")
    assert model.memory.categories == ["gear"]
    first = inspector.products()
    with torch.inference_mode():
        pixels = processor(images=good("capsule", 0))["pixel_values"]
        expected = model(pixels, category="gear").scores.item()
    assert inspector.check(first, good("capsule", 0), "gear").score == pytest.approx(expected, abs=1e-6)


def test_results_to_take_along(inspector, products, holed):
    found = [inspector.check(products, photo, "woven_cloth") for photo in (holed[0], good("woven_cloth", 0))]
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["label"] for row in rows] == ["defective", "normal"]
    assert float(rows[0]["score"]) == pytest.approx(found[0].score, abs=1e-6)
    with zipfile.ZipFile(io.BytesIO(to_zip(found))) as archive:
        assert archive.namelist() == ["scores.csv", "000_photo.png", "001_photo.png"]
        assert Image.open(archive.open("000_photo.png")).size == (96, 96)


def test_bad_input_changes_nothing(inspector, products, tmp_path, monkeypatch):
    before = copy.deepcopy(products)
    broken, text = tmp_path / "broken.png", tmp_path / "notes.txt"
    good("capsule", 0).save(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    text.write_text("hello")
    for files, message in (
        ([broken], "broken.png"),
        ([text], "not an image file"),
        ([], "Choose one or more"),
        ([good("capsule", 0)] * 31, "at most 30"),
    ):
        with pytest.raises(ValueError, match=message):
            inspector.teach(products, "cup", files)
    for name in ("", "  ", "a/b", ANY, "x" * 61):
        with pytest.raises(ValueError, match="up to 60 letters"):
            inspector.teach(products, name, [good("capsule", 0)])
    with pytest.raises(ValueError, match="Unknown product 'cup'; known: woven_cloth"):
        inspector.check(products, good("capsule", 0), "cup")
    large = tmp_path / "large.png"
    good("capsule", 0).save(large)
    monkeypatch.setattr(app_session, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"large.png has more than"):
        inspector.check(products, large)
    monkeypatch.undo()
    monkeypatch.setattr(app_session, "MOST_PIXELS", 100)
    with pytest.raises(ValueError, match="million pixels"):
        inspector.check(products, large)
    assert products.bank.categories == before.bank.categories and products.thresholds == before.thresholds
    assert products.photos.keys() == before.photos.keys()
