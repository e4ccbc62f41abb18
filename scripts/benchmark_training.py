"""The cost of a training step relative to the bare towers over the same views, by number of products, shots and views.

This checks the paper's claim that training is light (sec. 3.3). Times are ratios within one run. The parts take turns,
so that a slow minute affects all of them. Memory is the growth of a process's peak; each case has its own process.

    python scripts/benchmark_training.py                                # embedded backbone
    python scripts/benchmark_training.py --paper-shape --repeats 3      # ViT-B/16+ 240 shape, random weights
    python scripts/benchmark_training.py --parts                        # the first case, put together part by part
"""

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import torch
from benchmark import VIT_B_16_PLUS_240, paired
from transformers import CLIPConfig, CLIPModel

from anople_hf import AnoPLeConfig, AnoPLeModel
from anople_hf.backbones import load_backbone, recommended_settings
from anople_hf.modeling_anople import AnoPLeOutput
from anople_hf.training.configuration import TrainingConfig
from anople_hf.training.latent import with_latent
from anople_hf.training.loop import parameter_groups, training_losses

CASES = [
    {"categories": 3, "photos": 2, "views": 5},
    {"categories": 15, "photos": 2, "views": 5},
    {"categories": 30, "photos": 2, "views": 5},
    {"categories": 3, "photos": 4, "views": 5},
    {"categories": 3, "photos": 2, "views": 1},
]
"""Products in the prompts, good photos a step (each with its twin), views of each."""
TOKENS = 14
"""Length of a class prompt with eight slots and a short name."""


def build(paper_shape: bool) -> AnoPLeModel:
    """A fresh model in training mode."""
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(**VIT_B_16_PLUS_240)) if paper_shape else load_backbone("embedded:tiny-clip")
    settings = {} if paper_shape else recommended_settings("embedded:tiny-clip")
    model = AnoPLeModel(AnoPLeConfig(backbone_config=clip.config.to_dict(), **settings))
    model.clip.load_state_dict(clip.state_dict())
    return model.freeze_backbone().train()


def measure(model: AnoPLeModel, case: dict[str, int], repeats: int, parts: bool) -> dict[str, float]:
    """Seconds of a whole step, and of forward and backward of the bare towers over the same views and prompts.

    Args:
        model: From `build`.
        case: One of `CASES`.
        repeats: Rounds in which all take turns.
        parts: Also measure what lies between: the towers with prompts, then with the decoder, then with latent
            anomalies. These are forward and backward of a plain loss.
    """
    views = case["photos"] * 2 * case["views"]
    labels = torch.arange(2).repeat_interleave(case["views"]).repeat(case["photos"])
    masks = torch.zeros(views, 240, 240, dtype=torch.bool)
    masks[labels == 1, 60:90, 60:90] = True
    batch = {
        "labels": labels,
        "masks": masks,
        "photos": torch.arange(case["photos"]).repeat_interleave(2 * case["views"]),
    }
    pixels = torch.randn(views, 3, 240, 240)
    rows = torch.arange(case["views"]).repeat(2 * case["photos"]) if case["views"] > 1 else torch.full((views,), 4)
    eos = model.config.text_config.eos_token_id
    words = torch.randint(5, 300, (2, case["categories"], TOKENS))
    words[..., -1] = eos
    batch |= {"pixel_values": pixels, "views": rows}
    config = TrainingConfig().completed(None, case["photos"])
    optimizer = torch.optim.AdamW(parameter_groups(model, config))
    # CLIP is frozen: gradients run through it to its input, where the prompts are, and so they do here.
    inputs = [tower.embeddings.position_embedding.weight for tower in (model.clip.vision_model, model.clip.text_model)]

    def back(*features: torch.Tensor) -> None:
        torch.stack([feature.square().mean() for feature in features]).sum().backward()

    def bare() -> None:
        for weight in inputs:
            weight.requires_grad_(True)
        back(
            model.clip.vision_model(pixels).pooler_output,
            model.clip.text_model(words.flatten(0, 1)).pooler_output,
        )
        for weight in inputs:
            weight.requires_grad_(False)
            weight.grad = None

    def prompted() -> None:
        image, tokens, _ = model.encode_image(pixels, rows)
        back(image, tokens, model.encode_text(words))
        optimizer.zero_grad()

    def forward(seen: dict[str, Any], noise: tuple[int, torch.Tensor] | None = None) -> AnoPLeOutput:
        return model(seen["pixel_values"], branch="prompt", views=seen["views"], noise=noise, input_ids=words)

    def decoded(latent: bool) -> None:
        output = forward(*with_latent(batch, model.config, config)) if latent else forward(batch)
        back(output.decoder_maps, output.patch_features, output.image_features)
        optimizer.zero_grad()

    def step() -> None:
        seen, noise = with_latent(batch, model.config, config)
        output = forward(seen, noise)
        training_losses(output, seen, config, model.config.temperature)["total"].backward()
        optimizer.step()
        optimizer.zero_grad()

    between = {
        "prompts and prefix": prompted,
        "decoder and maps": lambda: decoded(latent=False),
        "latent anomalies": lambda: decoded(latent=True),
    }
    return paired({"bare towers": bare, **(between if parts else {}), "losses and optimizer": step}, repeats)


def main() -> None:
    """Measure every case in its own process, and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper-shape", action="store_true", help="ViT-B/16+ 240 at random weights")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", action="store_true", help="what each part of a step adds, in the first case")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        torch.set_num_threads(args.threads)
        model = build(args.paper_shape)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = measure(model, json.loads(args.case), args.repeats, args.parts)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
        print(json.dumps({"seconds": found, "memory, GB": grown}))
        return
    if args.parts:
        print("| with | s | ratio to the bare towers | added |\n|---|---|---|---|")
        seconds = _measured(args, CASES[0])["seconds"]
        bare = last = seconds["bare towers"]
        for name, value in seconds.items():
            print(f"| {name} | {value:.2f} | {value / bare:.2f} | {(value - last) / bare:.2f} |")
            last = value
        return
    print("| categories | photos a step | views | step, s | bare towers, s | ratio | memory beside the model, GB |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        found = _measured(args, case)
        bare, step = found["seconds"].values()
        cells = [*case.values(), f"{step:.2f}", f"{bare:.2f}", f"{step / bare:.2f}", f"{found['memory, GB']:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _measured(args: argparse.Namespace, case: dict[str, int]) -> dict[str, Any]:
    """A case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case), "--repeats", str(args.repeats)]
    command += ["--threads", str(args.threads)] + ["--paper-shape"] * args.paper_shape + ["--parts"] * args.parts
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
