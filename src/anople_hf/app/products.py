"""`Products`: what one visitor of the app taught, with thresholds; nobody else sees it.

Where in the paper: sec. 3.4 (memory); thresholds and their scores are ours.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..images import read_image, why_unusable
from ..memory import MemoryBank
from ..scoring import SHARED, Calibration

ANY = "any product"
MOST_PHOTOS, MOST_BYTES, MOST_PIXELS = 30, 20 * 2**20, 50_000_000
FALSE_ALARM_RATE = 0.05


@dataclass
class Products:
    """What one visitor taught. What teaches gives new ones (`branch`), so that a failure changes nothing.

    Attributes:
        bank: Patches of their good photos, on the CPU.
        photos: Small copies of them by digest, to be shown beside a finding.
        calibration: By product, as in `config.calibration`; the key "*" holds for any product, if a detector came
            with it.
        scores: By product: scores of its good photos, each judged by the others.
        peaks: By product: the highest values of their maps.
        taught: The products that were taught here, not those that the detector came with.
    """

    bank: MemoryBank
    photos: dict[str, Image.Image] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    taught: set[str] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """Known products, in the order they were taught."""
        return self.bank.categories

    def branch(self) -> "Products":
        """Products that change alone from here on; photos and patches are shared until then."""
        scores, peaks = ({k: list(v) for k, v in part.items()} for part in (self.scores, self.peaks))
        bank = self.bank.without([])
        return replace(self, bank=bank, photos=dict(self.photos), calibration=dict(self.calibration), scores=scores,
                       peaks=peaks, taught=set(self.taught))  # fmt: skip

    def limits(self, product: str) -> tuple[float, float]:
        """Thresholds for scores and maps.

        Args:
            product: A known one, or `ANY`: the common threshold that the detector came with, and those of what was
                taught since; the highest of all if there is none.

        Raises:
            ValueError: Nothing was taught yet, or no threshold is known.
        """
        names = [product]
        if product == ANY:
            names = [SHARED, *self.taught] if SHARED in self.calibration else list(self.calibration)
        entries = [self.calibration[name] for name in names if name in self.calibration]
        if not entries:
            raise ValueError(
                f"No threshold is known for {product!r}: teach it, with a few good photos."
                if self.names
                else "No product is known yet: teach one first, with a few good photos."
            )
        return max(e["threshold"] for e in entries), max(e["pixel_threshold"] for e in entries)

    def calibrate(self, name: str, scores: list[float], peaks: list[float]) -> None:
        """Set a product's thresholds from its good photos' scores, those of earlier photos among them."""
        self.taught.add(name)
        self.scores[name] = self.scores.get(name, []) + scores
        self.peaks[name] = self.peaks.get(name, []) + peaks
        self.calibration[name] = Calibration.from_normals(
            self.scores[name],
            self.peaks[name],
            FALSE_ALARM_RATE,
            num_photos=len(self.bank.references(name)),
            exchangeable=False,
            method="each photo judged by the others, in the app",
        ).to_dict()

    def move(self, product: str, threshold: float) -> None:
        """Set the threshold for scores by hand; `ANY` sets all of them."""
        for name in list(self.calibration) if product == ANY else [product]:
            self.calibration[name] = {**self.calibration[name], "threshold": float(threshold)}

    def false_alarms(self, product: str, threshold: float) -> tuple[int, int]:
        """How many scores of good photos lie above a threshold, and how many there are."""
        names = list(self.scores) if product == ANY else [product]
        scores = [score for name in names for score in self.scores.get(name, [])]
        return sum(score > threshold for score in scores), len(scores)

    def take_in(self, bank: MemoryBank, calibration: dict[str, dict[str, Any]] | None) -> list[str]:
        """Add the products of a bank, with the thresholds that came with it.

        Returns:
            The names that the bank brought.
        """
        self.bank.merge(bank)
        for name, entry in (calibration or {}).items():
            if name != SHARED and name not in bank.categories:
                continue
            self.calibration[name] = entry
            if name != SHARED:
                self.scores[name] = _spread(entry)
                self.peaks[name] = [entry["pixel_threshold"]]
        return bank.categories

    def remove(self, product: str) -> None:
        """Forget a product.

        Raises:
            KeyError: It is not known.
        """
        gone = {reference.digest for reference in self.bank.references(product)}
        self.bank.remove(product)
        kept = {reference.digest for name in self.names for reference in self.bank.references(name)}
        self.photos = {digest: photo for digest, photo in self.photos.items() if digest not in gone - kept}
        self.taught.discard(product)
        for part in (self.calibration, self.scores, self.peaks):
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
    if reason := why_unusable(path):
        raise ValueError(f"{reason.replace(str(path), path.name)}. Nothing was changed.")
    with Image.open(path) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{path.name} has more than {MOST_PIXELS // 10**6} million pixels; make it smaller.")
    return read_image(path)


def _spread(entry: dict[str, Any]) -> list[float]:
    """The scores that stored quantiles stand for."""
    quantiles = entry.get("normal_quantiles") or []
    if not quantiles:
        return []
    places = np.linspace(0, 1, entry["num_scores"])
    return np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles).tolist()


__all__ = ["ANY", "MOST_PHOTOS", "Products", "checked_photo"]
