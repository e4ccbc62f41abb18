"""Thresholds from good photos alone: each one is judged as if the model had never seen it.

The rule is split conformal prediction (`conformal_threshold`); the paper reports ranking metrics only, a line needs a
decision.

- After training there are only the shots, few and all known to the memory. Each is looked at in several mildly changed
  views (shift, turn, zoom, light), matched against a memory that lacks it. Such scores are not those of new parts: the
  asked rate is an aim.
- With more good photos, unknown to the memory (`calibrate_on_new`, `anople calibrate`), these and new good parts
  are exchangeable, and the rate is a promise: in the mean over draws of n photos, at most the asked share of new good
  parts is called defective, whatever the model is worth. It takes n >= 1/rate - 1 photos.
- A product's own threshold is set from photos whose product is told. Where the model recognizes it (`memory_search`),
  the promise holds for the photos that it takes for the right product.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .configuration_anople import SHARED
from .images import image_digest
from .memory import MemoryBank

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel


QUANTILES = 21
"""Stored quantiles of the calibration scores: every 5 %."""


def conformal_threshold(normal_scores: Sequence[float] | np.ndarray | Tensor, false_alarm_rate: float) -> float:
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
    """Thresholds of one product, or of all together, learned from good images alone.

    Attributes:
        threshold: Raw score above which a part is called defective.
        pixel_threshold: Value of the anomaly map above which a pixel is marked, see `decisions.mask_level`.
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
    (`calibrate_on_new`), and an aim where several views of the photos learned from had to do (`calibrate`).

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


def vary(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Views of a good part as the next photo of it might look; the first is the photo itself.

    Args:
        image: (3, H, W) normalized view.
        count: Views wanted, at least 1.
        generator: Source of randomness, on the CPU.

    Returns:
        (count, 3, H, W). Up to 3 % shift and zoom, 3 degrees, 8 % contrast and 0.08 normalized units of light.
    """
    amount = torch.rand(count, 6, generator=generator) * 2 - 1
    amount[0] = 0
    angle, zoom = amount[:, 0] * math.radians(3), 1 + 0.03 * amount[:, 1]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos, -sin, 0.06 * amount[:, 2], sin, cos, 0.06 * amount[:, 3]], dim=1).view(count, 2, 3)
    views = image.float().cpu().expand(count, -1, -1, -1)
    grid = F.affine_grid(theta, list(views.shape), align_corners=False)
    moved = F.grid_sample(views, grid, padding_mode="reflection", align_corners=False)
    moved = moved * (1 + 0.08 * amount[:, 4]).view(-1, 1, 1, 1) + 0.08 * amount[:, 5].view(-1, 1, 1, 1)
    return torch.cat([views[:1], moved[1:]]).to(image.dtype)


@torch.inference_mode()
def calibrate(
    model: "AnoPLeModel",
    shots: Mapping[str, Tensor],
    *,
    false_alarm_rate: float = 0.05,
    views: int = 8,
    seed: int = 0,
) -> dict[str, Calibration]:
    """Learn one threshold per product and one for all together, and store them in `model.config.calibration`.

    Args:
        model: With its memory bank built from these shots.
        shots: Good photos (k, 3, H, W) of each category.
        false_alarm_rate: Asked share of good parts called defective.
        views: Views scored per photo.
        seed: Fixes the views.

    Returns:
        Calibration by category; the key "*" holds when the product is not known.
    """
    found = _thresholds(model, shots, false_alarm_rate, views, seed)
    known = dict(model.config.calibration or {})
    unseen = set(model.memory.categories) - set(shots)
    if unseen and SHARED in known and known[SHARED]["threshold"] > found[SHARED].threshold:
        del found[SHARED]  # products learned earlier need the higher limit: keep theirs
    model.config.calibration = known | {key: value.to_dict() for key, value in found.items()}
    return found


@torch.inference_mode()
def calibrate_on_new(
    model: "AnoPLeModel", photos: Mapping[str, Tensor], *, false_alarm_rate: float = 0.05
) -> dict[str, Calibration]:
    """Set the thresholds from good photos that the memory does not hold: split conformal prediction.

    Args:
        model: With its memory bank.
        photos: Good photos (n, 3, H, W) of known categories. The common threshold holds for products that come in the
            proportions given here.
        false_alarm_rate: Share of new good parts that may be called defective.

    Returns:
        Calibration by category; the key "*" holds when the product is not known.

    Raises:
        KeyError: A category the memory lacks.
        ValueError: A photo that the memory holds; its score is not that of a new part.
    """
    for category, images in photos.items():
        digests = {reference.digest for reference in model.memory.references(category)}
        if known := [number for number, image in enumerate(images) if image_digest(image) in digests]:
            raise ValueError(f"photos {known} of {category!r} are in the memory; leave them out.")
    found = _thresholds(model, photos, false_alarm_rate, 1, 0, new=True)
    model.config.calibration = dict(model.config.calibration or {}) | {k: v.to_dict() for k, v in found.items()}
    return found


def _all_are(category: str, products: Tensor | None, bank: MemoryBank) -> bool:
    """Whether every view was recognized as this product: then telling it changes nothing."""
    return products is not None and set(bank.names(products)) == {category}


def _thresholds(
    model: "AnoPLeModel", shots: Mapping[str, Tensor], rate: float, views: int, seed: int, *, new: bool = False
) -> dict[str, Calibration]:
    generator = torch.Generator().manual_seed(seed)
    routed: dict[str, tuple[list[float], list[float]]] = {}
    shared: tuple[list[float], list[float]] = ([], [])
    photos = 0
    for category, images in shots.items():
        scores, peaks = routed.setdefault(category, ([], []))
        for image in images:
            photos += 1
            others = model.memory.without([image_digest(image)])
            batch = vary(image, views, generator).to(model.device, model.dtype)
            # A product with a single photo has no other to be judged by: then its own, seen in changed views.
            own = others if category in others.categories else model.memory
            untold = model(batch, memory=own)
            alike = len(own.categories) == 1 or _all_are(category, untold.products, own)
            told = untold if alike else model(batch, category=category, memory=own)
            for output, (into_scores, into_peaks) in ((told, (scores, peaks)), (untold, shared)):
                into_scores.extend(output.scores.tolist())
                into_peaks.extend(output.anomaly_maps.amax(dim=(1, 2)).tolist())

    def calibration(values: tuple[list[float], list[float]], count: int) -> Calibration:
        how = "leave-one-photo-out" if count > 1 else "changed views of the only photo"
        how = "photos unknown to the memory" if new else f"{how}, {views} views a photo"
        return Calibration.from_normals(*values, rate, num_photos=count, exchangeable=new, method=how)

    found = {category: calibration(values, len(shots[category])) for category, values in routed.items()}
    return {**found, SHARED: calibration(shared, photos)}
