"""The tiny CLIP before its first step: a small architecture, and first weights that already describe textures.

Where in the paper: the backbone of sec. 4.1; its size and its first weights are ours.

A training of minutes has no time to find out about waves and energies: by gradient steps alone, tokens explained 64 %
of the variance of `texture_teacher`'s descriptors after 400 steps. So the patch embedding starts as random sums of
Gabor waves all over the patch, the first feed-forward block rectifies them at two levels, and its second matrix is
the least-squares fit of the descriptors: 78 % before the first step.
"""

import math
from collections.abc import Callable

import torch
from texture_teacher import OPPONENT
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, LAYERS, PATCH, SIZE, JOINT = 192, 6, 16, 240, 128
PLAN = (
    (0, 0, 56),
    (1, 0, 36),
    (2, 0, 20),
    (3, 0, 8),
    (1, 1, 16),
    (1, 2, 16),
    (2, 1, 8),
    (2, 2, 8),
    (3, 1, 4),
    (3, 2, 4),
)
"""Random sums of waves: octave, colour channel, how many; a quarter of them in each of four directions."""
ANCHOR = 12.0
"""Two constant entries of a token, +ANCHOR and -ANCHOR: LayerNorm would otherwise hide how strong a contrast is."""
WHISPER = 0.1
"""Size of the raw waves in the residual stream, small against the descriptors made of them."""


def make_clip(tokenizer: CLIPTokenizer, images: Tensor, targets: Tensor, constant: float) -> CLIPModel:
    """6 layers x 192 for images, 4 x 128 for texts, 15 x 15 patches as the paper's backbone.

    Args:
        tokenizer: Gives the vocabulary and the special ids.
        images: (B, 3, 240, 240) in 0..1, on which the first weights are fitted.
        targets: (B, n, k) descriptors that the first layer's tokens shall hold in their first k entries.
        constant: What their last two entries shall hold, with opposite signs.
    """
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
              "num_attention_heads": 6, "image_size": SIZE, "patch_size": PATCH, "hidden_act": "gelu"}  # fmt: skip
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
            "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=JOINT))
    with torch.no_grad():
        _set_first_weights(clip, images, targets, constant)
    return clip


def normalize(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in 0..1 as CLIP wants them."""
    mean, std = (torch.tensor(c, device=images.device).view(1, 3, 1, 1) for c in (MEAN, STD))
    return (images - mean) / std


def _set_first_weights(clip: CLIPModel, images: Tensor, targets: Tensor, constant: float) -> None:
    vision = clip.vision_model
    waves = wave_sums()
    scale = F.conv2d(normalize(images[:64]), waves, stride=PATCH).std(dim=(0, 2, 3))
    waves = waves / scale.view(-1, 1, 1, 1)
    vision.embeddings.patch_embedding.weight.copy_(torch.cat([waves, waves.new_zeros(2, *waves.shape[1:])]))
    places = vision.embeddings.position_embedding.weight.normal_(std=0.1)  # small: a material is alike everywhere
    places[:, -2:] = torch.tensor([ANCHOR, -ANCHOR])
    vision.pre_layrnorm.weight.fill_(WHISPER)
    for layer in vision.encoder.layers:  # near the identity, but for the first block below
        for linear, gain in ((layer.mlp.fc1, 1.0), (layer.mlp.fc2, 0.1), (layer.self_attn.v_proj, 1.0),
                             (layer.self_attn.out_proj, 0.02)):  # fmt: skip
            nn.init.xavier_uniform_(linear.weight, gain)
    first = vision.encoder.layers[0]
    _rectify(first.mlp.fc1)

    def units(part: Tensor) -> Tensor:
        hidden = vision.pre_layrnorm(vision.embeddings(normalize(part)))
        hidden = hidden + first.self_attn(first.layer_norm1(hidden))[0]
        return first.mlp.activation_fn(first.mlp.fc1(first.layer_norm2(hidden)))[:, 1:]

    wanted = targets.new_zeros(*targets.shape[:2], WIDTH)
    wanted[..., : targets.shape[-1]] = targets
    wanted[..., -2:] = torch.tensor([constant, -constant])
    fitted = least_squares(units, images, wanted)
    first.mlp.fc2.weight.copy_(fitted[:-1].T)
    first.mlp.fc2.bias.copy_(fitted[-1])


def _rectify(linear: nn.Linear, gain: float = 8.0, levels: tuple[float, ...] = (0.0, 3.0)) -> None:
    """Units gelu(gain w - level) and gelu(-gain w - level) of each wave w: their sums are functions of |w|."""
    rows = [(sign * gain * torch.eye(WIDTH)[: WIDTH - 2], level) for level in levels for sign in (1, -1)]
    weight = torch.cat([matrix for matrix, _ in rows])
    linear.weight[: len(weight)] = weight
    linear.bias.zero_()
    linear.bias[: len(weight)] = -torch.tensor([level for _, level in rows]).repeat_interleave(WIDTH - 2)


def least_squares(units: Callable[[Tensor], Tensor], images: Tensor, wanted: Tensor, ridge: float = 1e-5) -> Tensor:
    """Weights (u + 1, d), the last row a bias, that turn units (B, n, u) into `wanted` (B, n, d)."""
    gram = moment = None
    for part, aim in zip(images.split(16), wanted.split(16), strict=True):
        found = units(part).flatten(0, 1)
        found = torch.cat([found, found.new_ones(len(found), 1)], dim=1).double()
        gram = found.T @ found + (0 if gram is None else gram)
        moment = found.T @ aim.flatten(0, 1).double() + (0 if moment is None else moment)
    assert gram is not None and moment is not None
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, moment).float()


def wave_sums() -> Tensor:
    """Filters (WIDTH - 2, 3, 16, 16): the sums of `PLAN`, then blurred colours at two sizes and their slopes."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(PATCH) - 7.5, torch.arange(PATCH) - 7.5, indexing="ij")
    colours = torch.tensor(OPPONENT).view(3, 3, 1, 1)
    filters = [colours[channel] * _wave_sum(octave, math.pi * (i % 4) / 4, x, y, generator)
               for octave, channel, count in PLAN for i in range(count)]  # fmt: skip
    for size in (2.0, 5.0):
        filters += [colour * torch.exp(-(x**2 + y**2) / (2 * size**2)) for colour in colours]
    window = torch.exp(-(x**2 + y**2) / 90)
    filters += [colour * window * slope for colour in colours for slope in (x, y)]
    missing = WIDTH - 2 - len(filters)
    filters += [colours[0] * _wave_sum(0, math.pi * (i % 4) / 4, x, y, generator) for i in range(missing)]
    return torch.stack(filters)


def _wave_sum(
    octave: int, angle: float, x: Tensor, y: Tensor, generator: torch.Generator, reach: float = 5.0
) -> Tensor:
    """Gabor waves of one octave and direction in random phases all over the patch, weaker towards its border.

    The square of its response is, on average, the energy of that octave and direction around the patch's centre.
    """
    sigma = 2.0**octave
    per_side = int(PATCH / max(1.0, 0.7 * sigma))
    centres = (torch.arange(per_side) + 0.5) * PATCH / per_side - PATCH / 2
    total = torch.zeros_like(x)
    for cy in centres.tolist():
        for cx in centres.tolist():
            phase = 2 * math.pi * torch.rand((), generator=generator).item()
            u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
            near = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2) - (cx**2 + cy**2) / (4 * reach**2))
            total = total + torch.cos(2 * u / sigma + phase) * near
    return total - total.mean()
