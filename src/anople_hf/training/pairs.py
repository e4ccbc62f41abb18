"""`AnomalyPairs`: what the model learns from, a good photo and its twin with one pseudo anomaly, in all views.

Where in the paper: sec. 3 (simulated anomalies), 3.2 (global view and N local crops share one defect).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from ..configuration_anople import LOCAL_VIEWS
from ..data.schema import as_files
from ..framing import Framing
from ..images import read_image
from ..processing_anople import AnoPLeProcessor
from ..ranges import Ranges
from ..turns import draw_degrees, turned
from .shapes import Mask, Pixels
from .synthesis import AnomalySynthesizer, local_views

SHIFT = 60
"""It is moved by up to this part of its side: 8 pixels of 480."""
EXPOSURE = 0.1
"""Brightness and contrast change by up to this share."""


class AnomalyPairs(torch.utils.data.Dataset):
    """An endless-looking list of pairs, `steps x batch` long, in which sample number s is always the same.

    Every sample has its own random generator, made from the seed and its number; so neither the number of workers nor
    of processes, nor where a run is resumed, changes what is learned from.

    Args:
        shots: The chosen good photos, in the package's schema.
        processor: Normalizes the views.
        synthesizer: Draws the anomalies.
        length: Samples in total.
        multi_scale: Global view and four crops, or the global view alone (Table 4c).
        changes: How good photos are varied, see `vary`; their twins are made of the varied ones. With `turn`, products
            that have `turns` are turned by these.
        ranges: By category, the values of deep photos that are black and white.
        turns: By category, the positions in which its parts lie, see `turns.py`.
        framings: By category, region and tiles. A sample of a product that is cut into tiles shows one of them; what
            does not count is blank in its views, and no anomaly lies there.
        seed: Fixes order, changes and anomalies.
    """

    def __init__(
        self,
        shots: Dataset,
        processor: AnoPLeProcessor,
        synthesizer: AnomalySynthesizer,
        *,
        length: int,
        multi_scale: bool = True,
        changes: Sequence[str] = (),
        ranges: Mapping[str, Ranges] | None = None,
        turns: Mapping[str, str] | None = None,
        framings: Mapping[str, Framing] | None = None,
        seed: int = 0,
    ) -> None:
        self.processor, self.synthesizer = processor, synthesizer
        self.length, self.multi_scale, self.changes, self.seed = length, multi_scale, changes, seed
        self.side = 2 * processor.side  # 480 in the paper: each crop is a full view
        # A few shots fit in memory: decode and resize each once.
        self.framings = [(framings or {}).get(category, Framing()) for category in shots["category"]]
        self.photos: list[Pixels] = []
        self.turns: list[tuple[str, tuple[int, int]]] = []
        for row, framing in zip(as_files(shots), self.framings, strict=True):
            photo = read_image(row["image"], (ranges or {}).get(row["category"]))
            self.turns.append(((turns or {}).get(row["category"], "none"), photo.size))
            pixels = np.asarray(photo.resize(framing.canvas(self.side)[::-1], Image.Resampling.BICUBIC))
            sources = framing.sources(self.side)  # nothing outside of the region is moved into it, or a texture
            self.photos.append(pixels if sources is None else pixels[sources])
        self.names: list[str] = list(shots["path"])

    def __len__(self) -> int:
        """Samples in total."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`, V views of the good photo, then V of its twin.

        Returns:
            `pixel_values` (2V, 3, S, S), `masks` (2V, S, S) bool, `labels` (2V,), `views` (2V,), `photos` (2V,) all
            `number`, the photo's `name`.
        """
        photo, defective, mask, name = self.draw(number)
        images = [*self._views(photo), *self._views(defective)]
        within = self._place(number)[2]
        masks = [*self._views(np.zeros_like(mask)), *self._views(mask)]
        views = [LOCAL_VIEWS, *range(LOCAL_VIEWS)] if self.multi_scale else [LOCAL_VIEWS]  # rows of the prefix c
        stacked = torch.from_numpy(np.stack(masks))
        pixels = self.processor(images=images)["pixel_values"]
        if within is not None:
            counts = torch.from_numpy(np.stack(self._views(within) * 2))
            pixels = torch.where(counts[:, None], pixels, 0)
        return {
            "pixel_values": pixels,
            "masks": stacked,
            "labels": stacked.flatten(1).any(dim=1).long(),
            "views": torch.tensor(views * 2),
            "photos": torch.full((2 * len(views),), number),
            "name": name,
        }

    def draw(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """The good photo (2S, 2S, 3) of sample `number`, its twin, the mask of the anomaly (2S, 2S), and its name."""
        chosen, (top, left), within = self._place(number)
        photo = self._turned(chosen, number)[top : top + self.side, left : left + self.side]
        changes = [c for c in self.changes if c != "turn" or self.turns[chosen][0] == "none"]
        photo = vary(photo, changes, np.random.default_rng([self.seed, number, 2]))
        others = [self.photos[i] for i in range(len(self.photos)) if i != chosen]
        rng = np.random.default_rng([self.seed, number, 1])
        defective, mask = self.synthesizer(photo, rng, others, within)
        return photo, defective, mask, self.names[chosen]

    def _place(self, number: int) -> tuple[int, tuple[int, int], Mask | None]:
        """The photo of sample `number`, the corner of its tile, and what counts there (2S, 2S); None: all of it."""
        epoch, position = divmod(number, len(self.photos))
        chosen = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.photos))[position])
        framing = self.framings[chosen]
        corners, counts = framing.corners(self.side), framing.mask(self.side)
        top, left = corners[np.random.default_rng([self.seed, number, 4]).integers(len(corners))]
        return chosen, (top, left), None if counts is None else counts[top : top + self.side, left : left + self.side]

    def _turned(self, chosen: int, number: int) -> Pixels:
        """A good photo, in one of the positions in which its part may lie if that is asked for."""
        photo, (turns, size) = self.photos[chosen], self.turns[chosen]
        if turns == "none" or "turn" not in self.changes:
            return photo
        seed = int(np.random.default_rng([self.seed, number, 3]).integers(2**31))
        degrees = draw_degrees(turns, 1, torch.Generator().manual_seed(seed))
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
        return turned(pixels, degrees, size)[0].round().to(torch.uint8).permute(1, 2, 0).numpy()

    def _views(self, picture: np.ndarray) -> list[np.ndarray]:
        views = local_views(picture)
        return views if self.multi_scale else views[:1]


def vary(photo: Pixels, changes: Sequence[str], rng: np.random.Generator) -> Pixels:
    """A good photo as it could have been taken, too: a few shots are else the same pixels at every step. Ours.

    Args:
        photo: Square, uint8 (S, S, 3); left as it is.
        changes: Out of `shift` (the border is mirrored), `exposure` and `turn` (by right angles).
        rng: Source of all randomness.

    Example:
        >>> ramp = np.arange(120, dtype=np.uint8)[:, None, None].repeat(120, 1).repeat(3, 2)
        >>> np.unique(vary(ramp, ["shift"], np.random.default_rng(0))[60, 60]).size
        1
    """
    if "turn" in changes:
        photo = np.rot90(photo, int(rng.integers(4)))
    if "shift" in changes:
        reach = photo.shape[0] // SHIFT
        top, left = rng.integers(0, 2 * reach + 1, 2)
        padded = np.pad(photo, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        photo = padded[top : top + photo.shape[0], left : left + photo.shape[1]]
    if "exposure" in changes:
        contrast, brightness = rng.uniform(1 - EXPOSURE, 1 + EXPOSURE, 2)
        middle = photo.mean(dtype=np.float64)
        changed = (photo.astype(np.float32) - np.float32(middle)) * np.float32(contrast)
        photo = np.rint(changed + np.float32(middle * brightness)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(photo)


def collate_pairs(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor | list[str]]:
    """All views of all samples as one batch of B * 2V views."""
    batch: dict[str, Any] = {
        key: torch.cat([sample[key] for sample in samples])
        for key in ("pixel_values", "masks", "labels", "views", "photos")
    }
    batch["names"] = [sample["name"] for sample in samples]
    return batch
