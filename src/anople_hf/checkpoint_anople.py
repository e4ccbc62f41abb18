"""`AnoPLePreTrainedModel`: what an AnoPLe checkpoint is, how it is written and read.

Where in the paper: nowhere, this is ours (the paper's code and weights are not published).

- Small: the frozen CLIP is named in the config by id and revision and merged when loading, unless asked otherwise.
- The memory bank is a file of its own, `memory_bank.safetensors`, tied to the prompts by a fingerprint.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from transformers import CLIPModel, PreTrainedModel
from transformers.utils import cached_file

from .backbones import HUB_OPTIONS, load_backbone
from .configuration_anople import AnoPLeConfig
from .decoder import PatchDecoder
from .memory import BANK_FILE, MemoryBank
from .prompts import CoupledPrompts


class AnoPLePreTrainedModel(PreTrainedModel):
    """Flags, initialisation, saving and loading shared by AnoPLe models."""

    config: AnoPLeConfig
    config_class = AnoPLeConfig
    base_model_prefix = "anople"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPEncoderLayer", "PatchDecoder"]

    clip: CLIPModel
    memory: MemoryBank
    prompts: CoupledPrompts

    @property
    def memory_layers(self) -> list[int]:
        """0-based encoder layers whose tokens are remembered."""
        return list(self.config.memory_layers or ())

    def freeze_backbone(self) -> Self:
        """Stop gradients into CLIP; loading re-creates parameters, so this runs after it."""
        self.clip.requires_grad_(False)
        return self

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CoupledPrompts):
            module.reset_parameters(self.config.prompt_init_std)
        elif isinstance(module, PatchDecoder):
            module.reset_parameters()

    def fingerprint(self) -> str:
        """SHA-256 of what shapes the remembered features: prompts, prefix, backbone, layers and view size.

        Taken from the float32 weights; a model loaded in half precision answers with the one it was saved with.
        """
        if self.dtype != torch.float32 and self.config.prompt_fingerprint:
            return self.config.prompt_fingerprint
        vision = self.clip.vision_model
        weights = [*self.prompts.parameters(), vision.embeddings.patch_embedding.weight, vision.post_layernorm.weight]
        digest = hashlib.sha256(repr((self.memory_layers, self.config.image_size)).encode())
        for weight in weights:
            digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(  # type: ignore[override]  # our own argument first, the others pass through
        self, save_directory: str | os.PathLike, *, save_backbone: bool | None = None, **kwargs: Any
    ) -> None:
        """Write `config.json`, `model.safetensors` and, if anything is remembered, `memory_bank.safetensors`.

        Args:
            save_directory: The folder.
            save_backbone: Also write CLIP's weights, for a checkpoint that stands alone. None: only if the backbone
                has no id to load it from again.
            kwargs: Passed on to `PreTrainedModel.save_pretrained`.
        """
        alone = self.config.backbone is None if save_backbone is None else save_backbone
        backbone = self.config.backbone
        state = kwargs.pop("state_dict", None) or self.state_dict()
        if not alone:
            state = {name: value for name, value in state.items() if not name.startswith("clip.")}
        self.config.prompt_fingerprint = self.fingerprint()
        try:
            self.config.backbone = None if alone else backbone
            super().save_pretrained(save_directory, state_dict=state, **kwargs)
        finally:
            self.config.backbone = backbone
        self._save_bank(Path(save_directory))

    def save_memory(self, folder: str | os.PathLike) -> None:
        """Update bank and thresholds of a checkpoint on disk, after `memorize` or `forget`; weights stay as they are.

        Args:
            folder: A folder that `save_pretrained` wrote.
        """
        folder = Path(folder)
        self._save_bank(folder)
        on_disk = AnoPLeConfig.from_pretrained(folder)
        on_disk.calibration = self.config.calibration
        temporary = folder / "config.json.tmp"
        on_disk.to_json_file(temporary)
        temporary.replace(folder / "config.json")

    def _save_bank(self, folder: Path) -> None:
        if len(self.memory):
            name = self.config.backbone or "in the checkpoint"
            self.memory.save(folder / BANK_FILE, fingerprint=self.fingerprint(), backbone=name)
        else:
            (folder / BANK_FILE).unlink(missing_ok=True)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, memory: bool = True, **kwargs: Any
    ) -> "AnoPLePreTrainedModel":
        """Load a checkpoint, the backbone it names and its memory bank.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args: Passed on to `PreTrainedModel.from_pretrained`.
            memory: False leaves the bank behind.
            kwargs: As for `PreTrainedModel.from_pretrained`: `revision`, `dtype`, `device_map`, `local_files_only`,
                ...

        Raises:
            ValueError: The backbone or the bank does not belong to this checkpoint.
        """
        source, config = pretrained_model_name_or_path, kwargs.pop("config", None)
        where = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        within = {key: kwargs[key] for key in ("revision", "subfolder") if key in kwargs}
        if source is None:  # transformers' own way of loading from a state dict
            return super().from_pretrained(None, *args, config=config, **kwargs)
        config = config or AnoPLeConfig.from_pretrained(source, **where, **within)
        if config.backbone is None:
            model = super().from_pretrained(source, *args, config=config, **kwargs)
        else:
            adapter = load_file(str(cached_file(source, "model.safetensors", **where, **within)))
            clip = load_backbone(config.backbone, revision=config.backbone_revision, **where)
            merged = {f"clip.{name}": value for name, value in clip.state_dict().items()} | adapter
            for key in (*where, *within):
                kwargs.pop(key, None)
            model = super().from_pretrained(None, *args, config=config, state_dict=merged, **kwargs)
        model.freeze_backbone()
        fingerprint = model.fingerprint()
        if config.prompt_fingerprint and fingerprint != config.prompt_fingerprint:
            raise ValueError(
                f"{source} was trained on another version of the backbone {config.backbone!r} than the one found "
                f"(fingerprint {config.prompt_fingerprint[:12]}, found {fingerprint[:12]}). Load the revision it was "
                "trained with, or train again."
            )
        bank = memory and cached_file(
            source, BANK_FILE, _raise_exceptions_for_missing_entries=False, **where, **within
        )
        if bank:
            model.memory = MemoryBank.load(bank, fingerprint=fingerprint).to(model.device)
        return model


__all__ = ["AnoPLePreTrainedModel"]
