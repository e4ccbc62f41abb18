"""Whether a part is defective, and where: the decision, from which map value on it is marked, regions as boxes.

The rule of `AnoPLeProcessor` and, without torch, of an exported detector (`export/detector.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

NORMAL, DEFECTIVE = "normal", "defective"
UNKNOWN, UNCERTAIN = "unknown product", "uncertain"
"""Labels. `unknown product`: the photo is unlike everything taught. `uncertain`: in the gray zone, if one was set."""

WORST_FIRST = (DEFECTIVE, UNKNOWN, UNCERTAIN, "", NORMAL)
"""A part's label is the first of these that any of its views has; "" or None is that of a view without a threshold."""

SPOT = 0.9
"""Share of its map's peak from which a defective part is marked, if it is not marked from lower values on. Ours."""


def decide(
    score: float,
    heat_map: np.ndarray,
    *,
    threshold: float | None,
    pixel_threshold: float | None,
    labels: Sequence[str],
    min_area: float,
    unknown: bool = False,
    gray_zone: float = 0.0,
) -> dict[str, Any]:
    """Decide about one photo.

    Args:
        score: Of the photo.
        heat_map: (H, W) anomaly values at the photo's size.
        threshold: Score above which the part is defective; None: no label.
        pixel_threshold: Map value above which a defective part is marked, see `mask_level`; None: no mask.
        labels: Words for a good and a defective part.
        min_area: Smallest region in pixels.
        unknown: The photo shows no product that is known: neither good nor defective, and nothing is marked.
        gray_zone: Share of the threshold, on either side of it, in which nothing is decided: `uncertain`.

    Returns:
        What `AnoPLeProcessor.post_process` says of a photo.

    Raises:
        ValueError: A score that is not finite.
    """
    if not math.isfinite(score):
        raise ValueError(
            f"a score is {score}, which decides nothing: the dtype is too small for this model, or its memory is "
            "damaged; use float32, or memorize again (and export again)."
        )
    defective = threshold is not None and score > threshold and not unknown
    ratio = score_ratio(score, threshold)
    label = None if threshold is None else labels[int(defective)]
    if unknown:
        label = UNKNOWN
    elif ratio is not None and abs(ratio - 1) < gray_zone:
        label = UNCERTAIN
    level = None
    if defective and pixel_threshold is not None:
        level = mask_level(pixel_threshold, float(heat_map.max()))
    mask = np.zeros(heat_map.shape, bool) if level is None else heat_map > level
    return {
        "score": score,
        "threshold": threshold,
        "pixel_threshold": pixel_threshold,
        "ratio": ratio,
        "label": label,
        "heat_map": heat_map,
        "mask": mask,
        "mask_level": level,
        "regions": find_regions(heat_map, mask, min_area=min_area),
    }


def decide_parts(verdicts: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[dict[str, Any]]:
    """Decide about parts from several views of each, by several cameras or from several sides. Ours.

    Args:
        verdicts: One for each photo, each with its `label`, `ratio` and `category`, as the pipeline, an exported
            detector or a table of `anople predict` gives them.
        parts: The part that each photo shows; "" for a photo that is to be left out.

    Returns:
        One for each part, in the order in which they came: its name as `part`; `category`: the products of its views,
        separated by commas; `label`: the first of `WORST_FIRST` that any view has, so one defective view is enough;
        `ratio`: the highest of theirs, None without a threshold; `views`: how many; `worst`: the place in `verdicts`
        of the view that made the label.

    Raises:
        ValueError: Not one part for each verdict.

    Example:
        >>> views = [{"label": "normal", "ratio": 0.4, "category": "nut"},
        ...          {"label": "defective", "ratio": 1.7, "category": "nut"}]
        >>> decide_parts(views, ["7", "7"])
        [{'part': '7', 'category': 'nut', 'label': 'defective', 'ratio': 1.7, 'views': 2, 'worst': 1}]
    """
    if len(verdicts) != len(parts):
        raise ValueError(f"{len(parts)} parts for {len(verdicts)} photos: expected one for each.")
    places: dict[str, list[int]] = {}
    for place, part in enumerate(parts):
        if part:
            places.setdefault(part, []).append(place)
    found = []
    for part, own in places.items():
        views = [verdicts[place] for place in own]
        label = min((view["label"] for view in views), key=_badness)
        ratios = [-1.0 if view["ratio"] is None else view["ratio"] for view in views]
        # What made the label comes first: an unknown product may lie below its threshold.
        first = [(view["label"] == label, ratio) for view, ratio in zip(views, ratios, strict=True)]
        found.append(
            {
                "part": part,
                "category": ", ".join(sorted({view["category"] for view in views if view["category"]})),
                "label": label,
                "ratio": None if max(ratios) < 0 else max(ratios),
                "views": len(views),
                "worst": own[first.index(max(first))],
            }
        )
    return found


def _badness(label: str | None) -> int:
    return WORST_FIRST.index(label or "")


def score_ratio(score: float, threshold: float | None) -> float | None:
    """The score as a multiple of its threshold, which people can read: 1 is at the threshold; None without one.

    Example:
        >>> score_ratio(0.0021, 0.0015), score_ratio(0.0021, None)
        (1.4, None)
    """
    return score / threshold if threshold else None


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


def fit_within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A size whose longer side has at most so many pixels.

    Example:
        >>> fit_within((4000, 6000), 2000), fit_within((30, 20), 2000)
        ((1333, 2000), (30, 20))
    """
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def scale_regions(
    regions: list[dict[str, Any]], size: tuple[int, int], whole: tuple[int, int]
) -> list[dict[str, Any]]:
    """Regions that were found on a smaller map, in the photo's pixels.

    Args:
        regions: As from `find_regions`.
        size: (height, width) of that map.
        whole: Of the photo.

    Example:
        >>> scale_regions([{"box": (0, 1, 2, 3), "peak": 0.5, "area": 4}], (10, 10), (25, 50))
        [{'box': (0, 2, 10, 8), 'peak': 0.5, 'area': 50}]
    """
    if size == whole:
        return regions
    high, wide = whole[0] / size[0], whole[1] / size[1]
    scaled = []
    for region in regions:
        left, top, right, bottom = region["box"]
        box = (math.floor(left * wide), math.floor(top * high), math.ceil(right * wide), math.ceil(bottom * high))
        scaled.append(region | {"box": box, "area": round(region["area"] * high * wide)})
    return scaled


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
    labeled, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labeled), start=1):
        inside = labeled[rows, columns] == number
        if inside.sum() >= min_area:
            regions.append(
                {
                    "box": (columns.start, rows.start, columns.stop, rows.stop),
                    "peak": float(heat_map[rows, columns][inside].max()),
                    "area": int(inside.sum()),
                }
            )
    return sorted(regions, key=lambda region: -region["peak"])
