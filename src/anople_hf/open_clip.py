"""Finds an open_clip checkpoint by name, and describes it as a transformers CLIP.

The backbone of sec. 4.1, ViT-B/16+ 240, is published as open_clip weights only.

- Every plain ViT CLIP works: one ViT with a class token, one causal text transformer, CLIP's byte-pair vocabulary.
- The weights do not record the hidden activation. It is taken from the configuration or from the model's name.
- Nothing is guessed: a setting that transformers' CLIP does not have is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import CLIPConfig
from transformers.utils import cached_file

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""As open_clip writes them, the safe format first."""

# Name in open_clip: joint width; image side, patch, vision width, layers, head width, MLP ratio; text width, layers.
# Text heads are 64 wide throughout. From open_clip 3.3.0's `model_configs`, with every text tower 77 tokens long.
_SHAPES = {
    "ViT-S-32-alt": (256, 224, 32, 384, 12, 64, 4.0, 256, 10),
    "ViT-S-32": (384, 224, 32, 384, 12, 64, 4.0, 384, 12),
    "ViT-S-16-alt": (256, 224, 16, 384, 12, 64, 4.0, 256, 10),
    "ViT-S-16": (384, 224, 16, 384, 12, 64, 4.0, 384, 12),
    "ViT-M-32-alt": (384, 224, 32, 512, 12, 64, 4.0, 384, 12),
    "ViT-M-32": (512, 224, 32, 512, 12, 64, 4.0, 512, 12),
    "ViT-M-16-alt": (384, 224, 16, 512, 12, 64, 4.0, 384, 12),
    "ViT-M-16": (512, 224, 16, 512, 12, 64, 4.0, 512, 12),
    "ViT-B-32": (512, 224, 32, 768, 12, 64, 4.0, 512, 12),
    "ViT-B-32-256": (512, 256, 32, 768, 12, 64, 4.0, 512, 12),
    "ViT-B-32-plus-256": (640, 256, 32, 896, 12, 64, 4.0, 640, 12),
    "ViT-B-16": (512, 224, 16, 768, 12, 64, 4.0, 512, 12),
    "ViT-B-16-plus": (640, 224, 16, 896, 12, 64, 4.0, 640, 12),
    "ViT-B-16-plus-240": (640, 240, 16, 896, 12, 64, 4.0, 640, 12),
    "ViT-L-16": (768, 224, 16, 1024, 24, 64, 4.0, 768, 12),
    "ViT-L-16-320": (768, 320, 16, 1024, 24, 64, 4.0, 768, 12),
    "ViT-L-14": (768, 224, 14, 1024, 24, 64, 4.0, 768, 12),
    "ViT-L-14-280": (768, 280, 14, 1024, 24, 64, 4.0, 768, 12),
    "ViT-L-14-336": (768, 336, 14, 1024, 24, 64, 4.0, 768, 12),
    "ViT-H-16": (1024, 224, 16, 1280, 32, 80, 4.0, 1024, 24),
    "ViT-H-14": (1024, 224, 14, 1280, 32, 80, 4.0, 1024, 24),
    "ViT-H-14-378": (1024, 378, 14, 1280, 32, 80, 4.0, 1024, 24),
    "ViT-g-14": (1024, 224, 14, 1408, 40, 88, 4.3637, 1024, 24),
    "ViT-bigG-14": (1280, 224, 14, 1664, 48, 104, 4.9231, 1280, 32),
    "ViT-e-14": (1280, 224, 14, 1792, 56, 112, 8.5715, 1280, 36),
}
_LAYER_SCALE = {"ViT-M-16-alt": 1e-4}

# What a configuration may hold besides the sizes. Anything else is a different architecture.
_SIZES = {
    "vision_cfg": {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "ls_init_value"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"},
}
_WITHOUT_EFFECT = {
    "patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool",
    "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path", "hf_model_pretrained", "hf_proj_type",
    "hf_pooler_type", "pad_id", "eos_id", "init_logit_scale", "nonscalar_logit_scale", "output_dict",
}  # fmt: skip
_PLAIN = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",),
          "block_type": ("default",)}  # fmt: skip
_KINDS = {
    "timm_model_name": "a timm vision tower",
    "hf_model_name": "a text tower of another library",
    "hf_tokenizer_name": "another tokenizer than CLIP's",
    "multimodal_cfg": "CoCa",
    "custom_text": "a custom text tower (as SigLIP, EVA and CoCa have)",
    "init_logit_bias": "SigLIP",
    "attentional_pool": "attentional pooling (CoCa)",
}
_CONVERTIBLE = "Plain ViT CLIPs can be converted: a ViT with a class token and CLIP's own text transformer."


@dataclass(frozen=True)
class OpenClipCheckpoint:
    """An open_clip checkpoint whose configuration transformers' CLIP can hold.

    Attributes:
        source: Folder, Hub id or weights file.
        model: open_clip's `model_cfg`.
        preprocess: open_clip's `preprocess_cfg`.
        config: The same model as a transformers configuration.
    """

    source: str
    model: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    config: CLIPConfig = field(init=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "config", clip_config(self.model))
        except ValueError as error:
            raise ValueError(f"{self.source} cannot be converted: {error} {_CONVERTIBLE}") from error

    @property
    def is_file(self) -> bool:
        """Whether the source is a bare weights file, without configuration and tokenizer."""
        return Path(self.source).is_file()

    def weights(self, **hub: Any) -> Path:
        """The weights file, downloaded from the Hub if necessary.

        Raises:
            OSError: There is no weights file.
        """
        if self.is_file:
            return Path(self.source)
        for name in WEIGHT_FILES:
            if found := cached_file(self.source, name, _raise_exceptions_for_missing_entries=False, **hub):
                return Path(found)
        raise OSError(f"{self.source} has a {CONFIG_FILE} but no weights; expected one of {', '.join(WEIGHT_FILES)}.")


def split_name(name: str) -> tuple[str, str | None]:
    """Split a backbone's name into its source and, for a bare weights file, its model name.

    Example:
        >>> split_name("open_clip:ViT-B-16-plus-240:weights/b16plus.pt")
        ('weights/b16plus.pt', 'ViT-B-16-plus-240')
        >>> split_name("hf-hub:timm/vit_base_patch16_plus_clip_240.laion400m_e31")  # open_clip's form of a Hub id
        ('timm/vit_base_patch16_plus_clip_240.laion400m_e31', None)
    """
    for prefix in ("hf-hub:", "local-dir:"):
        if name.startswith(prefix):
            return name.removeprefix(prefix), None
    if not name.startswith("open_clip:"):
        return name, None
    model, colon, file = name.removeprefix("open_clip:").partition(":")
    if not (model and colon and file):
        raise ValueError(f"backbone {name!r}: expected open_clip:MODEL:FILE, as in open_clip:ViT-B-32:weights.pt.")
    return file, model


def from_file(source: str, model: str) -> OpenClipCheckpoint:
    """Describe a bare weights file of a model that open_clip knows by name.

    Raises:
        ValueError: The file does not exist, or no plain ViT CLIP has this name.
    """
    if not Path(source).is_file():
        raise ValueError(
            f"{source}: no such weights file; the model name {model!r} is for a .pt, .bin or .safetensors."
        )
    return OpenClipCheckpoint(source, named_model(model))


def from_config_file(source: str, file: str | Path) -> OpenClipCheckpoint:
    """Describe a folder or Hub repository by its `open_clip_config.json`.

    Raises:
        ValueError: The format is not open_clip's, or the model cannot be converted; says which part.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        model, preprocess = found["model_cfg"], found.get("preprocess_cfg", {})
        dict(model["vision_cfg"]), dict(model["text_cfg"]), int(model["embed_dim"]), dict(preprocess)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a file that is no JSON is a ValueError, too
        raise ValueError(
            f"{CONFIG_FILE} of {source} is not open_clip's: expected JSON with model_cfg, and in it embed_dim, "
            f"vision_cfg and text_cfg ({error!r})."
        ) from error
    return OpenClipCheckpoint(source, model, preprocess)


def named_model(name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of a plain ViT CLIP; the suffix `-quickgelu` selects OpenAI's activation.

    Example:
        >>> named_model("ViT-B-32-quickgelu")["quick_gelu"], named_model("ViT-B/16-plus-240")["vision_cfg"]["width"]
        (True, 896)
    """
    base = name.replace("/", "-").removesuffix("-quickgelu")
    if base not in _SHAPES:
        raise ValueError(
            f"model {name!r} is none of open_clip's plain ViT CLIPs: {', '.join(_SHAPES)}; with -quickgelu at the end "
            "if it was trained so. ResNets, CoCa, SigLIP and towers of timm or Hugging Face cannot be converted."
        )
    joint, side, patch, width, layers, head, ratio, text_width, text_layers = _SHAPES[base]
    vision: dict[str, Any] = {"image_size": side, "patch_size": patch, "width": width, "layers": layers}
    vision |= {"head_width": head, "mlp_ratio": ratio, "ls_init_value": _LAYER_SCALE.get(base)}
    text = {"context_length": 77, "vocab_size": 49408, "width": text_width, "layers": text_layers}
    return {
        "embed_dim": joint,
        "quick_gelu": name.endswith("-quickgelu"),
        "vision_cfg": vision,
        "text_cfg": text | {"heads": text_width // 64},
    }


def clip_config(model: Mapping[str, Any]) -> CLIPConfig:
    """Translate open_clip's `model_cfg` into a transformers configuration.

    Missing values take open_clip's defaults. open_clip pools the text at its largest token id. This is the end-of-text
    token, the last of the vocabulary, which transformers finds by `eos_token_id`.

    Raises:
        ValueError: Names the setting that transformers' CLIP does not have.
    """
    if isinstance(model["vision_cfg"].get("layers"), list):
        raise ValueError("its vision tower is a ResNet.")
    _refuse_unknown("model_cfg", model, {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    for part, sizes in _SIZES.items():
        _refuse_unknown(part, model[part], sizes)
    vision, text = model["vision_cfg"], model["text_cfg"]
    side, width, text_width = vision.get("image_size", 224), vision.get("width", 768), text.get("width", 512)
    patch = vision.get("patch_size", 16)
    if not isinstance(side, int) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int) or not isinstance(patch, int):
        raise ValueError(f"its views are not square (image_size={side}, patch_size={patch}).")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    vocabulary = text.get("vocab_size", 49408)
    return CLIPConfig(
        projection_dim=model["embed_dim"],
        vision_config={
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": side,
            "patch_size": patch,
            "hidden_act": activation,
            "layer_norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
            "projection_dim": model["embed_dim"],
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "max_position_embeddings": text.get("context_length", 77),
            "vocab_size": vocabulary,
            "hidden_act": activation,
            "layer_norm_eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
            "projection_dim": model["embed_dim"],
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
    )


def _refuse_unknown(part: str, given: Mapping[str, Any], sizes: set[str]) -> None:
    for key, value in given.items():
        if key in sizes or key in _WITHOUT_EFFECT or value in (None, False) or value in _PLAIN.get(key, ()):
            continue
        if key == "norm_kwargs" and set(value) <= {"eps"}:
            continue
        kind = f", {_KINDS[key]}" if key in _KINDS else ""
        shown = "..." if isinstance(value, dict) else repr(value)
        raise ValueError(f"it has {part}.{key}={shown}{kind}.")
