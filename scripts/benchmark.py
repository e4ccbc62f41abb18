"""The cost of scoring relative to the bare vision tower: time ratios within one run, and peak memory.

Figure 1b of the paper compares speeds. Here the reference is the CLIP vision pass alone, on the same machine in the
same run, so that the ratio is meaningful on any machine.

    python scripts/benchmark.py                      # ViT-B/16+ 240 shape, random weights
    python scripts/benchmark.py --backbone embedded:tiny-clip
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from anople_hf import AnoPLeConfig, AnoPLeModel
from anople_hf.backbones import load_backbone, recommended_settings

VIT_B_16_PLUS_240 = {
    "projection_dim": 640,
    "vision_config": {
        "hidden_size": 896,
        "intermediate_size": 3584,
        "num_hidden_layers": 12,
        "num_attention_heads": 14,
        "image_size": 240,
        "patch_size": 16,
        "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "hidden_act": "gelu",
        "eos_token_id": 49407,
    },
}


def build(backbone: str | None) -> AnoPLeModel:
    """A model with 15 categories x 4 shots of random patches in its memory."""
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(**VIT_B_16_PLUS_240)).eval() if backbone is None else load_backbone(backbone)
    settings = recommended_settings(backbone) if backbone else {}
    model = AnoPLeModel(AnoPLeConfig(backbone_config=clip.config.to_dict(), **settings))
    model.clip.load_state_dict(clip.state_dict())
    model.config.class_names = {"object": "object"}
    width, patches = clip.config.vision_config.hidden_size, model.config.grid_size**2
    for category in range(15):
        model.memory.add(f"category_{category}", torch.randn(4, len(model.memory.layers), patches, width))
    return model.freeze_backbone().eval()


def judge(model: AnoPLeModel, photos: torch.Tensor, tokens: str, category: str | None = "category_3") -> object:
    """Score against one product or all, with the decoder on the last block's `value` or on its `last` tokens."""
    model.config.decoder_tokens = tokens
    return model(photos, category=category)


def paired(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each; the runs take turns, so that a slow minute hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="a CLIP; without it the paper's shape at random weights")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(args.backbone)
    report: dict[str, object] = {"backbone": args.backbone or "ViT-B/16+ 240 shape, random", "threads": args.threads}
    own = model.config.decoder_tokens
    for batch in (1, 8):
        photos = torch.randn(batch, 3, 240, 240)
        seconds = paired(
            {
                "vision tower": lambda photos=photos: model.clip.vision_model(photos),
                "last tokens": lambda photos=photos: judge(model, photos, "last"),
                "values": lambda photos=photos: judge(model, photos, "value"),
                "shared": lambda photos=photos: judge(model, photos, own, category=None),
            },
            args.repeats,
        )
        bare = seconds["vision tower"]
        report[f"batch {batch}"] = {
            "vision tower, s": round(bare, 4),
            "routed 4-shot bank, decoder on last tokens, ratio": round(seconds["last tokens"] / bare, 3),
            "routed 4-shot bank, decoder on values, ratio": round(seconds["values"] / bare, 3),
            "shared 15 x 4 bank, ratio": round(seconds["shared"] / bare, 3),
            "images per second, shared": round(batch / seconds["shared"], 1),
        }
    report["peak resident memory, GB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    text = json.dumps(report, indent=2)
    print(text)
    if args.output:
        with tempfile.NamedTemporaryFile("w", dir=args.output.parent, delete=False) as file:
            file.write(text + "\n")
        Path(file.name).replace(args.output)


if __name__ == "__main__":
    main()
