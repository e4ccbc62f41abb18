"""Reads the weights of an open_clip checkpoint safely and renames them for transformers' CLIP.

Every tensor is used exactly once. Besides the names, three things differ: open_clip keeps query, key and value in one
matrix, stores its two projections transposed, and has separate layer scales, which are multiplied into the layers
before them.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from .open_clip import OpenClipCheckpoint

_OUTSIDE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_INSIDE = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_SCALED = {"attn.out_proj": "ls_1.gamma", "mlp.c_proj": "ls_2.gamma"}
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
"""Numbers that old checkpoints carry among their tensors."""


def load_open_clip(checkpoint: OpenClipCheckpoint, *, progress: bool = False, **hub: Any) -> CLIPModel:
    """Load the checkpoint as a transformers CLIP in float32, converted in memory.

    Args:
        checkpoint: From `anople_hf.open_clip`.
        progress: Show a bar.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, as in transformers.

    Raises:
        ValueError: The file is not safe to load, or its tensors do not match the configuration.
        OSError: There are no weights.
    """
    state = to_transformers(read_weights(checkpoint.weights(**hub)), checkpoint, progress=progress)
    return CLIPModel.from_pretrained(None, config=checkpoint.config, state_dict=state, dtype=torch.float32)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a pickle that holds nothing but tensors, on the CPU.

    From a checkpoint of open_clip's training, which also holds optimizer and epoch, only the `state_dict` is taken.

    Raises:
        ValueError: The file does not hold tensors. A pickle that would run code is never loaded.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file, or it is cut off ({error}).") from error
    file.open("rb").close()  # that a file is missing or may not be read is another matter than what follows
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # the unpickler meets what is no pickle with errors of any kind
        raise ValueError(
            f"{file} does not load safely, with weights_only=True: it is damaged, a TorchScript archive, or holds "
            "more than tensors, and such a file can run any code when it is loaded. Take the .safetensors file of the "
            "same weights (most open_clip models have one on the Hub), or, if you trust the file, load it in an "
            "environment you can throw away and write its state_dict with safetensors. "
            f"({(str(error).strip() or repr(error)).splitlines()[0][:200]})"
        ) from error
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds no state_dict; expected tensors by name, at the top or under 'state_dict'.")
    return {name.removeprefix("module."): value for name, value in state.items()}  # of DistributedDataParallel


def to_transformers(
    state: dict[str, Tensor], checkpoint: OpenClipCheckpoint, *, progress: bool = False
) -> dict[str, Tensor]:
    """Rename, split and transpose open_clip's tensors in float32; check each for its shape and for finite values.

    Args:
        state: open_clip's tensors. The dict is emptied, so that a large model is in memory only once.
        checkpoint: The checkpoint they must fit.
        progress: Show a bar.

    Raises:
        ValueError: A tensor is missing, unexpected, has a wrong shape, or holds NaN or infinity; names it.
    """
    expected = _shapes(checkpoint.config)
    for name in _NO_WEIGHTS & set(state):
        del state[name]
    scales = {name: state.pop(name) for name in list(state) if re.search(r"\.ls_[12]\.gamma$", name)}
    _check_scales(set(scales), checkpoint)
    converted: dict[str, Tensor] = {}
    for name in tqdm(list(state), desc="converting", unit="tensor", disable=not progress):
        tensor = state.pop(name).float()
        if name == "logit_scale":
            tensor = tensor.reshape(())
        for target, part in _targets(name, tensor, scales):
            wanted = expected.pop(target, None)
            if wanted is None:
                kind = (
                    "a CoCa or SigLIP, or has a custom text tower" if name.startswith(("text", "logit_bias")) else ""
                )
                raise _mismatch(checkpoint, f"holds {name}, which the model has no place for", kind)
            if part.shape != wanted:
                raise _mismatch(checkpoint, f"has {name} of shape {tuple(part.shape)}, not {tuple(wanted)}")
            if not torch.isfinite(part.sum()):  # one NaN or infinity is enough; far quicker than to ask each number
                raise ValueError(f"{checkpoint.source}: {name} holds NaN or infinity; the file is damaged.")
            converted[target] = part.contiguous()
    if expected:
        raise _mismatch(
            checkpoint, f"lacks the tensors for {sorted(expected)[:3]} and {max(0, len(expected) - 3)} more"
        )
    return converted


def _targets(name: str, tensor: Tensor, scales: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The transformers names of an open_clip tensor; query, key and value are split here."""
    if name in _OUTSIDE:
        yield _OUTSIDE[name], tensor.T if name in ("text_projection", "visual.proj") else tensor
        return
    found = _LAYER.fullmatch(name)
    if found is None:
        yield "", tensor  # no place: refused by the caller
        return
    tower, number, inside = found.groups()
    layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
    if inside.startswith("attn.in_proj_"):
        kind = inside.removeprefix("attn.in_proj_")
        for letter, part in zip("qkv", tensor.chunk(3), strict=False):
            yield f"{layer}.self_attn.{letter}_proj.{kind}", part
        return
    module, _, kind = inside.rpartition(".")
    scale = scales.get(f"{tower or ''}transformer.resblocks.{number}.{_SCALED.get(module)}")
    if scale is not None:
        tensor = tensor * (scale.float()[:, None] if tensor.ndim == 2 else scale.float())
    yield f"{layer}.{_INSIDE.get(module, module)}.{kind}", tensor


def _check_scales(found: set[str], checkpoint: OpenClipCheckpoint) -> None:
    expected = set()
    for prefix, tower in (("visual.", "vision_cfg"), ("", "text_cfg")):
        settings = checkpoint.model[tower]
        if settings.get("ls_init_value") is not None:
            layers = range(settings.get("layers", 12))
            expected |= {f"{prefix}transformer.resblocks.{n}.ls_{i}.gamma" for n in layers for i in (1, 2)}
    if found != expected:
        wrong = sorted(found ^ expected)[0]
        raise _mismatch(checkpoint, f"{'holds' if wrong in found else 'lacks'} the layer scale {wrong}")


def _mismatch(checkpoint: OpenClipCheckpoint, what: str, kind: str = "") -> ValueError:
    vision = cast(Any, checkpoint.config.vision_config)
    shape = (
        f"ViT {vision.hidden_size} wide, {vision.num_hidden_layers} layers, {vision.image_size}/{vision.patch_size}"
    )
    advice = f"it may be {kind}, which cannot be converted" if kind else "check the model's name or configuration"
    return ValueError(f"{checkpoint.source} {what}. It was read as a {shape}: {advice}.")


def _shapes(config: CLIPConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CLIPModel(config).state_dict().items()}
