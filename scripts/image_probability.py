"""What p-hat brings: it alone, the memory alone, and both in eq. 15 and 16, judged with soft and sharp temperatures.

Each change is trained for itself. One training is judged with every temperature, as only the softmax changes.

    python scripts/image_probability.py DATA --shots 4 --seeds 0 1 2 --picture fusion.png
    python scripts/image_probability.py DATA --change "rate 3e-4"
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import torch
from matplotlib.figure import Figure
from seeds import mean_and_deviation, start, untrained
from torch import Tensor
from torch.nn import functional as F

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.data import choose_shots, load_inspection_data
from anople_hf.evaluation.metrics import auroc
from anople_hf.pictures.palette import DEFECTIVE_TEXT, FAINT, GOOD_TEXT, INK, plain, save
from anople_hf.scoring import abnormal_probability, fuse_maps, image_scores
from anople_hf.training import TrainingConfig, train

WORDS, UNTRAINED, RECIPE = "words, without any prompt", "before the first step", "the recipe, tau 0.07"
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    WORDS: ({}, {}),
    UNTRAINED: ({}, {}),
    RECIPE: ({}, {}),
    "tau 0.01": ({}, {"temperature": 0.01}),
    "longer text vectors weigh more": ({}, {"text_aggregation": "mean"}),
    "rate 3e-4": ({"learning_rate": 3e-4}, {}),
}
"""Fields of `TrainingConfig` and of `AnoPLeConfig` that differ from the recipe."""
TEMPERATURES = (0.01, 0.07, 0.3, 1.0, 3.0, 10.0)
"""What the softmax of eq. 9 is judged with."""


class Judged:
    """Scores of the test photos by product, in the order of `labels`."""

    def __init__(self) -> None:
        self.labels: dict[str, list[int]] = defaultdict(list)
        self.scores: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))

    def add(self, photo: dict[str, Any], **scores: Tensor) -> None:
        """Scores (1,) of one photo, by their names."""
        self.labels[photo["category"]].append(int(photo["label"]))
        for name, score in scores.items():
            self.scores[name][photo["category"]].append(score)

    def ranks(self) -> dict[str, float]:
        """Image AUROC of each score in percent, mean over products."""
        return {
            name: 100 * statistics.mean(auroc(torch.cat(own).numpy(), self.labels[c]) for c, own in products.items())
            for name, products in self.scores.items()
        }

    def median(self, name: str, label: int) -> float:
        """Of a score over all photos that are good (0) or defective (1)."""
        pairs = ((s, k) for c, own in self.scores[name].items() for s, k in zip(own, self.labels[c], strict=True))
        return statistics.median(score.item() for score, k in pairs if k == label)


@torch.inference_mode()
def judge_words(model: AnoPLeModel, processor: AnoPLeProcessor, test: datasets.Dataset) -> Judged:
    """p-hat of plain CLIP: "abnormal NAME" against "NAME", averaged over the products; no prompts, no prefix."""
    names = list(model.config.class_names.values())
    sides = []
    for words in (names, [f"abnormal {name}" for name in names]):
        tokens = processor.tokenizer(words, padding=True, return_tensors="pt")
        sides.append(F.normalize(model.clip.text_projection(model.clip.text_model(**tokens).pooler_output), dim=1))
    text = F.normalize(torch.stack(sides).mean(dim=1), dim=1)
    judged = Judged()
    for photo in test:
        seen = model.clip.vision_model(processor(images=[photo["image"]])["pixel_values"]).pooler_output
        judged.add(
            photo, p_hat=abnormal_probability(model.clip.visual_projection(seen), text, model.config.temperature)
        )
    return judged


@torch.inference_mode()
def judge(model: AnoPLeModel, processor: AnoPLeProcessor, test: datasets.Dataset) -> Judged:
    """p-hat, the memory's peak, and with every temperature the peak of M_q and the score of eq. 16."""
    judged, side = Judged(), model.config.image_size
    for photo in test:
        output = model(processor(images=[photo["image"]])["pixel_values"], branch="both")
        found = {"memory": image_scores(fuse_maps(None, output.memory_maps, side), None)}
        for tau in TEMPERATURES:
            probability, decoder_map = (
                abnormal_probability(features, output.text_features, tau)
                for features in (output.image_features, output.patch_features)
            )
            fused = fuse_maps(decoder_map, output.memory_maps, side)
            found[f"peak {tau:g}"] = image_scores(fused, None)
            found[f"both {tau:g}"] = image_scores(fused, probability)
            if tau == model.config.temperature:
                found["p_hat"] = probability
        judged.add(photo, **found)
    return judged


def measure(splits: Any, change: str, shots: int, seed: int, backbone: str) -> dict[str, float]:
    """`Judged.ranks`, and the medians of p-hat at the temperature that was learned with."""
    training, settings = CHANGES[change]
    if change in (WORDS, UNTRAINED):
        torch.manual_seed(seed)
        model, processor = untrained(backbone, sorted(set(splits["train"]["category"])))
        model.eval()
        if change == UNTRAINED:  # words compare with no photo
            for name, rows in choose_shots(splits["train"], shots, seed=seed).items():
                model.memorize(processor(images=splits["train"][rows]["image"])["pixel_values"], name)
    else:
        config = TrainingConfig(shots=shots, seed=seed, settings=settings, **training)
        run = train(splits["train"], config, backbone=backbone, progress=False)
        model, processor = run.model, run.processor
    judged = (judge_words if change == WORDS else judge)(model, processor, splits["test"])
    return judged.ranks() | {"good": judged.median("p_hat", 0), "defective": judged.median("p_hat", 1)}


def draw(found: list[dict[str, float]], path: Path) -> None:
    """Image AUROC over the temperature: eq. 16, the peak of M_q, and each part alone."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    lines = {
        "eq. 16": [[seed[f"both {tau:g}"] for tau in TEMPERATURES] for seed in found],
        "peak of M_q (eq. 15)": [[seed[f"peak {tau:g}"] for tau in TEMPERATURES] for seed in found],
        "memory alone": [[seed["memory"]] * len(TEMPERATURES) for seed in found],
        "p-hat alone": [[seed["p_hat"]] * len(TEMPERATURES) for seed in found],
    }
    colors = (GOOD_TEXT, DEFECTIVE_TEXT, INK, FAINT)
    for (name, seeds), color, style in zip(lines.items(), colors, ("-", "-", "--", ":"), strict=True):
        columns = list(zip(*seeds, strict=True))
        axes.plot(TEMPERATURES, [statistics.mean(c) for c in columns], style, color=color, label=name)
        axes.fill_between(TEMPERATURES, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.15)
    axes.set(xscale="log", xlabel="temperature of the softmax that photos are judged with", ylabel="image AUROC, %")
    axes.set_xticks(TEMPERATURES, [f"{tau:g}" for tau in TEMPERATURES])
    axes.legend(frameon=False)
    plain(axes)
    save(figure, path)


def main() -> None:
    """Train, measure, print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--change", action="append", choices=list(CHANGES), help="only this one; repeatable")
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write all values as JSON")
    parser.add_argument("--picture", type=Path, help="draw the recipe's curves over the temperature")
    args = parser.parse_args()
    start(args.threads)
    splits = load_inspection_data(args.data)
    print(f"image AUROC, {args.shots} shots, seeds {args.seeds}, product not told; medians of p-hat by seed\n")
    taus = [f"{tau:g}" for tau in TEMPERATURES]
    head = ["", "p-hat alone", "p-hat of good photos", "of defective ones", "memory alone"]
    head += [f"{name}, tau {tau}" for name in ("max M_q", "eq. 16") for tau in taus]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    values = {}
    for change in args.change or CHANGES:
        found = values[change] = [measure(splits, change, args.shots, seed, args.backbone) for seed in args.seeds]
        cells = [mean_and_deviation([seed["p_hat"] for seed in found])]
        cells += [" · ".join(f"{seed[name]:.3f}" for seed in found) for name in ("good", "defective")]
        for name in ("memory", *(f"{way} {tau}" for way in ("peak", "both") for tau in taus)):
            cells.append(mean_and_deviation([seed[name] for seed in found if name in seed]))
        print(f"| {change} | {' | '.join(cells)} |", flush=True)
        if args.output:
            args.output.write_text(json.dumps(values, indent=2) + "\n")
        if args.picture and change == RECIPE:
            draw(found, args.picture)


if __name__ == "__main__":
    main()
