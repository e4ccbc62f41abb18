"""Thresholds: the conformal rule, what it promises, and how it is said; entries of older configs are read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anople_hf.thresholds import Thresholds, conformal_threshold, spread_quantiles


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
    few = Thresholds.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=4, exchangeable=True)
    many = Thresholds.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=19, exchangeable=True)
    seen = Thresholds.from_normals([0.1] * 32, [0.1] * 32, 0.05, num_photos=19, exchangeable=False)
    assert not few.guaranteed and many.guaranteed and not seen.guaranteed and few.num_scores == 32
    with pytest.raises(ValueError, match="No scores"):
        Thresholds.from_normals([], [], 0.05, num_photos=0, exchangeable=True)


def test_what_is_promised_is_said():
    learned = Thresholds.from_normals([0.1, 0.2], [0.1, 0.2], 0.05, num_photos=2, exchangeable=False)
    assert learned.promise == "5% false alarms aimed at, not promised (learned from 2 photos)"
    few = Thresholds.from_normals([0.1], [0.1], 0.05, num_photos=1, exchangeable=True)
    assert few.promise == "5% false alarms aimed at, not promised (calibrated on 1 photo)"
    assert learned.date.endswith("+00:00") and Thresholds(0.1, 0.1, date="a") == Thresholds(0.1, 0.1, date="b")


def test_survives_json_and_reads_entries_of_older_configs():
    found = Thresholds.from_normals([0.1, 0.2], [0.1, 0.2], 0.05, num_photos=2, exchangeable=False, how="somehow")
    again = Thresholds.from_dict(found.to_dict())
    assert again == found and again.date == found.date
    old = found.to_dict() | {"method": "photos unknown to the memory", "guaranteed": True}
    del old["how"], old["date"]
    read = Thresholds.from_dict(old)
    assert (read.method, read.how, read.threshold) == ("calibrated", "photos unknown to the memory", 0.2)
    assert spread_quantiles(read) == pytest.approx([0.1, 0.2])
