"""`Thresholds`: from which score on a part is defective, where that number comes from, and what it promises.

The rule is split conformal prediction (`conformal_threshold`); the paper reports ranking metrics only, a line needs a
decision. Good photos alone set a threshold: how they are judged stands in `calibration.py`, which of them count in
`products.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

QUANTILES = 21
"""Stored quantiles of the calibration scores: every 5 %."""

Method = Literal["learned", "calibrated", "set by hand"]


def conformal_threshold(normal_scores: Sequence[float] | np.ndarray, false_alarm_rate: float) -> float:
    """The smallest score that at most `false_alarm_rate` of new normals exceed, if they are exchangeable with these.

    The k-th smallest of n scores with k = ceil((n + 1)(1 - rate)) (split conformal prediction). Fewer than
    1/rate - 1 scores cannot promise the rate; then the largest one is returned, see `can_promise`.

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


def can_promise(num_photos: int, false_alarm_rate: float) -> bool:
    """Whether so many photos are enough to promise the rate: 1/rate - 1 of them.

    Example:
        >>> can_promise(19, 0.05), can_promise(18, 0.05)
        (True, False)
    """
    return num_photos >= photos_to_promise(false_alarm_rate)


def photos_to_promise(false_alarm_rate: float) -> int:
    """How many photos the model has not seen it takes to promise a rate.

    Example:
        >>> photos_to_promise(0.05), photos_to_promise(0.01)
        (19, 99)
    """
    return max(1, math.ceil(1 / false_alarm_rate - 1 - 1e-9))


@dataclass(frozen=True)
class Thresholds:
    """Those of one product, or the common ones of all together.

    Attributes:
        threshold: Raw score above which a part is called defective.
        pixel_threshold: Value of the anomaly map above which a pixel is marked, see `decisions.mask_level`.
        false_alarm_rate: The asked share of good parts called defective; None if set by hand and never learned.
        num_photos: Independent good photos the thresholds stand on.
        num_scores: Scores taken of them.
        guaranteed: Whether the rate is promised: the photos were new to the model, and at least 1/rate - 1. A
            promise outlives photos that are added to the memory: they make no good part stranger.
        method: `learned` from the photos in the memory, each judged by the others; `calibrated` on photos that the
            memory does not hold; `set by hand`.
        how: The same in more words.
        date: When, ISO 8601, UTC.
        normal_quantiles: The scores' quantiles at even steps from 0 to 1, for `normal_probability`.
    """

    threshold: float
    pixel_threshold: float
    false_alarm_rate: float | None = None
    num_photos: int = 0
    num_scores: int = 0
    guaranteed: bool = False
    method: Method = "learned"
    how: str = ""
    date: str = field(default="", compare=False)
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
        how: str = "",
    ) -> "Thresholds":
        """From raw scores and the peaks of the anomaly maps of the same good images.

        Args:
            scores: Raw scores.
            map_peaks: Highest value of each map.
            false_alarm_rate: Asked share of good parts called defective.
            num_photos: How many photos they are of.
            exchangeable: The scores are drawn as those of future good parts are: one each of photos that the model
                has not seen.
            how: Where they come from, in words.
        """
        return cls(
            threshold=conformal_threshold(scores, false_alarm_rate),
            pixel_threshold=conformal_threshold(map_peaks, false_alarm_rate),
            false_alarm_rate=false_alarm_rate,
            num_photos=num_photos,
            num_scores=len(scores),
            guaranteed=exchangeable and can_promise(num_photos, false_alarm_rate),
            method="calibrated" if exchangeable else "learned",
            how=how,
            date=now(),
            normal_quantiles=tuple(np.quantile(np.asarray(scores, np.float64), np.linspace(0, 1, QUANTILES)).tolist()),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Thresholds":
        """What `to_dict` gave, or an entry of `config.calibration` as it was before banks had format 2."""
        known = {entry.name for entry in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        if "how" not in values and values.get("method") not in ("learned", "calibrated", "set by hand"):
            method = "calibrated" if values.get("guaranteed") else "learned"
            found |= {"method": method, "how": str(values.get("method", ""))}
        return cls(**found | {"normal_quantiles": tuple(values.get("normal_quantiles") or ())})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"normal_quantiles": list(self.normal_quantiles)}

    @property
    def promise(self) -> str:
        """What is known about the false-alarm rate, for people.

        Example:
            >>> Thresholds(0.1, 0.1, 0.05, num_photos=19, guaranteed=True, method="calibrated").promise
            '5% false alarms promised (calibrated on 19 photos)'
            >>> Thresholds(0.1, 0.1, method="set by hand").promise
            'set by hand'
        """
        return f"{self.aim} ({self.source})" if self.aim else self.source

    @property
    def aim(self) -> str:
        """The rate, and whether it is promised; "" if there is none."""
        if self.method == "set by hand" or self.false_alarm_rate is None:
            return ""
        word = "promised" if self.guaranteed else "aimed at, not promised"
        return f"{100 * self.false_alarm_rate:g}% false alarms {word}"

    @property
    def source(self) -> str:
        """What the threshold stands on."""
        if self.method == "set by hand" or self.false_alarm_rate is None:
            return str(self.method)
        photos = f"{self.num_photos} photo{'' if self.num_photos == 1 else 's'}"
        return f"{'calibrated on' if self.method == 'calibrated' else 'learned from'} {photos}"


def spread_quantiles(entry: Thresholds) -> list[float]:
    """As many scores as were taken, laid out as the stored quantiles say."""
    if not entry.normal_quantiles:
        return []
    places = np.linspace(0, 1, entry.num_scores)
    return np.interp(places, np.linspace(0, 1, len(entry.normal_quantiles)), entry.normal_quantiles).tolist()


def normal_probability(score: float, calibration: Thresholds) -> float | None:
    """How many of the good parts would look at least this anomalous, as far as the calibration can tell.

    The conformal p-value (1 + #{calibration scores >= score}) / (n + 1), with the count read off the stored quantiles.
    It is *not* the probability that this part is good: that depends on how many parts are bad. It never falls below
    1 / (n + 1), because n scores cannot tell rarer things apart. Like the threshold, it is exact on new photos
    (calibrated), and an aim where several views of the photos learned from had to do (learned).

    Args:
        score: Raw score.
        calibration: The product's.

    Returns:
        A share in (0, 1], or None without stored quantiles.

    Example:
        >>> found = Thresholds.from_normals([0.1, 0.2, 0.3], [1], 0.25, num_photos=3, exchangeable=True)
        >>> tuple(normal_probability(score, found) for score in (0.05, 0.2, 0.9))
        (1.0, 0.625, 0.25)
    """
    if not calibration.normal_quantiles:
        return None
    count, quantiles = calibration.num_scores, calibration.normal_quantiles
    below = float(np.interp(score, quantiles, np.linspace(0, 1, len(quantiles))))
    return (1 + count * (1 - below)) / (count + 1)


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["Method", "Thresholds", "can_promise", "conformal_threshold", "normal_probability", "photos_to_promise",
           "spread_quantiles"]  # fmt: skip
