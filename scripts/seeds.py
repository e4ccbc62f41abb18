"""Shared by scripts that measure: a quiet start, an untrained detector, a table cell with mean and deviation."""

import logging
import statistics
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from anople_hf import AnoPLeModel, AnoPLeProcessor


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


def mean_and_deviation(values: Sequence[float]) -> str:
    """A cell such as 55.6 ± 1.9, or - where a metric has no masks."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}" if values else "-"
