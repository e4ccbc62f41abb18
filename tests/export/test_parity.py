"""The check of an export: what it lets pass, and what it refuses."""

import numpy as np
import pytest
import torch

from anople_hf import AnoPLeConfig, AnoPLeProcessor
from anople_hf.export import ExportedDetector
from anople_hf.export.detector import FORMAT
from anople_hf.export.parity import check_parity, drawn_photos


@pytest.fixture(scope="module")
def processor():
    return AnoPLeProcessor.from_backbone("embedded:tiny-clip", AnoPLeConfig())


def red(pixels):
    return {"scores": pixels[:, 0].mean(dim=(1, 2)), "anomaly_maps": pixels[:, 0]}


def detector_of(processor, change=lambda scores, maps: (scores, maps), threshold=0.3, **preprocessing):
    """An exported detector that judges by `red`, with a change."""
    how = processor.image_processor
    views = {"size": 240, "resample": 3, "rescale": 1 / 255, "mean": how.image_mean, "std": how.image_std}
    about = {
        "format": FORMAT, "labels": ["normal", "defective"], "preprocessing": views | preprocessing,
        "calibration": {"threshold": threshold},
    }  # fmt: skip
    return ExportedDetector(
        about, lambda pixels: change(*(value.numpy() for value in red(torch.from_numpy(pixels)).values()))
    )


def test_what_is_equal_passes_and_is_measured(processor):
    detector = detector_of(processor, lambda scores, maps: (scores + 2e-7, maps))
    extra = np.random.default_rng(3).integers(0, 256, (9, 50, 40, 3), dtype=np.uint8)
    report = check_parity(red, processor, detector, list(extra))
    assert report["photos"] == 16 and report["batches"] == [1, 3, 8, 4]
    assert 1e-7 < report["scores"]["largest error"] < 4e-7 and report["maps"]["largest error"] == 0
    assert report["scores"]["share of range"] == report["scores"]["largest error"] / report["scores"]["range"]
    assert report["decisions"] == {"different": 0, "ties": 0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda scores, maps: (scores * 1.01, maps), "scores differ"),
        (lambda scores, maps: (scores, maps + 0.01), "maps differ"),
        (lambda scores, maps: (scores, maps * np.float32("nan")), "maps differ by inf"),
        (lambda scores, maps: (np.repeat(scores[:1], len(scores)), maps), "scores differ"),  # one batch size only
    ],
    ids=["scores", "maps", "nan", "batch"],
)
def test_what_differs_is_refused(change, told, processor):
    with pytest.raises(ValueError, match=rf"{told}.*Nothing was written"):
        check_parity(red, processor, detector_of(processor, change))


@pytest.fixture(scope="module")
def drawn_scores(processor):
    """Of the drawn photos, by `red`, and their range."""
    scores = red(processor(images=drawn_photos())["pixel_values"])["scores"]
    return scores, float(scores.max() - scores.min())


@pytest.mark.parametrize(("away", "by", "refused"), [(4e-4, 8e-4, True), (4e-4, 2e-4, False), (2e-5, 4e-5, False)])
def test_another_decision_is_refused_although_the_scores_are_near(away, by, refused, processor, drawn_scores):
    """One score lies so far below its threshold, and is so much higher in the graph; both as shares of the range."""
    scores, spread = drawn_scores
    detector = detector_of(
        processor, lambda s, m: (s + np.float32(by * spread), m), threshold=float(scores[2]) + away * spread
    )
    if refused:
        with pytest.raises(ValueError, match=r"results on 7 photos: 1 of 7 decisions differ.*Nothing was written"):
            check_parity(red, processor, detector)
    else:
        report = check_parity(red, processor, detector)
        assert report["decisions"] == {"different": 0, "ties": int(by > away)}


@pytest.mark.parametrize(("by", "refused"), [(8e-4, True), (2e-4, False)])
def test_another_unknown_product_is_refused(by, refused, processor, drawn_scores):
    """Of one photo, how strange it is lies a little below 1, where a product becomes unknown."""
    scores, spread = drawn_scores
    moved = 1.0 - float(scores[2]) - 4e-4 * spread
    outputs = {"outputs": ["scores", "anomaly_maps", "strangeness"]}

    def run(pixels):
        found = red(torch.from_numpy(pixels))
        return *(value.numpy() for value in found.values()), found["scores"].numpy() + np.float32(moved + by * spread)

    def graph(pixels):
        found = red(pixels)
        return found | {"strangeness": found["scores"] + moved}

    detector = ExportedDetector(detector_of(processor).about | outputs, run)
    if refused:
        with pytest.raises(ValueError, match="1 of 7 photos differ in whether their product is unknown"):
            check_parity(graph, processor, detector)
    else:
        assert check_parity(graph, processor, detector)["unknown"] == {"different": 0, "ties": 0}


def test_another_product_is_refused(processor):
    """Every photo is the first product's in torch; the graph takes the last of a batch for the second's."""
    about = detector_of(processor).about | {"products": [{"name": "gear", "calibration": {"threshold": 0.3}},
                                                          {"name": "nut", "calibration": None}]}  # fmt: skip

    def detector(last):
        def run(pixels):
            scores, maps = (value.numpy() for value in red(torch.from_numpy(pixels)).values())
            return scores, maps, np.array([0] * (len(pixels) - 1) + [last])

        return ExportedDetector(about, run)

    def graph(pixels):
        return red(pixels) | {"products": torch.zeros(len(pixels), dtype=torch.int64)}

    report = check_parity(graph, processor, detector(0))
    assert report["products"] == {"different": 0} and report["decisions"] == {"different": 0, "ties": 0}
    with pytest.raises(ValueError, match="3 photos are taken for another product"):
        check_parity(graph, processor, detector(1))


def test_another_preprocessing_is_refused(processor):
    with pytest.raises(ValueError, match="preprocessed photos differ by"):
        check_parity(red, processor, detector_of(processor, resample=2))


def test_the_tolerance_is_a_share_of_the_range(processor):
    """Half of it passes, twice of it does not."""
    spread = check_parity(red, processor, detector_of(processor))["scores"]["range"]
    for share, passes in ((0.0005, True), (0.002, False)):
        by = np.float32(share * spread)
        detector = detector_of(processor, lambda s, m, by=by: (s + by, m))
        if passes:
            check_parity(red, processor, detector)
        else:
            with pytest.raises(ValueError, match="of their range"):
                check_parity(red, processor, detector)


def test_the_drawn_photos_are_the_same_every_time_and_differ():
    first, second = drawn_photos(), drawn_photos()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({photo.tobytes() for photo in first}) == 7
