"""Shared by scripts that measure: a quiet start, an untrained detector, a table cell with mean and deviation."""

import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.images import image_digest


def start(threads: int) -> None:
    """Use so many threads, and let the libraries only warn."""
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def untrained(backbone: str, products: Sequence[str] = (), **settings: Any) -> tuple[AnoPLeModel, AnoPLeProcessor]:
    """A fresh detector that has learned nothing, and its processor; it knows the words for `products`."""
    model = AnoPLeModel.from_backbone(backbone, **settings)
    processor = AnoPLeProcessor.from_backbone(backbone, model.config)
    if products:
        words = [name.replace("_", " ") for name in products]
        model.set_class_names(dict(zip(products, words, strict=True)), **processor.class_prompts(words))
    return model, processor


@contextmanager
def remembering(model: AnoPLeModel) -> Iterator[None]:
    """See each batch of views once: what the encoders made of it is kept for as long as this lasts."""
    kept: dict[tuple, Any] = {}

    def once(name: str) -> Callable[..., Any]:
        encode = getattr(model, name)

        def encoded(pixel_values: torch.Tensor, *how: Any) -> Any:
            key = (name, image_digest(pixel_values), str(how))
            if key not in kept:
                kept[key] = encode(pixel_values, *how)
            return kept[key]

        return encoded

    names = ("encode_image", "encode_memory")
    model.__dict__.update({name: once(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del model.__dict__[name]


def mean_and_deviation(values: Sequence[float]) -> str:
    """A cell such as 55.6 ± 1.9, or - where a metric has no masks."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}" if values else "-"
