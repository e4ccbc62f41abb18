"""Modules for the `evaluate` library: image- and pixel-level scores. They load offline by path and can be pushed."""

from pathlib import Path

MODULES = ("anomaly_image_scores", "anomaly_pixel_scores")


def module_path(name: str) -> str:
    """The path of a module, for `evaluate.load`; its folder is also what is uploaded to a Space.

    Args:
        name: One of `MODULES`.

    Raises:
        ValueError: There is no such module.

    Example:
        >>> import evaluate
        >>> scores = evaluate.load(module_path("anomaly_image_scores"))
        >>> scores.compute(predictions=[0.1, 0.4, 0.35, 0.8], references=[0, 0, 1, 1])["image_auroc"]
        0.75
    """
    if name not in MODULES:
        raise ValueError(f"no module {name!r}; there are {', '.join(MODULES)}.")
    return str(Path(__file__).parent / name)


__all__ = ["MODULES", "module_path"]
