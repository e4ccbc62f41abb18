"""Thresholds from good photos: judged without themselves, seeded, kept for products learned earlier."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from anople_hf import calibration
from anople_hf.calibration import Calibration, calibrate, calibrate_on_new, conformal_threshold, vary
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    model.memorize(photos[:3], "gear")
    model.memorize(photos[3:], "nut")
    return model


def test_thresholds_by_product_and_for_all(taught, photos):
    found = calibrate(taught, {"gear": photos[:3], "nut": photos[3:]}, views=3)
    assert set(found) == {"gear", "nut", "*"} == set(taught.config.calibration)
    assert found["gear"].num_scores == 9 and found["*"].num_photos == 6 and not found["gear"].guaranteed
    assert taught.config.calibration["gear"]["threshold"] == found["gear"].threshold > 0
    again = calibrate(taught, {"gear": photos[:3], "nut": photos[3:]}, views=3)
    assert again == found


@torch.no_grad()
def test_a_photo_is_judged_without_itself(taught, photos):
    threshold = calibrate(taught, {"gear": photos[:3]}, views=1)["gear"].pixel_threshold
    own = taught(photos[:3], category="gear").anomaly_maps.amax()
    assert threshold > own  # its own patches would have given almost no distance


def test_single_photo_is_judged_by_its_own_changed_views(make_model, photos):
    model = make_model()
    model.memorize(photos[:1], "gear")
    found = calibrate(model, {"gear": photos[:1]}, views=4)
    assert found["gear"].threshold > 0 and "only photo" in found["gear"].method


def test_a_later_product_never_lowers_the_shared_threshold(taught, photos):
    before = calibrate(taught, {"gear": photos[:3], "nut": photos[3:]}, views=2)["*"].threshold
    taught.config.calibration["*"]["threshold"] = high = before + 1
    calibrate(taught, {"nut": photos[3:]}, views=2)
    assert taught.config.calibration["*"]["threshold"] == high


def test_varied_views_start_with_the_photo_and_stay_close(photos):
    smooth = torch.nn.functional.avg_pool2d(photos[:1], 9, 1, 4)[0]
    views = vary(smooth, 5, torch.Generator().manual_seed(0))
    assert torch.equal(views[0], smooth) and views.shape == (5, 3, 48, 48)
    moved = (views[1:] - smooth).flatten(1).norm(dim=1) / smooth.norm()
    assert (moved > 0.01).all() and (moved < 1.5).all()


@pytest.mark.parametrize("search", ["all", "product"])
def test_a_recognized_product_needs_no_second_look(search, taught, photos, monkeypatch):
    """Telling what was recognized anyway changes nothing, so it is not computed; the thresholds are those of both."""
    taught.config.memory_search = search
    shots = {"gear": photos[:3], "nut": photos[3:5]}
    asked, forward = [], type(taught).forward
    monkeypatch.setattr(type(taught), "forward", lambda *a, **k: asked.append(k.get("category")) or forward(*a, **k))
    found = calibrate(taught, shots, views=2)
    told = [name for name in asked if name]
    assert len(asked) - len(told) == 5  # one pass a photo, and a second one for each that was taken for another
    assert len(told) == 5 if search == "all" else 0 < len(told) < 5
    monkeypatch.setattr(calibration, "_all_are", lambda *_: False)
    assert calibrate(taught, shots, views=2) == found


def test_impossible_rate(taught, photos):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        calibrate(taught, {"gear": photos[:3]}, false_alarm_rate=0.0, views=1)


def draw_parts(count, part):
    """Good photos of one drawn product, as model input."""
    photos = [render(PRODUCTS["brass_gear"], [7, part, index], 48) for index in range(count)]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_promised_rate_is_kept_on_many_drawn_parts(make_model):
    """Of m new parts, the number above the k-th of n + 1 ranks is beta-binomial, whatever the model is worth."""
    model = make_model()
    model.memorize(draw_parts(4, part=0), "gear")
    known, new = draw_parts(59, part=1), draw_parts(150, part=2)
    for rate in (0.05, 0.2):
        found = calibrate_on_new(model, {"gear": known}, false_alarm_rate=rate)["gear"]
        assert found.guaranteed and found.num_scores == 59
        with torch.no_grad():
            output = model(new, category="gear")
        alarms = int((output.scores > output.thresholds).sum())
        above = math.floor(60 * rate)  # ranks above the threshold among 60
        low, high = betabinom(150, above, 60 - above).interval(0.999)
        assert low <= alarms <= high
        assert above / 60 <= rate


def test_new_photos_must_be_new_and_of_a_known_product(taught, photos):
    with pytest.raises(ValueError, match=r"\[0, 2\] of 'gear' are in the memory"):
        calibrate_on_new(taught, {"gear": torch.stack([photos[1], photos[5], photos[0]])})
    with pytest.raises(KeyError, match="known: gear, nut"):
        calibrate_on_new(taught, {"bolt": photos})
    found = calibrate_on_new(taught, {"gear": photos[4:]})["gear"]
    assert not found.guaranteed and found.method == "photos unknown to the memory"


@settings(max_examples=50)
@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=60), rate=st.floats(0.01, 0.5))
def test_threshold_is_exceeded_by_at_most_the_asked_share(scores, rate):
    threshold = conformal_threshold(scores, rate)
    assert threshold in scores
    assert sum(score > threshold for score in scores) / len(scores) <= rate


def test_conformal_rate_is_kept_on_fresh_normals():
    """Marginal guarantee over many draws: the mean false-alarm rate lies at or under the asked one."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold = conformal_threshold(rng.gamma(2.0, size=39), 0.05)
        rates.append((rng.gamma(2.0, size=500) > threshold).mean())
    assert 0.04 < np.mean(rates) <= 0.05 + 3 * np.std(rates) / 20


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        conformal_threshold([0.1], rate)


def test_calibration_says_whether_the_photos_could_promise_the_rate():
    few = Calibration.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=4, exchangeable=True, method="m")
    many = Calibration.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=19, exchangeable=True, method="m")
    seen = Calibration.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=19, exchangeable=False, method="m")
    assert not few.guaranteed and many.guaranteed and not seen.guaranteed and few.num_scores == 32
    with pytest.raises(ValueError, match="No scores"):
        Calibration.from_normals([], [], 0.05, num_photos=0, exchangeable=True, method="m")
