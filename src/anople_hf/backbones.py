"""Loads a frozen CLIP by name: the embedded one, a transformers CLIP or an open_clip checkpoint, from disk or the Hub.

The backbone of sec. 4.1, ViT-B/16+ 240, is an open_clip checkpoint, which is converted in memory when loaded.

Training, the command line and `from_pretrained` all load their CLIP here. Nothing is downloaded before one of these
functions is called. Revision, cache and offline mode work as in transformers.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel
from transformers.utils import cached_file

from .open_clip import CONFIG_FILE, OpenClipCheckpoint, from_config_file, from_file, split_name
from .open_clip_processing import open_clip_processor, open_clip_tokenizer
from .open_clip_weights import load_open_clip

EMBEDDED = "embedded:tiny-clip"
"""Name of the backbone inside the package, for first runs, tests and edge CPUs."""


@dataclass(frozen=True)
class KnownBackbone:
    """A backbone with a short name.

    Attributes:
        source: What the short name stands for: the embedded one, or a Hub id.
        license: Of its weights, as stated there.
        megabytes: Of its weights, to download once.
        side: Of a photo in pixels, as it was trained.
        settings: Fields of `AnoPLeConfig` that suit it better than the defaults.
    """

    source: str
    license: str
    megabytes: int
    side: int
    settings: dict[str, Any] = field(default_factory=dict)


TINY_SETTINGS = {"memory_layers": [3], "memory_search": "product", "decoder_tokens": "last", "score_temperature": 3.0}
"""Its fourth layer carries its teacher's features; its last tokens were taught where damage is. Its words know less
than its features: a soft temperature, chosen on drawn products, keeps p-hat from overruling the memory in eq. 16."""

KNOWN = {
    "tiny": KnownBackbone(EMBEDDED, "Apache-2.0", 15, 240, TINY_SETTINGS),
    "small": KnownBackbone("wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M", "MIT", 94, 224, {"smoothing_sigma": 2.24}),
    "base": KnownBackbone("openai/clip-vit-base-patch16", "MIT", 599, 224, {"smoothing_sigma": 2.24}),
    "paper": KnownBackbone("timm/vit_base_patch16_plus_clip_240.laion400m_e31", "MIT", 834, 240),
}
"""Backbones by short name, from the smallest to the paper's. A folder of the same name is written `./tiny`."""

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
"""Keyword arguments that say how files come from the Hub."""

_ASSETS = Path(__file__).parent / "assets"
_EXPECTED = (
    f"Give {', '.join(KNOWN)}; a folder that CLIPModel.save_pretrained or `anople convert` wrote; an open_clip "
    "folder; a Hub id of either; or open_clip:MODEL:FILE for a bare weights file."
)


def load_backbone(name: str, *, revision: str | None = None, **hub: Any) -> CLIPModel:
    """Load a CLIP in float32, for evaluation.

    Args:
        name: `tiny`, `small`, `base` or `paper`, see `KNOWN`; a folder or Hub id of a transformers CLIP; a folder or
            Hub id with an `open_clip_config.json`; or `open_clip:MODEL:FILE`, a bare open_clip weights file and the
            model it is.
        revision: Branch, tag or commit on the Hub.
        hub: `cache_dir`, `token`, `local_files_only`, `force_download`, as in transformers.

    Returns:
        The model with the weights from disk. The caller decides which of them get gradients.

    Raises:
        ValueError: The name is not that of a usable CLIP; says what was found and what is expected.
        OSError: Not on disk and not on the Hub.

    Example:
        >>> load_backbone("embedded:tiny-clip").config.vision_config.image_size
        240
    """
    hub = {"revision": revision, **hub} if revision else hub
    found = find_backbone(name, **hub)
    if isinstance(found, OpenClipCheckpoint):
        return load_open_clip(found, **hub).eval()
    return CLIPModel.from_pretrained(found, dtype=torch.float32, **hub).eval()


def find_backbone(name: str, **hub: Any) -> str | OpenClipCheckpoint:
    """Resolve a name to the folder or Hub id of a transformers CLIP, or to an open_clip checkpoint.

    A repository that holds both is read as a transformers CLIP.
    """
    source, model = split_name(full_name(name))
    if model is not None:
        return from_file(source, model)
    if source.startswith("embedded:"):
        return _embedded(source)
    if Path(source).is_file():
        raise ValueError(f"backbone {name!r} is a file; say which model it is: open_clip:ViT-B-16-plus-240:{source}.")
    try:
        config, open_clip = (
            cached_file(source, file, _raise_exceptions_for_missing_entries=False, **hub)
            for file in ("config.json", CONFIG_FILE)
        )
        if not (config or open_clip or Path(source).exists()):  # offline, a file outside the cache is just missing
            raise OSError(f"no config.json or {CONFIG_FILE} there or, offline, in the cache")
    except OSError as error:
        raise OSError(
            f"backbone {name!r} is not a folder here, and it could not be had from the Hub ({error}). {_EXPECTED}"
        ) from error
    kind = json.loads(Path(config).read_text(encoding="utf-8")).get("model_type") if config else None
    if kind == "clip":
        return source
    if open_clip:
        return from_config_file(source, open_clip)
    if config is None:
        raise ValueError(f"backbone {name!r} has neither config.json nor {CONFIG_FILE}. {_EXPECTED}")
    raise ValueError(f"backbone {name!r} is a {kind or 'model of unknown type'}; expected a CLIP. {_EXPECTED}")


def _embedded(name: str) -> str:
    if name != EMBEDDED:
        raise ValueError(f"no embedded backbone {name!r}; there is {EMBEDDED!r}.")
    folder = _ASSETS / "tiny_clip"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{EMBEDDED!r} is part of the package anople_hf and not found here; install the package.")
    return str(folder)


def full_name(name: str) -> str:
    """What a short name of `KNOWN` stands for; any other name as it is.

    Example:
        >>> full_name("tiny"), full_name("you/your-clip")
        ('embedded:tiny-clip', 'you/your-clip')
    """
    return KNOWN[name].source if name in KNOWN else name


def recommended_settings(name: str) -> dict[str, Any]:
    """Fields of `AnoPLeConfig` that suit a backbone better than the defaults; `name` short or in full.

    Example:
        >>> recommended_settings("tiny")
        {'memory_layers': [3], 'memory_search': 'product', 'decoder_tokens': 'last', 'score_temperature': 3.0}
    """
    return next((dict(known.settings) for known in KNOWN.values() if known.source == full_name(name)), {})


def load_processor_parts(
    name: str, *, revision: str | None = None, side: int | None = None, **hub: Any
) -> tuple[CLIPImageProcessorPil, Any]:
    """The image processor and tokenizer of a backbone.

    The image processor resizes the whole photo to a square, because CLIP's usual center crop would cut off defects at
    the border. It resizes with PIL, so scores do not depend on whether torchvision is installed.

    Args:
        name: As for `load_backbone`.
        revision: Branch, tag or commit on the Hub.
        side: Side of the square in pixels; None for the size the backbone was trained on.
        hub: As for `load_backbone`.
    """
    hub = {"revision": revision, **hub} if revision else hub
    found = find_backbone(name, **hub)
    if isinstance(found, OpenClipCheckpoint):
        config, stored = found.config, open_clip_processor(found).to_dict()
        tokenizer = open_clip_tokenizer(found, **hub)
    else:
        config = CLIPConfig.from_pretrained(found, **hub)
        try:
            stored = CLIPImageProcessorPil.get_image_processor_dict(found, **hub)[0]
        except OSError:  # a bare CLIPModel folder
            stored = {}
        tokenizer = AutoTokenizer.from_pretrained(found, **hub)
        # Some tokenizers do not know how many tokens their text tower reads.
        longest = config.text_config.max_position_embeddings  # type: ignore[union-attr]  # configs after loading
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    side = side or cast(int, config.vision_config.image_size)  # type: ignore[union-attr]
    kept = {key: stored[key] for key in ("resample", "image_mean", "image_std") if stored.get(key) is not None}
    processor = CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False, **kept)
    return processor, tokenizer
