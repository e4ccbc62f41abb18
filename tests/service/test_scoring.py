"""`Scorer`: what queues up shares a pass, nobody gets another's answer, a full queue refuses, an end answers."""

import shutil
import threading
from concurrent.futures import wait

import pytest
from PIL import Image

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.images import read_photo
from anople_hf.service import ServedDetector
from anople_hf.service.scoring import BusyError, Scorer


@pytest.fixture(scope="module")
def detector(taught):
    return ServedDetector(AnoPLeModel.from_pretrained(taught), AnoPLeProcessor.from_pretrained(taught), taught)


@pytest.fixture
def photos(drawn):
    return [read_photo(path) for path in sorted(drawn.rglob("test/*/*.png"))[:6]]


def test_what_waits_shares_a_pass_and_keeps_its_answer(detector, photos, monkeypatch):
    found = [detector.score(photos, [product] * len(photos)) for product in (None, "capsule")]
    expected = [one.result["score"] for part in found for one in part]
    assert len({round(score, 6) for score in expected[len(photos) :]}) == len(photos)
    begun, go, passes = threading.Event(), threading.Event(), []
    score = detector.score

    def slow(*given):
        begun.set()
        go.wait()
        return score(*given)

    monkeypatch.setattr(detector, "score", slow)
    with Scorer(detector, batch_size=4, observe=passes.append) as scorer:
        first = scorer.submit(photos[:1])
        begun.wait()
        rest = [scorer.submit([photo])[0] for photo in photos[1:]] + scorer.submit(photos, "capsule")
        assert not any(answer.done() for answer in rest)
        go.set()
    answers = [*first, *rest]
    assert [answer.result().result["score"] for answer in answers] == pytest.approx(expected, rel=1e-5)
    assert passes == [1, 4, 4, 3]  # the end came when they were queued, and all were answered


def test_one_request_s_trouble_is_not_the_others(detector, photos):
    with Scorer(detector) as scorer:
        wrong, right = scorer.submit(photos[:1], "nut")[0], scorer.submit(photos[:1], "capsule")[0]
        wait([wrong, right])
    assert isinstance(wrong.exception(), KeyError) and right.result().category == "capsule"


def test_room_is_held_until_the_answer_and_then_free(detector):
    scorer = Scorer(detector, most=3)
    with scorer.room(2):
        with pytest.raises(BusyError, match="2 photos wait and at most 3"), scorer.room(2):
            pass
        with scorer.room(1):
            assert scorer.waiting == 3
    with pytest.raises(ZeroDivisionError), scorer.room(3):
        _ = 1 / 0
    assert scorer.waiting == 0


def test_a_change_counts_from_the_next_pass_on(detector, tmp_path, taught):
    run = shutil.copytree(taught, tmp_path / "run")
    served = ServedDetector(AnoPLeModel.from_pretrained(run), AnoPLeProcessor.from_pretrained(run), run)
    photo = read_photo(Image.new("RGB", (64, 64), "gray"))
    with Scorer(served) as scorer:
        before = scorer.submit([photo], "capsule")[0].result().result["threshold"]
        report = served.set_threshold("capsule", 7.0)
        after = scorer.submit([photo], "capsule")[0].result().result["threshold"]
    assert (report.before.threshold, after) == (pytest.approx(before), 7.0)
