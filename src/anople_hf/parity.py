"""Whether an exported detector judges photos as the model does: the same photos through both, all the way.

Where in the paper: nowhere, this is ours. Exports go wrong in preprocessing, in batch sizes other than the traced one,
and in bfloat16; so photos are compared, in several batches, not noise alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exported import ExportedDetector
from .processing_anople import AnoPLeProcessor
from .textures import PROCEDURES

SHARE = 1e-3
"""Largest error allowed, as a share of the range that torch's values have over all photos of the check."""

ROUNDING = 1e-6
"""Error allowed whatever the range: float32 knows cosines near 1 to 6e-8, and a tower adds up many roundings."""

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
        graph: The model in torch: (B, 3, S, S) to `scores` (B,) and `anomaly_maps` (B, S, S).
        processor: The model's.
        detector: What was exported.
        photos: Photos to compare on, in addition to drawn textures, noise and a plain one.

    Returns:
        For `scores` and `maps` the largest absolute error, its share of the range, and the range; the largest error of
        the `pixels`; how many `decisions` differ; numbers of photos and sizes of batches.

    Raises:
        ValueError: An error is larger than `SHARE` of the range and than `ROUNDING`; says which.
    """
    photos = [*drawn_photos(), *photos]
    logger.info("comparing with torch on %d photos", len(photos))
    pixels = processor(images=photos)["pixel_values"]
    report: dict[str, Any] = {
        "photos": len(photos),
        "batches": [],
        "pixels": {"largest error": float(np.abs(detector.prepare(photos) - pixels.numpy()).max())},
    }
    expected: dict[str, list[NDArray]] = {"scores": [], "maps": []}
    found: dict[str, list[NDArray]] = {"scores": [], "maps": []}
    start = 0
    while start < len(pixels):
        batch = pixels[start : start + BATCHES[min(len(report["batches"]), len(BATCHES) - 1)]]
        start += len(batch)
        report["batches"].append(len(batch))
        with torch.inference_mode():
            wanted = graph(batch)
        expected["scores"].append(wanted["scores"].numpy())
        expected["maps"].append(wanted["anomaly_maps"].numpy())
        for name, values in zip(found, detector.score(batch.numpy()), strict=True):
            found[name].append(values)

    wrong = []
    if report["pixels"]["largest error"] > ROUNDING:
        wrong.append(f"preprocessed photos differ by {report['pixels']['largest error']:.1e}")
    for name in found:
        ours, theirs = np.concatenate(expected[name]), np.concatenate(found[name])
        spread = float(np.ptp(ours))
        # A value that is not a number differs from everything.
        error = float(np.nan_to_num(np.abs(theirs - ours), nan=np.inf).max())
        share = error / spread if spread else float(error > 0)
        report[name] = {"largest error": error, "share of range": share, "range": spread}
        if error > max(ROUNDING, SHARE * spread):
            wrong.append(f"{name} differ by {error:.1e}, {share:.2%} of their range")
    if detector.threshold is not None:
        limit = np.float32(detector.threshold)
        different = (np.concatenate(expected["scores"]) > limit) != (np.concatenate(found["scores"]) > limit)
        report["decisions"] = {"different": int(different.sum())}
    if wrong:
        raise ValueError(
            f"the exported graph does not give torch's results on {len(photos)} photos: {'; '.join(wrong)} (allowed: "
            f"{SHARE:.1%} of the range, or {ROUNDING:.0e}). Nothing was written; try another kind, or the versions of "
            "its packages that were tested (constraints.txt)."
        )
    return report


def drawn_photos(side: int = 200) -> list[NDArray[np.uint8]]:
    """Five drawn textures, noise and a plain grey, (side, side * 3 // 2, 3); the same ones every time."""
    rng = np.random.default_rng(0)
    shape = (side, side * 3 // 2)
    drawn = [np.clip(draw(shape, rng), 0, 255).astype(np.uint8) for draw in PROCEDURES]
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return [*drawn, noise, np.full_like(noise, 128)]
