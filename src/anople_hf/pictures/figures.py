"""The paper's figures for a detector: image features in the plane, and the attention of single tokens.

Implements Figures 4 (features of one category and the text vectors, by t-SNE) and 5 (attention). Figure 3 is
`sheets.write_sheet`. Features of all products in one plane are ours.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.schema import as_files
from ..images import read_image
from ..modeling_anople import AnoPLeModel
from ..processing_anople import AnoPLeProcessor
from .attention import attention_maps
from .overlays import heat_map_overlay
from .palette import DEFECTIVE, GOOD, INK, plain, save
from .sheets import pick_rows

Method = Literal["pca", "tsne"]
MARKERS = "osD^vP*X<>hd"


def to_plane(features: NDArray[np.floating], method: Method = "pca", *, seed: int = 0) -> NDArray[np.float64]:
    """Project features (N, d) to points (N, 2).

    Args:
        features: At least 3 rows.
        method: `pca`, the two directions of largest variance; or `tsne` (needs scikit-learn), which keeps neighbors.
        seed: Seed of t-SNE.

    Raises:
        ValueError: There are too few rows, or the method is unknown.
        ImportError: t-SNE without scikit-learn.

    Example:
        >>> points = to_plane(np.array([[0.0, 0, 0], [4, 0, 0], [0, 1, 0], [4, 1, 0]]))
        >>> np.round(np.ptp(points, axis=0), 6).tolist()
        [4.0, 1.0]
    """
    if len(features) < 3 or method not in ("pca", "tsne"):
        raise ValueError(f"{len(features)} features, method {method!r}: expected at least 3, and pca or tsne.")
    if method == "pca":
        centered = np.asarray(features, np.float64) - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
        return left[:, :2] * sizes[:2]
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError('t-SNE needs scikit-learn: pip install "anople-hf[evaluate]".') from error
    spread = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), init="pca", random_state=seed)
    return spread.fit_transform(np.asarray(features, np.float64)).astype(np.float64)


@torch.inference_mode()
def image_features(
    model: AnoPLeModel, processor: AnoPLeProcessor, photos: datasets.Dataset, *, batch_size: int = 16
) -> NDArray[np.float32]:
    """The image features z_0 of photos, (N, d), of unit length.

    Args:
        model: A trained model.
        processor: Its processor.
        photos: In the package's schema.
        batch_size: Photos per pass.
    """
    found = []
    for start in range(0, len(photos), batch_size):
        rows = as_files(photos)[start : start + batch_size]
        pixels = processor(images=rows["image"], ranges=model.memory.ranges())["pixel_values"]
        found.append(model.encode_image(pixels.to(model.device, model.dtype))[0].float().cpu())
    return torch.cat(found).numpy()


def draw_features(
    features: NDArray[np.floating],
    categories: Sequence[str],
    labels: Sequence[int],
    *,
    methods: Sequence[Method] = ("pca", "tsne"),
    text_features: NDArray[np.floating] | None = None,
) -> Figure:
    """Draw photos as points: the marker shows the product; color and fill show good or defective.

    Args:
        features: (N, d).
        categories: Category of each photo.
        labels: 0 good, 1 defective.
        methods: A panel for each.
        text_features: w+ and w- (2, d), to be shown in the same plane; they lie far from photos, as in any CLIP.
    """
    figure = Figure(figsize=(4.6 * len(methods) + 1.6, 4.4), facecolor="white", layout="constrained")
    names = sorted(set(categories))
    for number, method in enumerate(methods, start=1):
        axis = figure.add_subplot(1, len(methods), number)
        plain(axis)
        words = np.empty((0, features.shape[1])) if text_features is None else text_features
        points = to_plane(np.concatenate([features, words]), method)
        for point, word, color in zip(
            points[len(features) :], ("w+, normal text", "w-, abnormal text"), ("#2a78a8", DEFECTIVE), strict=False
        ):
            axis.scatter(
                point[0], point[1], s=160, marker="*", facecolors=color, edgecolors=INK, linewidths=0.9, label=word
            )
        for place, name in enumerate(names):
            for label, color in ((0, GOOD), (1, DEFECTIVE)):
                own = [
                    i for i, (c, bad) in enumerate(zip(categories, labels, strict=True)) if (c, bad) == (name, label)
                ]
                axis.scatter(
                    points[own, 0],
                    points[own, 1],
                    s=26,
                    marker=MARKERS[place % len(MARKERS)],
                    facecolors=color if label else "none",
                    edgecolors=DEFECTIVE if label else "#2a78a8",
                    linewidths=0.9,
                    label=f"{name}, {'defective' if label else 'good'}",
                )
        axis.set_title({"pca": "PCA", "tsne": "t-SNE"}[method], fontsize=9, color=INK)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False)
    return figure


def draw_attention(
    model: AnoPLeModel, processor: AnoPLeProcessor, photos: datasets.Dataset, rows: Sequence[int]
) -> Figure:
    """Draw photo, attention of the global-view prefix, of [CLS], and of the local prefixes on their crops.

    Args:
        model: A model with a scale prefix.
        processor: Its processor.
        photos: In the package's schema.
        rows: Which photos to draw.

    Raises:
        ValueError: The model has no scale prefix.
    """
    if model.prompts.scale_prefix is None:
        raise ValueError("this model was trained without a scale prefix (scale_prefix=False): nothing to show.")
    titles = ("photo", "global-view prefix", "[CLS]", "local-view prefixes")
    figure = Figure(figsize=(9.2, 2.4 * len(rows)), facecolor="white", layout="constrained")
    for place, row in enumerate(rows):
        photo = read_image(as_files(photos)[row]["image"], model.memory.ranges())
        whole = processor(images=photo)["pixel_values"]
        side = whole.shape[-1]
        picture = np.asarray(photo.resize((side, side)))
        seen = attention_maps(model, whole)
        large = photo.resize((2 * side, 2 * side))
        boxes = [(x, y, x + side, y + side) for y in (0, side) for x in (0, side)]
        crops = processor(images=[large.crop(box) for box in boxes])["pixel_values"]
        local = [attention_maps(model, crop[None], view=view)["prefix"][0] for view, crop in enumerate(crops)]
        joined = torch.cat([torch.cat(local[:2], dim=1), torch.cat(local[2:], dim=1)])
        for column, found in enumerate((None, seen["prefix"][0], seen["cls"][0], joined)):
            axis = figure.add_subplot(len(rows), 4, 4 * place + column + 1)
            top = 0.0 if found is None else float(found.max())
            axis.imshow(
                picture if found is None else heat_map_overlay(picture, found.cpu().numpy(), scale=(0, top), alpha=0.6)
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if place == 0:
                axis.set_title(titles[column], fontsize=8, color=INK)
        figure.axes[4 * place].set_ylabel(f"{photos[row]['category']}\n{photos[row]['defect']}", fontsize=7, color=INK)
    return figure


def write_figures(
    model: AnoPLeModel, processor: AnoPLeProcessor, test: datasets.Dataset, folder: Path, *, methods: Sequence[Method]
) -> list[Path]:
    """Write `features.png`, `category_features.png` (Figure 4) and, with a scale prefix, `attention.png`.

    The category shown is the one with most test photos.

    Args:
        model: A trained model.
        processor: Its processor.
        test: Photos in the package's schema.
        folder: Output folder; created if needed.
        methods: Panels of `features.png`.

    Returns:
        The paths.
    """
    features = image_features(model, processor, test)
    plane = draw_features(features, test["category"], test["label"], methods=methods)
    shown = Counter(test["category"]).most_common(1)[0][0]
    own = [place for place, category in enumerate(test["category"]) if category == shown]
    labels = [test["label"][place] for place in own]
    words = model.text_features.float().cpu().numpy()
    one = draw_features(features[own], [shown] * len(own), labels, methods=methods, text_features=words)
    written = [save(plane, folder / "features.png"), save(one, folder / "category_features.png")]
    if model.prompts.scale_prefix is not None:
        chosen = pick_rows(test, per_category=2)[:8]
        written.append(save(draw_attention(model, processor, test, chosen), folder / "attention.png", dpi=100))
    return written


__all__ = ["draw_attention", "draw_features", "image_features", "to_plane", "write_figures"]
