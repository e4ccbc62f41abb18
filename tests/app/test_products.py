"""What one visitor taught: thresholds, false alarms, removing; branches that change alone."""

import pytest
import torch
from PIL import Image

from anople_hf.app.products import ANY, MOST_TAUGHT, GoodPhoto, Products, checked_photo
from anople_hf.memory import MemoryBank


def known(*names):
    products = Products(MemoryBank([0]))
    for number, name in enumerate(names):
        products.bank.add(name, torch.randn(2, 1, 4, 8), digests=[f"{number}a", f"{number}b"])
        photo = GoodPhoto(Image.new("RGB", (4, 4)), torch.zeros(3, 4, 4))
        products.photos |= {f"{number}a": photo, f"{number}b": photo}
        scores = {f"{number}a": [0.1 + number], f"{number}b": [0.2 + number]}
        products.calibrate(name, scores, [0.3 + number, 0.4 + number])
    return products


def test_thresholds_are_the_highest_of_few_scores():
    products = known("gear", "nut")
    assert products.limits("gear") == (0.2, 0.4) and products.limits("nut") == (1.2, 1.4)
    assert products.limits(ANY) == (1.2, 1.4)
    products.calibrate("gear", {"0a": [0.05], "0b": [0.06], "0c": [0.07]}, [0.1])  # judged again, beside a third one
    assert products.limits("gear") == (0.07, 0.1)


def test_a_common_threshold_holds_for_any_product_with_what_was_taught_since():
    bank = MemoryBank([0])
    bank.add("gear", torch.randn(1, 1, 4, 8))
    entry = {"pixel_threshold": 0.5, "num_scores": 5, "normal_quantiles": [0.0, 1.0]}
    products = Products(MemoryBank([0]))
    products.take_in(bank, {"gear": {**entry, "threshold": 0.9}, "*": {**entry, "threshold": 0.6}})
    assert products.limits(ANY) == (0.6, 0.5)
    assert products.scores("gear") == [0.0, 0.25, 0.5, 0.75, 1.0]
    products.bank.add("nut", torch.randn(1, 1, 4, 8))
    products.calibrate("nut", {"": [0.7]}, [0.2])
    assert products.limits(ANY) == (0.7, 0.5)
    products.calibrate("gear", {"": [2.0]}, [0.1])  # more of a product that was brought: its scores count, too
    assert products.limits("gear") == (2.0, 0.5) and len(products.scores("gear")) == 6


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
    assert products.names == ["nut"] and set(products.photos) == {"1a", "1b"} and products.scores("gear") == []
    products.remove("nut", "1b")
    assert products.names == ["nut"] and products.scores("nut") == [1.1] and set(products.photos) == {"1a"}
    products.remove("nut")
    products.calibration["*"] = {"threshold": 0.3, "pixel_threshold": 0.4}  # came with the detector, for any product
    with pytest.raises(ValueError, match="No product is known yet"):
        products.limits(ANY)
    with pytest.raises(KeyError):
        products.remove("nut")


def test_a_product_without_threshold_says_so():
    products = Products(MemoryBank([0]))
    products.bank.add("gear", torch.randn(1, 1, 4, 8))
    with pytest.raises(ValueError, match="No threshold is known for 'gear'"):
        products.limits("gear")


def test_a_threshold_goes_with_the_photos_it_was_learned_from():
    products = known("gear")
    products.bank.add("gear", torch.randn(1, 1, 4, 8), digests=["c"])  # of the detector, without a threshold
    products.remove("gear", "0a")
    assert products.limits("gear") == (0.2, 0.4)
    products.remove("gear", "0b")
    assert products.names == ["gear"] and products.taught == set()
    for act in (products.limits, lambda name: products.move(name, 0.5)):
        with pytest.raises(ValueError, match="No threshold is known for 'gear'"):
            act("gear")


def test_a_bank_that_is_known_brings_nothing_and_a_new_photo_the_higher_threshold():
    products = known("gear")
    entry = {"pixel_threshold": 0.5, "num_scores": 3, "normal_quantiles": [0.0, 1.0]}
    products.calibration["*"] = entry | {"threshold": 0.9}
    own = products.bank.without([])
    found = products.take_in(own, {"gear": entry | {"threshold": 7.0}, "*": entry | {"threshold": 0.1}})
    assert found == [] and products.limits("gear") == (0.2, 0.4) and products.scores("gear") == [0.1, 0.2]
    assert products.calibration["*"]["threshold"] == 0.9
    for threshold, holds in ((0.15, 0.2), (0.6, 0.6)):
        more = MemoryBank([0])
        more.add("gear", torch.randn(1, 1, 4, 8), digests=[str(threshold)])
        assert products.take_in(more, {"gear": entry | {"threshold": threshold}}) == ["gear"]
        assert products.limits("gear")[0] == holds and products.scores("gear") == [0.1, 0.2]


def test_a_branch_changes_alone():
    products = known("gear")
    branch = products.branch()
    branch.calibrate("gear", {"": [9.0]}, [9.0])
    branch.bank.add("nut", torch.randn(1, 1, 4, 8))
    branch.move("gear", 5.0)
    branch.photos.clear()
    assert products.names == ["gear"] and products.limits("gear") == (0.2, 0.4)
    assert len(products.scores("gear")) == 2 and len(products.photos) == 2 and products.taught == {"gear"}


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
    assert checked_photo(tmp_path / "gray.png").mode == "RGB"
    assert checked_photo(Image.new("RGBA", (50, 40))).size == (50, 40)


def test_a_photo_is_decoded_once_and_a_bad_one_is_named_without_its_folder(tmp_path, decoded):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    checked_photo(tmp_path / "a.png")
    assert decoded == {tmp_path / "a.png": 1}
    Image.new("RGB", (9, 40)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"^small.png is 9 x 40 pixels.*Nothing was changed"):
        checked_photo(tmp_path / "small.png")
