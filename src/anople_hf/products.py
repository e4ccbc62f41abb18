"""`Product`: all that is known of one product: its word, its good photos, how each was judged, its thresholds.

- A product's thresholds stand on its own photos alone; no other product's change them.
- How a photo was judged (`Judged`) is kept beside it, so thresholds can be set again when photos come or go.
- A photo far from the others says something about itself, not about the next part: it sets no threshold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from .matching import Reference
from .thresholds import Thresholds, can_promise, spread_quantiles

FAR_WHOLE, FAR_SPOT, FAR_COLOR = 2.0, 1.75, 2.0
"""A photo is far from the others if its distance on the whole, its score, that of its strangest spot, or its distance
in color is so many times the next lower one, and most photos lie below. Ours, see `scripts/naming_rules.py`."""
LEAST_COLOR = 0.01
"""Distances in color that are smaller count as this: two or three of 255 levels are no other color."""
STRANGE = 1.5
"""A photo shows an unknown product if it is so many times as far from it as the strangest good photo. Ours."""


@dataclass(frozen=True)
class Judged:
    """How a good photo was judged by a memory that lacks it, in one or several mildly changed views.

    Attributes:
        scores: Raw scores with the product told.
        peaks: The maps' highest values.
        untold_scores: The same with the product not told.
        untold_peaks: And of their maps.
        distances: How far the patches of each view are from the product on the whole, see `MemoryBank.distances`.
        taken_for: Another product that the photo is nearer to, or "".
        color: How far its mean color is from the nearest other photo's, see `View.color`; 0 if none can be seen.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    untold_scores: tuple[float, ...] = ()
    untold_peaks: tuple[float, ...] = ()
    distances: tuple[float, ...] = ()
    taken_for: str = ""
    color: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Judged":
        """What `to_dict` gave, also as it was when the largest distance stood alone."""
        plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        if largest := plain.pop("distance", None):
            plain["distances"] = (largest,)
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def distance(self) -> float:
        """The largest of `distances`; 0 without any."""
        return max(self.distances, default=0.0)

    @property
    def usual_distance(self) -> float:
        """Their mean; 0 without any."""
        return sum(self.distances) / max(1, len(self.distances))

    @property
    def strangeness(self) -> float:
        """How unlike the other photos it is: its mean score."""
        return sum(self.scores) / len(self.scores)


class Apart(NamedTuple):
    """How a photo is far from the others of its product.

    Attributes:
        where: In its patches `on the whole` or `in one spot`, or `in color`.
        times: How many times as far as the farthest of the others.
    """

    where: str
    times: float


@dataclass(frozen=True)
class Product:
    """What the memory bank knows of one product.

    Attributes:
        photos: Its good photos, with their tokens.
        word: The word for it, as in a text prompt; "" if nobody said.
        thresholds: Those that decide about it; None if none were set.
        judged: By digest, how its photos were judged by the others.
        held_out: By digest, how good photos were judged that the memory does not hold: what a promise stands on.
        reading: How its photos are read and framed: `ranges` of their values, see `ranges.py`, their usual `size`
            (width, height), and the `turns` that are remembered of each, see `turns.py`. Empty: the whole photo, by
            its container's range, as it lies.

    Example:
        >>> scores = {"a": 0.1, "b": 0.11, "c": 0.12, "odd": 0.5}
        >>> gear = Product((), judged={name: Judged((score,), (score,)) for name, score in scores.items()})
        >>> gear.far, gear.learn(0.05).threshold
        (['odd'], 0.12)
    """

    photos: tuple[Reference, ...]
    word: str = ""
    thresholds: Thresholds | None = None
    judged: Mapping[str, Judged] = field(default_factory=dict)
    held_out: Mapping[str, Judged] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_strangeness(self) -> list[tuple[str, float]]:
        """(digest, strangeness) of the judged photos, the one least like the others first: far ones, then by score."""
        far = self.far
        rest = [digest for digest in self.judged if digest not in far]
        rest.sort(key=lambda digest: -self.judged[digest].strangeness)
        return [(digest, self.judged[digest].strangeness) for digest in [*far, *rest]]

    @property
    def apart(self) -> dict[str, Apart]:
        """By digest, the photos far from the others, the farthest first; with fewer than three nobody can tell."""
        signals = (
            (
                "on the whole",
                {digest: judged.usual_distance for digest, judged in self.judged.items()},
                FAR_WHOLE,
                0.0,
            ),
            ("in one spot", {digest: judged.strangeness for digest, judged in self.judged.items()}, FAR_SPOT, 0.0),
            ("in color", {digest: judged.color for digest, judged in self.judged.items()}, FAR_COLOR, LEAST_COLOR),
        )
        found: dict[str, Apart] = {}
        for where, values, factor, least in signals:
            for digest, times in _apart(values, factor, least).items():
                if digest not in found or times > found[digest].times:
                    found[digest] = Apart(where, times)
        farthest = sorted(found.items(), key=lambda item: -item[1].times)
        return dict(farthest[: len(self.judged) // 2])  # not most of them, whatever each signal says

    @property
    def far(self) -> list[str]:
        """The digests of `apart`."""
        return list(self.apart)

    @property
    def familiar_within(self) -> float | None:
        """The recognition distance beyond which a photo shows no such product; None if no photo was judged."""
        far = set(self.far)
        known = [judged.distance for digest, judged in self.judged.items() if digest not in far and judged.distance]
        return STRANGE * max(known) if known else None

    @property
    def untold(self) -> tuple[list[float], list[float]]:
        """Scores and map peaks of its good photos where the product is not told, for the common thresholds."""
        promised = self.thresholds is not None and self.thresholds.guaranteed
        found = list(self.held_out.values()) if promised and self.held_out else _kept(self.judged, self.far)
        return ([s for j in found for s in j.untold_scores], [p for j in found for p in j.untold_peaks])

    def learn(self, rate: float, *, without: Iterable[str] = ()) -> Thresholds:
        """Thresholds from its photos, each judged by the others; those far from the others do not count.

        Scores that an older bank kept only as quantiles count, too, until all photos are judged anew.

        Args:
            rate: Asked share of good parts called defective: an aim.
            without: Digests left out, beside the far ones.
        """
        far = [*self.far, *without]
        kept = _kept(self.judged, far)
        scores = [score for judged in kept for score in judged.scores]
        peaks = [peak for judged in kept for peak in judged.peaks]
        unjudged = len({photo.digest for photo in self.photos} - set(self.judged)) if self.photos else 0
        if unjudged and self.thresholds is not None and self.thresholds.method != "set by hand":
            scores += spread_quantiles(self.thresholds)
            peaks += [self.thresholds.pixel_threshold]
        views = max((len(judged.scores) for judged in kept), default=0)
        how = "each photo judged by the others" if len(self.judged) > 1 else "changed views of the only photo"
        return Thresholds.from_normals(
            scores,
            peaks,
            rate,
            num_photos=len(kept) + unjudged,
            exchangeable=False,
            how=f"{how}, {views} views a photo" + (f", {len(far)} left out as far from the others" if far else ""),
        )

    def calibrate(self, rate: float) -> Thresholds:
        """Thresholds from the good photos that the memory does not hold."""
        found = self.held_out.values()
        return Thresholds.from_normals(
            [judged.scores[0] for judged in found],
            [judged.peaks[0] for judged in found],
            rate,
            num_photos=len(self.held_out),
            exchangeable=True,
            how="photos unknown to the memory",
        )

    def settle(self, rate: float | None = None, *, grew: bool = True) -> "Product":
        """The product with its thresholds set anew from what is known of its photos.

        A value set by hand stays. A promise stays: renewed if enough photos outside of the memory are known, else
        with the threshold that it was given for, because a memory that grows makes no good part stranger.

        Args:
            rate: Asked share of good parts called defective; None keeps the product's.
            grew: The memory holds no photo less than when the thresholds were set.
        """
        old = self.thresholds
        rate = rate or (old.false_alarm_rate if old else None) or 0.05
        if old is not None and old.method == "set by hand":
            return self
        if self.held_out and can_promise(len(self.held_out), rate):
            return replace(self, thresholds=self.calibrate(rate))
        if old is not None and old.guaranteed and grew and old.false_alarm_rate == rate:
            return self
        if not self.judged:
            return replace(self, thresholds=self.calibrate(rate)) if self.held_out else self
        return replace(self, thresholds=self.learn(rate))


def _apart(values: Mapping[str, float], factor: float, least: float) -> dict[str, float]:
    """What lies above a gap, with most values below it: as multiples of the highest value below, `least` at least."""
    ordered = sorted(values, key=lambda digest: values[digest])
    for place in range(max(2, (len(ordered) + 1) // 2), len(ordered)):
        below = max(least, values[ordered[place - 1]])
        if 0 < below * factor < values[ordered[place]]:
            return {digest: values[digest] / below for digest in ordered[place:]}
    return {}


def _kept(judged: Mapping[str, Judged], far: Sequence[str]) -> list[Judged]:
    return [found for digest, found in judged.items() if digest not in far]


__all__ = ["Apart", "Judged", "Product"]
