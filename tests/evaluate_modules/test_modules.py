"""The `evaluate` modules, loaded by path as a user loads them, against the package's own metrics."""

import doctest

import evaluate
import numpy as np
import pytest

from anople_hf.evaluate_modules import MODULES, module_path
from anople_hf.evaluation.metrics import aupro, aupro_200, auroc, average_precision, f1_max, trapezoid_aupr


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path)


def test_image_scores_agree():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 40), rng.random(40)
    found = evaluate.load(module_path("anomaly_image_scores")).compute(predictions=scores, references=labels)
    assert found == pytest.approx(
        {
            "image_auroc": auroc(scores, labels),
            "image_aupr": average_precision(scores, labels),
            "image_aupr_trapezoid": trapezoid_aupr(scores, labels),
            "image_f1_max": f1_max(scores, labels),
        }
    )


def test_pixel_scores_agree_and_add_up_photo_by_photo():
    rng = np.random.default_rng(1)
    masks = (rng.random((5, 9, 12)) > 0.8).astype(np.uint8)
    maps = (rng.random(masks.shape) + 0.4 * masks).astype(np.float32)
    module = evaluate.load(module_path("anomaly_pixel_scores"))
    for values, mask in zip(maps, masks, strict=True):
        module.add(prediction=values, reference=mask)
    assert module.compute(fpr_limit=0.1) == pytest.approx(
        {
            "pixel_auroc": auroc(maps, masks),
            "pixel_aupr": average_precision(maps, masks),
            "pixel_f1_max": f1_max(maps, masks),
            "aupro": aupro(maps, masks, 0.1),
            "aupro_200": aupro_200(maps, masks, 0.1),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("name", MODULES)
def test_the_documented_example_runs(name):
    module = evaluate.load(module_path(name))
    examples = doctest.DocTestParser().get_doctest(module.inputs_description, {}, name, None, 0)
    assert examples.examples
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples).failed == 0


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match=r"no module 'auroc'; there are anomaly_image_scores"):
        module_path("auroc")
