"""The input side of an open_clip model: its image transform as a transformers processor, and CLIP's tokenizer.

All of OpenAI's CLIPs and all plain open_clip models share one byte-pair vocabulary. The package includes its merges
(MIT license, OpenAI), so that a bare weights file works without a network.
"""

import gzip
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import cached_file

from .open_clip import OpenClipCheckpoint

_MERGES = Path(__file__).parent / "assets" / "clip_bpe" / "merges.txt.gz"
_VOCABULARY_SIZE = 49408
_FILTERS = {"bicubic": 3, "bilinear": 2}  # PIL's numbers


def open_clip_processor(checkpoint: OpenClipCheckpoint) -> CLIPImageProcessorPil:
    """open_clip's image transform for evaluation: resize the shorter side and crop the center, or resize to a square.

    Raises:
        ValueError: The checkpoint needs something that CLIP's processor cannot do, such as padding.
    """
    side, given = cast(Any, checkpoint.config.vision_config).image_size, checkpoint.preprocess
    mode, interpolation = given.get("resize_mode") or "shortest", given.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or interpolation not in _FILTERS:
        raise ValueError(
            f"{checkpoint.source}: preprocess_cfg has resize_mode={mode!r}, interpolation={interpolation!r}; expected "
            "shortest or squash, bicubic or bilinear."
        )
    square, squash = {"height": side, "width": side}, mode == "squash"
    settings: dict[str, Any] = {
        "size": square if squash else {"shortest_edge": side},
        "crop_size": square,
        "do_center_crop": not squash,
        "resample": _FILTERS[interpolation],
    }
    settings |= {f"image_{name}": list(given[name]) for name in ("mean", "std") if given.get(name)}
    return CLIPImageProcessorPil(**settings)


def open_clip_tokenizer(checkpoint: OpenClipCheckpoint, given: str | None = None, **hub: Any) -> Any:
    """Load the tokenizer of an open_clip checkpoint: the given one, the one beside the weights, or CLIP's.

    Args:
        checkpoint: The checkpoint.
        given: Folder or Hub id of another tokenizer.
        hub: As for `anople_hf.backbones.load_backbone`.

    Raises:
        ValueError: There is no tokenizer, or it does not fit the text tower.
    """
    text = cast(Any, checkpoint.config.text_config)
    if given:
        tokenizer = AutoTokenizer.from_pretrained(given)
    elif not checkpoint.is_file and any(
        cached_file(checkpoint.source, file, _raise_exceptions_for_missing_entries=False, **hub)
        for file in ("tokenizer.json", "vocab.json")
    ):
        tokenizer = CLIPTokenizer.from_pretrained(checkpoint.source, **hub)
    elif text.vocab_size == _VOCABULARY_SIZE:
        tokenizer = clip_tokenizer()
    else:
        raise ValueError(
            f"{checkpoint.source} has no tokenizer and a vocabulary of {text.vocab_size} tokens, CLIP's has "
            f"{_VOCABULARY_SIZE}: put tokenizer.json beside the weights, or give --tokenizer to `anople convert`."
        )
    if len(tokenizer) > text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ValueError(
            f"{checkpoint.source}: its tokenizer has {len(tokenizer)} tokens and ends texts with number "
            f"{tokenizer.eos_token_id}, the text tower has {text.vocab_size} and looks for {text.eos_token_id}."
        )
    tokenizer.model_max_length = text.max_position_embeddings
    return tokenizer


def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of OpenAI's CLIP.

    Equals open_clip's `SimpleTokenizer`, except that open_clip first rewrites some text (`ftfy`: curly quotation
    marks, ligatures, broken encodings; HTML entities).

    Raises:
        ValueError: The vocabulary is missing, because this file was copied out of the package.

    Example:
        >>> clip_tokenizer()("A metal nut.")["input_ids"]
        [49406, 320, 4044, 6491, 269, 49407]
    """
    if not _MERGES.is_file():
        raise ValueError("CLIP's vocabulary is part of the package anople_hf and not found here; install the package.")
    merges = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(merge.split()) for merge in merges],  # type: ignore[misc]  # as tokenizers' BPE takes them
        model_max_length=77,
    )
