"""What all baselines promise: one interface, routing, batches that do not matter, and a defect where it is."""

import pytest
import torch

from anople_hf.baselines import METHODS
from anople_hf.cli.benchmark import CHOICES
from anople_hf.data import load_inspection_data
from anople_hf.evaluation import evaluate
from anople_hf.evaluation.metrics import METRICS
from anople_hf.processing_anople import AnoPLeProcessor


@pytest.fixture(params=list(METHODS))
def name(request):
    return request.param


@pytest.fixture
def taught(name, tiny_clip, photos):
    detector = METHODS[name].from_backbone(tiny_clip)
    detector.memorize(photos[:2], "gear", names=["a.png", "b.png"])
    detector.memorize(photos[2:4], "nut")
    return detector


def test_shapes_and_names(taught, photos):
    output = taught(photos)
    assert output.scores.shape == (6,) and output.anomaly_maps.shape == (6, *photos.shape[-2:])
    assert taught.memory.categories == ["gear", "nut"]
    assert taught.memory.references("gear") == ["a.png", "b.png"] and taught.title
    assert not any(parameter.requires_grad for parameter in taught.parameters())


def test_batches_and_order_do_not_matter(taught, photos):
    whole = taught(photos)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixed = taught(photos[order])
    torch.testing.assert_close(mixed.scores, whole.scores[order], atol=1e-5, rtol=1e-4)
    single = torch.cat([taught(photo[None]).anomaly_maps for photo in photos])
    torch.testing.assert_close(single, whole.anomaly_maps, atol=1e-4, rtol=1e-3)


def test_a_category_for_each_photo_is_that_photo_alone(taught, photos):
    mixed = taught(photos[:2], category=["nut", "gear"])
    for index, category in enumerate(["nut", "gear"]):
        alone = taught(photos[index : index + 1], category=category)
        torch.testing.assert_close(mixed.scores[index : index + 1], alone.scores, atol=1e-5, rtol=1e-4)


def test_unknown_product_and_branch_are_refused(taught, photos):
    with pytest.raises(KeyError, match="unknown product 'bolt'; known: gear, nut"):
        taught(photos, category="bolt")
    with pytest.raises(ValueError, match="has no branches"):
        taught(photos, branch="memory")


def test_without_photos(name, tiny_clip, photos):
    detector = METHODS[name].from_backbone(tiny_clip)
    if detector.needs_photos:
        with pytest.raises(ValueError, match="knows no good photos"):
            detector(photos)
    else:
        assert torch.isfinite(detector(photos).scores).all()


def test_the_harness_measures_it_like_ours(name, tiny_clip, drawn):
    splits = load_inspection_data(drawn)
    detector = METHODS[name].from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, detector.config)
    for category in sorted(set(splits["train"]["category"])):
        rows = splits["train"].filter(lambda row, wanted=category: row["category"] == wanted)
        detector.memorize(processor(images=list(rows["image"])[:1])["pixel_values"], category)
    result = evaluate(detector, processor, splits["test"], progress=False)
    assert all(result.mean[metric] is not None for metric in METRICS)
    assert set(result.protocol["shots"].values()) == {1}


@pytest.mark.parametrize("method", ["spade", "patchcore"])
def test_layers_can_be_chosen_and_are_checked(method, tiny_clip, photos):
    first, second = (METHODS[method].from_backbone(tiny_clip, layers=[layer]) for layer in (0, 1))
    for detector in (first, second):
        detector.memorize(photos[:1], "gear")
    assert not torch.allclose(first(photos[2:]).anomaly_maps, second(photos[2:]).anomaly_maps)
    with pytest.raises(ValueError, match=r"layers=\[99\]: expected some of 0"):
        METHODS[method].from_backbone(tiny_clip, layers=[99])


def test_the_command_line_knows_every_method():
    assert CHOICES["method"] == ("anople", *METHODS)
