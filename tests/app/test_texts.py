"""The app's words: decisions and false alarms, and names that cannot become markup."""

import numpy as np
import torch
from PIL import Image

from anople_hf.app.inspector import Finding, NotRead
from anople_hf.app.products import ANY, Products
from anople_hf.app.texts import CSS, describe, false_alarms, good_photos, not_read, taught
from anople_hf.memory import MemoryBank
from anople_hf.products import Judged
from anople_hf.teaching import Report
from anople_hf.views import View


def finding(score, product="gear", regions=(), **more):
    photo = Image.new("RGB", (8, 8))
    label = "defective" if score > 0.5 else "normal"
    heat_map = np.zeros((8, 8), np.float32)
    return Finding("a.png", product, photo, heat_map, score, 0.5, 0.5, None, list(regions), photo, label, **more)


def judged(*scores):
    return Judged(scores, (1.0,) * len(scores))


def test_decision_and_how_far_from_the_threshold():
    above = describe(finding(0.75, regions=[{"box": (1, 2, 3, 4), "peak": 0.9}]))
    assert (
        "defective" in above
        and "1.50 times the threshold of gear" in above
        and "x 1-3, y 2-4, strongest 0.900" in above
    )
    assert "left: 50.0%" in above
    below = describe(finding(0.25))
    assert "normal" in below and "not above" in below and "Regions" not in below
    assert "left: 100.0%" in describe(finding(50.0))


def test_another_product_is_suspected():
    """Most of the photo is strange: no defect is that large."""
    strange = finding(0.75)
    assert "right product" not in describe(strange)
    strange.heat_map[:5] = 0.9
    assert "is it the right product" in describe(strange)


def test_an_unknown_product_is_said():
    strange = finding(0.75)
    strange.label = "unknown product"
    told = describe(strange)
    assert 'class="unknown">unknown product<' in told and "does not look like gear, the chosen product" in told
    assert "neither good nor defective" in told and "gauge" not in told
    strange.recognized = "gear"
    assert "looks like no product taught here; the nearest is gear" in describe(strange)


def test_the_recognized_product_stands_beside_the_verdict():
    assert "<b>gear, as chosen</b>" in describe(finding(0.75))
    assert "<b>recognized as gear</b>" in describe(finding(0.75, recognized="gear"))
    assert "<b>recognized as nut, compared with all products</b>" in describe(finding(0.75, ANY, recognized="nut"))


def test_a_name_cannot_become_markup():
    name = "<script>alert(1)</script>"
    unknown = finding(0.75, name, recognized=name)
    unknown.label = "unknown product"
    for found in (finding(0.75, name), finding(0.75, name, recognized=name), unknown):
        assert "<script>" not in describe(found)


def test_false_alarms_are_counted():
    products = Products(MemoryBank([0]))
    assert "No scores of good photos are known." in false_alarms(products, ANY, 0.1)
    products.bank.add("gear", torch.randn(1, 1, 4, 8), digests=["a"])
    products.bank.update("gear", judged={"a": judged(0.1, 0.2, 0.3, 0.4)})
    told = false_alarms(products, "gear", 0.35)
    assert "1 of 4 views of the taught good photos of gear would be called defective (25%)" in told
    assert told.count('class="over"') == 1 and told.count('class="under"') == 3  # one mark each, told apart by shape
    assert "left: 83.3%" in told  # the threshold, on a line that ends at 1.05 x 0.4


def test_a_photo_that_does_not_fit_is_said():
    assert "<p>its depth is uint8</p>" in describe(finding(0.75, remark="its depth is uint8"))


def test_new_photos_are_not_called_views_of_the_taught_ones():
    """Calibrated on photos that the memory does not hold: they are counted, and the promise is the command line's."""
    products = Products(MemoryBank([0]))
    products.bank.add("gear", torch.randn(1, 1, 4, 8), digests=["a"])
    new = {str(number): judged(number / 100) for number in range(1, 20)}
    known = products.bank.update("gear", judged={"a": judged(0.3, 0.4)}, held_out=new)
    products.bank.update("gear", thresholds=known.calibrate(0.05))
    told = false_alarms(products, "gear", 0.185)
    assert "1 of 19 good photos that the memory does not hold of gear would be called defective (5%)" in told
    assert products.thresholds("gear").promise in told and "promised (calibrated on 19 photos)" in told
    assert "views" not in told and "expect more" not in told
    products.move("gear", 0.1)
    told = false_alarms(products, "gear", 0.1)
    assert "9 of 19 good photos that the memory" in told and "This threshold: set by hand." in told
    products.bank.add("nut", torch.randn(1, 1, 4, 8), digests=["b"])
    products.bank.update("nut", judged={"b": judged(0.3, 0.4)}, thresholds=known.learn(0.05))
    told = false_alarms(products, ANY, 0.35)
    assert "1 of 2 views of the taught good photos and 0 of 19 good photos that the memory does not hold" in told


def test_files_that_were_not_judged_are_named():
    assert not_read([]) == ""
    told = not_read([NotRead("a.png", "a.png is damaged."), NotRead("b.png", "b<i>.png is empty.")])
    assert "2 files were not judged" in told and "a.png is damaged." in told and "b&lt;i&gt;.png" in told


def test_taught_photos_are_shown_strangest_first():
    products = Products(MemoryBank([0]))
    names = ["first.png", "second.png", "third.png"]
    products.bank.add("gear", torch.randn(3, 1, 4, 8), names=names, digests=names)
    products.bank.views = {name: View.of(torch.rand(3, 4, 4)) for name in names}
    known = dict(zip(names, map(judged, (0.1, 0.3, 0.2)), strict=True))
    products.bank.update("gear", judged=known)
    products.bank.update("gear", thresholds=products.bank.product("gear").learn(0.05))
    assert [words for _, words in good_photos(products, "gear", 4)] == [
        "0.3000 second.png", "0.2000 third.png", "0.1000 first.png",
    ]  # fmt: skip
    assert "3 good photos known. Threshold 0.3000, 5% false alarms aimed at, not promised" in taught(products, "gear")
    assert "Least like the others: second.png" in taught(products, "gear")
    report = Report("gear", copies=[("fourth.png", "first.png")], foreign=[("second.png", "nut")])
    told = taught(products, "gear", report)
    assert "- fourth.png shows the same photo as first.png" in told and "- second.png: looks like nut" in told
    products.bank.remove("gear", "second.png")
    assert good_photos(products, "gear", 4)[0][1] == "0.2000 third.png" and "Least" not in taught(products, "gear")
    assert good_photos(products, "nut", 4) == []


def test_the_look_has_no_holes():
    assert "{" in CSS and "{{" not in CSS and CSS.count("#") > 10
