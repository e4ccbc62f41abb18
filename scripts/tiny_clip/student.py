"""The tiny CLIP before its first step: a plain `CLIPModel`, its tokenizer, and weights that start as a convolution.

The vision tower's first four layers carry the teacher's patch features in the residual stream itself (256 numbers, no
head), so that a memory bank compares them as they are. The two layers above and the text tower learn words.
"""

import gzip
import math
from pathlib import Path

import torch
from teacher import GRID, SIDE, WIDTH
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionModel

TRUNK = 4
"""Layers that learn the teacher's patch features; a memory bank takes the tokens behind the last of them."""
ABOVE = 2
PATCH = 16
HEADS = 8
FREQUENCIES = 8
TEXT_WIDTH, TEXT_LAYERS, JOINT = 192, 4, 192
MERGES = 2600
CONTEXT = 77
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EXTRA = 9
"""Tokens that AnoPLe appends behind the patches: one row of the scale prefix, and eight prompts."""


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-level BPE, cut to its first merges: common words are one token, all others are spelled."""
    bpe = Path(__file__).parents[2] / "src/anople_hf/assets/clip_bpe/merges.txt.gz"
    lines = gzip.decompress(bpe.read_bytes()).decode().splitlines()[:MERGES]
    merges = [tuple(line.split()) for line in lines]
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def make_student(tokenizer: CLIPTokenizer, patches: Tensor, seed: int) -> CLIPModel:
    """The untrained CLIP.

    Args:
        tokenizer: Its own.
        patches: (N, 768) normalized 16 x 16 patches of photos; the patch embedding starts as their whitened principal
            components.
        seed: Of the random weights.
    """
    torch.manual_seed(seed)
    first, last = (tokenizer.convert_tokens_to_ids(t) for t in ("<|startoftext|>", "<|endoftext|>"))
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": TRUNK + ABOVE,
              "num_attention_heads": HEADS, "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu"}  # fmt: skip
    text = {"hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": 6, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT,
            "bos_token_id": first, "eos_token_id": last, "pad_token_id": last, "hidden_act": "gelu"}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=JOINT))
    _start_as_convolution(clip.vision_model)
    _start_as_components(clip.vision_model, patches)
    return clip


@torch.no_grad()
def _start_as_convolution(tower: CLIPVisionModel) -> None:
    """Each head of the trunk looks at one of the eight neighbors, by its position's code, before anything is learned.

    The frequencies pi k / 8 make codes of different places almost orthogonal, so each head
    finds its neighbor from the first step on; a randomly started ViT spends most of a short training on learning that.
    """
    place = torch.arange(GRID, dtype=torch.float32)
    waves = torch.arange(1, FREQUENCIES + 1) * math.pi / FREQUENCIES
    axis = torch.cat([torch.cos(place[:, None] * waves), torch.sin(place[:, None] * waves)], dim=1)  # (15, 16)
    code = torch.cat([axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)], dim=2).flatten(0, 1)
    width = code.shape[1]
    positions = tower.embeddings.position_embedding.weight
    positions.normal_(0, 0.02)
    positions[1:, :width] = code
    offsets = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    gain = 2.1  # sharper attention starts closer to a convolution, and learns half as fast
    for layer in tower.encoder.layers[:TRUNK]:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.normal_(0, 0.01)
            projection.bias.zero_()
        for head, (down, right) in enumerate(offsets):
            rows = slice(head * width, (head + 1) * width)
            turn = torch.zeros(width, width)
            for block, step in ((0, down), (1, right)):
                for k in range(FREQUENCIES):
                    c, s = block * 2 * FREQUENCIES + k, block * 2 * FREQUENCIES + FREQUENCIES + k
                    angle = torch.tensor(step * math.pi * (k + 1) / FREQUENCIES)
                    turn[c, c], turn[c, s] = torch.cos(angle), -torch.sin(angle)
                    turn[s, c], turn[s, s] = torch.sin(angle), torch.cos(angle)
            attention.q_proj.weight[rows, :width] += gain * turn
            attention.k_proj.weight[rows, :width] += gain * torch.eye(width)


@torch.no_grad()
def _start_as_components(tower: CLIPVisionModel, patches: Tensor) -> None:
    """The patch embedding's channels that are free of position codes start as whitened principal components."""
    free = WIDTH - 4 * FREQUENCIES
    centered = (patches - patches.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(centered))
    values, vectors = values.flip(0)[:free], vectors.flip(1)[:, :free]
    signs = torch.where(vectors[vectors.abs().argmax(dim=0), torch.arange(free)] < 0, -1.0, 1.0)
    weights = (vectors * signs / (values + values[free // 2]).sqrt()).T
    embedding = tower.embeddings.patch_embedding.weight
    embedding.zero_()
    embedding[4 * FREQUENCIES :] = weights.float().view(free, 3, PATCH, PATCH)


def normalize(photos: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to CLIP's mean and deviation."""
    mean, std = (torch.tensor(v, device=photos.device).view(3, 1, 1) for v in (MEAN, STD))
    return (photos.float() / 255 - mean) / std


def patches_of(photos: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to (B * n, 768) normalized patches."""
    return F.unfold(normalize(photos), PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)


def trunk_tokens(clip: CLIPModel, photos: Tensor, extra: list[Tensor] | None = None) -> Tensor:
    """Tokens (B, 1 + 225 + extra, 256) behind the trunk: CLS, the patches, and what was appended.

    Args:
        clip: The student.
        photos: (B, 3, 240, 240) uint8.
        extra: `TRUNK` tensors (EXTRA, 256) that are appended, and replaced in every layer, as AnoPLe's prompts are.
    """
    tower = clip.vision_model
    hidden = tower.embeddings(normalize(photos))
    kept = hidden.shape[1]
    if extra:
        hidden = torch.cat([hidden, extra[0].expand(len(hidden), -1, -1)], dim=1)
    hidden = tower.pre_layrnorm(hidden)
    for index, layer in enumerate(tower.encoder.layers[:TRUNK]):
        if extra and index:
            hidden = torch.cat([hidden[:, :kept], extra[index].to(hidden.dtype).expand(len(hidden), -1, -1)], dim=1)
        hidden = layer(hidden, None)
    return hidden
