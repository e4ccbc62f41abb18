"""Table 4, row by row: trains each variant over several seeds and prints mean and deviation.

Where in the paper: Table 4 (a) interaction, (b) alignment, (c) scales, (d) prompt type. The rows are the paper's, the
numbers are those of your data and backbone. What is done stands in --output and is not done again.

    python scripts/ablations.py DATA --output runs/ablations.jsonl --seeds 0 1 2
"""

import argparse
import json
from pathlib import Path

from seeds import mean_and_deviation, start

from anople_hf.data import load_inspection_data
from anople_hf.evaluation import evaluate
from anople_hf.metrics import METRICS
from anople_hf.modeling_anople import Branch
from anople_hf.training import TrainingConfig, train

ROWS: dict[str, tuple[dict, dict]] = {
    "full model": ({}, {}),
    "a: text prompts alone": ({}, {"coupling": "text"}),
    "a: visual prompts alone": ({}, {"coupling": "visual"}),
    "a: both, independent": ({}, {"coupling": "independent"}),
    "a: text to vision": ({}, {"coupling": "t2v"}),
    "a: vision to text": ({}, {"coupling": "v2t"}),
    "b: no alignment": ({"alignment": "none"}, {}),
    "b: mean alignment": ({"alignment": "mean"}, {}),
    "c: global view alone": ({"multi_scale": False}, {"scale_prefix": False}),
    "c: crops without prefix": ({}, {"scale_prefix": False}),
    "c: prefix without crops": ({"multi_scale": False}, {}),
    "d: object prompts": ({}, {"prompt_type": "object"}),
    "ours: anomalies on the product": ({"anomalies_on_product": True}, {}),
    "ours: cut-paste and scars": ({"anomaly_kinds": ["cutpaste", "scar"]}, {}),
    "ours: LoRA of rank 4": ({}, {"lora_rank": 4}),
}
"""Changes of `TrainingConfig` and of `AnoPLeConfig` for each row; the paper's rows, then settings of our own."""
BRANCHES: tuple[Branch, ...] = ("both", "prompt")
"""The whole model, and what the ablated parts do without the memory's help."""


def main() -> None:
    """Fill what is missing, then print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, one for each row and seed")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--max-steps", type=int, default=TrainingConfig.max_steps)
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)

    splits = load_inspection_data(args.data)
    protocol = {"data": args.data.name, "shots": args.shots, "max_steps": args.max_steps, "backbone": args.backbone,
                "mixed_precision": args.mixed_precision}  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    done = {(r["row"], r["seed"]): r["branches"] for r in map(json.loads, lines) if r["protocol"] == protocol}
    for row in args.rows:
        changes, settings = ROWS[row]
        for seed in args.seeds:
            if (row, seed) in done:
                continue
            config = TrainingConfig(
                shots=args.shots,
                seed=seed,
                max_steps=args.max_steps,
                mixed_precision=args.mixed_precision,
                settings=settings,
                **changes,
            )
            run = train(splits["train"], config, backbone=args.backbone)
            done[row, seed] = {
                branch: evaluate(run.model, run.processor, splits["test"], branch=branch, progress=False).mean
                for branch in BRANCHES
            }
            line = {"row": row, "seed": seed, "branches": done[row, seed], "protocol": protocol}
            with args.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(f"Mean over categories, category not given, mean ± std over seeds {args.seeds}; {protocol}.")
    for branch in BRANCHES:
        print(f"\n| branch {branch!r} | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
        for row in args.rows:
            found = [done[row, seed][branch] for seed in args.seeds]
            cells = [
                mean_and_deviation([100 * m[metric] for m in found if m[metric] is not None]) for metric in METRICS
            ]
            print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
