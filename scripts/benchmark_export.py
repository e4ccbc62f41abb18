"""How fast an exported detector judges beside torch, how large it is, and how near its scores are.

    python scripts/benchmark_export.py [RUN] [--product NAME] [--threads 1] [--repeats 7]

Without RUN: the paper's ViT-B/16+ 240 shape at random weights with 15 categories x 4 shots in its memory. The runtimes
take turns on the same views, so a slow minute hits all of them; preprocessing is not timed, it is the same for all.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from benchmark import build, paired

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.export import ExportedDetector, Kind, export


@torch.inference_mode()
def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--product", help="route to this product; without it all are searched")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=get_args(Kind))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.run is None:
        model = build(None)
        processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
    else:
        model, processor = AnoPLeModel.from_pretrained(args.run), AnoPLeProcessor.from_pretrained(args.run)
    report: dict[str, object] = {"category": args.product, "threads": args.threads}
    with tempfile.TemporaryDirectory() as folder:
        detectors = {}
        for kind in args.kinds:
            found = export(model, processor, Path(folder) / kind, kind=kind, category=args.product)
            detectors[kind] = ExportedDetector.from_folder(Path(folder) / kind, threads=args.threads)
            report[kind] = {
                "MB": round(found["bytes"] / 1e6, 1),
                "seconds to export and check": found["seconds"],
                "scores": found["parity"]["scores"],
                "maps": found["parity"]["maps"],
            }
        side = model.config.image_size
        for batch in args.batches:
            views = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
            runs = {kind: partial(detector.score, views.numpy()) for kind, detector in detectors.items()}
            seconds = paired({"eager": partial(model, views, category=args.product), **runs}, args.repeats)
            report[f"batch {batch}, photos a second beside eager torch"] = {
                kind: round(seconds["eager"] / spent, 2) for kind, spent in seconds.items() if kind != "eager"
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
