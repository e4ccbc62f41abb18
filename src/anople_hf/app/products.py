"""`Products`: what one visitor of the app taught, with thresholds; nobody else sees it.

All that is known of a product is in the visitor's memory bank (sec. 3.4), as on the command line: the same photos set
the same threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import SCREEN, read_photo
from ..memory import MemoryBank
from ..photos import Photo, TooLargeError, UnreadableImageError
from ..teaching import by_hand
from ..thresholds import Thresholds, spread_quantiles
from .saving import changed

ANY = "any product"
MOST_PHOTOS, MOST_BYTES, MOST_PIXELS = 30, 20 * 2**20, 50_000_000
MOST_TAUGHT = 100
"""Good photos that a visitor may add, those of loaded banks included. With the embedded backbone they take up to
0.1 GB: each 0.2 MB of patches, as much again to be searched, and 0.2 MB to be judged again."""


@dataclass
class Products:
    """What one visitor taught. What teaches gives new ones (`branch`), so that a failure changes nothing.

    Attributes:
        bank: Their products, on the CPU.
        came_with: How many photos the detector came with.
        origin: What it came with, see `saving.state_of`.
    """

    bank: MemoryBank
    came_with: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> list[str]:
        """Products that were taught, calibrated, forgotten or given a threshold since."""
        return changed(self.bank, self.origin)

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
        return replace(self, bank=self.bank.without([]))

    def scores(self, product: str) -> list[float]:
        """Scores of a product's good photos that its threshold is compared with; of all products' for `ANY`."""
        old, new = self.scores_of(product)
        return old + new

    def scores_of(self, product: str) -> tuple[list[float], list[float]]:
        """The same, apart: of views of the taught photos, and of good photos that the memory does not hold."""
        if product == ANY:
            each = [self.scores_of(name) for name in self.names]
            return [score for old, _ in each for score in old], [score for _, new in each for score in new]
        if product not in self.names:
            return [], []
        known = self.bank.product(product)
        set_ = known.thresholds
        if known.held_out and set_ is not None and set_.method != "learned":
            return [], [judged.scores[0] for judged in known.held_out.values()]
        scores = [s for digest, judged in known.judged.items() if digest not in known.far for s in judged.scores]
        if scores or set_ is None:
            return scores, []
        spread = spread_quantiles(set_)
        return ([], spread) if set_.method == "calibrated" else (spread, [])

    def by_strangeness(self, product: str) -> list[tuple[str, float]]:
        """(digest, mean score) of the photos that can be shown, the one least like the others first."""
        if product not in self.names:
            return []
        return [(d, score) for d, score in self.bank.product(product).by_strangeness if d in self.bank.views]

    def thresholds(self, product: str) -> Thresholds:
        """Those of a known product, or the common ones for `ANY`.

        Raises:
            ValueError: Nothing was taught yet, or no threshold is known.
        """
        if not self.names:
            raise ValueError("No product is known yet: teach one first, with a few good photos.")
        found = self.bank.thresholds_of(None if product == ANY else product)
        if found is None:
            raise ValueError(f"No threshold is known for {product!r}: teach it, with a few good photos.")
        return found

    def limits(self, product: str) -> tuple[float, float]:
        """`thresholds` for scores and maps."""
        found = self.thresholds(product)
        return found.threshold, found.pixel_threshold

    def move(self, product: str, threshold: float) -> None:
        """Set the threshold for scores by hand; `ANY` sets all of them.

        Raises:
            ValueError: There is none, see `thresholds`.
        """
        moved = by_hand(self.thresholds(product), float(threshold))
        if product == ANY:
            self.bank.common = moved
        for name in self.names if product == ANY else [product]:
            known = self.bank.product(name).thresholds
            if known is not None:
                self.bank.update(name, thresholds=by_hand(known, float(threshold)))

    def require_room(self, more: int = 0) -> None:
        """See that a visitor's memory does not grow without end.

        Raises:
            ValueError: With so many more photos there would be more than `MOST_TAUGHT`.
        """
        if len(self.bank) - self.came_with + more > MOST_TAUGHT:
            raise ValueError(f"At most {MOST_TAUGHT} good photos can be taught here; remove some first.")

    def take_in(self, bank: MemoryBank) -> list[str]:
        """Add what is new in a bank. A visitor's own thresholds stay, where both have some.

        Returns:
            The products that the bank brought photos of.
        """
        before = self.counts
        self.bank.merge(bank, thresholds="mine")
        return list(self.gained(before))

    def remove(self, product: str) -> None:
        """Remove a product.

        Raises:
            KeyError: It is not known.
        """
        self.bank.remove(product)


def checked_photo(file: str | Path | Image.Image) -> Photo:
    """A photo, decoded.

    Raises:
        UnreadableImageError: Too large, or not to be read; names the file, and says what to do.
    """
    if isinstance(file, Image.Image):
        return read_photo(file)
    path = Path(file)
    if path.stat().st_size > MOST_BYTES:
        raise UnreadableImageError(f"{path.name} has more than {MOST_BYTES // 2**20} MB; make it smaller.")
    try:
        photo = read_photo(path, least=SCREEN, most=MOST_PIXELS)
    except TooLargeError as error:
        raise TooLargeError(str(error).replace(str(path), path.name)) from error
    except UnreadableImageError as error:
        reason = str(error).replace(str(path), path.name)
        raise UnreadableImageError(f"{reason}. Save it again as JPEG or PNG, or leave it out.") from error
    photo.name = path.name
    return photo


__all__ = ["ANY", "MOST_PHOTOS", "MOST_TAUGHT", "Products", "checked_photo"]
