"""Thresholds from good photos: judged without themselves, seeded, kept for products learnt earlier."""

import pytest
import torch

from anople_hf.calibration import calibrate, vary


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


def test_impossible_rate(taught, photos):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        calibrate(taught, {"gear": photos[:3]}, false_alarm_rate=0.0, views=1)
