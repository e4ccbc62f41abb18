"""The app's words: decisions and false alarms, and names that cannot become markup."""

import numpy as np
import torch
from PIL import Image

from anople_hf.app.inspector import Finding
from anople_hf.app.products import ANY, Products
from anople_hf.app.texts import CSS, describe, false_alarms
from anople_hf.memory import MemoryBank


def finding(score, product="gear", regions=()):
    photo = Image.new("RGB", (8, 8))
    return Finding("a.png", product, photo, np.zeros((8, 8), np.float32), score, 0.5, 0.5, list(regions), photo)


def test_decision_and_how_far_from_the_threshold():
    above = describe(finding(0.75, regions=[{"box": (1, 2, 3, 4), "peak": 0.9}]))
    assert "defective" in above and "1.5 times it" in above and "x 1-3, y 2-4, strongest 0.900" in above
    assert "left: 50.0%" in above
    below = describe(finding(0.25))
    assert "normal" in below and "not above" in below and "Regions" not in below
    assert "left: 100.0%" in describe(finding(50.0))


def test_a_name_cannot_become_markup():
    assert "<script>" not in describe(finding(0.75, "<script>alert(1)</script>"))


def test_false_alarms_are_counted():
    products = Products(MemoryBank([0]))
    assert false_alarms(products, ANY, 0.1) == "No scores of good photos are known."
    products.bank.add("gear", torch.randn(1, 1, 4, 8))
    products.calibrate("gear", [0.1, 0.2, 0.3, 0.4], [1])
    assert "1 of 4 views of the taught good photos of gear would be called defective (25%)" in false_alarms(
        products, "gear", 0.35
    )


def test_the_look_has_no_holes():
    assert "{" in CSS and "{{" not in CSS and CSS.count("#") > 10
