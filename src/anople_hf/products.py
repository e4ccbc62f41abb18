"""`Product`: all that is known of one product: its word, its good photos, how each was judged, its thresholds.

- A product's thresholds stand on its own photos alone; no other product's change them.
- How a photo was judged (`Judged`) is kept beside it, so thresholds can be set again when photos come or go.
- A photo far from the others says something about itself, not about the next part: it sets no threshold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .matching import Reference
from .thresholds import Thresholds, can_promise, spread_quantiles

FAR = 2.0
"""A photo is far from the others if its score is so many times the next lower one, and most photos lie below. Ours."""
STRANGE = 2.0
"""A photo shows an unknown product if it is so many times as far from it as the strangest good photo. Ours."""


@dataclass(frozen=True)
class Judged:
    """How a good photo was judged by a memory that lacks it, in one or several mildly changed views.

    Attributes:
        scores: Raw scores with the product told.
        peaks: The maps' highest values.
        untold_scores: The same with the product not told.
        untold_peaks: And of their maps.
        distance: The largest mean distance of a view's patches to the product, see `MemoryBank.distances`.
        taken_for: Another product that the photo is nearer to, or "".
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    untold_scores: tuple[float, ...] = ()
    untold_peaks: tuple[float, ...] = ()
    distance: float = 0.0
    taken_for: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Judged":
        """What `to_dict` gave."""
        plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def strangeness(self) -> float:
        """How unlike the other photos it is: its mean score."""
        return sum(self.scores) / len(self.scores)


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
        """(digest, strangeness) of the judged photos, the one least like the others first."""
        found = [(digest, judged.strangeness) for digest, judged in self.judged.items()]
        return sorted(found, key=lambda item: -item[1])

    @property
    def far(self) -> list[str]:
        """Digests of photos far from the others, the farthest first; with fewer than three photos nobody can tell."""
        ordered = self.by_strangeness[::-1]
        for place in range((len(ordered) + 1) // 2, len(ordered)):
            if place >= 2 and ordered[place][1] > FAR * ordered[place - 1][1]:
                return [digest for digest, _ in ordered[place:]][::-1]
        return []

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


def _kept(judged: Mapping[str, Judged], far: Sequence[str]) -> list[Judged]:
    return [found for digest, found in judged.items() if digest not in far]


__all__ = ["Judged", "Product"]
