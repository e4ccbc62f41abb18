"""A review: what comes next, what an answer says of a part, what a change would flip, and the way back."""

import csv
import io
from pathlib import Path

import pytest

from anople_hf.app.review import NEAR, ORDERS, RIGHT, STRANGEST, UNSURE, WRONG, Proposal, Review, Verdict


def verdict(ratio, label=None, product="gear"):
    label = label or ("defective" if ratio > 1 else "normal")
    return Verdict(product, label, ratio / 2, 0.5, ratio, "", Path(f"{ratio}.jpg"), Path("o.jpg"), Path("e.jpg"))


RATIOS = {"far.png": 5.0, "above.png": 1.1, "good.png": 0.3, "below.png": 0.8, "other.png": 2.0}


@pytest.fixture
def review():
    review = Review("visitor")
    review.add([(Path(name), name) for name in RATIOS])
    for item in review.due(10):
        found = verdict(RATIOS[item.name], "unknown product" if item.name == "other.png" else None)
        review.take(item, found, review.generation)
    review.start_over()
    yield review
    review.close()


def names(items):
    return [item.name for item in items]


def proposed(review, **ratios):
    number = {item.name: item.number for item in review.items}
    verdicts = {number[f"{name}.png"]: verdict(ratio) for name, ratio in ratios.items()}
    return Proposal("changed", [], "new visitor", "base", verdicts)


def test_near_the_threshold_or_strangest_or_as_they_came(review):
    assert review.order == NEAR and names(review.judged) == [
        "other.png", "above.png", "below.png", "good.png", "far.png",
    ]  # fmt: skip
    review.order = STRANGEST
    assert names(review.judged) == ["other.png", "far.png", "above.png", "below.png", "good.png"]
    review.order = ORDERS[2]
    assert names(review.judged) == list(RATIOS)


def test_an_answer_goes_on_to_the_next_one_that_is_left(review):
    assert review.shown.name == "other.png"
    review.step(-1)  # there is none before
    review.step(1)
    assert review.shown.name == "above.png"
    review.answer(review.current, WRONG)
    review.answer(review.current, UNSURE)
    assert names(review.reviewed) == ["above.png", "below.png"] and review.shown.name == "good.png"
    review.step(9)
    assert review.shown.name == "far.png"
    review.answer(review.current, RIGHT)
    assert review.shown.name == "other.png"  # round the end, to what was passed over
    review.answer(review.items[0].number, WRONG)  # a verdict that is not on screen any more: the screen stays
    assert review.shown.name == "other.png" and review.items[0].answer == WRONG


def test_the_last_answer_is_taken_back_first(review):
    review.step(1)
    for answer in (RIGHT, WRONG):
        review.answer(review.current, answer)
    review.answer(review.reviewed[0].number, UNSURE)
    assert review.undo() is None and review.items[1].answer == RIGHT and review.shown.name == "above.png"
    review.undo()
    assert review.shown.name == "below.png" and review.shown.answer == ""
    review.undo()
    assert not review.can_undo and not review.reviewed


def test_what_an_answer_says_of_the_part(review):
    parts = {}
    for item in review.items:
        review.answer(item.number, WRONG)
        parts[item.name] = item.part
    assert parts == {"far.png": "normal", "above.png": "normal", "good.png": "defective", "below.png": "defective",
                     "other.png": ""}  # fmt: skip
    assert names(review.good("gear")) == ["far.png", "above.png"] and review.products == ["gear"]
    assert names(review.open_ones("gear")) == ["other.png"]
    review.answer(0, UNSURE)
    assert names(review.good("gear")) == ["above.png"]


def test_a_proposal_flips_verdicts_only_when_it_is_kept_and_can_be_taken_back(review):
    for number, answer in ((0, RIGHT), (1, WRONG), (2, RIGHT)):
        review.answer(number, answer)
    proposal = review.proposal = proposed(review, far=4.0, above=0.9, good=0.2)
    (flip,) = review.flips(proposal)
    assert (flip.item.name, flip.before.label, flip.after.label) == ("above.png", "defective", "normal")
    assert review.mistakes() == (1, 0, 3) and review.mistakes(proposal.verdicts) == (0, 0, 3)
    assert review.items[1].verdict.label == "defective"
    assert review.keep() == "new visitor" == review.visitor and review.change_to_undo == "new visitor"
    above = review.items[1]
    assert (above.verdict.label, above.answer, above.part) == ("normal", RIGHT, "normal")  # right by now
    assert names(review.due(10)) == ["below.png", "other.png"]  # the others are judged again
    review.take(review.items[3], verdict(1.2), review.generation)
    assert review.undo() == "visitor" == review.visitor
    assert (above.verdict.ratio, above.answer) == (1.1, WRONG) and review.items[3].verdict.ratio == 0.8
    assert review.due(10) == [] and review.mistakes() == (1, 0, 3)


def test_a_verdict_by_what_no_longer_decides_is_left_out(review):
    item, before = review.items[2], review.generation
    review.answer(2, RIGHT)
    review.proposal = proposed(review, good=0.2)
    review.keep()
    review.take(item, verdict(9.0), before)
    assert item.verdict.ratio == 0.2
    review.take(item, verdict(2.0, "unknown product"), review.generation)
    assert item.answer == ""  # "right" was about another verdict, and this one says nothing of the part


def test_photos_are_queued_once_and_what_cannot_be_judged_is_not_due(review):
    assert review.add([(Path("far.png"), "far.png"), (Path("new.png"), "new.png")]) == 1
    (item,) = review.due(10)
    review.take(item, "new.png is damaged", review.generation)
    assert review.due(10) == [] and item not in review.judged


def test_the_table(review):
    review.answer(1, WRONG)
    review.add([(Path("late.png"), 'la"te.png')])
    rows = list(csv.DictReader(io.StringIO(review.to_csv())))
    assert [row["path"] for row in rows] == [*RATIOS, 'la"te.png'] and rows[-1]["verdict"] == "not judged"
    assert rows[1] == {"path": "above.png", "product": "gear", "score": "0.550000", "threshold": "0.500000",
                       "ratio": "1.100", "verdict": "defective", "answer": "wrong",
                       "reviewed_as": "normal"}  # fmt: skip
