"""What one visitor taught: thresholds, removing, room; branches that change alone."""

import pytest
import torch
from PIL import Image

from anople_hf.app.products import ANY, MOST_TAUGHT, Products, checked_photo
from anople_hf.memory import MemoryBank
from anople_hf.products import Judged
from anople_hf.thresholds import Thresholds
from anople_hf.views import View


def known(*names):
    products = Products(MemoryBank([0]))
    for number, name in enumerate(names):
        digests = [f"{number}a", f"{number}b"]
        products.bank.add(name, torch.randn(2, 1, 4, 8), digests=digests)
        judged = {d: Judged((score,), (2 * score,), (score,), (2 * score,))
                  for d, score in zip(digests, (0.1 + number, 0.2 + number), strict=True)}  # fmt: skip
        products.bank.views |= {d: View.of(torch.rand(3, 4, 4)) for d in digests}
        learned = products.bank.update(name, judged=judged).learn(0.05)
        products.bank.update(name, thresholds=learned)
    return products


def test_thresholds_are_the_highest_of_few_scores():
    products = known("gear", "nut")
    assert products.limits("gear") == (0.2, 0.4) and products.limits("nut") == (1.2, 2.4)
    assert products.limits(ANY) == (1.2, 2.4)


def test_moving_a_threshold():
    products = known("gear", "nut")
    assert products.scores("gear") == [0.1, 0.2] and products.scores(ANY) == [0.1, 0.2, 1.1, 1.2]
    products.move("gear", 0.11)
    assert products.limits("gear") == (0.11, 0.4) and products.limits("nut")[0] == 1.2
    products.move(ANY, 0.5)
    assert [products.limits(name)[0] for name in ("gear", "nut", ANY)] == [0.5] * 3


def test_what_is_forgotten_is_gone():
    products = known("gear", "nut")
    products.remove("gear")
    assert products.names == ["nut"] and set(products.bank.views) == {"1a", "1b"} and products.scores("gear") == []
    assert products.limits(ANY) == products.limits("nut")
    products.remove("nut")
    with pytest.raises(ValueError, match="No product is known yet"):
        products.limits(ANY)
    with pytest.raises(KeyError):
        products.remove("nut")


def test_a_product_without_threshold_says_so():
    products = Products(MemoryBank([0]))
    products.bank.add("gear", torch.randn(1, 1, 4, 8))
    for act in (products.limits, lambda name: products.move(name, 0.5)):
        with pytest.raises(ValueError, match="No threshold is known for 'gear'"):
            act("gear")


def test_a_bank_that_is_known_brings_nothing_and_a_visitors_own_threshold_stays():
    products = known("gear")
    own, other = products.bank.without([]), known("gear", "nut").bank
    own.update("gear", thresholds=Thresholds(7.0, 7.0))
    assert products.take_in(own) == [] and products.limits("gear") == (0.2, 0.4)
    other.update("nut", thresholds=Thresholds(3.0, 4.0))
    assert products.take_in(other) == ["nut"] and products.limits("nut") == (3.0, 4.0)
    assert products.limits("gear") == (0.2, 0.4) and products.scores("nut") == [1.1, 1.2]


def test_scores_that_only_quantiles_tell():
    products = Products(MemoryBank([0]))
    products.bank.add("gear", torch.randn(1, 1, 4, 8))
    products.bank.update("gear", thresholds=Thresholds(0.9, 0.5, num_scores=5, normal_quantiles=(0.0, 1.0)))
    assert products.scores("gear") == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_branch_changes_alone():
    products = known("gear")
    branch = products.branch()
    branch.bank.add("nut", torch.randn(1, 1, 4, 8))
    branch.move("gear", 5.0)
    branch.bank.views.clear()
    assert products.names == ["gear"] and products.limits("gear") == (0.2, 0.4)
    assert len(products.scores("gear")) == 2 and len(products.bank.views) == 2


def test_the_strangest_photo_comes_first():
    assert known("gear").by_strangeness("gear") == [("0b", pytest.approx(0.2)), ("0a", pytest.approx(0.1))]
    assert known("gear").by_strangeness("nut") == []


def test_a_visitor_cannot_fill_the_memory():
    products = known("gear")
    products.came_with = 1  # two photos, one of them the detector's own
    products.require_room(MOST_TAUGHT - 1)
    with pytest.raises(ValueError, match=f"At most {MOST_TAUGHT} good photos"):
        products.require_room(MOST_TAUGHT)


def test_photos_become_rgb(tmp_path):
    Image.new("L", (50, 40), 7).save(tmp_path / "gray.png")
    assert checked_photo(tmp_path / "gray.png").to_rgb().mode == "RGB"
    assert checked_photo(Image.new("RGBA", (50, 40))).size == (50, 40)


def test_a_photo_is_decoded_once_and_a_bad_one_is_named_without_its_folder(tmp_path, decoded):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    checked_photo(tmp_path / "a.png")
    assert decoded == {tmp_path / "a.png": 1}
    Image.new("RGB", (9, 40)).save(tmp_path / "small.png")
    with pytest.raises(
        ValueError, match=r"^small.png is 9 x 40 pixels.*Save it again as JPEG or PNG, or leave it out"
    ):
        checked_photo(tmp_path / "small.png")
