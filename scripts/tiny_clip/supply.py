"""`Supply`: prepared views with the teacher's answers, renewed a few at a time while training goes on.

Preparing a view costs half as much as a training step on it, so each is used several times, mirrored at random. What a
step sees follows from its number and the seed alone: a resumed training sees the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from photos import PhotoPool
from teacher import GRID, SIDE, Teacher
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from views import DAMAGES, make_view

CHUNK = 8
"""Views that are renewed at a time."""
RENEWAL = 2
"""Steps between two renewals: with 16 views a step, each is seen about four times."""
KINDS = ["", *DAMAGES]


@dataclass
class Views:
    """A batch: photos, clean twins, damaged cells, kind of damage, the teacher's features and logits of the photos.

    Attributes:
        image: (B, 3, 240, 240) uint8.
        clean: (B, 3, 240, 240) uint8.
        damaged: (B, 15, 15) share of each cell that is damaged, 0..1.
        kind: (B,) place in `KINDS`.
        features: (B, 15, 15, 256).
        logits: (B, 1000) of the clean twins.
    """

    image: Tensor
    clean: Tensor
    damaged: Tensor
    kind: Tensor
    features: Tensor
    logits: Tensor

    def __getitem__(self, places: Tensor) -> "Views":
        return Views(*(getattr(self, name)[places] for name in self.__dataclass_fields__))

    def mirrored(self, which: Tensor) -> "Views":
        """The views marked in (B,) bool mirrored left to right, features with them."""
        flip = which.view(-1, 1, 1, 1)
        return Views(
            torch.where(flip, self.image.flip(3), self.image),
            torch.where(flip, self.clean.flip(3), self.clean),
            torch.where(flip[..., 0], self.damaged.flip(2), self.damaged),
            self.kind,
            torch.where(flip, self.features.flip(2), self.features),
            self.logits,
        )

    def to(self, device: str) -> "Views":
        """On another device."""
        return Views(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Chunks(Dataset):
    """Chunk `i` of views with the teacher's answers; the same for the same pool, seed and teacher."""

    def __init__(self, folder: Path, teacher: Path, seed: int, first: int, device: str) -> None:
        self.folder, self.teacher_file, self.seed, self.first, self.device = folder, teacher, seed, first, device
        self.pool: PhotoPool | None = None

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> Views:
        if self.pool is None:  # in the worker
            torch.set_num_threads(1)
            self.pool, self.teacher = PhotoPool(self.folder), Teacher(self.device)
            self.teacher.load_state_dict(torch.load(self.teacher_file, weights_only=True), strict=False)
        views = [make_view(self.pool, (self.first + index) * CHUNK + i, self.seed) for i in range(CHUNK)]
        return answer(views, self.teacher)


def answer(views: list, teacher: Teacher) -> Views:
    """Eight views with the teacher's features, and its logits of their clean twins."""
    image, clean = (torch.from_numpy(np.stack([getattr(v, name) for v in views])).permute(0, 3, 1, 2).contiguous()
                    for name in ("image", "clean"))  # fmt: skip
    features, logits = teacher(image)
    hurt = [i for i, view in enumerate(views) if view.damage]
    if hurt:
        logits[hurt] = teacher(clean)[1][hurt]
    cell = SIDE // GRID
    mask = torch.from_numpy(np.stack([view.mask for view in views])).float()
    damaged = mask.view(-1, GRID, cell, GRID, cell).mean(dim=(2, 4))
    kind = torch.tensor([KINDS.index(view.damage) for view in views])
    return Views(image, clean, damaged, kind, features.half().cpu().unflatten(1, (GRID, GRID)), logits.half().cpu())


class Supply:
    """The newest `capacity` views, and batches drawn from them.

    Args:
        folder: Of photos.
        teacher: File with the teacher's standardization.
        seed: Of views and batches.
        step: The step that comes next.
        batch: Views a step.
        capacity: Views held; about 290 kB each.
        device: Of the teacher.
    """

    def __init__(
        self, folder: Path, teacher: Path, *, seed: int, step: int, batch: int, capacity: int, device: str
    ) -> None:
        self.seed, self.step, self.batch, self.slots = seed, step, batch, capacity // CHUNK
        self.held: list[Views] = []
        warm = 16  # chunks before the first step
        taken = -(-step // RENEWAL) + warm
        first = max(0, taken - self.slots)
        chunks = Chunks(folder, teacher, seed, first, device)
        alone = device != "cpu"  # a GPU's teacher is fast enough to run in this process
        self._loader: Iterator[Views] = iter(
            DataLoader(chunks, batch_size=None, sampler=range(10**9), num_workers=0 if alone else 1,
                       prefetch_factor=None if alone else 6, multiprocessing_context=None if alone else "spawn")
        )  # fmt: skip
        for _ in range(first, taken):
            self._take()

    def _take(self) -> None:
        self.held.append(next(self._loader))
        del self.held[: -self.slots]

    def next(self) -> Views:
        """The batch of the next step."""
        generator = torch.Generator().manual_seed(self.seed * 7919 + self.step)
        if self.step % RENEWAL == 0:
            self._take()
        places = torch.randint(len(self.held) * CHUNK, (self.batch,), generator=generator).tolist()
        rows = [self.held[place // CHUNK][torch.tensor([place % CHUNK])] for place in places]
        views = Views(*(torch.cat([getattr(row, name) for row in rows]) for name in Views.__dataclass_fields__))
        self.step += 1
        return views.mirrored(torch.rand(self.batch, generator=generator) < 0.5)
