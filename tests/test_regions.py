"""Regions of a mask."""

import numpy as np

from anople_hf.regions import find_regions


def test_regions_are_eight_connected_and_sorted_by_peak():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[5:7, 5:7] = True
    heat = mask * np.linspace(0.1, 1, 64).reshape(8, 8)
    regions = find_regions(heat, mask)
    assert [r["area"] for r in regions] == [4, 2]
    assert regions[0]["box"] == (5, 5, 7, 7)
    assert [r["area"] for r in find_regions(heat, mask, min_area=3)] == [4]
