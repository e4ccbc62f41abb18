"""Detectors to choose from: loaded when asked for, a few kept, errors that say what to do."""

import pytest

from anople_hf import AnoPLeProcessor
from anople_hf.app import detectors as module
from anople_hf.app.detectors import SAMPLER, SAMPLES, Detectors
from anople_hf.app.texts import INVITATION, introduce_example
from anople_hf.thresholds import Thresholds


@pytest.fixture
def run(make_model, tiny_clip, photos, tmp_path):
    model = make_model()
    model.memorize(photos[:2], "gear")
    model.memory.update("gear", thresholds=Thresholds(0.3, 0.4, num_scores=2, normal_quantiles=(0.1, 0.3)))
    model.save_pretrained(tmp_path / "run")
    AnoPLeProcessor.from_backbone(tiny_clip, model.config).save_pretrained(tmp_path / "run")
    return str(tmp_path / "run")


def test_samples_are_taught_where_a_detector_brings_nothing(run, detectors):
    other = Detectors([run])
    assert other.names == [run, SAMPLER] and other.begin(run).names == ["gear"] and not other._drawn
    begun = detectors.begin(SAMPLER)
    assert begun.names == list(SAMPLES)
    begun.remove("capsule")
    assert detectors.begin(SAMPLER).names == list(SAMPLES)
    photos = detectors.samples()
    assert {product for _, product in photos} == set(SAMPLES) and len(photos) == 8


def test_the_first_screen_shows_a_photo_that_the_run_knows_or_invites(make_model, tiny_clip, photos, tmp_path):
    """The good photo least like the others, judged by them; a run that knows nothing is not given drawn samples."""
    model = make_model()
    model.teach(photos[:3], "gear", views=1)
    runs = [str(tmp_path / "taught"), str(tmp_path / "empty")]
    for run in runs:
        model.save_pretrained(run)
        AnoPLeProcessor.from_backbone(tiny_clip, model.config).save_pretrained(run)
        model = make_model()
    detectors = Detectors(runs, device="cpu")
    example, products = detectors.example(runs[0]), detectors.begin(runs[0])
    assert not example.drawn and example.found.recognized == "gear" and not detectors._drawn
    alone = detectors.get(runs[0]).check(products, example.path)
    assert example.found.score > alone.score  # by itself it would be like itself
    assert "A good photo that this detector knows" in introduce_example(example, products)
    products = detectors.begin(runs[1])
    assert detectors.example(runs[1]) is None and products.names == []
    assert introduce_example(None, products) == INVITATION


def test_samples_of_defects_are_mostly_found(detectors):
    products, inspector = detectors.begin(SAMPLER), detectors.get(SAMPLER)
    labels = {}
    for path, product in detectors.samples():
        kind = "normal" if "/good/" in path else "defective"
        labels.setdefault(kind, []).append(inspector.check(products, path, product).label)
    assert labels["normal"] == ["normal"] * 2
    assert labels["defective"].count("defective") >= 4  # of six; small cracks stay below a threshold from five photos


def test_only_what_is_offered_unless_all_is(run):
    with pytest.raises(ValueError, match=f"not offered here; choose one of {SAMPLER}"):
        Detectors().get(run)
    assert Detectors(anything=True).get(f" {run} ").model.memory.categories == ["gear"]


def test_what_is_no_detector_is_refused(tiny_clip, tmp_path):
    detectors = Detectors(anything=True)
    with pytest.raises(ValueError, match=r"holds no AnoPLe detector \(clip\)"):
        detectors.get(tiny_clip)
    with pytest.raises(ValueError, match="no config.json"):
        detectors.get(str(tmp_path))
    with pytest.raises(ValueError, match="not on the Hub or not to be reached"):
        detectors.get("nobody/nothing-at-all")
    with pytest.raises(ValueError, match="Give the folder"):
        detectors.get(" ")


def test_the_least_used_is_given_back(run, monkeypatch):
    loads = []
    load = module._load
    monkeypatch.setattr(module, "_load", lambda name: (loads.append(name), load(run))[1])
    monkeypatch.setattr(module, "KEPT", 2)
    detectors = Detectors(["a", "b", "c"])
    for name in ("a", "b", "a", "c", "a", "b"):
        detectors.get(name)
    assert loads == ["a", "b", "c", "b"]
