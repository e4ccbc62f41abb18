"""What the app does for one visitor: teach, check, keep and load banks; visitors do not see each other."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf.app import products as limits
from anople_hf.app.inspector import Inspector
from anople_hf.app.products import ANY
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.framing import FramingRequest
from anople_hf.memory import MemoryBank
from anople_hf.thresholds import Thresholds


def good(name, index, size=96):
    return Image.fromarray(render(PRODUCTS[name], [7, index], size))


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


def test_a_framed_product_is_taught_and_judged_within_its_region(inspector, holed):
    """Region and tiles as drawn on the page: a mask, and rows x columns."""
    mask = np.zeros((96, 96), bool)
    mask[:, :60] = True
    files = [good("woven_cloth", index) for index in range(3)]
    products, report = inspector.teach(inspector.products(), "cloth", files, FramingRequest(region=mask, tiles="1x2"))
    assert any("62% of the photo counts" in line for line in report.read)
    found = inspector.check(products, good("woven_cloth", 2))  # recognized, then judged in its framing
    assert found.shows == "cloth" and found.label == "normal" and not found.heat_map[:, 62:].any()
    left, right = (np.asarray(found.evidence.crop((x, 0, x + 400, 400)), float) for x in (0, 420))
    assert np.abs(left - right).mean() < 12  # the same patch of the same photo
    spoiled = np.asarray(good("woven_cloth", 2)).copy()
    spoiled[:, 70:] = 255
    assert inspector.check(products, Image.fromarray(spoiled), "cloth").score == pytest.approx(found.score)
    photo, _ = holed
    assert inspector.calibrate(products, "cloth", [photo])[1].after.num_photos == 1


def test_a_trained_detector_shows_the_good_patch_too(make_model, processor, photos, tmp_path):
    """Its good photos lie beside its bank; a bank that came without them says so, in place of the picture."""
    model = make_model()
    model.memorize(photos[:2], "gear")
    model.memory.update("gear", thresholds=Thresholds(0.3, 0.4))
    model.save_pretrained(tmp_path)
    pictures = []
    for views in (True, False):
        if not views:
            (tmp_path / "memory_views.safetensors").unlink()
        inspector = Inspector(type(model).from_pretrained(tmp_path), processor)
        pictures.append(inspector.check(inspector.products(), good("capsule", 0), "gear").evidence)
        assert pictures[-1].size == (820, 400)
    left, right = ([np.asarray(p.crop((x, 0, x + 400, 400)), int) for p in pictures] for x in (0, 420))
    assert (left[0] == left[1]).all()
    with_view, without = ({tuple(color) for color in side.reshape(-1, 3)} for side in right)
    assert len(with_view) > 1000 and len(without) < 300  # a photo; words, smooth at their edges


def test_new_good_photos_set_the_threshold(inspector, products, tmp_path):
    """As `anople calibrate` does: taught photos do not count, the others do not enter the memory."""
    more, report = inspector.calibrate(products, "woven_cloth", [good("woven_cloth", index) for index in (0, 30, 31)])
    assert len(report.added) == 2 and len(report.known) == 1 and len(more.bank) == len(products.bank) == 4
    found = more.thresholds("woven_cloth")
    assert found.method == "calibrated" and found.num_photos == 2 and len(more.scores_of("woven_cloth")[1]) == 2
    assert products.thresholds("woven_cloth").method == "learned" and products.scores_of("woven_cloth")[1] == []
    with pytest.raises(KeyError, match="cup"):
        inspector.calibrate(products, "cup", [good("woven_cloth", 30)])


def test_opacity_and_contour_change_the_overlay(inspector, products, holed):
    found = inspector.check(products, holed[0])
    pictures = [np.asarray(found.overlay(opacity)) for opacity in (0.0, 0.9)]
    assert pictures[0].shape == (96, 96, 3) and np.abs(pictures[0].astype(int) - pictures[1]).max() > 30


def test_a_moved_threshold_decides(inspector, products, holed):
    products.move("woven_cloth", 1.0)
    assert inspector.check(products, holed[0], "woven_cloth").label == "normal"


def test_an_untold_product_is_recognized_or_judged_by_the_common_threshold(inspector, products, holed, monkeypatch):
    products, _ = inspector.teach(products, "capsule", [good("capsule", index) for index in range(2)])
    assert products.names == ["woven_cloth", "capsule"]
    found, told = inspector.check(products, holed[0]), inspector.check(products, holed[0], "woven_cloth")
    assert found.product == "woven_cloth" and found.threshold == told.threshold
    assert found.score == pytest.approx(told.score, abs=1e-6)
    assert inspector.check(products, good("capsule", 9)).product == "capsule"
    monkeypatch.setattr(inspector.model.config, "memory_search", "all")
    among_all = inspector.check(products, holed[0])
    assert among_all.product == ANY and among_all.recognized == "woven_cloth" and told.recognized == ""
    assert among_all.threshold == products.limits(ANY)[0]


def test_teaching_leaves_the_products_before_as_they_were(inspector, products):
    more, report = inspector.teach(products, "woven_cloth", [good("woven_cloth", 20)])
    assert len(more.bank.references("woven_cloth")) == 5 and len(more.scores("woven_cloth")) == 40
    assert len(products.bank.references("woven_cloth")) == 4 and len(products.scores("woven_cloth")) == 32
    assert len(products.bank.views) == 4 and len(more.bank.views) == 5 and report.added == ["photo 1"]


def test_the_app_and_a_program_learn_the_same_threshold(inspector, products):
    model = inspector.model.with_memory(MemoryBank(inspector.model.memory_layers))
    photos = [good("woven_cloth", index) for index in range(4)]
    report = model.teach(inspector.processor(images=photos)["pixel_values"], "woven_cloth")
    assert report.after == products.thresholds("woven_cloth")


def test_visitors_and_threads_do_not_see_each_other(inspector, products, holed):
    """Two visitors teach and check at the same time; each gets what they would get alone."""
    alone = inspector.check(products, holed[0], "woven_cloth").score
    own = [products.branch() for _ in range(2)]
    scores = [[], []]

    def visit(number):
        for index in range(3):
            own[number] = inspector.teach(own[number], f"cup{number}", [good("capsule", 10 * number + index)])[0]
            scores[number].append(inspector.check(own[number], holed[0], "woven_cloth").score)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert own[number].names == ["woven_cloth", f"cup{number}"]
        assert scores[number] == pytest.approx([alone] * 3, abs=1e-6)
    assert products.names == ["woven_cloth"] and len(inspector.model.memory) == 0


def test_a_trained_detector_brings_its_products_and_thresholds(make_model, processor, photos):
    model = make_model()
    model.memorize(photos[:2], "gear", names=["/home/somebody/gear1.png", "gear2.png"])
    entry = Thresholds(0.3, 0.4, num_scores=3, normal_quantiles=(0.1, 0.2, 0.3))
    model.memory.update("gear", thresholds=entry)
    model.memory.common = Thresholds(0.5, 0.4, method="set by hand")
    inspector = Inspector(model, processor)
    assert inspector.branch == "both"
    products = inspector.products()
    assert products.names == ["gear"] and products.limits("gear") == (0.3, 0.4)
    assert products.limits(ANY) == (0.5, 0.4)  # as `anople predict` decides for an untold product
    assert products.scores("gear") == pytest.approx([0.1, 0.2, 0.3])
    products.remove("gear")
    assert model.memory.categories == ["gear"]
    first = inspector.products()
    with torch.inference_mode():
        pixels = processor(images=good("capsule", 0))["pixel_values"]
        expected = model(pixels, category="gear").scores.item()
    assert inspector.check(first, good("capsule", 0), "gear").score == pytest.approx(expected, abs=1e-6)


def test_a_bank_comes_back_with_its_thresholds(inspector, products, holed, tmp_path, make_model, processor):
    products.move("woven_cloth", 0.0123)
    inspector.save_memory(products, tmp_path / "bank.safetensors")
    back = inspector.load_bank(inspector.products(), tmp_path / "bank.safetensors")
    assert back.names == ["woven_cloth"] and back.limits("woven_cloth") == products.limits("woven_cloth")
    scores = [inspector.check(known, holed[0]).score for known in (back, products)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert back.scores(ANY) == products.scores(ANY)

    inspector.model.load_memory(tmp_path / "bank.safetensors")  # what a program does with it
    try:
        assert inspector.model.memory.thresholds_of("woven_cloth").threshold == 0.0123
    finally:
        inspector.model.memory = MemoryBank(inspector.model.memory_layers)
    with pytest.raises(ValueError, match="built with another model"):
        Inspector(make_model(), processor).load_bank(products, tmp_path / "bank.safetensors")
    (tmp_path / "words.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="no safetensors file"):
        inspector.load_bank(products, tmp_path / "words.safetensors")


def test_a_saved_bank_does_not_tell_where_photos_lay(make_model, processor, photos, tmp_path):
    model = make_model()
    model.memorize(photos[:1], "gear", names=["/home/somebody/gear1.png"])
    inspector = Inspector(model, processor)
    inspector.save_memory(inspector.products(), tmp_path / "bank.safetensors")
    assert b"somebody" not in (tmp_path / "bank.safetensors").read_bytes()


def test_bad_input_changes_nothing(inspector, products, tmp_path, monkeypatch):
    before = products.branch()
    broken, text = tmp_path / "broken.png", tmp_path / "notes.txt"
    good("capsule", 0).save(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    text.write_text("hello")
    for files, message in (
        ([broken], "broken.png"),
        ([text], "not an image file"),
        ([], "Choose one or more"),
        ([good("capsule", 0)] * 101, "at most 100"),
    ):
        with pytest.raises(ValueError, match=message):
            inspector.teach(products, "cup", files)
    for name in ("", "  ", "a/b", ANY, "*", "x" * 61):
        with pytest.raises(ValueError, match="up to 60 letters"):
            inspector.teach(products, name, [good("capsule", 0)])
    with pytest.raises(ValueError, match="Unknown product 'cup'; known: woven_cloth"):
        inspector.check(products, good("capsule", 0), "cup")
    large = tmp_path / "large.png"
    good("capsule", 0).save(large)
    monkeypatch.setattr(limits, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"large.png has more than"):
        inspector.check(products, large)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "MOST_PIXELS", 100)
    with pytest.raises(ValueError, match="million pixels"):
        inspector.check(products, large)
    assert products.names == before.names and products.limits("woven_cloth") == before.limits("woven_cloth")
    assert products.bank.views.keys() == before.bank.views.keys()
