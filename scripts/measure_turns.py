"""Measures what turned copies in the memory bring: parts as they were taken, turned by right angles, and by any angle.

A few good photos are taught as they are, with each kind of `turns`; the memory alone judges, the product is told.
Test parts are turned at random, about the center of their photo; what comes into view at the border is its own pixels
again, as in the remembered copies. Told are image AUROC, and the shares of good and of defective parts that are called
defective. `--cost` tells instead what a photo costs with the paper's shape at random weights, as a multiple of the
bare vision tower.

    python scripts/measure_turns.py DATA [DATA ...] --shots 4 --most 30
    python scripts/measure_turns.py --cost --threads 1
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from benchmark import build
from seeds import start, untrained

from anople_hf import AnoPLeModel
from anople_hf.data import choose_shots, load_inspection_data
from anople_hf.evaluation.metrics import auroc
from anople_hf.memory import MemoryBank
from anople_hf.turns import COPIES, draw_degrees, turned

LIE = {"as taken": "none", "right angles": "4", "any angle": "free"}
"""How the test parts lie, and out of which angles that is drawn."""


@torch.inference_mode()
def judge(model: AnoPLeModel, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and which are above the threshold."""
    parts = [model(part, category="part", branch="memory") for part in pixels.split(16)]
    scores = torch.cat([part.scores for part in parts])
    return scores.numpy(), (scores > torch.cat([part.thresholds for part in parts])).numpy()


@torch.inference_mode()
def cost(shots: int, repeats: int = 7) -> None:
    """Print processor time of scoring a photo whose product is told, in turn with that of the bare vision tower."""
    model = build(None)
    patches, width = model.config.grid_size**2, model.config.vision_config.hidden_size
    photo, banks = torch.randn(1, 3, 240, 240), {turns: MemoryBank(model.memory_layers) for turns in COPIES}
    for turns, bank in banks.items():
        rows = torch.randn(shots, len(bank.layers), patches * COPIES[turns], width)
        bank.add("part", rows, copies=COPIES[turns])
    taken: dict[str, list[float]] = {name: [] for name in ("tower", *banks)}
    for _ in range(repeats + 1):
        for name, times in taken.items():
            started = time.process_time()
            if name == "tower":
                model.clip.vision_model(photo)
            else:
                model(photo, category="part", memory=banks[name])
            times.append(time.process_time() - started)
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first round warms up
    print("| turns | times the vision tower |\n|---|---|")
    for turns in banks:
        print(f"| {turns} | {median[turns] / median['tower']:.2f} |")


def main() -> None:
    """Print one table, a row for each product, position and kind of turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--products", nargs="+")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--most", type=int, default=30, help="good and defective parts that are judged, each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.data and not args.cost:
        parser.error("expected DATA, or --cost")
    start(args.threads)
    if args.cost:
        cost(args.shots)
        return
    torch.manual_seed(args.seed)
    model, processor = untrained(args.backbone)
    print("| product | parts lie | turns | image AUROC | good called defective | defects found |")
    print("|---|---|---|---|---|---|")
    for root in args.data:
        splits = load_inspection_data(root, categories=args.products)
        for name, shots in choose_shots(splits["train"], args.shots, seed=args.seed).items():
            taught, reading = processor.read_good(splits["train"][shots]["image"])
            told = [(i, bool(label)) for i, (category, label) in enumerate(zip(splits["test"]["category"],
                    splits["test"]["label"], strict=True)) if category == name]  # fmt: skip
            kept = []
            for defective in (False, True):
                rows = [row for row in told if row[1] == defective]
                order = np.random.default_rng(args.seed).permutation(len(rows))
                kept += [rows[place] for place in order[: args.most]]
            labels = np.array([label for _, label in kept])
            seen = processor(images=splits["test"][[i for i, _ in kept]]["image"])["pixel_values"]
            tests = {}
            for lie, kind in LIE.items():
                degrees = draw_degrees(kind, len(seen), torch.Generator().manual_seed(args.seed))
                tests[lie] = turned(seen, degrees, reading["size"])
            for turns in COPIES:
                model.memory = MemoryBank(model.memory_layers)
                model.teach(taught, "part", reading=reading, turns=turns, seed=args.seed)
                for lie, pixels in tests.items():
                    scores, alarms = judge(model, pixels)
                    cells = (100 * auroc(scores, labels), 100 * alarms[~labels].mean(), 100 * alarms[labels].mean())
                    shown = " | ".join(f"{cell:.0f} %" if n else f"{cell:.1f}" for n, cell in enumerate(cells))
                    print(f"| {name} | {lie} | {turns} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
