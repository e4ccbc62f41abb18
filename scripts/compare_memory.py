"""Measures recognition: the memory branch alone, untrained, searched in both ways.

The first row is eq. 14; the other is ours.

    python scripts/compare_memory.py DATA --shots 4 --seeds 0 1
"""

import argparse
import statistics
from pathlib import Path

from seeds import mean_and_deviation, start, untrained

from anople_hf.data import choose_shots, load_inspection_data
from anople_hf.evaluation import evaluate
from anople_hf.evaluation.metrics import METRICS

WAYS = {
    "all memories": {"memory_search": "all"},
    "the recognized product's": {"memory_search": "product"},
}


def main() -> None:
    """Remember, search, print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)

    splits = load_inspection_data(args.data)
    values: dict[str, dict[str, list[float]]] = {way: {metric: [] for metric in METRICS} for way in WAYS}
    recognized = []
    for seed in args.seeds:
        model, processor = untrained(args.backbone)
        shots = choose_shots(splits["train"], args.shots, seed=seed)
        for category, rows in shots.items():
            model.memorize(processor(images=splits["train"][rows]["image"])["pixel_values"], category)
        for way, settings in WAYS.items():
            for name, value in settings.items():
                setattr(model.config, name, value)
            result = evaluate(model, processor, splits["test"], branch="memory", progress=False)
            for metric in METRICS:
                if result.mean[metric] is not None:
                    values[way][metric].append(100 * result.mean[metric])
        recognized.append(100 * result.recognized)

    print(f"| memory alone, untrained, {args.shots} shots | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for way, metrics in values.items():
        print(f"| {way} | {' | '.join(mean_and_deviation(found) for found in metrics.values())} |")
    print(f"product recognized on {statistics.mean(recognized):.1f} % of the photos")


if __name__ == "__main__":
    main()
