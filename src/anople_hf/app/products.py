"""`Products`: what one visitor of the app taught, with thresholds; nobody else sees it.

Where in the paper: sec. 3.4 (memory); thresholds and their scores are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..calibration import Calibration
from ..configuration_anople import SHARED
from ..images import UnreadableImageError, read_photo
from ..memory import MemoryBank

ANY = "any product"
MOST_PHOTOS, MOST_BYTES, MOST_PIXELS = 30, 20 * 2**20, 50_000_000
MOST_TAUGHT = 100
"""Good photos that a visitor may add, those of loaded banks included. With the embedded backbone they take up to
0.8 GB: each 2.8 MB of patches, as much again to be searched, 0.7 MB to be judged again, and what is kept of pairs."""
FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class GoodPhoto:
    """A good photo that was taught here.

    Attributes:
        shown: A small copy.
        pixels: (3, S, S), as the model sees it; it is judged again when the photos beside it change.
    """

    shown: Image.Image
    pixels: Tensor


@dataclass
class Products:
    """What one visitor taught. What teaches gives new ones (`branch`), so that a failure changes nothing.

    Attributes:
        bank: Patches of their good photos, on the CPU.
        photos: The photos that were taught here, by digest.
        calibration: By product, as in `config.calibration`; the key "*" holds for any product, if a detector came
            with it.
        judged: By product and digest: scores of a photo that was taught here, judged by the others of its product.
        brought: By product: scores, and the highest map value, of good photos that are known by a calibration alone.
        taught: The products that were taught here, not those that the detector came with.
        came_with: How many photos the detector came with.
    """

    bank: MemoryBank
    photos: dict[str, GoodPhoto] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    judged: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    brought: dict[str, tuple[list[float], float]] = field(default_factory=dict)
    taught: set[str] = field(default_factory=set)
    came_with: int = 0

    @property
    def names(self) -> list[str]:
        """Known products, in the order they were taught."""
        return self.bank.categories

    @property
    def counts(self) -> dict[str, int]:
        """Good photos of each product."""
        return {name: len(self.bank.references(name)) for name in self.names}

    def gained(self, before: Mapping[str, int]) -> dict[str, int]:
        """How many more photos there are than these `counts`, of the products that have more."""
        more = {name: count - before.get(name, 0) for name, count in self.counts.items()}
        return {name: count for name, count in more.items() if count > 0}

    def branch(self) -> "Products":
        """Products that change alone from here on; photos and patches are shared until then."""
        return replace(self, bank=self.bank.without([]), photos=dict(self.photos), calibration=dict(self.calibration),
                       judged=dict(self.judged), brought=dict(self.brought), taught=set(self.taught))  # fmt: skip

    def scores(self, product: str) -> list[float]:
        """Scores of a product's good photos; of all products' for `ANY`."""
        names = {*self.brought, *self.judged} if product == ANY else {product}
        scores = [score for name in sorted(names & set(self.brought)) for score in self.brought[name][0]]
        photos = [judged for name in sorted(names & set(self.judged)) for judged in self.judged[name].values()]
        return [*scores, *(score for judged in photos for score in judged)]

    def by_strangeness(self, product: str) -> list[tuple[str, float]]:
        """(digest, mean score) of the photos that were taught here, the one least like the others first."""
        photos = {digest: float(np.mean(scores)) for digest, scores in self.judged.get(product, {}).items()}
        return sorted(photos.items(), key=lambda item: -item[1])

    def limits(self, product: str) -> tuple[float, float]:
        """Thresholds for scores and maps.

        Args:
            product: A known one, or `ANY`: the common threshold that the detector came with, and those of what was
                taught since; the highest of all if there is none.

        Raises:
            ValueError: Nothing was taught yet, or no threshold is known.
        """
        if not self.names:
            raise ValueError("No product is known yet: teach one first, with a few good photos.")
        names = [product]
        if product == ANY:
            names = [SHARED, *self.taught] if SHARED in self.calibration else list(self.calibration)
        entries = [self.calibration[name] for name in names if name in self.calibration]
        if not entries:
            raise ValueError(f"No threshold is known for {product!r}: teach it, with a few good photos.")
        return max(e["threshold"] for e in entries), max(e["pixel_threshold"] for e in entries)

    def calibrate(self, name: str, judged: Mapping[str, Sequence[float]], peaks: Sequence[float]) -> None:
        """Set a product's thresholds from its good photos.

        Args:
            name: The product.
            judged: Scores by digest, of all its photos that were taught here.
            peaks: The highest values of their maps.
        """
        self.taught.add(name)
        self.judged[name] = {digest: list(scores) for digest, scores in judged.items()}
        earlier = [self.brought[name][1]] if name in self.brought else []
        self.calibration[name] = Calibration.from_normals(
            self.scores(name),
            [*earlier, *peaks],
            FALSE_ALARM_RATE,
            num_photos=len(self.bank.references(name)),
            exchangeable=False,
            method="each photo judged by the others, in the app",
        ).to_dict()

    def move(self, product: str, threshold: float) -> None:
        """Set the threshold for scores by hand; `ANY` sets all of them.

        Raises:
            ValueError: There is none, see `limits`.
        """
        self.limits(product)
        for name in list(self.calibration) if product == ANY else [product]:
            self.calibration[name] = {**self.calibration[name], "threshold": float(threshold)}

    def require_room(self, more: int = 0) -> None:
        """See that a visitor's memory does not grow without end.

        Raises:
            ValueError: With so many more photos there would be more than `MOST_TAUGHT`.
        """
        if len(self.bank) - self.came_with + more > MOST_TAUGHT:
            raise ValueError(f"At most {MOST_TAUGHT} good photos can be taught here; remove some first.")

    def take_in(self, bank: MemoryBank, calibration: dict[str, dict[str, Any]] | None) -> list[str]:
        """Add what is new in a bank, with the thresholds that came with it; where there is one, the higher holds.

        Returns:
            The products that the bank brought photos of.
        """
        before = self.counts
        self.bank.merge(bank)
        new = list(self.gained(before))
        for name, entry in (calibration or {}).items():
            if name not in (SHARED, *new):
                continue
            self.calibration[name] = max(self.calibration.get(name, entry), entry, key=lambda e: e["threshold"])
            if name != SHARED and not self.judged.get(name):
                self.brought[name] = _spread(entry), entry["pixel_threshold"]
        return new

    def remove(self, product: str, digest: str | None = None) -> None:
        """Remove a product, or one of its photos.

        Raises:
            KeyError: It is not known.
        """
        gone = {reference.digest for reference in self.bank.references(product)} if digest is None else {digest}
        self.bank.remove(product, digest)
        kept = {reference.digest for name in self.names for reference in self.bank.references(name)}
        self.photos = {digest: photo for digest, photo in self.photos.items() if digest not in gone - kept}
        if product in self.names:
            self.judged[product] = {d: s for d, s in self.judged.get(product, {}).items() if d != digest}
            if self.judged[product] or product in self.brought:
                return
        self.taught.discard(product)  # with nothing left that its threshold was learned from
        for part in (self.calibration, self.judged, self.brought):
            part.pop(product, None)


def checked_photo(file: str | Path | Image.Image) -> Image.Image:
    """A photo as RGB.

    Raises:
        ValueError: Too large, or not to be read; words that a visitor understands.
    """
    if isinstance(file, Image.Image):
        return file.convert("RGB")
    path = Path(file)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES // 2**20} MB; make it smaller.")
    try:
        photo = read_photo(path)
    except UnreadableImageError as error:
        raise ValueError(f"{str(error).replace(str(path), path.name)}. Nothing was changed.") from error
    if photo.width * photo.height > MOST_PIXELS:
        raise ValueError(f"{path.name} has more than {MOST_PIXELS // 10**6} million pixels; make it smaller.")
    return photo


def _spread(entry: dict[str, Any]) -> list[float]:
    """The scores that stored quantiles stand for."""
    quantiles = entry.get("normal_quantiles") or []
    if not quantiles:
        return []
    places = np.linspace(0, 1, entry["num_scores"])
    return np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles).tolist()


__all__ = ["ANY", "MOST_PHOTOS", "MOST_TAUGHT", "GoodPhoto", "Products", "checked_photo"]
