"""Train the embedded tiny CLIP from scratch on drawn scenes, on a CPU or a GPU; deterministic from a seed, resumable.

Where in the paper: it stands in for the backbone of sec. 4.1 where none can be downloaded. Recipe and size are ours.

    python scripts/pretrain_tiny_clip.py --output src/anople_hf/assets/tiny_clip --minutes 45

What it learns, all at once:
- CLIP's own: images agree with their captions, and with "abnormal ..." only if they show a defect.
- Local: patch tokens of one material in two views of a scene agree, at any position; others and defects differ. This
  is asked of the raw tokens of the layers that a memory bank compares, by the cosine it compares them with.
- Outlier: a defective patch lies farther from its nearest patch in a clean view than all sound patches do.
- Low-level: a linear head can read each patch's colour, contrast and oriented energies from its token.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from drawn_world import DrawnWorld, Scenes
from first_clip import LAYERS, PATCH, SIZE, WIDTH, make_clip, normalize
from tiny_tokenizer import make_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

BANK_LAYERS = (1, 3)
WEIGHTS = {"statistics": 1.0, "local": 0.5, "outlier": 1.0, "defect": 0.5, "clip": 0.5, "state": 0.5}


class Pretraining(nn.Module):
    """The CLIP with the heads that are thrown away afterwards."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.statistics = nn.ModuleList(nn.Linear(WIDTH, 24) for _ in range(3))
        self.defect = nn.Linear(WIDTH, 1)
        self.register_buffer("gabor", self._gabor(), persistent=False)
        self.scaling = nn.BatchNorm1d(24, affine=False, momentum=0.02)  # brings the targets to one scale

    @staticmethod
    def _gabor() -> Tensor:
        y, x = torch.meshgrid(torch.arange(-4.0, 5), torch.arange(-4.0, 5), indexing="ij")
        bank = []
        for sigma in (0.6, 1.1, 2.0):
            for angle in torch.arange(4) * math.pi / 4:
                u = x * torch.cos(angle) + y * torch.sin(angle)
                window = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
                for wave in (torch.cos(u * 2 / sigma), torch.sin(u * 2 / sigma)):
                    wave = wave * window
                    wave = wave - window * wave.sum() / window.sum()
                    bank.append(wave / wave.norm())
        return torch.stack(bank)[:, None]

    @torch.no_grad()
    def patch_statistics(self, images: Tensor) -> Tensor:
        """(B, n, 24): colours' mean and deviation, log energies of 4 directions x 3 scales, darkest, brightest."""
        images = F.avg_pool2d(images, 2)  # a quarter of the work; the finest scale is then 2 pixels
        grey, side = images.mean(dim=1, keepdim=True), PATCH // 2
        waves = F.conv2d(F.pad(grey, (4,) * 4, mode="reflect"), self.gabor).unflatten(1, (12, 2)).square().sum(dim=2)
        pool = lambda t: F.avg_pool2d(t, side)  # noqa: E731
        mean = pool(images)
        spread = (pool(images.square()) - mean.square()).clamp_min(1e-6).log()
        around = F.avg_pool2d(F.pad(pool(waves), (1,) * 4, mode="replicate"), 3, 1)
        extremes = [F.max_pool2d(sign * grey, side) for sign in (1, -1)]
        rough = [(around[:, 4 * i : 4 * i + 4].mean(dim=1, keepdim=True) + 1e-5).log() for i in range(3)]
        peak = (F.max_pool2d(waves.sum(dim=1, keepdim=True), side) + 1e-5).log()
        return torch.cat([mean, spread, (pool(waves) + 1e-5).log(), *extremes, *rough, peak], dim=1).flatten(2).mT

    def tokens(self, pixels: Tensor, keep: Tensor) -> list[Tensor]:
        """Hidden states (B, 1 + kept, d) after each layer, on a subset of the patches."""
        vision = self.clip.vision_model
        hidden = vision.embeddings(pixels)
        hidden = vision.pre_layrnorm(torch.cat([hidden[:, :1], hidden[:, 1:][:, keep]], dim=1))
        states = []
        for layer in vision.encoder.layers:
            hidden = layer(hidden, None)
            states.append(hidden)
        return states

    def forward(self, scenes: Scenes, texts: dict, keep: Tensor) -> dict[str, Tensor]:
        """All losses on B scenes in two views, of which the first is clean."""
        images, bad = scenes.images.flatten(0, 1), scenes.bad.flatten()
        states = self.tokens(normalize(images), keep)
        last = self.clip.vision_model.post_layernorm(states[-1])
        compared = [*(states[i][:, 1:] for i in BANK_LAYERS), last[:, 1:]]

        pool = lambda masks: F.avg_pool2d(masks.flatten(0, 1)[:, None].float(), PATCH).flatten(1)[:, keep]  # noqa: E731
        hurt = pool(scenes.defects)
        share = torch.stack([pool(scenes.regions == region) for region in range(3)], dim=-1)
        scene = torch.arange(len(images) // 2, device=images.device).repeat(2)[:, None]
        purest, region = share.max(dim=-1)
        region = torch.where(hurt > 0.04, 3, torch.where((hurt > 0) | (purest < 0.9), -1, region))
        labels = torch.where(region < 0, -1, scene * 4 + region)

        target = self.scaling(self.patch_statistics(images)[:, keep].flatten(0, 1))
        read = [head(tokens).flatten(0, 1) for head, tokens in zip(self.statistics, compared, strict=True)]
        losses = {"statistics": sum(F.smooth_l1_loss(values, target) for values in read)}
        losses["local"] = sum(patch_contrast(tokens, labels) for tokens in compared)
        losses["outlier"] = sum(outlier_loss(tokens, hurt) for tokens in compared)
        clear = (hurt == 0) | (hurt > 0.04)
        losses["defect"] = sum(  # one layer before the last too, so that the class token can still collect it
            F.binary_cross_entropy_with_logits(
                self.defect(tokens).squeeze(-1)[clear], (hurt[clear] > 0.04).float(), pos_weight=hurt.new_tensor(8.0)
            )
            for tokens in (last[:, 1:], F.layer_norm(states[-2][:, 1:], (WIDTH,)))
        )
        image = F.normalize(self.clip.visual_projection(last[:, 0]), dim=-1)
        words = F.normalize(self.clip.get_text_features(**texts).pooler_output, dim=-1)
        caption, normal, abnormal = words.split(len(image))
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ caption.T
        same = (caption @ caption.T > 0.999).float()  # equal captions are not negatives
        same = same / same.sum(dim=1, keepdim=True)
        losses["clip"] = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        pairs = torch.stack([(image * words).sum(dim=1) for words in (normal, abnormal)], dim=1)
        losses["state"] = F.cross_entropy(pairs / 0.07, bad.long())
        return losses


def patch_contrast(tokens: Tensor, labels: Tensor, temperature: float = 0.1, sample: int = 1024) -> Tensor:
    """Supervised contrast of tokens by cosine: patches with one label attract, all others repel."""
    flat, names = F.normalize(tokens.flatten(0, 1).float(), dim=-1), labels.flatten()
    chosen = torch.nonzero(names >= 0).flatten()
    chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[:sample]]
    flat, names = flat[chosen], names[chosen]
    logits = flat @ flat.T / temperature
    itself = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    logits = logits.masked_fill(itself, -1e4)
    positive = (names[:, None] == names[None]) & ~itself
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    counts = positive.sum(dim=1)
    return -((log_share * positive).sum(dim=1) / counts.clamp_min(1))[counts > 0].mean()


def outlier_loss(tokens: Tensor, hurt: Tensor, temperature: float = 0.04) -> Tensor:
    """What a memory bank is used for: a defect must lie farther from the clean view than all that is sound (eq. 14).

    Args:
        tokens: (2B, n, d), clean views first.
        hurt: (2B, n) share of each patch that is defective.
        temperature: Cosine distances are divided by it.
    """
    bank, query = F.normalize(tokens.float(), dim=-1).chunk(2)
    nearest = (query @ bank.mT).amax(dim=2) / temperature
    spoilt = hurt.chunk(2)[1]
    sound = (-nearest).masked_fill(spoilt > 0, -1e4).logsumexp(dim=1, keepdim=True)
    margin = F.softplus(sound + nearest)
    found = spoilt > 0.04
    each = (margin * found).sum(dim=1) / found.sum(dim=1).clamp_min(1)
    return each.sum() / found.any(dim=1).sum().clamp_min(1)


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

    def __init__(self, world: DrawnWorld, batch: int, seed: int, every: int = 5, window: int = 50) -> None:
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
    parser.add_argument("--batch", type=int, default=8, help="scenes a step, each in two views")
    parser.add_argument("--patches", type=int, default=150, help="patches kept of 225, in 7 steps of 8")
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
    clip = make_clip(tokenizer, DrawnWorld(SIZE).draw(16, args.seed).images.flatten(0, 1))
    model, world = Pretraining(clip).to(args.device), DrawnWorld(SIZE, args.device)
    groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) == heavy], "weight_decay": 0.05 * heavy}
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
        torch.manual_seed(args.seed * 7919 + step)
        keep = torch.randperm((SIZE // PATCH) ** 2)[: 225 if step % 8 == 0 else args.patches].to(args.device)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            losses = model(scenes, texts, keep)
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
