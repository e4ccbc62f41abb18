"""The tiny CLIP before its first step: a small architecture, and first weights that already describe textures.

Where in the paper: the backbone of sec. 4.1; its size and its first weights are ours.

A training of minutes has no time to find out about edges. So the patch embedding starts as Gabor waves, and the first
feed-forward block as what classic texture descriptors do with them: rectify, then add up what differs in place and
phase only.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, LAYERS, PATCH, SIZE, JOINT = 192, 6, 16, 240, 128
DIRECTIONS, SCALES, COPIES = 8, (1.1, 2.0, 3.6), 7
WAVES = DIRECTIONS * len(SCALES) * COPIES
ANCHOR = 4.0
"""Two constant entries of a token, +ANCHOR and -ANCHOR: without them LayerNorm blows up the noise of flat patches."""


def make_clip(tokenizer: CLIPTokenizer, images: Tensor) -> CLIPModel:
    """6 layers x 192 for images, 4 x 128 for texts, 15 x 15 patches as the paper's backbone.

    Args:
        tokenizer: Gives the vocabulary and the special ids.
        images: (B, 3, 240, 240) in 0..1, on which the first weights are brought to scale.
    """
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
              "num_attention_heads": 6, "image_size": SIZE, "patch_size": PATCH, "hidden_act": "gelu"}  # fmt: skip
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
            "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=JOINT))
    with torch.no_grad():
        _set_first_weights(clip, normalize(images))
    return clip


def normalize(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in 0..1 as CLIP wants them."""
    mean, std = (torch.tensor(c, device=images.device).view(1, 3, 1, 1) for c in (MEAN, STD))
    return (images - mean) / std


def _set_first_weights(clip: CLIPModel, pixels: Tensor) -> None:
    vision = clip.vision_model
    filters = local_filters(WIDTH - 2)
    scale = F.conv2d(pixels, filters, stride=PATCH).std(dim=(0, 2, 3))
    filters = torch.cat([filters / scale.view(-1, 1, 1, 1), torch.zeros(2, 3, PATCH, PATCH)])
    vision.embeddings.patch_embedding.weight.copy_(filters)
    places = vision.embeddings.position_embedding.weight.normal_(std=0.02)  # small: a material is alike everywhere
    places[:, -2:] = torch.tensor([ANCHOR, -ANCHOR])
    for layer in vision.encoder.layers:
        for linear in (layer.mlp.fc1, layer.mlp.fc2, layer.self_attn.v_proj, layer.self_attn.out_proj):
            nn.init.xavier_uniform_(linear.weight)
        layer.mlp.fc2.weight.mul_(0.5)
        layer.self_attn.out_proj.weight.mul_(0.5)
    _rectify_and_pool(vision.encoder.layers[0].mlp)
    # Start from centred tokens: a shared offset would make all cosines alike.
    vision.pre_layrnorm.bias.sub_(vision.pre_layrnorm(vision.embeddings(pixels))[:, 1:].mean(dim=(0, 1)))
    tokens = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in vision.encoder.layers:
        before = tokens
        tokens = layer(before, None)
        layer.mlp.fc2.bias.sub_(tokens[:, 1:].mean(dim=(0, 1)))
        tokens = layer(before, None)


def _rectify_and_pool(mlp: nn.Module, gain: float = 2.0, pooled: float = 12.0, forget: float = 0.0) -> None:
    """Set a feed-forward block to compute |wave| summed over place and phase, and to forget most of the wave itself.

    gelu(x) + gelu(-x) is a soft |x|, and gelu(x) - gelu(-x) is x: one pair of hidden units a wave gives both.
    """
    count, groups = WAVES, WAVES // COPIES
    target = nn.init.orthogonal_(torch.empty(groups, WIDTH)).repeat_interleave(COPIES, dim=0)  # a direction a group
    identity = torch.eye(count, WIDTH)
    mlp.fc1.weight[: 2 * count] = torch.cat([gain * identity, -gain * identity])
    energy, raw = pooled / (2 * COPIES) * target, forget / gain * identity
    mlp.fc2.weight[:, : 2 * count] = torch.cat([energy - raw, energy + raw]).T


def local_filters(count: int) -> Tensor:
    """Filters (count, 3, 16, 16): Gabor waves at several places of a patch, then colours, their slopes and edges."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(PATCH) - 7.5, torch.arange(PATCH) - 7.5, indexing="ij")
    grey, red, blue = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]), dim=1).view(3, 3, 1, 1)

    def wave(sigma: float, angle: float) -> Tensor:
        cx, cy, phase = torch.rand(3, generator=generator)
        cx, cy = (cx - 0.5) * (13 - 2 * sigma), (cy - 0.5) * (13 - 2 * sigma)
        u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        window = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        pattern = torch.cos(u * 2 / sigma + phase * 2 * math.pi) * window
        return pattern - window * pattern.sum() / window.sum()

    filters = [grey * wave(sigma, math.pi * d / DIRECTIONS)
               for sigma in SCALES for d in range(DIRECTIONS) for _ in range(COPIES)]  # fmt: skip
    blob = torch.exp(-(x**2 + y**2) / 90)
    for colour in (grey, red, blue):
        filters += [colour * blob, colour * blob * x, colour * blob * y]
    while len(filters) < count:
        filters.append((red, blue)[len(filters) % 2] * wave(SCALES[1 + len(filters) // 2 % 2], len(filters) * 0.7))
    return torch.stack(filters[:count])
