"""`attention_maps()`: where CLS and the scale prefixes attend in the last layer, as maps over the photo.

Implements Figure 5: attention of the global-view prefix, the local-view prefix and [CLS].
"""

import torch
from torch import Tensor

from ..configuration_anople import LOCAL_VIEWS
from ..modeling_anople import AnoPLeModel


@torch.inference_mode()
def attention_maps(model: AnoPLeModel, pixel_values: Tensor, *, view: int | None = None) -> dict[str, Tensor]:
    """Attention of CLS and the prefix to the patches, averaged over the heads of the last layer.

    Args:
        model: A model, usually with a scale prefix.
        pixel_values: (B, 3, S, S) from the processor: photos, or one of their crops.
        view: Row of the scale prefix, 0..3 for the crops (row-major); None for the global view.

    Returns:
        `cls` and, if the model has one, `prefix`: (B, g, g); each map sums to 1.

    Raises:
        ValueError: There is no such view, or the model has no prefix.
    """
    if view is not None and (model.prompts.scale_prefix is None or not 0 <= view < LOCAL_VIEWS):
        raise ValueError(f"view={view}: expected 0..{LOCAL_VIEWS - 1}, and a model with a scale prefix.")
    count = len(pixel_values)
    views = torch.full((count,), LOCAL_VIEWS if view is None else view, device=model.device)
    tower = model.clip.vision_model
    found: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: tuple, result: tuple) -> None:
        found.append(result[1])

    before = model.clip.config.vision_config._attn_implementation  # type: ignore[union-attr]
    model.clip.set_attn_implementation("eager")  # the only one that gives its weights
    handle = tower.encoder.layers[-1].self_attn.register_forward_hook(keep)
    try:
        model.encode_image(pixel_values.to(model.device, model.dtype), views)
    finally:
        handle.remove()
        model.clip.set_attn_implementation(before)
    weights = found[0].float().mean(dim=1)  # (B, T, T)
    patches = slice(1, 1 + model.config.grid_size**2)
    tokens = {"cls": 0} | ({} if model.prompts.scale_prefix is None else {"prefix": patches.stop})
    maps = {name: weights[:, place, patches] for name, place in tokens.items()}
    grid = model.config.grid_size
    return {name: (own / own.sum(dim=1, keepdim=True)).unflatten(1, (grid, grid)) for name, own in maps.items()}


__all__ = ["attention_maps"]
