"""What p-hat brings: it alone, the peak of M_q alone, and both in eq. 16; and how high it is for good photos.

Each change is trained for itself. One training is judged with several temperatures, as only the softmax changes.

    python scripts/image_probability.py DATA --shots 4 --seeds 0 1 2
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import torch
from seeds import mean_and_deviation, start
from torch import Tensor

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data import load_inspection_data
from anople_hf.evaluation.metrics import auroc
from anople_hf.scoring import abnormal_probability, fuse_maps, image_scores
from anople_hf.training import TrainingConfig, train

CHANGES: dict[str, dict[str, Any]] = {
    "tau 0.07": {},
    "tau 0.01": {"temperature": 0.01},
    "longer text vectors weigh more": {"text_aggregation": "mean"},
}
"""Fields of `AnoPLeConfig`; all but the first differ from the recipe."""
SOFT = 3.0
"""The temperature that the embedded backbone is judged with, beside the one learned with."""
COLUMNS = ("p-hat alone", "max M_q alone", "eq. 16", "p-hat of good photos", "of defective ones")


@torch.inference_mode()
def measure(
    model: AnoPLeModel, processor: AnoPLeProcessor, test: datasets.Dataset, temperatures: tuple[float, ...]
) -> dict[float, list[float]]:
    """A row of `COLUMNS` for each temperature: image AUROC, mean over products, in percent; then medians in 0..1."""
    found: dict[float, dict[str, list[tuple[Tensor, Tensor, Tensor]]]] = {t: defaultdict(list) for t in temperatures}
    labels: dict[str, list[int]] = defaultdict(list)
    for photo in test:
        output = model(processor(images=[photo["image"]])["pixel_values"])
        labels[photo["category"]].append(int(photo["label"]))
        for temperature, products in found.items():
            probability, decoder_map = (
                abnormal_probability(features, output.text_features, temperature)
                for features in (output.image_features, output.patch_features)
            )
            fused = fuse_maps(decoder_map, output.memory_maps, model.config.image_size)
            products[photo["category"]].append(
                (probability, image_scores(fused, None), image_scores(fused, probability))
            )
    rows = {}
    for temperature, products in found.items():
        columns = {name: [torch.cat(column) for column in zip(*seen, strict=True)] for name, seen in products.items()}
        rows[temperature] = [
            100 * statistics.mean(auroc(columns[name][place].numpy(), labels[name]) for name in columns)
            for place in range(3)
        ] + [
            statistics.median(
                value
                for name in columns
                for value, label in zip(columns[name][0].tolist(), labels[name], strict=True)
                if label == wanted
            )
            for wanted in (0, 1)
        ]
    return rows


def main() -> None:
    """Train, measure, print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)
    splits = load_inspection_data(args.data)
    print(f"{args.shots} shots, seeds {args.seeds}, product not told\n")
    print(f"| learned with | judged with tau | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name, settings in CHANGES.items():
        values: dict[float, list[list[float]]] = defaultdict(list)
        for seed in args.seeds:
            config = TrainingConfig(shots=args.shots, seed=seed, settings=settings)
            run = train(splits["train"], config, backbone=args.backbone)
            learned = run.model.config.temperature
            for temperature, row in measure(run.model, run.processor, splits["test"], (learned, SOFT)).items():
                values[temperature].append(row)
        for temperature, rows in values.items():
            *ranks, good, bad = zip(*rows, strict=True)
            cells = [mean_and_deviation(column) for column in ranks]
            cells += [" · ".join(f"{value:.3f}" for value in column) for column in (good, bad)]
            print(f"| {name} | {temperature:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
