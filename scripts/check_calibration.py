"""Does the promised false-alarm rate hold? Many good parts are drawn, some set the threshold, the others are judged.

The model is fresh from its backbone: the promise does not depend on how good it is.

    python scripts/check_calibration.py --new 199 --judged 400
"""

import argparse

import numpy as np
import torch
from scipy.stats import betabinom
from seeds import start, untrained

from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS


@torch.inference_mode()
def main() -> None:
    """Print the realized share of false alarms per product, beside the interval it has to lie in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    some = ["brass_gear", "capsule", "woven_cloth"]
    parser.add_argument("--products", nargs="+", default=some, choices=list(PRODUCTS))
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--new", type=int, default=199, help="photos that set the threshold")
    parser.add_argument("--judged", type=int, default=400)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)
    model, processor = untrained(args.backbone, args.products)
    above = int(np.floor((args.new + 1) * args.rate + 1e-9))
    low, high = betabinom(args.judged, above, args.new + 1 - above).interval(0.99)
    print(f"asked {args.rate:.1%}, {args.new} new photos, {args.judged} judged: 99 % lie within {low:.0f}-{high:.0f}")
    print("| product | threshold from the shots alone | from new photos |\n|---|---|---|")
    for name in args.products:
        parts = [
            processor(images=[render(PRODUCTS[name], [11, part, i], 240) for i in range(count)])["pixel_values"]
            for part, count in enumerate((args.shots, args.new, args.judged))
        ]
        learned = model.teach(parts[0], name, false_alarm_rate=args.rate).after
        scores = torch.cat([model(batch, category=name).scores for batch in parts[2].split(16)])
        alarms = []
        for found in (learned, model.calibrate(parts[1], name, false_alarm_rate=args.rate).after):
            count = int((scores > found.threshold).sum())
            alarms.append(f"{count} ({count / args.judged:.1%})")
        print(f"| {name} | {' | '.join(alarms)} |", flush=True)


if __name__ == "__main__":
    main()
