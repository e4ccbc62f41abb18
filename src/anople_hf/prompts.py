"""Coupled prompts, and the stateless hooks that pass them through transformers' own CLIP.

Implements eq. 1-7 (sec. 3.1: prompts and their coupling) and the scale-aware prefix c of sec. 3.2.

- Prompts pass through CLIP's forward as the keyword argument `prompts`; pre-hooks take it out and write the slots.
- Nothing is stored on a module between calls, so threads, deepcopy, compile, export and DDP see the right prompts.
- Deep prompts replace the slots of the layer before (as in MaPLe), so every layer has the same number of tokens.
- So does `noise`, the latent anomalies of training: it is added to the patches before one layer.
- Text reserves placeholder tokens after SOS. Vision appends prompts after the patches, so CLS stays at 0. Prompts have
  no position, so appending them equals the paper's prepending.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel
from transformers import initialization as init
from transformers.utils.output_capturing import maybe_install_capturing_hooks


class CoupledPrompts(nn.Module):
    """P^t, P^v, f_{v->t}, f_{t->v} and the scale prefix c.

    Args:
        depth: J, layers with fresh prompts.
        num_text: C_t, vectors a layer of width `text_width`.
        num_visual: C_v, vectors a layer of width `visual_width`.
        text_width: d_t.
        visual_width: d_v.
        coupling: Direction of the coupling, see `AnoPLeConfig.coupling`.
        share_projections: One projection pair for all layers.
        num_views: N + 1 rows of the scale prefix, local crops first, the global view last; 0 for no prefix.

    Example:
        >>> prompts = CoupledPrompts(2, 4, 4, text_width=8, visual_width=12, num_views=5)
        >>> text, visual = prompts()
        >>> text[0].shape, visual[1].shape, prompts.prefix(torch.tensor([4, 0])).shape
        (torch.Size([8, 8]), torch.Size([8, 12]), torch.Size([2, 1, 12]))
    """

    def __init__(
        self,
        depth: int,
        num_text: int,
        num_visual: int,
        *,
        text_width: int,
        visual_width: int,
        coupling: str = "both",
        share_projections: bool = False,
        num_views: int = 0,
    ) -> None:
        super().__init__()
        num_text = 0 if coupling == "visual" else num_text
        num_visual = 0 if coupling == "text" else num_visual
        self.depth = depth
        self.text = nn.Parameter(torch.zeros(depth, num_text, text_width)) if num_text else None
        self.visual = nn.Parameter(torch.zeros(depth, num_visual, visual_width)) if num_visual else None
        # Each f exists only where eq. 6 uses it: an unused projection would be a setting that changes nothing.
        pairs = 1 if share_projections else depth
        self.vision_to_text = self.text_to_vision = None
        if num_visual and coupling in ("both", "v2t"):
            self.vision_to_text = nn.ModuleList(nn.Linear(visual_width, text_width) for _ in range(pairs))
        if num_text and coupling in ("both", "t2v"):
            self.text_to_vision = nn.ModuleList(nn.Linear(text_width, visual_width) for _ in range(pairs))
        self.scale_prefix = nn.Parameter(torch.zeros(num_views, visual_width)) if num_views else None

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw prompts and prefix from N(0, std^2); biases start at 0."""
        for parameter in (self.text, self.visual, self.scale_prefix):
            if parameter is not None:
                init.normal_(parameter, mean=0.0, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # the projections
                init.normal_(module.weight, mean=0.0, std=module.in_features**-0.5)
                init.zeros_(module.bias)

    def forward(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The prompts of both towers: `for_text()` and `for_vision()`."""
        return self.for_text(), self.for_vision()

    def for_text(self) -> tuple[Tensor, ...]:
        """P~t_j = [P^t_j, f_{v->t}(P^v_j)] (eq. 6): J tensors of shape (C_t + C_v, d_t), or () without any."""
        return self._fuse(self.text, self.visual, self.vision_to_text)

    def for_vision(self) -> tuple[Tensor, ...]:
        """P~v_j = [P^v_j, f_{t->v}(P^t_j)] (eq. 6): J tensors of shape (C_v + C_t, d_v), or () without any."""
        return self._fuse(self.visual, self.text, self.text_to_vision)

    def _fuse(self, own: Tensor | None, other: Tensor | None, projections: nn.ModuleList | None) -> tuple[Tensor, ...]:
        fused = []
        for layer in range(self.depth):
            parts = [] if own is None else [own[layer]]
            if projections is not None and other is not None:
                parts.append(projections[layer % len(projections)](other[layer]))
            if parts:
                fused.append(torch.cat(parts))
        return tuple(fused)

    def prefix(self, views: Tensor) -> Tensor | None:
        """The rows of c for a batch of views.

        Args:
            views: (B,) long, 0..N-1 for the local crops (row-major), N or -1 for the global view.

        Returns:
            (B, 1, d_v), or None without a prefix.
        """
        return None if self.scale_prefix is None else self.scale_prefix[views][:, None]


def write_slots(hidden: Tensor, prompts: Tensor, start: int) -> Tensor:
    """Overwrite the token slots `start .. start + C` of (B, T, d) with prompts (C, d) or (B, C, d)."""
    prompts = prompts.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat([hidden[:, :start], prompts, hidden[:, start + prompts.shape[1] :]], dim=1)


def feed_text_encoder(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], positions: nn.Embedding
) -> tuple[tuple, dict[str, Any]]:
    """Pre-hook of the text encoder: write P~t_0, plus its positions, over the placeholders after SOS (eq. 2, 7)."""
    prompts: Sequence[Tensor] | None = kwargs.get("prompts")
    if prompts:
        first = prompts[0] + positions.weight[1 : 1 + prompts[0].shape[0]]
        kwargs = {**kwargs, "inputs_embeds": write_slots(kwargs["inputs_embeds"], first, start=1)}
    return args, kwargs


def feed_vision_encoder(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], norm: nn.LayerNorm
) -> tuple[tuple, dict[str, Any]]:
    """Pre-hook of the vision encoder: append the prefix c_i and P~v_0 after the patches (eq. 4, 7).

    CLIP has already normalized its own tokens, so the new ones go through the same layer norm.
    """
    kwargs = dict(kwargs)
    prefix: Tensor | None = kwargs.pop("prefix", None)
    prompts: Sequence[Tensor] | None = kwargs.get("prompts")
    hidden = kwargs["inputs_embeds"]
    extra = [] if prefix is None else [prefix]
    if prompts:
        extra.append(prompts[0].expand(hidden.shape[0], -1, -1))
    if extra:
        tokens = norm(torch.cat(extra, dim=1).to(norm.weight.dtype))
        kwargs["inputs_embeds"] = torch.cat([hidden, tokens.to(hidden.dtype)], dim=1)
    return args, kwargs


def feed_layer(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], index: int, append: bool
) -> tuple[tuple, dict[str, Any]]:
    """Pre-hook of encoder layer `index`: in layers 1..J-1 `prompts` replace the slots (eq. 3, 5); `noise` is added."""
    kwargs = dict(kwargs)
    prompts: Sequence[Tensor] | None = kwargs.pop("prompts", None)
    noise: tuple[int, Tensor] | None = kwargs.pop("noise", None)
    hidden, *rest = args  # CLIPEncoder calls its layers positionally
    if noise is not None and noise[0] == index:
        hidden = add_noise(hidden, noise[1])
    if prompts and 0 < index < len(prompts):
        start = hidden.shape[1] - prompts[index].shape[-2] if append else 1
        hidden = write_slots(hidden, prompts[index], start)
    return (hidden, *rest), kwargs


def add_noise(hidden: Tensor, noise: Tensor) -> Tensor:
    """Make the last K of B views latent anomalies: noise on their patches (eq. 10, read as z_0 of eq. 4). Ours.

    Args:
        hidden: (B, 1 + n + C, d) tokens in front of a layer, patches behind CLS.
        noise: (K, n, d) in units of the patches' own spread: the deviation of each channel over a view's patches.
            So it means the same in every layer of every backbone.

    Returns:
        As `hidden`.

    Example:
        >>> hidden = torch.tensor([[[9.0], [1.0], [3.0]]]).repeat(2, 1, 1)  # CLS, and two patches that deviate by 1
        >>> add_noise(hidden, torch.full((1, 2, 1), 0.5)).flatten(1).tolist()
        [[9.0, 1.0, 3.0], [9.0, 1.5, 3.5]]
    """
    patches = slice(1, 1 + noise.shape[1])
    noisy = hidden[-noise.shape[0] :]
    spread = noisy[:, patches].detach().std(dim=1, keepdim=True, correction=0)
    change = torch.zeros_like(noisy)
    change[:, patches] = (noise * spread).to(hidden.dtype)
    return torch.cat([hidden[: -noise.shape[0]], noisy + change])


def first_layers(vision: CLIPVisionModel, count: int) -> CLIPVisionModel:
    """The tower cut off after its first `count` layers. It shares modules and hooks with the unchanged original.

    Its hidden states equal those of the whole tower; its other outputs have no meaning.
    """
    maybe_install_capturing_hooks(vision)  # else they would be put onto the shared layers a second time
    tower, encoder = copy.copy(vision), copy.copy(vision.encoder)
    encoder._modules = {"layers": vision.encoder.layers[:count]}
    tower._modules = vision._modules | {"encoder": encoder}
    return tower


def attach_prompts(clip: CLIPModel) -> None:
    """Register the hooks on both towers of a `CLIPModel`.

    Without the keyword arguments `prompts` and `prefix`, CLIP's outputs are unchanged, bit by bit.
    """
    text = cast(CLIPTextModel, clip.text_model)
    vision = cast(CLIPVisionModel, clip.vision_model)
    text.encoder.register_forward_pre_hook(
        partial(feed_text_encoder, positions=text.embeddings.position_embedding), with_kwargs=True
    )
    vision.encoder.register_forward_pre_hook(partial(feed_vision_encoder, norm=vision.pre_layrnorm), with_kwargs=True)
    for tower, append in ((text, False), (vision, True)):
        for index, layer in enumerate(tower.encoder.layers):
            layer.register_forward_pre_hook(partial(feed_layer, index=index, append=append), with_kwargs=True)
