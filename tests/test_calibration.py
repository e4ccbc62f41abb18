"""How good photos are judged: without themselves, in views that depend on nothing but the photo, and the promise."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from anople_hf import calibration
from anople_hf.calibration import judge, vary
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.images import image_digest


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    model.memorize(photos[:3], "gear")
    model.memorize(photos[3:], "nut")
    return model


@torch.no_grad()
def test_a_photo_is_judged_without_itself(taught, photos):
    found = judge(taught, "gear", photos[0], image_digest(photos[0]), views=1)
    own = taught(photos[:1], category="gear").anomaly_maps.amax()
    assert found.peaks[0] > own  # its own patches would have given almost no distance
    assert found.distance > float(taught.memory.distances(taught.encode_memory(photos[:1]))[0, 0])


def test_a_photo_is_judged_the_same_whatever_was_judged_before(taught, photos):
    alone = judge(taught, "nut", photos[4], image_digest(photos[4]), views=3)
    judge(taught, "nut", photos[3], image_digest(photos[3]), views=3)
    assert judge(taught, "nut", photos[4], image_digest(photos[4]), views=3) == alone
    assert len(alone.scores) == len(alone.peaks) == len(alone.untold_scores) == 3
    assert judge(taught, "nut", photos[4], image_digest(photos[4]), views=3, seed=1) != alone


def test_a_photo_of_another_product_is_recognized(taught, photos):
    near = photos[3] + 0.01 * photos[0]
    taught.memorize(near[None], "gear")
    assert judge(taught, "gear", near, image_digest(near), views=1).taken_for == "nut"
    assert judge(taught, "nut", photos[3], image_digest(photos[3]), views=1).taken_for == "gear"


@pytest.mark.parametrize("search", ["all", "product"])
def test_a_recognized_product_needs_no_second_look(search, make_model, photos, monkeypatch):
    """Telling what was recognized anyway changes nothing, so it is not computed; what is found is that of both."""
    taught = make_model(memory_search=search)
    gears, nuts = photos[0] + 0.1 * photos[1:3], photos[5] + 0.1 * photos[1:4]
    taught.memorize(torch.cat([gears, nuts[2:]]), "gear")  # the last one is a nut
    taught.memorize(nuts[:2], "nut")
    shots = [("gear", photo) for photo in (*gears, nuts[2])] + [("nut", photo) for photo in nuts[:2]]
    asked, forward = [], type(taught).forward
    monkeypatch.setattr(type(taught), "forward", lambda *a, **k: asked.append(k.get("category")) or forward(*a, **k))

    def judged():
        return [judge(taught, name, photo, image_digest(photo), views=2) for name, photo in shots]

    found = judged()
    told = [name for name in asked if name]
    assert len(asked) - len(told) == 5  # one pass a photo, and a second one for each that was taken for another
    assert len(told) == 5 if search == "all" else 0 < len(told) < 5
    monkeypatch.setattr(calibration, "_all_are", lambda *_: False)
    assert judged() == found


def test_varied_views_start_with_the_photo_and_stay_close(photos):
    smooth = torch.nn.functional.avg_pool2d(photos[:1], 9, 1, 4)[0]
    views = vary(smooth, 5, torch.Generator().manual_seed(0))
    assert torch.equal(views[0], smooth) and views.shape == (5, 3, 48, 48)
    moved = (views[1:] - smooth).flatten(1).norm(dim=1) / smooth.norm()
    assert (moved > 0.01).all() and (moved < 1.5).all()


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
        found = model.calibrate(known, "gear", false_alarm_rate=rate).after
        assert found.guaranteed and found.num_scores == 59
        with torch.no_grad():
            output = model(new, category="gear")
        alarms = int((output.scores > output.thresholds).sum())
        above = math.floor(60 * rate)  # ranks above the threshold among 60
        low, high = betabinom(150, above, 60 - above).interval(0.999)
        assert low <= alarms <= high
        assert above / 60 <= rate
