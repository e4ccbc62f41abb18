"""Photos of a review are judged in the background; a folder is watched; both end with the review."""

import threading

import numpy as np
import pytest
from PIL import Image
from waiting import until

from anople_hf.app.inspector import Finding, NotRead
from anople_hf.app.judging import Judging
from anople_hf.app.review import Review


def photo(path):
    Image.new("RGB", (16, 16), (90, 90, 90)).save(path)
    return path


class Judge:
    """Calls every photo defective, but for unreadable ones."""

    def __init__(self):
        self.asked, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, visitor, paths, product):
        self.go.wait(60)
        self.asked += [(visitor, path.name) for path in paths]
        grey, heat = Image.new("RGB", (16, 16)), np.ones((16, 16), np.float32)
        return [
            NotRead(p.name, f"{p.name} is damaged") if p.stat().st_size < 50
            else Finding(p.name, "gear", grey, heat, 1.0, 0.5, 0.5, 0.5, [], grey, "defective")
            for p in paths
        ]  # fmt: skip


@pytest.fixture
def review():
    review = Review("visitor")
    yield review
    review.close()


def test_uploads_are_judged_while_one_looks_and_outlive_the_upload(review, tmp_path):
    judge = Judge()
    judging = Judging(review, judge, most=4)
    files = [photo(tmp_path / f"{n}.png") for n in range(2)]
    (tmp_path / "bad.png").write_bytes(b"no photo")
    judge.go.clear()
    assert judging.upload([*files, tmp_path / "bad.png"]) == 3 and judging.busy and review.judged == []
    for file in files:
        file.unlink()
    judge.go.set()
    until(lambda: not judging.busy)
    assert [item.name for item in review.judged] == ["0.png", "1.png"] and review.shown.name == "0.png"
    assert review.items[2].refused == "bad.png is damaged"
    with Image.open(review.shown.verdict.overlay) as picture:
        assert picture.size == (16, 16)
    with pytest.raises(ValueError, match="At most 4 photos"):
        judging.upload(["a.png", "b.png"])
    folder = review.folder
    review.close()
    assert not folder.exists()


def test_a_watched_folder_feeds_the_queue_until_the_review_ends(review, tmp_path):
    judge = Judge()
    judging = Judging(review, judge, most=3)
    (tmp_path / "shift").mkdir()
    photo(tmp_path / "shift" / "first.png")
    with pytest.raises(ValueError, match="is no folder of this machine"):
        judging.watch(tmp_path / "nowhere")
    judging.watch(tmp_path)
    until(lambda: len(review.judged) == 1)
    assert review.shown.name == "shift/first.png" and judging.busy
    photo(tmp_path / "second.png")
    until(lambda: len(review.judged) == 2)
    photo(tmp_path / "third.png")
    until(lambda: review.watched is None)
    assert "The queue is full, 3 photos" in review.trouble


def test_what_stops_the_work_is_said_and_a_change_starts_it_again(review, tmp_path):
    def refuse(visitor, paths, product):
        raise ValueError("no threshold is known")

    judging = Judging(review, refuse, most=10)
    judging.upload([photo(tmp_path / "a.png")])
    until(lambda: not judging.busy)
    assert review.trouble == "no threshold is known" and review.judged == []
    judging.judge = Judge()
    judging.wake()
    until(lambda: review.judged)
    assert review.trouble == ""
