"""`PhotoPool`: the photos that views are cut from, read from a folder, a few of them held back for validation.

A folder of your own photos works as well: sub-folders are kinds, and one called `sheets` holds square sheets of small
photos for mosaics. Names such as `n04548280_wall_clock.jpg` give a photo's ImageNet class.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from anople_hf.images import IMAGE_SUFFIXES

SMALL = 64
"""Side of a small photo on a sheet, in pixels."""
EVERY = 25
"""Of each kind every 25th photo is held back."""


class PhotoPool:
    """Photos of a folder, decoded when first asked for and then kept.

    Args:
        folder: With photos in it or in its sub-folders.
        held_back: Take the photos that training never sees, instead of those that it does.
    """

    def __init__(self, folder: Path, *, held_back: bool = False) -> None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        kinds: dict[str, list[Path]] = {}
        for path in found:
            kinds.setdefault(path.parent.name, []).append(path)
        mine = {
            kind: [p for i, p in enumerate(paths) if (i % EVERY == 0) == held_back] for kind, paths in kinds.items()
        }
        self.sheets = mine.pop("sheets", [])
        self.paths = [path for paths in mine.values() for path in paths]
        if not self.paths:
            raise FileNotFoundError(f"no photos in {folder}: expected {', '.join(IMAGE_SUFFIXES)} files.")
        self._decoded: dict[Path, np.ndarray] = {}

    def read(self, path: Path) -> np.ndarray:
        """(H, W, 3) uint8."""
        if path not in self._decoded:
            self._decoded[path] = np.asarray(Image.open(path).convert("RGB"))
        return self._decoded[path]

    def photo(self, generator: np.random.Generator) -> np.ndarray:
        """A photo, each kind of them as often as it has photos."""
        return self.read(self.paths[generator.integers(len(self.paths))])

    def mosaic(self, generator: np.random.Generator, side: int) -> np.ndarray:
        """(side * 64, side * 64, 3): small photos beside each other, half of the time one of them all over."""
        sheet = self.read(self.sheets[generator.integers(len(self.sheets))])
        rows = sheet.shape[0] // SMALL
        count = 1 if generator.random() < 0.5 else side * side
        places = np.resize(generator.integers(rows, size=(count, 2)), (side * side, 2))
        parts = [sheet[y * SMALL : (y + 1) * SMALL, x * SMALL : (x + 1) * SMALL] for y, x in places]
        return np.concatenate([np.concatenate(parts[i * side : (i + 1) * side], axis=1) for i in range(side)])


def class_names(folder: Path) -> list[str]:
    """The 1,000 ImageNet names in the order of the teacher's outputs, read from the photos' file names."""
    named = {
        match[1]: match[2] for path in folder.rglob("*") if (match := re.match(r"(n\d{8})_(.+)\.\w+$", path.name))
    }
    if len(named) != 1000:
        raise ValueError(
            f"{folder} names {len(named)} ImageNet classes: expected 1,000, in names such as n04548280_clock.jpg."
        )
    return [named[key].replace("_", " ").lower() for key in sorted(named)]
