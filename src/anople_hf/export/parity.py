"""Checks that an exported detector judges photos as the model does, from the photo to the score.

Exports go wrong in preprocessing, in batch sizes other than the traced one, and in bfloat16. The check therefore uses
photos in several batch sizes, not just noise.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..processing_anople import AnoPLeProcessor
from ..training.textures import PROCEDURES
from .detector import ExportedDetector

SHARE = 1e-3
"""Largest error allowed, as a share of the range that torch's values have over all photos of the check."""

ROUNDING = 1e-6
"""Error allowed whatever the range: float32 knows cosines near 1 to 6e-8, and a tower adds up many roundings."""

TIE = 1e-4
"""Share of the range within which a value lies on its limit: rounding then decides on which side of it. A threshold
that was calibrated is the score of one of the photos."""

BATCHES = (1, 3, 8)
"""Photos a pass, in turn; the graph was traced with two."""

logger = logging.getLogger(__name__)


def check_parity(
    graph: Callable[[Tensor], dict[str, Tensor]],
    processor: AnoPLeProcessor,
    detector: ExportedDetector,
    photos: Sequence[Any] = (),
) -> dict[str, Any]:
    """Compare an exported detector with the model it came from.

    Args:
        graph: The model in torch: (B, 3, S, S) to `scores` (B,), `anomaly_maps` (B, S, S) and, where it has them,
            `products` (B,) and `strangeness` (B,).
        processor: The model's.
        detector: What was exported.
        photos: Photos to compare, in addition to drawn textures, noise and a plain gray photo.

    Returns:
        For `scores`, `maps` and `strangeness`, the largest absolute error, its share of the range, and the range; the
        largest error of the `pixels`; how many `decisions`, recognized `products` and `unknown` products differ, and
        of the decisions and unknown products, how many are `ties`; the number of photos; the batch sizes.

    Raises:
        ValueError: An error exceeds both `SHARE` of the range and `ROUNDING`, or a recognized product differs, or
            any decision that is no tie; says which.
    """
    photos = [*drawn_photos(), *photos]
    logger.info("comparing with torch on %d photos", len(photos))
    batches: list[int] = []
    errors: dict[str, float] = {"pixels": 0.0, "scores": 0.0, "maps": 0.0}
    ranges = {name: (np.inf, -np.inf) for name in ("scores", "maps")}
    moved_products = 0
    limited: dict[str, list[tuple[float, float, float]]] = {"decisions": [], "unknown": []}  # torch's, ours, limit
    while sum(batches) < len(photos):
        start = sum(batches)
        batch = photos[start : start + BATCHES[min(len(batches), len(BATCHES) - 1)]]
        batches.append(len(batch))
        pixels = processor(images=batch, ranges=detector.about.get("ranges"))["pixel_values"]
        with torch.inference_mode():
            wanted = graph(pixels)
        ours = {"pixels": pixels, "scores": wanted["scores"], "maps": wanted["anomaly_maps"]}
        views = detector.prepare(batch)
        scores, maps, products, strange = detector.score(views)
        compared = {"pixels": views, "scores": scores, "maps": maps}
        if strange is not None:
            known = ~np.isnan(wanted["strangeness"].numpy())  # not a number: not known of this product
            ours["strangeness"], compared["strangeness"] = wanted["strangeness"][known], strange[known]
            pairs = zip(ours["strangeness"].tolist(), compared["strangeness"].tolist(), strict=True)
            limited["unknown"] += [(*pair, 1.0) for pair in pairs]
        for name, theirs in compared.items():
            values = ours[name].numpy()
            if not values.size:
                continue
            # NaN differs from everything.
            error = np.nan_to_num(np.abs(theirs - values), nan=np.inf).max()
            errors[name] = max(errors.get(name, 0.0), float(error))
            if name != "pixels":
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
        if products is not None:
            moved_products += int((wanted["products"].numpy() != products).sum())
        for index, (theirs, values) in enumerate(zip(scores, wanted["scores"].numpy(), strict=True)):
            limit, _ = detector.limits(None if products is None else int(products[index]))
            if limit is not None:
                limited["decisions"].append((float(values), float(theirs), limit))

    report: dict[str, Any] = {"photos": len(photos), "batches": batches, "pixels": {"largest error": errors["pixels"]}}
    wrong = []
    if errors["pixels"] > ROUNDING:
        wrong.append(f"preprocessed photos differ by {errors['pixels']:.1e}")
    for name, (low, high) in ranges.items():
        error, spread = errors[name], high - low
        share = error / spread if spread else float(error > 0)
        report[name] = {"largest error": error, "share of range": share, "range": spread}
        if not error <= max(ROUNDING, SHARE * spread):
            wrong.append(f"{name} differ by {error:.1e}, {share:.2%} of their range")
    for name, measured, told in (
        ("decisions", "scores", "decisions differ"),
        ("unknown", "strangeness", "photos differ in whether their product is unknown"),
    ):
        judged = limited[name]
        if judged:
            low, high = ranges[measured]
            moved = [abs(value - limit) for value, other, limit in judged if (value > limit) != (other > limit)]
            different = sum(away > TIE * (high - low) for away in moved)
            report[name] = {"different": different, "ties": len(moved) - different}
            if different:
                wrong.append(f"{different} of {len(judged)} {told}")
    if products is not None:
        report["products"] = {"different": moved_products}
        if moved_products:
            wrong.append(f"{moved_products} photos are taken for another product")
    if wrong:
        raise ValueError(
            f"the exported graph does not give torch's results on {len(photos)} photos: {'; '.join(wrong)} (allowed: "
            f"{SHARE:.1%} of the range, or {ROUNDING:.0e}). Nothing was written; try another kind, or the versions of "
            "its packages that were tested (constraints.txt)."
        )
    return report


def drawn_photos(side: int = 200) -> list[NDArray[np.uint8]]:
    """Five drawn textures, noise and a plain gray photo, (side, side * 3 // 2, 3), the same every time."""
    rng = np.random.default_rng(0)
    shape = (side, side * 3 // 2)
    drawn = [np.clip(draw(shape, rng), 0, 255).astype(np.uint8) for draw in PROCEDURES]
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return [*drawn, noise, np.full_like(noise, 128)]
