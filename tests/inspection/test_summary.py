"""What a report counts: bars that the threshold divides, shares, and the way they went over time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anople_hf.inspection.summary import Summary, histogram, trend
from anople_hf.inspection.tables import COLUMNS


def row(score, threshold=0.5, label=None, time=""):
    label = ("defective" if score > threshold else "normal") if label is None else label
    ratio = score / threshold if threshold else None
    return dict.fromkeys(COLUMNS, "") | {
        "score": score, "threshold": threshold, "ratio": ratio, "label": label, "time": time,
    }  # fmt: skip


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.one_of(st.none(), st.just(0.0), st.floats(0.001, 10)))
def test_no_photo_is_lost_and_none_stands_on_the_wrong_side(scores, threshold):
    found = histogram(scores, threshold)
    assert sum(bar.count for bar in found.bars) == len(scores) and found.most == max(bar.count for bar in found.bars)
    above = sum(bar.count for bar in found.bars if bar.above)
    assert above == (sum(score > threshold for score in scores) if threshold else 0)
    assert np.isclose(sum(bar.width for bar in found.bars), 1) and found.low < found.high


def test_outliers_do_not_squeeze_the_rest():
    found = histogram([*np.linspace(0.1, 0.45, 50), 40.0, 50.0], 0.5)
    assert found.beyond == 2 and found.high < 2 and sum(bar.count > 0 for bar in found.bars) > 10


def test_many_defective_parts_do_not_pile_up_in_the_last_bar():
    found = histogram([*np.linspace(0.1, 0.45, 20), *np.linspace(0.6, 2.0, 60)], 0.5)
    assert found.beyond <= 4 and found.most < 20 and len(found.bars) <= 40


def test_counts_and_rate():
    rows = [row(0.1), row(0.2), row(0.9), row(0.3, label="unknown product"), row(0.49, label="uncertain")]
    found = Summary.of("gear", rows)
    assert (found.photos, found.rate, found.threshold) == (5, 0.25, 0.5)
    assert list(found.counts.values()) == [1, 1, 1, 2, 0]
    bare = Summary.of("gear", [row(0.1, None, ""), row(0.2, None, "")])
    assert bare.rate is None and bare.threshold is None and bare.trend is None
    foreign = [row(0.1, label="unknown product"), row(0.9, label="unknown product")]
    assert Summary.of("gear", foreign).rate is None  # nothing could be judged, which is not "0 % found defective"
    assert Summary.of("all", [row(0.1), row(0.1, 0.7)]).threshold is None


def test_a_trend_has_periods_of_equal_length_and_gaps():
    def at(minute):
        return f"2026-03-01T06:{minute:02}:00+00:00"

    found = trend([row(0.1, time=at(0)), row(0.9, time=at(1)), row(0.25, time=at(40)), row(0.2)])
    assert (found.first, found.last) == (at(0), at(40))
    assert found.counts == [2, 0, 0, 1] and found.shares == [0.5, None, None, 0.0]
    assert found.medians == pytest.approx([1.0, None, None, 0.5])
    assert trend([row(0.1, time=at(0)), row(0.2, time=at(0))]) is None
