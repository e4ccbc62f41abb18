"""Second phase: image and text vectors. The layers above the trunk and the text tower learn, the trunk is frozen.

- Names: image vectors agree with the vectors of the 1,000 ImageNet names as the teacher's probabilities say.
- State: a damaged view agrees with "abnormal NAME" rather than "NAME", its clean twin the other way round.
- Cells: so does every patch token of the last layer, by itself, which is where the decoder of sec. 3.2 starts from.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from features import random_extra
from measure import auroc
from states import load_state, save_state
from student import TEXT_LAYERS, TEXT_WIDTH, TRUNK, trunk_tokens
from supply import Supply, Views
from teacher import GRID
from texts import encode, name_texts, state_texts
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import CLIPModel, CLIPTokenizer

from anople_hf.prompts import attach_prompts

TEMPERATURE = 0.07
"""Of the decision between a sound and a damaged text, as in eq. 9."""
NAMES = 192
"""Names compared in a step: the likeliest of the batch, and others at random."""
SLOTS = 8
WEIGHTS = {"names": 1.0, "state": 3.0, "cells": 2.0}
"""Of the terms: what AnoPLe starts from are the states; the names have by far the largest gradients."""


def word_optimizers(clip: CLIPModel) -> list[Optimizer]:
    """Muon for matrices of the layers above the trunk and of the text tower, AdamW for all else that learns."""
    tower, text = clip.vision_model, clip.text_model
    blocks = [*tower.encoder.layers[TRUNK:], *text.encoder.layers]
    inside = [p for layer in blocks for p in layer.parameters()]
    rest = [p for p in inside if p.ndim != 2] + [
        *tower.post_layernorm.parameters(),
        *text.final_layer_norm.parameters(),
    ]
    rest += [
        *text.embeddings.parameters(),
        clip.visual_projection.weight,
        clip.text_projection.weight,
        clip.logit_scale,
    ]
    return [
        torch.optim.Muon([p for p in inside if p.ndim == 2], lr=0.01, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def vectors(clip: CLIPModel, tokens: Tensor) -> Tensor:
    """(B, T, 192) unit vectors of the trunk's tokens (B, T, 256): the image's first, then one for each patch."""
    for layer in clip.vision_model.encoder.layers[TRUNK:]:
        tokens = layer(tokens, None)
    return F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(tokens)).float(), dim=-1)


def text_vectors(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], prompts: tuple | None) -> Tensor:
    """(N, 192) unit vectors."""
    ids = encode(tokenizer, texts, SLOTS if prompts else 0).to(clip.device)
    hidden = clip.text_model(input_ids=ids, **({"prompts": prompts} if prompts else {})).pooler_output
    return F.normalize(clip.text_projection(hidden).float(), dim=-1)


def losses(
    clip: CLIPModel, tokenizer: CLIPTokenizer, names: list[str], tokens: Tensor, views: Views, seed: int
) -> dict[str, Tensor]:
    """All three, for trunk tokens (2B, 226, 256): B views as they are, then their clean twins."""
    generator = np.random.default_rng(seed)
    count = len(views.kind)
    found = vectors(clip, tokens)
    image, patches = found[:, 0], found[:, 1 : 1 + GRID**2]
    likely = views.logits.float().softmax(dim=1)
    chosen = torch.unique(likely.topk(4, dim=1).indices.flatten()).tolist()
    others = generator.permutation(len(names)).tolist()
    chosen = (chosen + [i for i in others if i not in set(chosen)])[:NAMES]
    likeliest = [names[i] for i in likely.argmax(dim=1).tolist()]
    texts = name_texts([names[i] for i in chosen], generator) + state_texts(likeliest, views.kind, generator)
    prompts = None
    if seed % 2:
        size = 0.02 * 15 ** generator.random()
        prompts = tuple(
            torch.from_numpy(generator.normal(0, size, (TEXT_LAYERS, SLOTS, TEXT_WIDTH)).astype(np.float32))
        )
    words = text_vectors(clip, tokenizer, texts, prompts)
    wanted = likely[:, chosen] / likely[:, chosen].sum(dim=1, keepdim=True)
    logits = clip.logit_scale.exp().clamp(max=100) * image[count:] @ words[: len(chosen)].T
    sound, damaged = words[len(chosen) :].chunk(2)
    direction = ((damaged - sound) / TEMPERATURE).repeat(2, 1)
    hurt = torch.cat([views.kind > 0, torch.zeros_like(views.kind, dtype=torch.bool)])
    cells = torch.cat([views.damaged, torch.zeros_like(views.damaged)]).flatten(1)
    clear = (cells == 0) | (cells > 0.1)  # neither for cells that damage only touches
    cell_logits = (patches * direction[:, None]).sum(dim=-1)
    return {
        "names": F.cross_entropy(logits, wanted),
        "state": F.binary_cross_entropy_with_logits(
            (image * direction).sum(dim=1), hurt.float(), pos_weight=hurt.new_tensor(2.0, dtype=torch.float32)
        ),
        "cells": F.binary_cross_entropy_with_logits(
            cell_logits[clear], (cells[clear] > 0.1).float(), pos_weight=cells.new_tensor(4.0)
        ),
    }


@torch.no_grad()
def judge(clip: CLIPModel, tokenizer: CLIPTokenizer, names: list[str], views: Views) -> dict[str, float]:
    """On held-back views: how often the teacher's first name is among our first five, and AUROC of states."""
    tokens = torch.cat([trunk_tokens(clip, part) for part in torch.cat([views.image, views.clean]).split(16)])
    found = torch.cat([vectors(clip, part) for part in tokens.split(16)])
    words = torch.cat(
        [text_vectors(clip, tokenizer, [f"{n}." for n in names[i : i + 100]], None) for i in range(0, 1000, 100)]
    )
    best = (found[len(views.kind) :, 0] @ words.T).topk(5).indices
    right = (best == views.logits.argmax(dim=1, keepdim=True)).any(dim=1).float().mean().item()
    sound, damaged = text_vectors(clip, tokenizer, ["object.", "abnormal object."], None)
    state = found @ (damaged - sound)
    hurt, image = views.kind > 0, state[:, 0]
    cells = views.damaged.flatten(1)[hurt]
    own = state[: len(views.kind), 1:][hurt]
    return {"names": right, "state": auroc(image[len(hurt) :], image[: len(hurt)][hurt]),
            "cells": auroc(own[cells == 0], own[cells > 0.1])}  # fmt: skip


def learn_words(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    names: list[str],
    supply: Callable[[int], Supply],
    held_back: Views,
    *,
    total: int,
    batch: int,
    state: Path,
    seed: int,
) -> None:
    """Train what stands on the trunk in place until `total` views, from `state` if it is there.

    Args:
        clip: The student with its trained trunk.
        tokenizer: Its own.
        names: Of the teacher's 1,000 outputs.
        supply: Makes the supply of views for a step to start from.
        held_back: Views of photos that are never trained on.
        total: Views to train for.
        batch: Views a step, each with its clean twin.
        state: Folder for states.
        seed: Of the texts.
    """
    steps = total // batch
    attach_prompts(clip)
    optimizers = word_optimizers(clip)
    clip.requires_grad_(False)
    for group in (g for o in optimizers for g in o.param_groups):
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    rates = [group["lr"] for o in optimizers for group in o.param_groups]
    step, hours = load_state(state / "words.pt", clip, optimizers, steps)
    if step == steps:
        return
    source, started = supply(step), time.time() - 3600 * hours
    seen: dict[str, float] = {}
    while step < steps:
        share = min(1.0, (step + 1) / 50) * min(1.0, 2 * (1 - step / steps))
        for group, rate in zip((g for o in optimizers for g in o.param_groups), rates, strict=True):
            group["lr"] = rate * share
        views = source.next().to(str(clip.device))
        with torch.autocast(clip.device.type, torch.bfloat16):
            with torch.no_grad():
                extra = random_extra(torch.Generator().manual_seed(step), str(clip.device)) if step % 2 else None
                tokens = trunk_tokens(clip, torch.cat([views.image, views.clean]), extra)
            terms = losses(clip, tokenizer, names, tokens, views, seed * 104729 + step)
        sum(WEIGHTS[name] * term for name, term in terms.items()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        seen = {name: 0.95 * seen.get(name, t.item()) + 0.05 * t.item() for name, t in terms.items()}
        if step % 25 == 0 or step == steps:
            hours = (time.time() - started) / 3600
            values = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            left = hours / step * (steps - step)
            print(f"words {step * batch:,} of {total:,} views, {hours:.2f} h, {left:.2f} h left, {values}", flush=True)
        if step % 200 == 0 or step == steps:
            save_state(state / "words.pt", clip, optimizers, step, steps, (time.time() - started) / 3600)
            found = {name: round(value, 3) for name, value in judge(clip, tokenizer, names, held_back).items()}
            print(f"held back at {step * batch:,} views: {found}", flush=True)
