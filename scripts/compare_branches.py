"""Trains over several seeds, and measures the full model and each branch alone.

Sec. 3.4 fuses two branches; the paper has no table of each branch alone.

    python scripts/compare_branches.py DATA --shots 4 --seeds 0 1 2
"""

import argparse
import json
import statistics
from pathlib import Path

from seeds import mean_and_deviation, start

from anople_hf.data import load_inspection_data
from anople_hf.evaluation import evaluate
from anople_hf.evaluation.metrics import METRICS
from anople_hf.training import TrainingConfig, train

BRANCHES = ("both", "prompt", "memory")


def main() -> None:
    """Train, measure, print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=TrainingConfig.max_steps)
    parser.add_argument("--batch-size", type=int, default=TrainingConfig.batch_size)
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--route", action="store_true", help="tell each image's category: another protocol")
    parser.add_argument("--settings", type=json.loads, default={}, help="fields of AnoPLeConfig, as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write all values as JSON")
    args = parser.parse_args()
    start(args.threads)

    splits = load_inspection_data(args.data)
    values: dict[str, dict[str, list[float]]] = {branch: {metric: [] for metric in METRICS} for branch in BRANCHES}
    false_alarms, misses = [], []
    for seed in args.seeds:
        config = TrainingConfig(
            shots=args.shots,
            seed=seed,
            max_steps=args.max_steps,
            batch_size=args.batch_size,
            settings=args.settings,
        )
        run = train(splits["train"], config, backbone=args.backbone)
        for branch in BRANCHES:
            result = evaluate(
                run.model, run.processor, splits["test"], branch=branch, route=args.route, progress=False
            )
            print(f"seed {seed}, branch {branch}\n{result.table()}\n", flush=True)
            for metric in METRICS:
                if result.mean[metric] is not None:
                    values[branch][metric].append(100 * result.mean[metric])
            if branch == "both":
                for shares, share in zip((false_alarms, misses), result.errors(), strict=True):
                    shares.append(100 * share)
    print(f"mean over categories, mean ± std over seeds {args.seeds}, {args.shots} shots, {args.backbone}")
    print(f"| branch | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for branch, columns in values.items():
        cells = [mean_and_deviation(values) for values in columns.values()]
        print(f"| {branch} | {' | '.join(cells)} |")
    print(f"good parts called defective: {statistics.mean(false_alarms):.1f} % (asked 5 %); "
          f"defective parts called good: {statistics.mean(misses):.1f} %")  # fmt: skip
    if args.output:
        args.output.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
