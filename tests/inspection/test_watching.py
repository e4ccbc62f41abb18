"""Watching a folder: a clock that the test turns, files that it writes between two looks."""

import io

import numpy as np
import pytest
from PIL import Image

from anople_hf.images import find_images, read_photo
from anople_hf.inspection.watching import ATTEMPTS, watch


def photo(seed=0):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


class Camera:
    """Acts between two looks: the n-th sleep calls the n-th act. The clock moves with the sleeps."""

    def __init__(self, folder, *acts, **options):
        self.now, self.acts, self.said = 0.0, list(acts), []
        options = {"every": 1.0, "idle": 3.0} | options
        self.found = watch(
            lambda: find_images(folder),
            lambda path: (path, read_photo(path)),
            sleep=self.sleep,
            clock=lambda: self.now,
            report=self.said.append,
            **options,
        )

    def sleep(self, seconds):
        self.now += seconds
        if self.acts:
            self.acts.pop(0)()

    def batches(self):
        return [[path.name for path, _ in batch] for batch in self.found]


def test_a_file_that_grows_is_not_judged(tmp_path):
    content, path = photo(), tmp_path / "a.png"
    seen = []

    def write(share):
        def act():
            path.write_bytes(content[: int(len(content) * share)])

        return act

    camera = Camera(tmp_path, write(0.2), write(0.5), write(0.9), write(1), lambda: seen.append(camera.now))
    ((found, image),) = next(iter(camera.found))
    assert found == path and image.size == (32, 32)
    assert camera.now == 5 and seen == [5]  # whole at 4, seen unchanged at 5
    assert not camera.said
    assert list(camera.found) == [] and camera.now == 8  # idle for three


def test_empty_and_other_files_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.png.part").write_bytes(photo())
    (tmp_path / "notes.txt").write_text("x")
    camera = Camera(tmp_path)
    assert camera.batches() == [] and camera.said == []


def test_an_unreadable_file_is_tried_again_then_skipped_then_taken_when_it_changes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(photo()[:200])
    nothing = [lambda: None] * (ATTEMPTS + 2)
    camera = Camera(tmp_path, *nothing, lambda: path.write_bytes(photo()), idle=10.0)
    assert camera.batches() == [["a.png"]]
    assert len(camera.said) == ATTEMPTS
    assert [line.split(":")[0] for line in camera.said] == ["tried again"] * (ATTEMPTS - 1) + ["skipped"]
    assert str(path) in camera.said[-1]


def test_each_photo_once_in_small_batches_up_to_the_most(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(photo(number))
    known = {str(tmp_path / "0.png")}
    assert Camera(tmp_path, batch_size=4, known=known).batches() == [
        ["1.png", "2.png", "3.png", "4.png"],
        ["5.png", "6.png"],
    ]
    assert Camera(tmp_path, batch_size=4, most=5).batches() == [["0.png", "1.png", "2.png", "3.png"], ["4.png"]]


def test_a_photo_is_decoded_once(tmp_path, decoded):
    (tmp_path / "a.png").write_bytes(photo())
    assert Camera(tmp_path).batches() == [["a.png"]] and decoded == {tmp_path / "a.png": 1}


def test_a_file_that_goes_again_is_no_error(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(photo())
    camera = Camera(tmp_path, path.unlink)
    assert camera.batches() == [] and camera.said == []


@pytest.mark.parametrize("size", [8, 15])
def test_a_photo_too_small_is_reported(tmp_path, size):
    Image.new("RGB", (size, 40)).save(tmp_path / "a.png")
    camera = Camera(tmp_path, idle=10.0)
    assert camera.batches() == [] and "smaller than a patch" in camera.said[-1]
