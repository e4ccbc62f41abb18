"""Measures what could be added to eq. 14, each by itself: the untrained memory, few shots, product not told.

Whitened tokens (principal components of the shots, shrunk), PatchCore's re-weighting by the neighbors of the nearest
patch, both together, the mean of several neighbors, quarter turns of the shots in the memory, patches of about the
same place alone, the distance of the whole image's vector beside the map's peak and alone, and the tokens of CLIP
without prompts and prefix. None of them is in the package; this says what they would bring.

A photo's product is the one whose patches are nearest in the mean, as with `memory_search=product`.

    python scripts/memory_options.py DATA [DATA ...] --shots 4 --seeds 0 1 2
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from seeds import mean_and_deviation, start, untrained
from torch import Tensor
from torch.nn import functional as F

from anople_hf import AnoPLeModel
from anople_hf.data import choose_shots, load_inspection_data
from anople_hf.evaluation.metrics import aupro, auroc
from anople_hf.scoring import resize_map

SIDE = 120
"""Maps are compared with masks at half of the view's size."""
SHRINKAGE = 0.5
NEIGHBORS = 5
REACH = 2
"""Cells between places that are about the same."""


class Seen:
    """Photos through the tower: tokens (n, p, d) of the memory's layer, with and without prompts; vectors (n, e)."""

    def __init__(self, tokens: Tensor, clean: Tensor, vectors: Tensor) -> None:
        self.tokens, self.clean, self.vectors = F.normalize(tokens, dim=-1), F.normalize(clean, dim=-1), vectors

    @classmethod
    @torch.inference_mode()
    def of(cls, model: AnoPLeModel, pixels: Tensor) -> "Seen":
        """All of them, 8 at a time."""
        layer, patches = model.memory_layers[-1], slice(1, 1 + model.config.grid_size**2)
        columns = []
        for part in pixels.split(8):
            vectors, _, tokens = model.encode_image(part, layers=[layer])
            plain = model.clip.vision_model(part, output_hidden_states=True).hidden_states[layer + 1][:, patches]
            assert tokens is not None
            columns.append((tokens[:, 0], plain, vectors))
        return cls(*map(torch.cat, zip(*columns, strict=True)))

    def __getitem__(self, rows: list[int]) -> "Seen":
        return Seen(self.tokens[rows], self.clean[rows], self.vectors[rows])

    def without_prompts(self) -> "Seen":
        """As if the tower had no prompts and no prefix."""
        return Seen(self.clean, self.clean, self.vectors)


def nearest(tokens: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance 0..1 of (n, p, d) to its nearest row of (m, d), and which it is."""
    best = (tokens.flatten(0, 1) @ bank.T).max(dim=1)
    return (0.5 - 0.5 * best.values).unflatten(0, tokens.shape[:2]), best.indices.unflatten(0, tokens.shape[:2])


def plain(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Eq. 14."""
    distances, _ = nearest(test.tokens, shots.tokens.flatten(0, 1))
    return distances.amax(dim=1), distances


def whiten(shots: Seen, test: Seen) -> tuple[Seen, Seen]:
    """The shots' channels centered, and their principal components evened out, half way."""
    rows = shots.tokens.flatten(0, 1)
    center = rows.mean(dim=0)
    values, axes = torch.linalg.eigh(torch.cov((rows - center).T))
    scale = (values.clamp_min(0) * (1 - SHRINKAGE) + SHRINKAGE * values.mean()).rsqrt()
    return tuple(Seen((x.tokens - center) @ axes * scale, x.clean, x.vectors) for x in (shots, test))  # type: ignore


def whitened(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Cosine of whitened tokens."""
    return plain(*whiten(shots, test), turned)


def whitened_reweighted(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Both."""
    return reweighted(*whiten(shots, test), turned)


def reweighted(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """PatchCore's image score: the peak counts less where the nearest patch has strange neighbors itself."""
    bank = shots.tokens.flatten(0, 1)
    distances, which = nearest(test.tokens, bank)
    peak, at = distances.max(dim=1)
    rows = torch.arange(len(at))
    patch, near = test.tokens[rows, at], bank[which[rows, at]]
    around = (near @ bank.T).topk(NEIGHBORS, dim=1).indices
    far = 1 - torch.einsum("nd,nkd->nk", patch, bank[around])
    own = (1 - (patch * near).sum(dim=1)).clamp_min(0)
    weight = 1 - own.exp() / far.exp().sum(dim=1)
    return peak * weight, distances


def several(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Mean distance of the three nearest patches."""
    found = (test.tokens.flatten(0, 1) @ shots.tokens.flatten(0, 1).T).topk(3, dim=1).values.mean(dim=1)
    distances = (0.5 - 0.5 * found).unflatten(0, test.tokens.shape[:2])
    return distances.amax(dim=1), distances


def turns(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Quarter turns of the shots are remembered, too."""
    distances, _ = nearest(test.tokens, torch.cat([shots.tokens, turned.tokens]).flatten(0, 1))
    return distances.amax(dim=1), distances


def nearby(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Only patches of about the same place are compared: for parts that always lie as they were taught."""
    count = test.tokens.shape[1]
    grid = int(count**0.5)
    place = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))
    near = (place[:, None] - place[None]).abs().amax(dim=2) <= REACH
    best = torch.stack([(test.tokens @ shot.T).where(near, -1).amax(dim=2) for shot in shots.tokens]).amax(dim=0)
    distances = 0.5 - 0.5 * best
    return distances.amax(dim=1), distances


def vector_distance(shots: Seen, test: Seen) -> Tensor:
    """(n,) distance of each image's vector to the nearest shot's."""
    return 0.5 - 0.5 * (test.vectors @ shots.vectors.T).amax(dim=1)


def with_vector(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """The peak plus the distance of the image's vector to the nearest shot's."""
    scores, distances = plain(shots, test, turned)
    return scores + vector_distance(shots, test), distances


def vector_alone(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """The distance of the image's vector to the nearest shot's; the map is that of eq. 14."""
    return vector_distance(shots, test), plain(shots, test, turned)[1]


def unprompted(shots: Seen, test: Seen, turned: Seen) -> tuple[Tensor, Tensor]:
    """Eq. 14 on the tokens of CLIP itself."""
    return plain(shots.without_prompts(), test.without_prompts(), turned)


OPTIONS: dict[str, Callable[[Seen, Seen, Seen], tuple[Tensor, Tensor]]] = {
    "eq. 14": plain,
    "whitened, half way": whitened,
    "PatchCore's re-weighting": reweighted,
    "whitened, then re-weighted": whitened_reweighted,
    "mean of 3 neighbors": several,
    "quarter turns of the shots": turns,
    "patches of about the same place": nearby,
    "with the image's vector": with_vector,
    "the image's vector alone": vector_alone,
    "without prompts and prefix": unprompted,
}


def recognize(test: Seen, known: dict[str, Seen]) -> list[str]:
    """The product of each photo: the one whose patches are nearest, in the mean over the photo's."""
    means = [nearest(test.tokens, shots.tokens.flatten(0, 1))[0].mean(dim=1) for shots in known.values()]
    return [list(known)[i] for i in torch.stack(means).argmin(dim=0).tolist()]


def main() -> None:
    """Print one table for each folder of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)
    torch.manual_seed(0)
    model, processor = untrained(args.backbone)
    for root in args.data:
        splits = load_inspection_data(root)
        test = splits["test"]
        chosen = [choose_shots(splits["train"], args.shots, seed=seed) for seed in args.seeds]
        values: dict[str, list[list[tuple[float, float]]]] = {name: [[] for _ in args.seeds] for name in OPTIONS}
        memories: list[dict[str, tuple[Seen, Seen]]] = []
        for shots in chosen:
            views = {c: processor(images=splits["train"][rows]["image"])["pixel_values"] for c, rows in shots.items()}
            memories.append({
                c: (Seen.of(model, x), Seen.of(model, torch.cat([x.rot90(k, (2, 3)) for k in (1, 2, 3)])))
                for c, x in views.items()
            })  # fmt: skip
        right = total = 0
        for category in chosen[0]:
            rows = [i for i, name in enumerate(test["category"]) if name == category]
            seen = Seen.of(model, processor(images=test[rows]["image"])["pixel_values"])
            labels = [int(test[i]["label"]) for i in rows]
            masks = torch.stack([_mask(test[i]["mask"]) for i in rows]).numpy()
            grid = int(seen.tokens.shape[1] ** 0.5)
            for place, memory in enumerate(memories):
                found = recognize(seen, {c: shots for c, (shots, _) in memory.items()})
                right, total = right + found.count(category), total + len(found)
                parts = {c: [i for i, name in enumerate(found) if name == c] for c in sorted(set(found))}
                order = torch.tensor([i for own in parts.values() for i in own]).argsort()
                for name, option in OPTIONS.items():
                    judged = [option(memory[c][0], seen[own], memory[c][1]) for c, own in parts.items()]
                    scores, distances = (torch.cat(column)[order] for column in zip(*judged, strict=True))
                    maps = resize_map(distances.unflatten(1, (grid, grid)), SIDE).numpy()
                    values[name][place].append((100 * auroc(scores.numpy(), labels), 100 * aupro(maps, masks)))
        print(f"\nproduct recognized on {right / total:.1%} of the photos")
        print(f"| {root.name}, {args.shots} shots, seeds {args.seeds} | image AUROC | AUPRO |\n|---|---|---|")
        for name, seeds in values.items():
            means = [[statistics.mean(column) for column in zip(*found, strict=True)] for found in seeds]
            cells = [mean_and_deviation(column) for column in zip(*means, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _mask(mask: object) -> Tensor:
    """(SIDE, SIDE) bool; nothing where the part is good."""
    if mask is None:
        return torch.zeros(SIDE, SIDE, dtype=torch.bool)
    small = mask.convert("L").resize((SIDE, SIDE))  # type: ignore[attr-defined]
    return torch.from_numpy(np.asarray(small) > 127)


if __name__ == "__main__":
    main()
