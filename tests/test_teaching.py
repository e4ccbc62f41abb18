"""Teaching: thresholds from all photos of a product; odd photos and copies named; promises kept; nothing silent."""

import io

import pytest
import torch
from PIL import Image

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data.drawn import render, render_defective
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.teaching import calibrate, forget, set_threshold, teach


@pytest.fixture(scope="module")
def detector():
    model = AnoPLeModel.from_backbone("embedded:tiny-clip")
    return model, AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)


@pytest.fixture
def model(detector, monkeypatch):
    """Nothing known yet; two views a photo where nobody says how many, to save time."""
    detector[0].memory = type(detector[0].memory)(detector[0].memory_layers)
    at_length = AnoPLeModel.teach
    monkeypatch.setattr(AnoPLeModel, "teach", lambda *a, **how: at_length(*a, **{"views": 2} | how))
    return detector[0]


def good(name, index, seed=7):
    return Image.fromarray(render(PRODUCTS[name], [seed, index], 96))


@pytest.fixture
def see(detector):
    return lambda *photos: detector[1](images=list(photos))["pixel_values"]


def saved_again(photo, kind="JPEG", size=None, quality=85):
    buffer = io.BytesIO()
    (photo.resize(size) if size else photo).save(buffer, kind, quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


CLOTH = [good("woven_cloth", index) for index in range(6)]


def test_more_photos_set_the_threshold_from_all_of_them(model, see):
    """One photo more once replaced the threshold by one learned from itself alone, ten times as high."""
    model.teach(see(*CLOTH[:4]), "cloth")
    report = model.teach(see(CLOTH[4]), "cloth", names=["one.png"])
    at_once = model.memory.without([])
    assert report.before.num_photos == 4 and report.after.num_photos == 5 and report.added == ["one.png"]
    assert 0.5 < report.after.threshold / report.before.threshold < 1.5
    assert f"{report.before.threshold:.4g}" in str(report) and f"-> {report.after.threshold:.4g}" in str(report)
    model.remove("cloth")
    together = model.teach(see(*CLOTH[:5]), "cloth").after
    assert report.after.threshold == pytest.approx(together.threshold, rel=2e-3)  # photos before are kept in 8 bits
    assert at_once.product("cloth").thresholds.num_scores == together.num_scores == 10


def test_a_known_photo_changes_nothing(model, see):
    model.teach(see(*CLOTH[:3]), "cloth")
    report = model.teach(see(CLOTH[1]), "cloth", names=["again.png"])
    assert report.added == [] and report.known == ["again.png"] and report.after is report.before
    assert "0 photos added, 1 known already" in str(report) and "stays" in str(report)


def test_the_only_photo_is_judged_by_its_own_changed_views(model, see):
    report = model.teach(see(CLOTH[0]), "cloth", views=4)
    assert report.after.threshold > 0 and "only photo" in report.after.how and report.after.num_scores == 4


def odd_cloth():
    """A photo that is not good at all: a stain on the cloth."""
    return Image.fromarray(render_defective(PRODUCTS["woven_cloth"], "stain", [7, 30], 96)[0])


def test_an_odd_photo_is_named_and_sets_no_threshold(model, see):
    clean = model.teach(see(*CLOTH[:5]), "cloth").after
    model.remove("cloth")
    names = [f"{n}.png" for n in range(5)]
    report = model.teach(see(*CLOTH[:5], odd_cloth()), "cloth", names=[*names, "odd.png"])
    assert [far.name for far in report.far] == ["odd.png"] and len(model.memory.references("cloth")) == 6
    assert report.after.num_photos == 5 and report.after.threshold < 1.1 * clean.threshold
    assert report.far[0].without_it == report.after.threshold and report.far[0].with_it > 2 * report.after.threshold
    assert "odd.png: least like the others" in str(report) and f"{report.far[0].with_it:.4g}" in str(report)
    holed, _ = render_defective(PRODUCTS["woven_cloth"], "hole", [7, 50], 96)
    with torch.no_grad():
        output = model(see(Image.fromarray(holed)), category="cloth", branch=model.decision_branch)
    assert output.scores > output.thresholds


def test_a_variant_in_another_color_is_named(model, see):
    red, green, blue = CLOTH[5].split()
    variant = Image.merge("RGB", (blue, red, green))
    report = model.teach(see(*CLOTH[:5], variant), "cloth", names=[*map(str, range(5)), "variant"])
    assert [(far.name, far.where) for far in report.far] == [("variant", "in color")]
    assert "variant: least like the others" in str(report) and "times as far from them in color" in str(report)


def test_strict_refuses_an_odd_photo_and_changes_nothing(model, see):
    model.teach(see(*CLOTH[:4]), "cloth")
    before = model.memory
    with pytest.raises(ValueError, match=r"refused, nothing was changed: odd.png: least like the others"):
        model.teach(see(odd_cloth()), "cloth", names=["odd.png"], strict=True)
    assert model.memory is before and len(before) == 4


def test_a_foreign_product_among_the_good_photos_is_named(model, see):
    model.teach(see(*[good("brass_gear", index) for index in range(3)]), "gear")
    gear = model.memory.product("gear").thresholds
    names = ["0", "1", "2", "3", "stray.png"]
    report = model.teach(see(*CLOTH[:4], good("brass_gear", 9)), "cloth", names=names)
    assert report.foreign == [("stray.png", "gear")] and "stray.png: looks like gear, not like cloth" in str(report)
    assert model.memory.product("gear").thresholds is gear  # those of different products never touch each other
    model.remove("cloth")
    clean = model.teach(see(*CLOTH[:4]), "cloth").after
    assert report.after.threshold < 1.2 * clean.threshold


@pytest.mark.parametrize(
    "copy",
    [
        lambda photo: photo.copy(),
        saved_again,
        lambda photo: saved_again(photo, "WEBP"),
        lambda photo: saved_again(photo, size=(160, 160)),
    ],
    ids=["the same", "jpeg", "webp", "another size"],
)
def test_copies_count_once_and_are_reported(model, see, copy):
    """Judged by its own copy, a photo gives no distance: the threshold fell, and good parts were called defective."""
    alone = model.teach(see(*CLOTH[:3]), "cloth").after
    model.remove("cloth")
    report = model.teach(see(*CLOTH[:3], copy(CLOTH[1])), "cloth", names=["a", "b", "c", "copy"])
    assert report.copies == [("copy", "b")] and "copy: copy shows the same photo as b" in str(report)
    assert report.after.num_photos == 3 and report.after == alone and len(model.memory) == 3
    later = model.teach(see(copy(CLOTH[2])), "cloth", names=["late"])
    assert [*later.known, *(name for name, _ in later.copies)] == ["late"] and later.after == alone


def test_different_photos_are_no_copies(model, see):
    for name in PRODUCTS:
        report = model.teach(see(*[good(name, index) for index in range(4)]), name, views=8)
        assert not report.copies and not report.far and not report.foreign, name


def promised(model, see, rate=0.25):
    model.teach(see(*CLOTH[:2]), "cloth")
    new = [good("woven_cloth", index) for index in range(40, 44)]
    return calibrate(model, {"cloth": see(*new)}, false_alarm_rate=rate)[0].after


def test_a_promise_outlives_more_photos(model, see):
    first = promised(model, see)
    assert first.guaranteed and first.method == "calibrated" and first.num_photos == 4
    report = model.teach(see(CLOTH[2]), "cloth")
    assert report.after.guaranteed and "promise" in str(report) and report.after.num_photos == 4
    model.memory.views = {}  # pulled from the Hub: without them nothing can be judged again
    kept = model.teach(see(CLOTH[3]), "cloth").after
    assert kept.guaranteed and kept.threshold == report.after.threshold
    taught = good("woven_cloth", 40)  # one of those that the promise stands on
    report = model.teach(see(taught), "cloth")
    assert report.after.guaranteed and len(model.memory.product("cloth").held_out) == 3
    assert report.after.threshold <= kept.threshold


def test_a_promise_is_kept_by_the_old_threshold_where_too_few_photos_are_left(model, see):
    first = promised(model, see, rate=0.2)  # four photos are just enough
    report = model.teach(see(good("woven_cloth", 41)), "cloth")
    assert report.after == first and report.after.guaranteed and "anople calibrate" in report.why


def test_calibrating_adds_to_earlier_photos_and_touches_one_product(model, see):
    model.teach(see(*[good("capsule", index) for index in range(3)]), "capsule")
    first = promised(model, see)
    capsule, common = model.memory.product("capsule").thresholds, model.memory.thresholds_of()
    new = see(good("woven_cloth", 44), saved_again(good("woven_cloth", 40)), CLOTH[0])
    report = model.calibrate(new, "cloth", names=["new", "copy", "known"])
    assert report.added == ["new"] and report.known == ["known"] and [name for name, _ in report.copies] == ["copy"]
    assert report.after.num_photos == first.num_photos + 1 and report.after.false_alarm_rate == 0.25
    assert model.memory.product("capsule").thresholds is capsule and common is not None
    with pytest.raises(KeyError, match="known: capsule, cloth"):
        model.calibrate(new, "bolt")
    few = model.calibrate(see(good("capsule", 20)), "capsule").after
    assert not few.guaranteed and few.how == "photos unknown to the memory"
    model.remove("cloth")
    model.teach(see(*CLOTH[:2]), "cloth")
    with pytest.raises(ValueError, match="only photos of 'cloth' that are in the memory"):
        model.calibrate(see(CLOTH[0]), "cloth")


def test_removing_sets_thresholds_anew_and_leaves_nothing_behind(model, see):
    three = model.teach(see(*CLOTH[:3]), "cloth").after
    model.teach(see(CLOTH[3]), "cloth", names=["four"])
    report = forget(model, "cloth", "four")
    assert report.after.threshold == pytest.approx(three.threshold, rel=2e-3) and len(model.memory) == 3
    assert len(model.memory.views) == 3
    promised_once = calibrate(model, {"cloth": see(good("woven_cloth", 40))}, false_alarm_rate=0.5)[0].after
    assert promised_once.guaranteed
    photo = model.memory.references("cloth")[0].digest
    assert forget(model, "cloth", photo).after.guaranteed  # its photo was judged anew by the smaller memory
    model.memory.views = {}
    report = forget(model, "cloth", model.memory.references("cloth")[0].digest)
    assert not report.after.guaranteed and "promised" in str(report) and "not here to be judged again" in report.why
    model.memory.remove("cloth")
    assert model.memory.categories == [] and model.memory.thresholds_of() is None and not model.memory.views


def test_a_threshold_by_hand_stays_until_it_is_given_back(model, see):
    learned = model.teach(see(*CLOTH[:3]), "cloth").after
    report = set_threshold(model, "cloth", 0.5)
    assert report.after.promise == "set by hand" and f"{learned.threshold:.4g}" in str(report)
    report = model.teach(see(CLOTH[3]), "cloth")
    assert report.after.threshold == 0.5 and "set by hand and stays" in report.why
    four = set_threshold(model, "cloth", None).after
    assert four.method == "learned" and four.num_photos == 4
    with pytest.raises(ValueError, match="0 or more"):
        set_threshold(model, "cloth", -1.0)
    model.memorize(see(good("capsule", 1)), "capsule")
    with pytest.raises(ValueError, match="nothing is known that would set"):
        set_threshold(model, "capsule", None)
    assert set_threshold(model, "capsule", 0.1).after.threshold == 0.1


def test_products_taught_together_and_one_after_the_other_have_the_same_thresholds(model, see):
    photos = {name: see(*[good(name, index) for index in range(3)]) for name in ("capsule", "brass_gear")}
    together = [report.after.threshold for report in teach(model, photos, views=2)]
    assert [model.memory.product(name).word for name in photos] == ["capsule", "brass gear"]
    model.memory = type(model.memory)(model.memory_layers)
    alone = [model.teach(pixels, name).after.threshold for name, pixels in photos.items()]
    assert together == pytest.approx(alone)


def test_an_impossible_rate_changes_nothing(model, see):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        model.teach(see(*CLOTH[:2]), "cloth", false_alarm_rate=1.0)
    assert model.memory.categories == []


def test_a_photo_unlike_everything_taught_is_an_unknown_product(model, see, detector):
    for name in ("woven_cloth", "capsule"):
        model.teach(see(*[good(name, index) for index in range(4)]), name)
    holed, _ = render_defective(PRODUCTS["woven_cloth"], "hole", [7, 50], 96)
    photos = [good("circuit_board", 3), good("woven_cloth", 20), Image.fromarray(holed)]
    with torch.no_grad():
        output = model(see(*photos), branch=model.decision_branch)
        told = model(see(good("capsule", 21)), category="woven_cloth", branch=model.decision_branch)
    labels = [found["label"] for found in detector[1].post_process(output)]
    assert labels[0] == "unknown product" and labels[2] == "defective" and labels[1] in ("normal", "defective")
    assert detector[1].post_process(told)[0]["label"] == "unknown product"  # told a cloth, shows a capsule
    judged_all_the_same = detector[1].post_process(output, unknown=False)[0]
    assert judged_all_the_same["label"] == "defective" and judged_all_the_same["ratio"] > 1
