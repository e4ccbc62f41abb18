"""Scores, anomaly maps and thresholds: pure functions on tensors.

Where in the paper: eq. 9 (image probability), eq. 15 (fusion of the maps), eq. 16 (score). The threshold is ours: the
paper reports ranking metrics only, a line needs a decision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

EPSILON = 1e-6
"""Smallest value of a factor in a fusion: a patch that equals its reference gives 1 - cos slightly below 0 in
float32."""
SHARED = "*"
"""Key of the thresholds that hold when the product is not known."""
QUANTILES = 21
"""Stored quantiles of the calibration scores: every 5 %."""


def calibration_of(config: Any, category: str | None = None, *, recognized: bool = False) -> dict[str, Any]:
    """The calibration that decides about a photo; empty if there is none.

    Args:
        config: With `calibration`, as in `AnoPLeConfig`.
        category: The product; None if the photo is compared with all.
        recognized: It was not told; then the common calibration stands in for one of its own. For a product that is
            told it does not: it was learnt from smaller distances, those to all products.
    """
    known = config.calibration or {}
    return known.get(category or SHARED, known.get(SHARED, {}) if recognized else {})


def abnormal_probability(features: Tensor, text_features: Tensor, temperature: float) -> Tensor:
    """Softmax over {normal, abnormal} of cosine / temperature; the abnormal channel (eq. 9, and M-hat of eq. 8).

    Args:
        features: (B, d) image features or (B, d, h, w) decoder features, any length.
        text_features: (2, d) unit vectors w+ and w-.
        temperature: tau > 0.

    Returns:
        (B,) or (B, h, w) in 0..1, float32.

    Example:
        >>> abnormal_probability(torch.tensor([[1.0, 1.0]]), torch.eye(2), temperature=0.07)
        tensor([0.5000])
    """
    features = F.normalize(features.float(), dim=1)
    # Two classes: the softmax is the sigmoid of the difference, one product instead of two.
    direction = (text_features[1] - text_features[0]).float()
    return torch.sigmoid(torch.einsum("bd...,d->b...", features, direction) / temperature)


def fuse(a: Tensor, b: Tensor) -> Tensor:
    """1 / (1/a + 1/b), the paper's harmonic mean without the factor 2 (eq. 15, 16).

    Example:
        >>> round(fuse(torch.tensor(0.8), torch.tensor(0.2)).item(), 6)
        0.16
    """
    return 1.0 / (1.0 / a.clamp_min(EPSILON) + 1.0 / b.clamp_min(EPSILON))


def resize_map(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Bilinear resize of maps (B, h, w) to `size` (side, or height and width) pixels."""
    size = (size, size) if isinstance(size, int) else size
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def fuse_maps(decoder_map: Tensor | None, memory_map: Tensor | None, side: int | None = None) -> Tensor:
    """M_q of eq. 15, before blurring; the only map if one branch stands alone.

    Args:
        decoder_map: (B, h, h), or None.
        memory_map: (B, g, g), or None, but not both.
        side: Side at which the maps are fused; None takes the decoder's (or the only map's) own.

    Returns:
        (B, side, side).
    """
    maps = [found for found in (decoder_map, memory_map) if found is not None]
    maps = [resize_map(found, side or maps[0].shape[-1]) for found in maps]
    return maps[0] if len(maps) == 1 else fuse(*maps)


def map_peak(maps: Tensor, share: float = 0.0) -> Tensor:
    """Max M_q of eq. 16 for maps (B, h, w), or the mean of the highest `share` of their cells: (B,).

    Example:
        >>> ramp = torch.arange(100.0).view(1, 10, 10)
        >>> map_peak(ramp), map_peak(ramp, share=0.03)
        (tensor([99.]), tensor([98.]))
    """
    cells = maps.flatten(1)
    return cells.topk(max(1, round(share * cells.shape[1])), dim=1).values.mean(dim=1)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (B, H, W) by `sigma` pixels, edges replicated; 0 leaves them as they are.

    Example:
        >>> flat = torch.full((1, 8, 8), 0.25)
        >>> torch.allclose(smooth(flat, 2.0), flat)
        True
    """
    if sigma == 0:
        return maps
    rows, columns = (blur_matrix(side, sigma).to(maps.device, maps.dtype) for side in maps.shape[-2:])
    return rows @ maps @ columns.T


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept has to serve calls with gradients, too
def blur_matrix(side: int, sigma: float) -> Tensor:
    """(side, side) weights of a 1-D Gaussian blur, three sigmas wide, edges replicated; each row adds up to 1.

    As a matrix product the blur takes the same short time at every batch size; a convolution of one channel does not.
    """
    radius = max(1, min(math.ceil(3 * sigma), side - 1))
    steps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    sources = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)
    weights = (kernel / kernel.sum()).expand(side, -1)
    return torch.zeros(side, side).scatter_add_(1, sources, weights)


def conformal_threshold(normal_scores: Sequence[float] | Tensor, false_alarm_rate: float) -> float:
    """The smallest score that at most `false_alarm_rate` of new normals exceed, if they are exchangeable with these.

    The k-th smallest of n scores with k = ceil((n + 1)(1 - rate)) (split conformal prediction). Fewer than
    1/rate - 1 scores cannot promise the rate; then the largest one is returned and `Calibration.guaranteed` is False.

    Args:
        normal_scores: Raw scores of good parts that the model has not seen.
        false_alarm_rate: Asked share of good parts called defective, between 0 and 1.

    Raises:
        ValueError: No scores, or a rate outside 0..1.

    Example:
        >>> conformal_threshold([i / 100 for i in range(1, 100)], 0.05)
        0.95
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate={false_alarm_rate}: expected a share between 0 and 1, for example 0.05.")
    ordered = sorted(float(score) for score in normal_scores)
    if not ordered:
        raise ValueError("No scores of normal images to calibrate on; give at least one good image.")
    rank = math.ceil((len(ordered) + 1) * (1 - false_alarm_rate) - 1e-9)
    return ordered[min(rank, len(ordered)) - 1]


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one product, or of all together, learnt from good images alone.

    Attributes:
        threshold: Raw score above which a part is called defective.
        pixel_threshold: Value of the anomaly map above which a pixel is marked, see `regions.mask_level`.
        false_alarm_rate: The asked share of good parts called defective.
        num_photos: Independent good photos the thresholds stand on.
        num_scores: Scores taken of them.
        guaranteed: Whether the rate is promised: the photos were new to the model, and at least 1/rate - 1.
        method: How the scores were made.
        normal_quantiles: The scores' quantiles at even steps from 0 to 1, for `normal_probability`.
    """

    threshold: float
    pixel_threshold: float
    false_alarm_rate: float
    num_photos: int
    num_scores: int
    guaranteed: bool
    method: str
    normal_quantiles: tuple[float, ...] = ()

    @classmethod
    def from_normals(
        cls,
        scores: Sequence[float],
        map_peaks: Sequence[float],
        false_alarm_rate: float,
        *,
        num_photos: int,
        exchangeable: bool,
        method: str,
    ) -> "Calibration":
        """Calibrate on raw scores and on the peaks of the anomaly maps of the same good images.

        `exchangeable` says that the scores are drawn as those of future good parts are: one each of photos that the
        model has not seen.
        """
        return cls(
            threshold=conformal_threshold(scores, false_alarm_rate),
            pixel_threshold=conformal_threshold(map_peaks, false_alarm_rate),
            false_alarm_rate=false_alarm_rate,
            num_photos=num_photos,
            num_scores=len(scores),
            guaranteed=exchangeable and num_photos + 1 >= 1 / false_alarm_rate - 1e-9,
            method=method,
            normal_quantiles=tuple(np.quantile(np.asarray(scores, np.float64), np.linspace(0, 1, QUANTILES)).tolist()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`."""
        return asdict(self) | {"normal_quantiles": list(self.normal_quantiles)}


def normal_probability(score: float, calibration: Mapping[str, Any]) -> float | None:
    """How many of the good parts would look at least this anomalous, as far as the calibration can tell.

    The conformal p-value (1 + #{calibration scores >= score}) / (n + 1), with the count read off the stored quantiles.
    It is *not* the probability that this part is good: that depends on how many parts are bad. It never falls below
    1 / (n + 1), because n scores cannot tell rarer things apart. Like the threshold, it is exact on new photos
    (`calibrate_on_new`), and an aim where several views of the photos learnt from had to do (`calibrate`).

    Args:
        score: Raw score.
        calibration: `Calibration.to_dict()`, or what `config.calibration` holds for the product.

    Returns:
        A share in (0, 1], or None without stored quantiles.

    Example:
        >>> found = Calibration.from_normals([0.1, 0.2, 0.3], [1], 0.25, num_photos=3, exchangeable=True, method="")
        >>> [normal_probability(score, found.to_dict()) for score in (0.05, 0.2, 0.9)]
        [1.0, 0.625, 0.25]
    """
    quantiles = calibration.get("normal_quantiles")
    if not quantiles:
        return None
    count = calibration["num_scores"]
    below = float(np.interp(score, quantiles, np.linspace(0, 1, len(quantiles))))
    return (1 + count * (1 - below)) / (count + 1)
