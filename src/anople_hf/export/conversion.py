"""Converts an open_clip checkpoint to a transformers CLIP folder, with a report of what was checked.

The paper's backbone (sec. 4.1) is such a checkpoint.
"""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPModel

from .. import __version__
from ..backbones import find_backbone
from ..open_clip import OpenClipCheckpoint
from ..open_clip_processing import open_clip_processor, open_clip_tokenizer
from ..open_clip_weights import read_weights, to_transformers

REPORT_FILE = "conversion.json"
TOLERANCE = 1e-5
"""Largest difference to open_clip in float32, of embeddings and of every layer; absolute where values are below 1,
otherwise in units of the largest value, for trained towers have tokens of a hundred and more."""

logger = logging.getLogger(__name__)


def convert_open_clip(
    source: str,
    folder: Path,
    *,
    tokenizer: str | None = None,
    max_shard_size: str = "5GB",
    progress: bool = False,
    **hub: Any,
) -> dict[str, Any]:
    """Write model, image processor, tokenizer and `conversion.json` into a folder.

    Without `open_clip_torch`, the report says that every tensor was used once, has the right shape and is finite, and
    that the files hold the same bits. If it is installed, open_clip's own model is also run and compared.

    Args:
        source: An open_clip checkpoint, named as for `anople_hf.backbones.load_backbone`.
        folder: An existing, empty folder.
        tokenizer: Folder or Hub id of a tokenizer, for a checkpoint without its own.
        max_shard_size: Maximum size of a weights file, as in `save_pretrained`.
        progress: Show a bar and log each step.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Returns:
        The report.

    Raises:
        ValueError: The source is not an open_clip checkpoint, cannot be converted, or gives different results.
        OSError: The source is neither on disk nor on the Hub.
    """
    checkpoint = find_backbone(source, **hub)
    if not isinstance(checkpoint, OpenClipCheckpoint):
        raise ValueError(f"{source} is a transformers CLIP already; use it as a backbone as it is.")
    image_processor = open_clip_processor(checkpoint)
    words = open_clip_tokenizer(checkpoint, tokenizer, **hub)
    file = checkpoint.weights(**hub)
    logger.info("reading %s", file)
    state = read_weights(file)
    read = len(state)
    weights = to_transformers(state, checkpoint, progress=progress)
    clip = CLIPModel.from_pretrained(None, config=checkpoint.config, state_dict=weights, dtype=torch.float32).eval()

    logger.info("writing in files of at most %s", max_shard_size)
    clip.save_pretrained(folder, max_shard_size=max_shard_size)
    image_processor.save_pretrained(folder)
    words.save_pretrained(folder)
    report = {
        "source": source,
        "revision": hub.get("revision"),
        "weights": file.name,
        "anople_hf": __version__,
        "model_cfg": checkpoint.model,
        "tensors": {"read": read, "written": _compare_files(folder, weights)},
        "parameters": sum(parameter.numel() for parameter in clip.parameters()),
        "every tensor used once, of the right shape, finite": True,  # or to_transformers had refused
        "hidden_act": checkpoint.config.vision_config.hidden_act,  # type: ignore[union-attr]
        "eos_token_id": words.eos_token_id,
        "open_clip": _compare(clip, checkpoint, file),
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _compare_files(folder: Path, weights: dict[str, Tensor]) -> int:
    """Compare each tensor in the written files with the one in memory, and return their number."""
    left = set(weights)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118  # not a dict
                if not torch.equal(shard.get_tensor(name), weights[name]):
                    raise OSError(f"{file.name} does not hold what was written to it, in {name}; check the disk.")
                left.remove(name)
    if left:
        raise OSError(f"{sorted(left)[:3]} are not in the files that were written; check the disk.")
    return len(weights)


def _compare(clip: CLIPModel, checkpoint: OpenClipCheckpoint, file: Path) -> dict[str, Any] | None:
    try:
        import open_clip
    except ImportError:
        logger.info("open_clip_torch is not installed, so its results are not compared")
        return None
    logger.info("comparing with open_clip %s", open_clip.__version__)
    original = open_clip.model.CLIP(**{key: value for key, value in checkpoint.model.items() if key != "custom_text"})
    open_clip.load_checkpoint(original.eval(), str(file))
    found = compare_towers(clip, original)
    wrong = {name: pair for name, pair in found.items() if pair[0] > TOLERANCE * max(1, pair[1])}
    if wrong:
        raise ValueError(f"differs from open_clip by more than {TOLERANCE} (difference, largest value): {wrong}.")
    return {
        "version": open_clip.__version__,
        "tolerance": TOLERANCE,
        "largest difference": max(difference for difference, _ in found.values()),
        "difference and largest value": found,
    }


@torch.no_grad()
def compare_towers(clip: CLIPModel, original: Any, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Largest absolute difference from open_clip's own model, and its largest value, for embeddings and every layer.

    The texts have different lengths. open_clip gets them padded with 0, transformers with the end-of-text token.

    Args:
        clip: The converted model.
        original: An `open_clip.model.CLIP` with the same weights.
        seed: Seed of the two random images and three random texts.
    """
    vision, text = cast(Any, clip.config.vision_config), cast(Any, clip.config.text_config)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, vision.image_size, vision.image_size, generator=generator)
    length, start, end = text.max_position_embeddings, text.vocab_size - 2, text.vocab_size - 1
    places, last = torch.arange(length), torch.tensor([[4], [length // 2], [length - 1]])
    ids = torch.randint(1, start, (3, length), generator=generator)
    ids = ids.masked_fill(places == 0, start).masked_fill(places == last, end)
    beyond = places > last

    ours, theirs = {}, {}
    ours["image_embeddings"], ours_layers = record_layers(
        clip.vision_model.encoder.layers, lambda: clip.get_image_features(pixels).pooler_output
    )
    theirs["image_embeddings"], theirs_layers = record_layers(
        original.visual.transformer.resblocks, lambda: original.encode_image(pixels)
    )
    for number, (a, b) in enumerate(zip(ours_layers, theirs_layers, strict=True)):
        ours[f"vision_layer_{number}"], theirs[f"vision_layer_{number}"] = a, b
    ours["text_embeddings"], ours_layers = record_layers(
        clip.text_model.encoder.layers,
        lambda: clip.get_text_features(ids.masked_fill(beyond, end), attention_mask=(~beyond).long()).pooler_output,
    )
    theirs["text_embeddings"], theirs_layers = record_layers(
        original.transformer.resblocks, lambda: original.encode_text(ids.masked_fill(beyond, 0))
    )
    for number, (a, b) in enumerate(zip(ours_layers, theirs_layers, strict=True)):
        # The tokens after a text's end differ, because the padding does; the causal mask keeps them out of the text.
        ours[f"text_layer_{number}"], theirs[f"text_layer_{number}"] = a[~beyond], b[~beyond]
    return {name: (float((ours[name] - theirs[name]).abs().max()), float(theirs[name].abs().max())) for name in ours}


def record_layers(layers: Iterable[nn.Module], run: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the result of `run`, and the outputs of the layers during it."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        return run(), seen
    finally:
        for handle in handles:
            handle.remove()
