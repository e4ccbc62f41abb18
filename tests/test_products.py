"""Which photos of a product are far from the others, and what follows for its thresholds and for unknown products."""

import pytest

from anople_hf.products import FAR_COLOR, FAR_SPOT, FAR_WHOLE, LEAST_COLOR, STRANGE, Judged, Product

ALIKE = {
    "score": (0.10, 0.11, 0.12, 0.12),
    "distance": (0.010, 0.011, 0.012, 0.012),
    "color": (0.02, 0.02, 0.03, 0.03),
}
FACTORS = {"score": FAR_SPOT, "distance": FAR_WHOLE, "color": FAR_COLOR}
WHERE = {"score": "in one spot", "distance": "on the whole", "color": "in color"}


def product(**odd):
    """Four photos that are alike and, where something is said of it, a fifth."""
    values = {name: [*known, odd.get(name, known[-1])] for name, known in ALIKE.items()}
    rows = list(zip(*values.values(), strict=True))[: 5 if odd else 4]
    names = ["a", "b", "c", "d", "odd"]
    judged = {n: Judged((s,), (s,), distances=(d,), color=c) for n, (s, d, c) in zip(names, rows, strict=False)}
    return Product((), judged=judged)


@pytest.mark.parametrize("signal", FACTORS)
def test_a_gap_above_most_photos_is_what_makes_one_far(signal):
    highest = max(ALIKE[signal])
    times = 1.01 * FACTORS[signal]
    found = product(**{signal: times * highest})
    assert found.far == ["odd"] and found.apart["odd"].where == WHERE[signal]
    assert found.apart["odd"].times == pytest.approx(times)
    assert found.by_strangeness[0][0] == "odd"
    assert product(**{signal: 0.99 * FACTORS[signal] * highest}).far == []
    assert product().far == []


def test_what_is_far_sets_no_threshold_and_no_limit():
    found = product(score=0.4, distance=0.04)
    assert found.learn(0.05).threshold == 0.12 and "1 left out" in found.learn(0.05).how
    assert found.familiar_within == pytest.approx(STRANGE * 0.012) == product().familiar_within


def test_hardly_any_color_is_no_other_color():
    gray = {name: Judged((0.1,), (0.1,), color=0.0001) for name in "abcd"}
    assert Product((), judged=gray | {"e": Judged((0.1,), (0.1,), color=1.9 * LEAST_COLOR)}).far == []
    assert Product((), judged=gray | {"e": Judged((0.1,), (0.1,), color=2.1 * LEAST_COLOR)}).far == ["e"]


def test_of_two_photos_nobody_can_tell_and_what_was_not_measured_says_nothing():
    two = {"a": Judged((0.1,), (0.1,), distances=(0.01,)), "b": Judged((0.9,), (0.9,), distances=(0.5,))}
    assert Product((), judged=two).far == []
    old = {name: Judged.from_dict({"scores": [0.1], "peaks": [0.1]}) for name in "abcd"}  # before there were distances
    assert Product((), judged=old | {"e": Judged((0.1,), (0.1,), distances=(0.5,))}).far == []
    assert Product((), judged=old).familiar_within is None
    largest = Judged.from_dict({"scores": [0.1], "peaks": [0.1], "distance": 0.02})  # as it once was kept
    assert largest.distance == largest.usual_distance == 0.02 and Judged.from_dict(largest.to_dict()) == largest


def test_the_views_mean_says_how_far_a_photo_is_and_their_largest_how_far_good_ones_reach():
    photo = Judged((0.1,), (0.1,), distances=(0.01, 0.04, 0.01))
    assert photo.usual_distance == pytest.approx(0.02) and photo.distance == 0.04
    assert Product((), judged={"a": photo}).familiar_within == pytest.approx(0.04 * STRANGE)
