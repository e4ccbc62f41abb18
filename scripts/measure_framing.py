"""Measures what a region of interest and tiles bring, and what they cost: the memory alone, untrained, product told.

`region`: drawn parts in front of a border that is lit at random, taught and judged with and without a region.
`spots`: drawn parts with a dark spot of 1/200 to 1/20 of the side, cut into 1, 4 and 9 tiles. A spot is found if the
photo is called defective and the map's peak lies on it, or within a cell of the grid.
`folder`: real parts of a data set, cut into 1, 4 and 9 tiles.
`cost`: how long a photo takes with 1, 4 and 9 tiles, and how large the memory is; the paper's shape, random weights.

    python scripts/measure_framing.py region
    python scripts/measure_framing.py spots --most 10
    python scripts/measure_framing.py folder DATA --most 25
    python scripts/measure_framing.py cost --most 5
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import build
from PIL import Image
from seeds import start, untrained

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data import choose_shots, load_inspection_data
from anople_hf.data.drawn import render, render_defective
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.evaluation.metrics import auroc
from anople_hf.framed import score_views
from anople_hf.framing import FramingRequest
from anople_hf.memory import MemoryBank
from anople_hf.training.shapes import product_mask

TILES = ("1x1", "2x2", "3x3")
SHARES = (200, 100, 67, 40, 20)
"""A spot is as wide as the photo's side, divided by one of these."""
SIDE = 720
"""Pixels of a photo with a spot: more than 3 x 3 tiles need."""
BORDER = 40


@dataclass
class Judged:
    """Photos of one kind: scores, whether they are above the threshold, maps' peaks (x, y), and seconds a photo."""

    scores: np.ndarray
    alarms: np.ndarray
    peaks: np.ndarray
    seconds: float


def taught(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    good: Sequence[Image.Image],
    asked: FramingRequest,
    views: int = 8,
) -> None:
    """Teach the good photos, and nothing else."""
    model.memory = MemoryBank(model.memory_layers)
    pixels, reading = processor.read_good(good, asked=asked, grid=model.config.grid_size)
    model.teach(pixels, "part", reading=reading, views=views)


@torch.inference_mode()
def judge(model: AnoPLeModel, processor: AnoPLeProcessor, photos: Sequence[Image.Image]) -> Judged:
    """Judge photos one by one, product told, by the memory alone."""
    sizes = model.memory.sizes("part", model.config.image_size)
    scores, alarms, peaks = [], [], []
    began = time.process_time()
    for photo in photos:
        ((_, output, _),) = score_views(model, [processor.views(photo, sizes)], "part", branch="memory")
        scores.append(float(output.scores))
        alarms.append(bool(output.scores > output.thresholds))
        height, width = output.anomaly_maps.shape[1:]
        row, column = divmod(int(output.anomaly_maps[0].argmax()), width)
        peaks.append(((column + 0.5) * photo.width / width, (row + 0.5) * photo.height / height))
    seconds = (time.process_time() - began) / len(photos)
    return Judged(np.array(scores), np.array(alarms), np.array(peaks), seconds)


def bordered(part: np.ndarray, seed: list[int]) -> Image.Image:
    """A photo whose border shows lamps at random places: bright bars on dark ground, other ones in every photo."""
    rng, side = np.random.default_rng(seed), part.shape[0] + 2 * BORDER
    photo = np.full((side, side, 3), 40.0)
    for _ in range(8):
        length, thick = rng.integers(side // 8, side // 2), rng.integers(4, BORDER)
        high, wide = (length, thick) if rng.random() < 0.5 else (thick, length)
        y, x = rng.integers(0, side - high), rng.integers(0, side - wide)
        photo[y : y + high, x : x + wide] = rng.uniform(120, 255, 3)
    photo[BORDER:-BORDER, BORDER:-BORDER] = part
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


def spotted(part: np.ndarray, share: int, seed: list[int]) -> tuple[Image.Image, tuple[int, int]]:
    """A part with a dark round spot on the product, and where it is."""
    rng, width = np.random.default_rng(seed), part.shape[0] / share
    places = np.argwhere(product_mask(part))
    row, column = places[rng.integers(len(places))]
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    inside = np.clip(width / 2 + 0.5 - np.hypot(y - row, x - column), 0, 1)[..., None]
    return Image.fromarray((part * (1 - 0.65 * inside)).round().astype(np.uint8)), (int(column), int(row))


def measure_region(args: argparse.Namespace, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
    """A row for each product, with and without a region."""
    print("| product | region | image AUROC | good called defective | defects found |\n|---|---|---|---|---|")
    for name in args.products:
        product, inner = PRODUCTS[name], 320
        good = [bordered(render(product, [args.seed, 0, i], inner), [args.seed, 10, i]) for i in range(args.shots)]
        fine = [bordered(render(product, [args.seed, 1, i], inner), [args.seed, 11, i]) for i in range(args.most)]
        kinds = list(product.defects)
        bad = [
            bordered(render_defective(product, kinds[i % len(kinds)], [args.seed, 2, i], inner)[0], [args.seed, 12, i])
            for i in range(args.most)
        ]
        for told, region in (("no", None), ("yes", f"{BORDER},{BORDER},{inner},{inner}")):
            taught(model, processor, good, FramingRequest(region=region))
            one, other = judge(model, processor, fine), judge(model, processor, bad)
            rank = 100 * auroc(np.concatenate([one.scores, other.scores]), np.repeat([0, 1], args.most))
            print(
                f"| {name} | {told} | {rank:.1f} | {one.alarms.mean():.0%} | {other.alarms.mean():.0%} |", flush=True
            )


def measure_spots(args: argparse.Namespace, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
    """A row for each product and number of tiles, a column for each size of the spot."""
    widths = " | ".join(f"1/{share}" for share in SHARES)
    print(f"| product | tiles | cell | {widths} | good called defective | time |")
    print("|---|---|---|" + "---|" * (len(SHARES) + 2))
    for name in args.products:
        parts = [[render(PRODUCTS[name], [args.seed, part, i], SIDE) for i in range(count)]
                 for part, count in ((0, args.shots), (1, args.most), (2, args.most))]  # fmt: skip
        good, fine = ([Image.fromarray(part) for part in group] for group in parts[:2])
        plain = 0.0
        for tiles in TILES:
            taught(model, processor, good, FramingRequest(tiles=tiles))
            framing = model.memory.framings.get("part")
            cell = (framing.cell((SIDE, SIDE), model.config.grid_size) if framing else (SIDE / 15, SIDE / 15))[0]
            one, found = judge(model, processor, fine), []
            for share in SHARES:
                made = [spotted(part, share, [args.seed, 3, share, i]) for i, part in enumerate(parts[2])]
                other = judge(model, processor, [photo for photo, _ in made])
                away = np.abs(other.peaks - np.array([place for _, place in made])).max(axis=1)
                found.append((other.alarms & (away <= cell + SIDE / share / 2)).mean())
            plain = plain or one.seconds
            shown = " | ".join(f"{value:.0%}" for value in found)
            last = f"{one.alarms.mean():.0%} | {one.seconds / plain:.1f} x"
            print(f"| {name} | {tiles} | {cell:.0f} px | {shown} | {last} |", flush=True)


def measure_folder(args: argparse.Namespace, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
    """A row for each product and number of tiles."""
    print(
        "| product | tiles | image AUROC | good called defective | defects found | time |\n|---|---|---|---|---|---|"
    )
    for root in args.data:
        splits = load_inspection_data(root)
        test = splits["test"]
        for name, shots in choose_shots(splits["train"], args.shots, seed=args.seed).items():
            plain, groups = 0.0, []
            for label in (0, 1):
                rows = [i for i, c in enumerate(test["category"]) if c == name and test["label"][i] == label]
                order = np.random.default_rng(args.seed).permutation(len(rows))[: args.most]
                groups.append([photo.convert("RGB") for photo in test[[rows[place] for place in order]]["image"]])
            labels = np.repeat([0, 1], [len(group) for group in groups])
            for tiles in TILES:
                taught(model, processor, splits["train"][shots]["image"], FramingRequest(tiles=tiles))
                one, other = (judge(model, processor, group) for group in groups)
                rank = 100 * auroc(np.concatenate([one.scores, other.scores]), labels)
                plain = plain or one.seconds
                shares = f"{one.alarms.mean():.0%} | {other.alarms.mean():.0%}"
                print(f"| {name} | {tiles} | {rank:.1f} | {shares} | {one.seconds / plain:.1f} x |", flush=True)


def measure_cost(args: argparse.Namespace, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
    """A row for each number of tiles; what the photos show makes no difference."""
    cloth = PRODUCTS["woven_cloth"]
    photos = [Image.fromarray(render(cloth, [args.seed, i], SIDE)) for i in range(args.shots + args.most)]
    print("| tiles | time | memory |\n|---|---|---|")
    plain, size = 0.0, 0
    for tiles in TILES:
        taught(model, processor, photos[: args.shots], FramingRequest(tiles=tiles), views=1)
        judge(model, processor, photos[-1:])  # warms up
        seconds = judge(model, processor, photos[args.shots :]).seconds
        tokens = sum(
            photo.features.numel() + (0 if photo.framed is None else photo.framed.numel())
            for photo in model.memory.references("part")
        )
        plain, size = plain or seconds, size or tokens
        print(f"| {tiles} | {seconds / plain:.1f} x | {tokens / size:.1f} x |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("region", "spots", "folder", "cost"))
    parser.add_argument("data", type=Path, nargs="*", help="folder: data sets")
    parser.add_argument("--products", nargs="+", default=["capsule", "brass_gear", "woven_cloth"])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--most", type=int, default=15, help="good and defective parts that are judged, each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if (args.what == "folder") != bool(args.data):
        parser.error("a data set goes with `folder`.")
    start(args.threads)
    torch.manual_seed(args.seed)
    if args.what == "cost":
        model = build(None)
        model.config.class_names = None  # the memory alone decides
        measure_cost(args, model, AnoPLeProcessor.from_backbone(args.backbone, model.config))
        return
    measure = {"region": measure_region, "spots": measure_spots, "folder": measure_folder}[args.what]
    measure(args, *untrained(args.backbone))


if __name__ == "__main__":
    main()
