"""Ranges: measured over good photos, shared by products, and what does not fit."""

import pytest

from anople_hf.ranges import Extremes, describe, measure, misfit, shared


def values(low, high, usual=None):
    return Extremes(low, high, low, high if usual is None else usual)


@pytest.mark.parametrize(
    ("depth", "high", "top"),
    [
        ("uint8", 100, 255), ("uint16", 200, 255), ("uint16", 256, 1023), ("uint16", 1605, 4095),
        ("uint16", 4096, 16383), ("uint16", 16384, 65535), ("int32", 255, 255), ("int32", 70000, 2**20 - 1),
        ("float32", 0.9, 1), ("float32", 1.04, 1), ("float32", 3.0, 3.0), ("float32", 200.0, 255),
        ("float32", 3000.0, 4095), ("float32", 0.001, 0.001), ("float32", 1e6, 1e6), ("float32", 0.0, 1),
    ],
)  # fmt: skip
def test_the_range_that_values_were_scaled_to(depth, high, top):
    assert measure(depth, [values(0, high), values(0, high / 2)]) == (0, pytest.approx(top))


def test_values_below_zero_are_black():
    assert measure("float32", [values(-1, 1)]) == (-1, 1) and measure("int32", [values(-30, 900)]) == (-30, 1023)
    assert measure("float32", [values(-0.01, 1)]) == (0, 1)  # overshoot


def test_what_does_not_fit():
    ranges = {"float32": [0, 1]}
    assert misfit("float32", values(0, 1.01), ranges) == "" and "1.5" in misfit("float32", values(0, 1.5), ranges)
    assert "-0.3" in misfit("float32", values(-0.3, 1), ranges) and "uint16" in misfit("uint16", None, ranges)
    assert misfit("uint16", values(0, 5000), {}) == "" and misfit("uint8", None, {"uint8": [0, 255]}) == ""


def test_floats_that_products_scale_differently_have_the_widest_range():
    assert shared([{"float32": [0, 1]}, {"float32": [-1, 0.5]}]) == {"float32": [-1, 1]}
    assert describe("float32", (0, 1)) == "float32, 0 is black and 1 is white"
    assert describe("uint16", (0, 65535)) == "uint16, 0 is black and 65535 is white"
