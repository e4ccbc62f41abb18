"""Shared by the scripts that train over several seeds: a quiet start, and a table cell with mean and deviation."""

import logging
import statistics
from collections.abc import Sequence

import torch
import transformers


def start(threads: int) -> None:
    """Use so many threads, and let the libraries only warn."""
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def mean_and_deviation(values: Sequence[float]) -> str:
    """A cell such as 55.6 ± 1.9, or - where a metric has no masks."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}" if values else "-"
