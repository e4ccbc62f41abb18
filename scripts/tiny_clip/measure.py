"""Few-shot image AUROC of frozen patch features: a plain cosine bank, the product known, nothing trained.

python scripts/tiny_clip/measure.py DATA BACKBONE [BACKBONE ...]     # a folder, `teacher`, or embedded:tiny-clip
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from student import trunk_tokens
from teacher import SIDE
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from anople_hf.images import IMAGE_SUFFIXES

Features = Callable[[Tensor], Tensor]


def load(paths: list[Path]) -> Tensor:
    """(B, 3, 240, 240) uint8, squeezed to the square as the processor does."""
    photos = [Image.open(p).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for p in paths]
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(0, 3, 1, 2).contiguous()


def tokens_of(features: Features, photos: Tensor) -> Tensor:
    """(B, n, d) unit vectors, 8 photos at a time."""
    return torch.cat([F.normalize(features(part).float(), dim=-1) for part in photos.split(8)])


def auroc(good: Tensor, bad: Tensor) -> float:
    """Share of (good, bad) pairs in order; ties count half."""
    return ((bad[:, None] > good).float() + 0.5 * (bad[:, None] == good).float()).mean().item()


@torch.no_grad()
def measure(features: Features, root: Path, shots: int = 4, seeds: int = 3, most: int = 80) -> dict[str, float]:
    """Image AUROC of each category of an MVTec-AD layout: highest distance to the shots' patches, mean over seeds."""
    table = {}
    for folder in sorted(path for path in root.iterdir() if (path / "train" / "good").is_dir()):
        files = {"train": [], "good": [], "bad": []}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and "ground_truth" not in path.parts:
                split = "train" if "train" in path.parts else "good" if path.parent.name == "good" else "bad"
                files[split].append(path)
        pick = np.random.default_rng(0)
        for split in ("good", "bad"):
            chosen = pick.permutation(len(files[split]))[: most // 2]
            files[split] = [files[split][i] for i in sorted(chosen)]
        tokens = {split: tokens_of(features, load(paths)) for split, paths in files.items()}
        results = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(tokens["train"]))[:shots]
            bank = tokens["train"][torch.from_numpy(order)].flatten(0, 1)
            far = [(0.5 - 0.5 * (tokens[s] @ bank.T).amax(dim=2)).amax(dim=1) for s in ("good", "bad")]
            results.append(auroc(*far))
        table[folder.name] = float(np.mean(results))
    return table | {"mean": float(np.mean(list(table.values())))}


def student_features(clip: CLIPModel) -> Features:
    """The trunk's patch tokens of a backbone."""
    return lambda photos: trunk_tokens(clip, photos)[:, 1:]


def main() -> None:
    """Print a line for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in MVTec-AD layout")
    parser.add_argument("backbones", nargs="+")
    parser.add_argument("--photos", type=Path, help="for `teacher`: what its channels are standardized on")
    args = parser.parse_args()
    for name in args.backbones:
        if name == "teacher":
            from distill import make_teacher

            teacher = make_teacher(args.photos, "cpu")
            features: Features = lambda photos, net=teacher: net(photos)[0]  # noqa: E731
        else:
            from anople_hf.backbones import load_backbone

            features = student_features(load_backbone(name))
        print(name, {key: round(value, 3) for key, value in measure(features, args.data).items()}, flush=True)


if __name__ == "__main__":
    main()
