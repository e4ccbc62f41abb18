"""LoRA on the attention of CLIP's towers, with PEFT: a few low-rank weights adapt CLIP where prompts alone cannot.

The paper keeps CLIP frozen, as `lora_rank=0` does.

- PEFT adds its layers to the `CLIPModel` in place, so the prompts' hooks, saving and Accelerate work as before.
- A checkpoint stores the low-rank weights beside the prompts in `model.safetensors`.
"""

from typing import Any

from torch import nn
from transformers import CLIPModel

from .configuration_anople import AnoPLeConfig

MARK = "lora_"
"""Part of the names PEFT gives to its weights."""


def add_lora(clip: CLIPModel, config: AnoPLeConfig) -> Any:
    """Add new low-rank weights to the configured attention projections; they change nothing until trained.

    Args:
        clip: Changed in place; PEFT freezes everything but the new weights.
        config: Its `lora_*` fields.

    Returns:
        PEFT's handle on them (a `LoraModel`), or None if `config.lora_rank` is 0.

    Raises:
        ImportError: PEFT is not installed.
    """
    if not config.lora_rank:
        return None
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ImportError("lora_rank > 0 needs peft; install it with: pip install 'anople-hf[peft]'") from error
    towers = {"vision": "vision_model", "text": "text_model", "both": "(vision_model|text_model)"}[config.lora_towers]
    projections = "|".join(config.lora_targets)
    wanted = rf"{towers}\.encoder\.layers\.\d+\.self_attn\.({projections})"
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=wanted)
    return LoraModel(clip, lora, "default")


def is_lora(name: str) -> bool:
    """Whether a weight of this name is one of PEFT's."""
    return MARK in name


def set_learning(clip: nn.Module) -> None:
    """Freeze CLIP, except for its low-rank weights."""
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(is_lora(name))
