"""Train the embedded tiny CLIP from scratch on drawn scenes, on a CPU or a GPU; deterministic from a seed, resumable.

Where in the paper: it stands in for the backbone of sec. 4.1 where none can be downloaded. Recipe and size are ours.

    python scripts/pretrain_tiny_clip.py --output src/anople_hf/assets/tiny_clip --minutes 45

What it learns, all at once:
- CLIP's own: images agree with their captions, and with "abnormal ..." only if they show a defect.
- Local: patch tokens of one material in two views of a scene agree, at any position; others and defects differ. This is
  asked of the raw tokens of the layers that a memory bank compares, by the cosine it compares them with.
- Low-level: a linear head can read each patch's colour, contrast and oriented energies from its token.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
from drawn_world import COLOURS, DEFECTS, MATERIALS, SHAPES, DrawnWorld
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, LAYERS, PATCH, SIZE, JOINT = 192, 6, 16, 240, 128
BANK_LAYERS = (1, 3)
WORDS = """a an of the photo close up view object part product item abnormal normal damaged broken perfect intact flawless
defective bottle cable capsule carpet grid hazelnut leather metal nut pill screw tile toothbrush transistor wood zipper
candle cashew chewing gum fryum macaroni printed circuit board pipe magnetic brain liver retinal oct switch tape toy brick
usb washer bolt spring wheel plate bearing fabric glass plastic ceramic steel rubber paper label connector tube bracket
surface cap box chip coin battery button lens lid wire coil biscuit gasket valve"""


def make_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE of about 1,500 tokens: knows the words above whole, spells everything else."""
    texts = [*WORDS.split(), *MATERIALS, *SHAPES, *DEFECTS, *COLOURS]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """6 layers x 192 for images, 4 x 128 for texts, 15 x 15 patches as the paper's backbone."""
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 6,
              "image_size": SIZE, "patch_size": PATCH, "hidden_act": "gelu"}  # fmt: skip
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
            "vocab_size": len(tokenizer), "max_position_embeddings": 77, "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=JOINT))
    embeddings = clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(local_filters(WIDTH))
        embeddings.position_embedding.weight.normal_(std=0.02)  # small: a material should look alike everywhere
        for layer in clip.vision_model.encoder.layers:
            for linear in (layer.mlp.fc1, layer.mlp.fc2, layer.self_attn.v_proj, layer.self_attn.out_proj):
                nn.init.xavier_uniform_(linear.weight)
    return clip


def local_filters(count: int) -> Tensor:
    """First filters (count, 3, 16, 16): small Gabor waves at many places of a patch, and its mean colours."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(PATCH) - 7.5, torch.arange(PATCH) - 7.5, indexing="ij")
    colour = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]), dim=1)
    filters = [colour[i % 3].view(3, 1, 1) * torch.exp(-(x**2 + y**2) / 90) for i in range(3)]
    while len(filters) < count:
        r = torch.rand(6, generator=generator)
        sigma, angle = 1.2 * 3 ** r[0], r[1] * math.pi
        cx, cy = (r[2] - 0.5) * 11, (r[3] - 0.5) * 11
        u = (x - cx) * torch.cos(angle) + (y - cy) * torch.sin(angle)
        wave = torch.cos(u * 2.2 / sigma + r[4] * 2 * math.pi) * torch.exp(
            -((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)
        )
        which = 0 if r[5] < 0.75 else 1 if r[5] < 0.88 else 2
        filters.append(colour[which].view(3, 1, 1) * (wave - wave.mean()))
    stacked = torch.stack(filters)
    return stacked / stacked.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 0.5


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
        """(B, n, 24): mean and deviation of the colours, log energies of 4 directions x 3 scales, darkest, brightest."""
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

    def forward(
        self, images: Tensor, regions: Tensor, defects: Tensor, texts: dict, bad: Tensor, keep: Tensor
    ) -> dict:
        """All losses on 2B images; the first B and the last B are two views of the same scenes."""
        mean, std = (torch.tensor(c, device=images.device).view(1, 3, 1, 1) for c in (MEAN, STD))
        states = self.tokens((images - mean) / std, keep)
        patches = [state[:, 1:] for state in states]
        last = self.clip.vision_model.post_layernorm(states[-1])
        compared = [*(patches[i] for i in BANK_LAYERS), last[:, 1:]]

        share = F.avg_pool2d(regions[:, None].float(), PATCH).flatten(1)[:, keep]
        hurt = F.avg_pool2d(defects[:, None].float(), PATCH).flatten(1)[:, keep]
        scene = torch.arange(len(images) // 2, device=images.device).repeat(2)[:, None]
        kind = torch.where(share > 0.9, 1, torch.where(share < 0.1, 0, -1))
        kind = torch.where(hurt > 0.06, 2, torch.where(hurt > 0, -1, kind))
        labels = torch.where(kind < 0, -1, scene * 3 + kind)

        target = self.scaling(self.patch_statistics(images)[:, keep].flatten(0, 1))
        losses = {"statistics": sum(
            F.smooth_l1_loss(head(tokens).flatten(0, 1), target) for head, tokens in zip(self.statistics, compared, strict=True)
        )}  # fmt: skip
        losses["local"] = sum(patch_contrast(tokens, labels) for tokens in compared)
        seen = hurt.flatten()
        logits = self.defect(last[:, 1:]).flatten()
        clear = (seen == 0) | (seen > 0.06)
        losses["defect"] = F.binary_cross_entropy_with_logits(
            logits[clear], (seen[clear] > 0.06).float(), pos_weight=logits.new_tensor(4.0)
        )
        image = F.normalize(self.clip.visual_projection(last[:, 0]), dim=-1)
        words = F.normalize(self.clip.get_text_features(**texts).pooler_output, dim=-1)
        caption, normal, abnormal = words.chunk(3)
        scale = self.clip.logit_scale.exp().clamp(max=100)
        agree = torch.cat([caption, caption])
        logits = scale * image @ agree.T
        same = (agree @ agree.T > 0.999).float()  # equal captions are not negatives
        same = same / same.sum(dim=1, keepdim=True)
        losses["clip"] = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        pairs = torch.stack([(image * torch.cat([w, w])).sum(dim=1) for w in (normal, abnormal)], dim=1)
        losses["state"] = F.cross_entropy(pairs / 0.07, bad.long().repeat(2))
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


def write_texts(tokenizer: CLIPTokenizer, captions: list[str], states: list[str], device: str) -> dict[str, Tensor]:
    """Three texts a scene: its caption with its state, a normal one, an abnormal one."""
    full = [f"{state} {caption}." if state else f"{caption}." for caption, state in zip(captions, states, strict=True)]
    things = [c.split()[-1] if i % 3 == 0 else c if i % 3 == 1 else "object" for i, c in enumerate(captions)]
    texts = [*full, *(f"{t}." for t in things), *(f"abnormal {t}." for t in things)]
    return dict(tokenizer(texts, padding=True, return_tensors="pt").to(device))


@torch.no_grad()
def validate(clip: CLIPModel, world: DrawnWorld, tasks: int = 24, seed: int = 10**6) -> dict[str, float]:
    """Drawn few-shot tasks: a bank from one clean view of a scene, is the defect in another view the farthest patch?

    Returns the share of (clean, defective) pairs ranked right, per layer and for the bank layers together.
    """
    from torch.nn.functional import normalize

    mean, std = (torch.tensor(c, device=world.device).view(1, 3, 1, 1) for c in (MEAN, STD))
    right: dict[str, list[float]] = {}
    for task in range(tasks):
        clean, spoilt = world.draw(8, seed + task, defective=0.0), world.draw(8, seed + task, defective=1.0)

        def encode(images: Tensor) -> Tensor:
            out = clip.vision_model((images - mean) / std, output_hidden_states=True)
            return torch.stack([normalize(h[:, 1:], dim=-1) for h in out.hidden_states[1:]])

        bank, good, bad = encode(clean.images[0]), encode(clean.images[1]), encode(spoilt.images[1])
        far = [0.5 - 0.5 * torch.einsum("lbnd,lbmd->lbnm", q, bank).amax(dim=3) for q in (good, bad)]
        for name, layers in {**{str(i): [i] for i in range(LAYERS)}, "bank": list(BANK_LAYERS)}.items():
            peaks = [f[layers].mean(dim=0).amax(dim=1) for f in far]
            right.setdefault(name, []).append((peaks[1][:, None] > peaks[0][:, None]).float().mean().item())
    return {name: round(sum(v) / len(v), 4) for name, v in right.items()}


def export(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` reads, in float16, at once."""
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    half = CLIPModel(clip.config)
    half.load_state_dict({name: value.detach().cpu() for name, value in clip.state_dict().items()})
    half.half().save_pretrained(work)
    tokenizer.save_pretrained(work)
    CLIPImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_center_crop=False).save_pretrained(work)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def main() -> None:
    """Train until the budget is spent, then export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished backbone")
    parser.add_argument("--state", type=Path, default=Path("runs/pretrain.pt"), help="where training is resumed from")
    parser.add_argument("--steps", type=int, default=6000, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=1e9, help="shorten the schedule to fit this budget")
    parser.add_argument("--batch", type=int, default=12, help="scenes a step, each in two views")
    parser.add_argument("--repeats", type=int, default=2, help="steps on each drawn batch, with other patches")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = Pretraining(make_clip(tokenizer)).to(args.device)
    world = DrawnWorld(SIZE, args.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
    )
    first, spent = 0, 0.0
    if args.state.exists():
        saved = torch.load(args.state, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, spent = saved["step"], saved["seconds"]
    args.state.parent.mkdir(parents=True, exist_ok=True)
    started = time.time() - spent
    scenes, step = None, first
    while True:
        # With a time budget the schedule follows the clock, so that the rate always ends at 0.
        progress = max(step / args.steps, (time.time() - started) / (60 * args.minutes))
        if progress >= 1:
            break
        if scenes is None or step % args.repeats == 0:
            scenes = world.draw(args.batch, seed=args.seed + 1 + step // args.repeats)
            texts = write_texts(tokenizer, scenes.captions, scenes.states, args.device)
            bad = torch.tensor([bool(state) for state in scenes.states], device=args.device)
        rate = args.learning_rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(args.seed * 7919 + step)
        turn, flip = step % 4, step % 2

        def moved(t: Tensor, turn: int = turn, flip: int = flip) -> Tensor:
            t = torch.rot90(t.flatten(0, 1), turn, dims=(-2, -1))
            return t.flip(-1) if flip else t

        keep = torch.randperm((SIZE // PATCH) ** 2, device=args.device)[: 225 if step % 8 == 0 else 112]
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            losses = model(moved(scenes.images), moved(scenes.regions), moved(scenes.defects), texts, bad, keep)
        weights = {"statistics": 1.0, "local": 1.0, "defect": 1.0, "clip": 0.5, "state": 0.5}
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            values = " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            print(
                f"step {step} {100 * progress:.0f} % {(time.time() - started) / 60:.1f} min lr {rate:.1e} {values}",
                flush=True,
            )
        if step % 300 == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                        "seconds": time.time() - started}, args.state.with_suffix(".tmp"))  # fmt: skip
            args.state.with_suffix(".tmp").replace(args.state)
            export(model.clip, tokenizer, args.output)
        if step % 600 == 0:
            print(f"validation at step {step}: {validate(model.clip.eval(), world, 8)}", flush=True)
            model.train()
    print(f"validation: {validate(model.clip.eval(), world)}", flush=True)
    export(model.clip, tokenizer, args.output)


if __name__ == "__main__":
    main()
