"""A frozen CLIP by name: the embedded tiny one, a transformers folder, or a Hub id.

Where in the paper: sec. 4.1; the paper's ViT-B/16+ 240 is an open_clip checkpoint and has to be converted first.
"""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

EMBEDDED = "embedded:tiny-clip"
"""Name of the backbone inside the package: drawn training data, for first runs, tests and edge CPUs."""

_OPEN_CLIP = "Weights of open_clip have to be converted to a CLIPModel folder first."
_ASSETS = Path(__file__).parent / "assets"
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def load_backbone(name: str, *, revision: str | None = None, **hub: Any) -> CLIPModel:
    """Load a CLIP in float32, for evaluation.

    Args:
        name: `embedded:tiny-clip`, a folder that `CLIPModel.save_pretrained` wrote, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        hub: `cache_dir`, `token`, `local_files_only`, `force_download`, as in transformers.

    Returns:
        The model; its weights are as they are on disk, gradients are up to the caller.

    Raises:
        ValueError: The name means no CLIP; says what was found and what is expected.
        OSError: Not on disk and not on the Hub.

    Example:
        >>> load_backbone("embedded:tiny-clip").config.vision_config.image_size
        240
    """
    source, hub = _locate(name), {"revision": revision, **hub} if revision else hub
    try:
        config = CLIPConfig.get_config_dict(source, **hub)[0]
    except OSError as error:
        raise OSError(
            f"backbone {name!r} is not a folder here, and it could not be had from the Hub ({error}). Give a folder "
            f"that CLIPModel.save_pretrained wrote, a Hub id, or {EMBEDDED!r}. {_OPEN_CLIP}"
        ) from error
    if config.get("model_type") != "clip":
        raise ValueError(
            f"backbone {name!r} is a {config.get('model_type') or 'model of unknown type'}; expected a transformers "
            f"CLIP (model_type 'clip'). {_OPEN_CLIP}"
        )
    clip = CLIPModel.from_pretrained(source, dtype=torch.float32, **hub)
    return clip.eval()


def recommended_settings(name: str) -> dict[str, Any]:
    """Fields of `AnoPLeConfig` that suit a backbone better than the defaults.

    Example:
        >>> recommended_settings("embedded:tiny-clip")
        {'memory_layers': [0], 'memory_shifts': 4, 'peak_share': 0.02}
    """
    return {"memory_layers": [0], "memory_shifts": 4, "peak_share": 0.02} if name == EMBEDDED else {}


def load_processor_parts(name: str, *, revision: str | None = None, **hub: Any) -> tuple[CLIPImageProcessorPil, Any]:
    """The image processor and tokenizer of a backbone.

    The image processor squeezes the whole photo to the tower's square: CLIP's usual centre crop would cut off defects
    at the border. It is PIL's, so scores do not depend on whether torchvision is installed.

    Args:
        name: As for `load_backbone`.
        revision: Branch, tag or commit on the Hub.
        hub: As for `load_backbone`.
    """
    source, hub = _locate(name), {"revision": revision, **hub} if revision else hub
    config = CLIPConfig.from_pretrained(source, **hub)
    side, longest = cast(int, config.vision_config.image_size), config.text_config.max_position_embeddings  # type: ignore[union-attr]  # always configs after loading
    try:
        stored = CLIPImageProcessorPil.get_image_processor_dict(source, **hub)[0]
    except OSError:  # a bare CLIPModel folder
        stored = {}
    processor = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=stored.get("image_mean", _MEAN),
        image_std=stored.get("image_std", _STD),
    )
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    # Some tokenizers do not know how much their tower reads.
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return processor, tokenizer


def _locate(name: str) -> str:
    folder = Path(name)
    if name.startswith(("hf-hub:", "local-dir:", "open_clip:")) or folder.is_file():
        raise ValueError(f"backbone {name!r} names no CLIPModel folder or Hub id. {_OPEN_CLIP}")
    if name.startswith("embedded:"):
        if name != EMBEDDED:
            raise ValueError(f"no embedded backbone {name!r}; there is {EMBEDDED!r}.")
        folder = _ASSETS / "tiny_clip"
        if not (folder / "config.json").is_file():
            raise ValueError(f"{EMBEDDED!r} is part of the package anople_hf and not found here; install the package.")
        return str(folder)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(
            f"backbone {name!r} has no config.json; expected a folder that CLIPModel.save_pretrained wrote. "
            f"{_OPEN_CLIP}"
        )
    return name
