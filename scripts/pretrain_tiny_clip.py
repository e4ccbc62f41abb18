"""Train the embedded tiny CLIP from scratch on drawn scenes, on a CPU or a GPU; deterministic from a seed, resumable.

Where in the paper: it stands in for the backbone of sec. 4.1 where none can be downloaded. Recipe and size are ours.

    python scripts/pretrain_tiny_clip.py --output src/anople_hf/assets/tiny_clip --steps 1300

First, without a gradient step, the patch embedding and the first layer are fitted to `texture_teacher`'s descriptors
(`first_clip`); they stay as they are, and a memory bank compares their tokens. A constant in the tokens, longer than
the descriptors, makes the bank's cosine (eq. 14) order patches by their distance: without it, patches near the
average would seem far from each other.

Then the other layers and the text tower learn, all at once:
- CLIP's own: images agree with their captions, and with "abnormal ..." only if they show a defect.
- Dense: so do the last layer's patch tokens, each by itself, which is where the decoder of sec. 3.2 starts from.
- Apart: the texts of a normal and an abnormal product do not agree with each other.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from drawn_world import DrawnWorld, Scenes
from first_clip import LAYERS, PATCH, SIZE, make_clip, normalize
from texture_teacher import describe
from tiny_tokenizer import make_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

CONSTANT = 2.0
"""Length of the constant part of the first layer's tokens, in typical lengths of their descriptors."""
WEIGHTS = {"clip": 0.5, "state": 0.5, "dense": 1.0, "apart": 0.3}
FITTED = ("vision_model.embeddings.", "vision_model.pre_layrnorm.", "vision_model.encoder.layers.0.")


class Pretraining(nn.Module):
    """The CLIP and all losses."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        for name, parameter in clip.named_parameters():
            parameter.requires_grad_(not name.startswith(FITTED))

    def forward(self, scenes: Scenes, texts: dict) -> dict[str, Tensor]:
        """All losses on B scenes in two views, of which the first is clean."""
        vision, bad = self.clip.vision_model, scenes.bad.flatten()
        hidden = vision.pre_layrnorm(vision.embeddings(normalize(scenes.images.flatten(0, 1))))
        for layer in vision.encoder.layers:
            hidden = layer(hidden, None)
        tokens = F.normalize(self.clip.visual_projection(vision.post_layernorm(hidden)).float(), dim=-1)
        image, patches = tokens[:, 0], tokens[:, 1:]
        words = F.normalize(self.clip.get_text_features(**texts).pooler_output.float(), dim=-1)
        caption, normal, abnormal = words.split(len(image))
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ caption.T
        ids = texts["input_ids"][: len(image)]
        same = (ids[:, None] == ids[None]).all(dim=-1).float()  # equal captions are not negatives
        same = same / same.sum(dim=1, keepdim=True)
        losses = {"clip": (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2}
        direction = (abnormal - normal) / 0.07
        losses["state"] = F.binary_cross_entropy_with_logits((image * direction).sum(dim=1), bad.float())
        hurt = F.avg_pool2d(scenes.defects.flatten(0, 1)[:, None].float(), PATCH).flatten(1)
        clear = (hurt == 0) | (hurt > 0.04)  # neither for patches that a defect only touches
        losses["dense"] = F.binary_cross_entropy_with_logits(
            torch.einsum("bnd,bd->bn", patches, direction)[clear], (hurt[clear] > 0.04).float(),
            pos_weight=hurt.new_tensor(8.0),
        )  # fmt: skip
        losses["apart"] = F.relu((normal * abnormal).sum(dim=1) - 0.3).mean()
        return losses


TEMPLATES = ("{}.", "a photo of a {}.", "close up view of the {}.", "a {}.")
SOUND = ("", "", "normal ", "intact ", "perfect ", "flawless ")


def write_texts(tokenizer: CLIPTokenizer, scenes: Scenes, seed: int) -> dict[str, Tensor]:
    """Three texts for each of 2B images, in blocks: its caption with its state, a normal one, an abnormal one."""
    generator = torch.Generator().manual_seed(seed)
    pick = lambda options: options[int(torch.randint(len(options), (), generator=generator))]  # noqa: E731
    full, sound, hurt = [], [], []
    for bad in scenes.bad.tolist():
        for caption, defect, is_bad in zip(scenes.captions, scenes.states, bad, strict=True):
            state = pick((f"{defect} ", f"{defect} ", "abnormal ", "damaged ")) if is_bad else pick(SOUND)
            full.append(pick(TEMPLATES).format(state + caption))
            thing = pick((caption, caption.split()[-1], caption.split()[-1], "object", "product"))
            sound.append(f"{thing}.")
            hurt.append(f"abnormal {thing}.")
    return dict(tokenizer([*full, *sound, *hurt], padding=True, return_tensors="pt").to(scenes.images.device))


class Replay:
    """Batches mixed from the scenes drawn last, turned, mirrored and lit anew: drawing costs more than a step.

    What a step sees follows from its number alone, so a resumed training sees the same.
    """

    def __init__(self, world: DrawnWorld, batch: int, seed: int, every: int = 4, window: int = 50) -> None:
        self.world, self.batch, self.seed, self.every, self.window = world, batch, seed, every, window
        self.drawn: dict[int, Scenes] = {}

    def _get(self, index: int) -> Scenes:
        if index not in self.drawn:
            scenes = self.world.draw(self.batch, self.seed + 1 + index)
            scenes.images = (scenes.images * 255).round().to(torch.uint8)
            scenes.regions = scenes.regions.to(torch.uint8)
            self.drawn[index] = scenes
        return self.drawn[index]

    def __getitem__(self, step: int) -> Scenes:
        generator = torch.Generator().manual_seed(self.seed * 7919 + step)
        newest = 2 + step // self.every
        oldest = max(0, newest - self.window)
        self.drawn = {index: scenes for index, scenes in self.drawn.items() if index >= oldest}
        sources = torch.randint(oldest, newest + 1, (self.batch,), generator=generator).tolist()
        sources[0] = newest
        places = torch.randint(self.batch, (self.batch,), generator=generator).tolist()
        chosen = [(self._get(source), place) for source, place in zip(sources, places, strict=True)]
        turn, flip, *light = torch.rand(2 + 2 * 2 * self.batch, generator=generator).tolist()

        def moved(name: str) -> Tensor:
            masks = torch.rot90(torch.stack([getattr(s, name)[:, i] for s, i in chosen], 1), int(turn * 4), (-2, -1))
            return masks.flip(-1) if flip < 0.5 else masks

        light = torch.tensor(light, device=self.world.device).view(2, 2, -1, 1, 1, 1) - 0.5
        images = moved("images").float() / 255
        return Scenes(
            (images * (1 + 0.16 * light[0]) + 0.06 * light[1]).clamp(0, 1),
            moved("regions"),
            moved("defects"),
            torch.stack([s.bad[:, i] for s, i in chosen], 1),
            [s.captions[i] for s, i in chosen],
            [s.states[i] for s, i in chosen],
        )


@torch.no_grad()
def validate(clip: CLIPModel, world: DrawnWorld, tasks: int = 24, seed: int = 10**6) -> dict[str, float]:
    """Drawn 4-shot tasks: image AUROC of the farthest patch from a bank of 4 clean views, on 4 clean and 4 bad ones.

    Returns:
        The mean over `tasks` scenes for each layer alone (0-based) and for pairs of layers, as "1+3".
    """
    choices = [(i,) for i in range(LAYERS)] + [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS)]
    right = dict.fromkeys(choices, 0.0)
    for part in range(0, tasks, 4):
        scenes = world.draw(4, seed + part, defective=(0.0,) * 8 + (1.0,) * 4)
        for i in range(4):
            far = patch_distances(clip, scenes.images[:4, i], scenes.images[4:, i])
            for layers in choices:
                good, bad = far[list(layers)].mean(dim=0).amax(dim=1).chunk(2)
                right[layers] += (bad[:, None] > good[None]).float().mean().item() / tasks
    return {"+".join(map(str, layers)): round(value, 3) for layers, value in right.items()}


@torch.no_grad()
def patch_distances(clip: CLIPModel, shots: Tensor, queries: Tensor) -> Tensor:
    """Half cosine distance (layers, Q, n) of each patch of the queries to the nearest one of the shots (eq. 14)."""
    tokens = []
    hidden = clip.vision_model.pre_layrnorm(clip.vision_model.embeddings(normalize(torch.cat([shots, queries]))))
    for layer in clip.vision_model.encoder.layers:
        hidden = layer(hidden, None)
        tokens.append(F.normalize(hidden[:, 1:], dim=-1))
    return torch.stack([
        0.5 - 0.5 * (t[len(shots) :] @ t[: len(shots)].flatten(0, 1).T).amax(dim=2) for t in tokens
    ])  # fmt: skip


def export(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` reads, in float16, at once."""
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    half = CLIPModel(clip.config)
    half.load_state_dict({name: value.detach().cpu() for name, value in clip.state_dict().items()})
    half.half().save_pretrained(work)
    tokenizer.backend_tokenizer.no_padding()  # a call with padding=True leaves its mark in the file
    tokenizer.save_pretrained(work)
    CLIPImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_center_crop=False).save_pretrained(work)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished backbone")
    parser.add_argument("--state", type=Path, default=Path("runs/tiny_clip.pt"), help="where training is resumed from")
    parser.add_argument("--steps", type=int, default=3000, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="shorten the schedule to fit; the result then depends on the speed")  # fmt: skip
    parser.add_argument("--fit", type=int, default=384, help="images for the least-squares fit of the first weights")
    parser.add_argument("--batch", type=int, default=8, help="scenes a step, each in two views")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Train until the schedule or the budget is spent; export on the way and at the end."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    drawn = torch.cat([DrawnWorld(SIZE).draw(8, -1 - i).images.flatten(0, 1) for i in range(args.fit // 16)])
    targets = torch.cat([describe(part, SIZE // PATCH, reach=5.0) for part in drawn.split(16)])
    targets = (targets - targets.mean(dim=(0, 1))) / targets.std(dim=(0, 1))
    clip = make_clip(tokenizer, drawn, targets, CONSTANT * (targets.shape[-1] / 2) ** 0.5)
    model = Pretraining(clip).to(args.device)
    world = DrawnWorld(SIZE, args.device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in learning if (p.ndim > 1) == heavy], "weight_decay": 0.05 * heavy}
              for heavy in (True, False)]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    if args.state.exists():
        saved = torch.load(args.state, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["seconds"]
    args.state.parent.mkdir(parents=True, exist_ok=True)
    started, replay, seen = time.time() - spent, Replay(world, args.batch, args.seed), {}
    while True:
        # With a time budget the schedule follows the clock, so that the rate always ends near 0.
        progress = max(step / args.steps, (time.time() - started) / (60 * args.minutes))
        if progress >= 1:
            break
        scenes = replay[step]
        texts = write_texts(tokenizer, scenes, args.seed * 7919 + step)
        rate = args.learning_rate * min(1, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(world.device.type, torch.bfloat16):
            losses = model(scenes, texts)
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        seen = {name: 0.95 * seen.get(name, loss.item()) + 0.05 * loss.item() for name, loss in losses.items()}
        if step % 20 == 0:
            values = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            minutes = (time.time() - started) / 60
            print(f"step {step} {100 * progress:.0f} % {minutes:.1f} min rate {rate:.1e} {values}", flush=True)
        if step % 200 == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                        "seconds": time.time() - started}, args.state.with_suffix(".tmp"))  # fmt: skip
            args.state.with_suffix(".tmp").replace(args.state)
            export(model.clip, tokenizer, args.output)
        if step % 500 == 0:
            print(f"validation at step {step}: {validate(model.clip.eval(), world, 8)}", flush=True)
            model.train()
    export(model.clip, tokenizer, args.output)
    print(f"validation: {validate(model.clip.eval(), world, 48)}", flush=True)


if __name__ == "__main__":
    main()
