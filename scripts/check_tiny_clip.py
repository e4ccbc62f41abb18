"""Measure a backbone's frozen patch tokens: few-shot image AUROC of the memory branch alone, and images per second.

Where in the paper: eq. 14 without prompts, the category known; the choice of backbone in sec. 4.1. Ours.

    python scripts/check_tiny_clip.py embedded:tiny-clip                          # every layer, on the sample data set
    python scripts/check_tiny_clip.py embedded:tiny-clip --data DATA --layers 1 3
    python scripts/check_tiny_clip.py random                                      # CLIP's stock random weights
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from pretrain_tiny_clip import patch_distances
from torch import Tensor
from transformers import CLIPModel

from anople_hf.backbones import EMBEDDED, load_backbone, load_processor_parts
from anople_hf.data.drawn import draw_dataset
from anople_hf.data.mvtec import find_categories
from anople_hf.images import find_images


def load_photos(paths: list[Path], side: int) -> Tensor:
    """Photos (B, 3, side, side) in 0..1, squeezed to a square as the processor does."""
    processor, _ = load_processor_parts(EMBEDDED)
    processor.size, processor.do_normalize = {"height": side, "width": side}, False
    return processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]


def far_patches(clip: CLIPModel, shots: Tensor, queries: Tensor) -> Tensor:
    """Distances (layers, Q, n) of the queries' patches to the shots', 16 queries at a time."""
    return torch.cat([patch_distances(clip, shots, part) for part in queries.split(16)], dim=1)


def area_under_roc(good: Tensor, bad: Tensor) -> float:
    """Share of (good, bad) pairs that are in order; ties count half."""
    higher, equal = bad[:, None] > good[None], bad[:, None] == good[None]
    return (higher.float() + 0.5 * equal.float()).mean().item()


def measure(clip: CLIPModel, root: Path, choices: list[tuple[int, ...]], shots: int, seeds: int) -> dict:
    """Image AUROC for each category and choice of layers, mean over the seeds."""
    side = clip.config.vision_config.image_size
    table = {}
    for category, folder in find_categories(root).items():
        train = load_photos(find_images(folder / "train" / "good"), side)
        good = load_photos(find_images(folder / "test" / "good"), side)
        kinds = sorted(path for path in (folder / "test").iterdir() if path.is_dir() and path.name != "good")
        bad = load_photos([photo for kind in kinds for photo in find_images(kind)], side)
        results = dict.fromkeys(choices, 0.0)
        for seed in range(seeds):
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
            far = far_patches(clip, train[order[:shots]], torch.cat([good, bad]))
            for layers in choices:
                score = far[list(layers)].mean(dim=0).amax(dim=1)
                results[layers] += area_under_roc(score[: len(good)], score[len(good) :]) / seeds
        table[category] = results
    return table


def main() -> None:
    """Print one line a category, one column a choice of layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="name or folder as for load_backbone, or 'random'")
    parser.add_argument("--data", type=Path, help="data set in the MVTec layout; without it the sample data are drawn")
    parser.add_argument("--layers", type=int, nargs="+", help="layers to average; default: all single ones and pairs")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    clip = load_backbone(EMBEDDED if args.backbone == "random" else args.backbone)
    clip = CLIPModel(clip.config).eval() if args.backbone == "random" else clip
    count = clip.config.vision_config.num_hidden_layers
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    choices = [tuple(args.layers)] if args.layers else [*((i,) for i in range(count)), *pairs]
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            draw_dataset(folder)
        table = measure(clip, args.data or Path(folder), choices, args.shots, args.seeds)
    print(f"image AUROC, {args.shots} shots, mean of {args.seeds} seeds; columns: 0-based layers averaged")
    print(" " * 16 + " ".join(f"{'+'.join(map(str, layers)):>6}" for layers in choices))
    table["mean"] = {layers: sum(row[layers] for row in table.values()) / len(table) for layers in choices}
    for category, row in table.items():
        print(f"{category:16}" + " ".join(f"{100 * row[layers]:6.1f}" for layers in choices))
    pixels = torch.rand(16, 3, clip.config.vision_config.image_size, clip.config.vision_config.image_size)
    with torch.inference_mode():
        clip.get_image_features(pixel_values=pixels)
        started = time.perf_counter()
        for _ in range(4):
            clip.get_image_features(pixel_values=pixels)
    print(f"{64 / (time.perf_counter() - started):.0f} images/s, batches of 16, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
