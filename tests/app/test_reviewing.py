"""The buttons of the review tab, without a browser: answers, teaching, calibration, flips, the way back."""

import gradio as gr
import pytest
from PIL import Image
from waiting import until

from anople_hf.app.desk import Desk
from anople_hf.app.products import ANY
from anople_hf.app.review import RIGHT, WRONG
from anople_hf.app.reviewing import Reviewing
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS


@pytest.fixture
def desk(detectors):
    return Desk(detectors)


@pytest.fixture
def reviewing(desk):
    return Reviewing(desk)


@pytest.fixture
def visitor(desk, products):
    """One who knows small cloths, with a threshold so low that every photo is defective."""
    visitor = desk.arrive()
    visitor.products = products
    products.move("woven_cloth", 0.001)
    return visitor


@pytest.fixture
def lot(holed, tmp_path):
    files = [tmp_path / "hole.png"]
    holed[0].save(files[0])
    for index in (20, 21):
        files.append(tmp_path / f"good{index}.png")
        Image.fromarray(render(PRODUCTS["woven_cloth"], [7, index], 96)).save(files[-1])
    return [str(file) for file in files]


@pytest.fixture
def judging(reviewing, visitor, lot):
    judging = reviewing.start(visitor, None, lot, "", "woven_cloth")[0]
    until(lambda: not judging.busy)
    yield judging
    judging.review.close()


def answer_all(reviewing, judging, but=None):
    for item in judging.review.items:
        if item.name != but:
            seen = f"{item.number}:{item.verdict.photo.stem}"
            face = reviewing.answer(judging, seen, RIGHT if item.name == "hole.png" else WRONG)
    return face


def labels(judging):
    return {item.name: item.verdict.label for item in judging.review.items}


def test_false_alarms_set_the_threshold_once_that_is_kept(reviewing, visitor, judging):
    assert set(labels(judging).values()) == {"defective"}
    face = answer_all(reviewing, judging, but="good21.png")
    assert "2 of 3 reviewed" in face[0] and "1 right" in face[0] and "1 wrong" in face[0]
    assert face[10].value == "Calibrate with the confirmed good one" and face[10].interactive
    old = visitor.products.limits("woven_cloth")[0]
    face = reviewing.calibrate(visitor, judging)
    told, proposal = face[11], judging.review.proposal
    new = proposal.visitor.products.limits("woven_cloth")[0]
    assert f"threshold <b>{old:.4g} &rarr; {new:.4g}</b>" in told and face[12].visible
    assert "1 (1 false alarms, 0 missed) &rarr; <b>0 (0 false alarms, 0 missed)</b>" in told
    assert "1 of the 2 reviewed verdicts would change" in told and told.count("right then") == 1
    assert "Photos of woven_cloth without an answer: 1." in told
    assert set(labels(judging).values()) == {"defective"} and visitor.products.limits("woven_cloth")[0] == old
    kept = reviewing.keep(visitor, judging)[0]
    assert kept.products.limits("woven_cloth")[0] == new and labels(judging)["hole.png"] == "defective"
    assert {item.answer for item in judging.review.reviewed} == {RIGHT}  # the same parts, called rightly now
    until(lambda: not judging.busy)
    assert judging.review.items[2].verdict.threshold == pytest.approx(new)  # judged again in the background
    with pytest.raises(gr.Error, match="cannot be taken back any more"):
        reviewing.undo(visitor, judging)  # one whose products are others by now
    back = reviewing.undo(kept, judging)[0]
    assert back.products.limits("woven_cloth")[0] == old and judging.review.items[1].answer == WRONG


def test_what_is_taught_is_judged_by_the_others(reviewing, visitor, judging):
    """By itself it would be like itself, and every photo that was taught would turn out good."""
    answer_all(reviewing, judging)
    face = reviewing.teach(visitor, judging)
    proposal = judging.review.proposal
    assert len(proposal.visitor.products.bank.references("woven_cloth")) == 6 and face[12].visible
    assert all(verdict.score > 0.005 for verdict in proposal.verdicts.values())
    assert "It was taught, and is judged by the others." in proposal.verdicts[1].told
    assert len(visitor.products.bank.references("woven_cloth")) == 4
    other = reviewing.desk.move_threshold(visitor, "woven_cloth", 0.5)[0]
    with pytest.raises(gr.Error, match="out of date"):
        reviewing.keep(other, judging)


def test_what_was_set_in_another_tab_is_shown_before_it_decides_here(reviewing, visitor, judging):
    with pytest.raises(gr.Error, match="Nothing was taught"):
        reviewing.judge_again(visitor, judging)
    answer_all(reviewing, judging)
    visitor = reviewing.desk.move_threshold(visitor, "woven_cloth", 9.0)[0]
    told = reviewing.judge_again(visitor, judging)[11]
    assert "3 of the 3 reviewed verdicts would change" in told and "(2 false alarms, 0 missed)" in told
    assert "(0 false alarms, 1 missed)" in told and told.count("wrong then") == 1
    assert not reviewing.discard(judging)[12].visible and judging.review.proposal is None


def test_an_answer_is_about_the_verdict_that_was_seen(reviewing, judging):
    seen = reviewing.face(judging)[2]
    reviewing.answer(judging, seen, WRONG)
    item = judging.review.items[int(seen.partition(":")[0])]
    reviewing.answer(judging, f"{item.number}:an older verdict", RIGHT)
    assert item.answer == WRONG
    timer, *face = reviewing.tick(judging, reviewing.face(judging)[2])
    assert timer.value > 1 and "1 of 3 reviewed" in face[0] and not isinstance(face[2], str)  # the photo stays


def test_the_table_and_the_end(reviewing, judging):
    answer_all(reviewing, judging)
    lines = open(reviewing.save_table(judging), encoding="utf-8").read().splitlines()  # noqa: SIM115
    assert (
        lines[0].startswith("path,product,score")
        and len(lines) == 4
        and lines[1].endswith("defective,right,defective")
    )
    reviewing.end(judging)
    with pytest.raises(gr.Error, match="put away"):
        reviewing.go(judging, 1)


def test_what_is_refused_is_said(reviewing, visitor, judging, lot):
    for action, given, reason in (
        (reviewing.start, (visitor, None, None, " ", ANY), "Choose photos first"),
        (reviewing.start, (visitor, None, None, "/tmp", ANY), "Only the machine"),
        (reviewing.start, (visitor, judging, lot, "", ANY), "put it away first"),
        (reviewing.go, (None, 1), "There is no review yet"),
        (reviewing.teach, (visitor, judging), "No photo was confirmed to be good yet"),
        (reviewing.keep, (visitor, judging), "nothing to keep"),
    ):
        with pytest.raises(gr.Error, match=reason):
            action(*given)
    judging.most = 4
    with pytest.raises(gr.Error, match="At most 4 photos"):
        reviewing.start(visitor, judging, lot, "", "woven_cloth")
