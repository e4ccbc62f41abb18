"""LoRA on the attention of CLIP's towers, by PEFT: what prompts alone cannot move, a few low-rank weights can.

The paper keeps CLIP frozen, which `lora_rank=0` does.

- PEFT puts its layers into the `CLIPModel` in place, so the prompts' hooks, saving and Accelerate go on as before.
- In a checkpoint the low-rank weights stand beside the prompts in `model.safetensors`.
"""

from typing import Any

from torch import nn
from transformers import CLIPModel

from .configuration_anople import AnoPLeConfig

MARK = "lora_"
"""Part of the names PEFT gives to its weights."""


def add_lora(clip: CLIPModel, config: AnoPLeConfig) -> Any:
    """Put fresh low-rank weights beside the asked attention projections; they change nothing until trained.

    Args:
        clip: Changed in place; all but the new weights is frozen by PEFT.
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
    """Freeze CLIP, and let the low-rank weights in it learn."""
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(is_lora(name))
