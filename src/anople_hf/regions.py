"""Where a part is defective: from which value on it is marked, and the connected regions of the mask as boxes.

Where in the paper: nowhere, this is ours. An exported detector reads this file without torch (`exported.py`).
"""

from typing import Any

import numpy as np
from scipy import ndimage

SPOT = 0.9
"""Share of its map's peak from which a defective part is marked, if it is not marked from lower values on. Ours."""


def mask_level(pixel_threshold: float, peak: float) -> float:
    """The map value above which a defective part is marked. Ours.

    The pixel threshold, or 0.9 of the map's peak where that is lower. For the decision is the score's, which weighs
    the text branch and the map before it is blurred, so a part can be defective though hardly a pixel of its map is
    above the threshold. Its strangest spot is marked all the same: a decision that shows no place helps nobody.

    Args:
        pixel_threshold: Of the map.
        peak: Largest value of the part's map.

    Example:
        >>> mask_level(0.5, 0.9), mask_level(0.5, 0.4)
        (0.5, 0.36000000000000004)
    """
    return min(pixel_threshold, SPOT * peak)


def find_regions(heat_map: np.ndarray, mask: np.ndarray, *, min_area: float = 1) -> list[dict[str, Any]]:
    """8-connected regions of a mask as boxes, strongest first.

    Args:
        heat_map: (H, W) anomaly values.
        mask: (H, W) bool.
        min_area: Smallest region in pixels.

    Example:
        >>> mask = np.zeros((6, 6), bool)
        >>> mask[1:3, 2:5] = True
        >>> find_regions(mask.astype(np.float32), mask)
        [{'box': (2, 1, 5, 3), 'peak': 1.0, 'area': 6}]
    """
    labelled, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
        inside = labelled[rows, columns] == number
        if inside.sum() >= min_area:
            regions.append(
                {
                    "box": (columns.start, rows.start, columns.stop, rows.stop),
                    "peak": float(heat_map[rows, columns][inside].max()),
                    "area": int(inside.sum()),
                }
            )
    return sorted(regions, key=lambda region: -region["peak"])
