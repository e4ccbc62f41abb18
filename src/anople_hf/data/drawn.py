"""Draws a sample data set: products on a line and defects with exact masks, in the MVTec-AD layout.

With it, everything runs without a download. The drawings are ours and free to use.

A product is a height map and a color map (`drawn_products.py`). One lamp lights the height map, so scratches shine and
dents cast shadows. A defective part is rendered twice, with and without the defect; the mask is the difference.
"""

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .canvas import Canvas
from .drawn_products import PRODUCTS, Product

MIN_CHANGE = 6  # gray levels by which a pixel must differ to count as changed
MIN_PIXELS = 40  # a defect smaller than this is drawn again

_Job = tuple[str, str | None, list[int], Path]  # product, defect, seed, file


def draw_dataset(
    root: str | Path,
    *,
    categories: list[str] | None = None,
    train: int = 12,
    test_good: int = 8,
    test_defective: int = 12,
    size: int = 320,
    seed: int = 0,
) -> list[str]:
    """Draw and write a data set.

    Args:
        root: Folder to fill; created if needed.
        categories: Names from `PRODUCTS`; None for all.
        train: Good training photos per category.
        test_good: Good test photos per category.
        test_defective: Defective test photos per category, spread evenly over the kinds of defects.
        size: Side of a photo in pixels.
        seed: The same seed gives the same photos.

    Returns:
        The categories.

    Raises:
        ValueError: Unknown category.
    """
    names = list(PRODUCTS) if categories is None else categories
    if unknown := sorted(set(names) - set(PRODUCTS)):
        raise ValueError(f"no drawn category {', '.join(unknown)}; there are {', '.join(PRODUCTS)}.")
    jobs: list[_Job] = []
    for name in names:
        folder, number = Path(root) / name, list(PRODUCTS).index(name)
        for split, count, part in (("train", train, 0), ("test", test_good, 1)):
            jobs += [
                (name, None, [seed, number, part, i], folder / split / "good" / f"{i:03}.png") for i in range(count)
            ]
        defects = list(PRODUCTS[name].defects)
        for index in range(test_defective):
            defect, stem = defects[index % len(defects)], f"{index // len(defects):03}"
            jobs.append((name, defect, [seed, number, 2, index], folder / "test" / defect / f"{stem}.png"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        list(pool.map(lambda job: _draw(job, size), jobs))  # numpy and scipy draw outside of Python's lock
    return names


def _draw(job: _Job, size: int) -> None:
    """Write one photo and its mask."""
    name, defect, seed, path = job
    if defect is None:
        _save(render(PRODUCTS[name], seed, size), path)
        return
    photo, mask = render_defective(PRODUCTS[name], defect, seed, size)
    _save(photo, path)
    truth = path.parents[2] / "ground_truth" / defect / f"{path.stem}_mask.png"
    _save(mask.astype(np.uint8) * 255, truth)


def render(product: Product, seed: list[int], size: int, defect: str | None = None, attempt: int = 0) -> NDArray:
    """Render one photo.

    Args:
        product: What to draw.
        seed: Fixes the part, its position, the light and the camera noise.
        size: Side in pixels.
        defect: One of `product.defects`, or None for a good part.
        attempt: Each number puts the defect at a different place on the same part.

    Returns:
        uint8 (size, size, 3).
    """
    canvas, lamp = _good_part(product, seed, size)
    if defect is not None:
        product.defects[defect](canvas, np.random.default_rng([*seed, 99, attempt]))
    return _photograph(canvas, lamp, seed)


def _good_part(product: Product, seed: list[int], size: int) -> tuple[Canvas, NDArray]:
    rng = np.random.default_rng(seed)
    canvas = Canvas(2 * size, rng)
    product.draw(canvas, rng)
    return canvas, rng.normal(0, 1, 8)


def _photograph(canvas: Canvas, lamp: NDArray, seed: list[int]) -> NDArray:
    size = canvas.size // 2
    picture = _light(canvas, lamp)
    picture = ndimage.gaussian_filter(picture, (1.1, 1.1, 0))
    picture = picture.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))  # supersampled: smooth edges
    noise = np.random.default_rng([*seed, 7]).normal(0, 0.008, picture.shape)
    return np.clip((picture + noise) * 255, 0, 255).round().astype(np.uint8)


def render_defective(product: Product, defect: str, seed: list[int], size: int) -> tuple[NDArray, NDArray]:
    """Render a defective photo and its mask.

    Returns:
        uint8 (size, size, 3) and bool (size, size); outside the mask the photo equals the good part's.
    """
    part, lamp = _good_part(product, seed, size)
    good = _photograph(part, lamp, seed)
    for attempt in range(20):
        canvas = copy.deepcopy(part)  # the same part again, drawn once
        product.defects[defect](canvas, np.random.default_rng([*seed, 99, attempt]))
        photo = _photograph(canvas, lamp, seed)
        difference = np.abs(photo.astype(int) - good).max(axis=-1)
        core = ndimage.binary_closing(np.pad(difference >= MIN_CHANGE, 4), iterations=2)[4:-4, 4:-4]
        labeled, count = ndimage.label(core, structure=np.ones((3, 3)))
        sizes = ndimage.sum_labels(core, labeled, range(1, count + 1))
        core = np.isin(labeled, 1 + np.flatnonzero(sizes >= 12))  # single noisy pixels are no defect
        if core.sum() >= MIN_PIXELS * (size / 320) ** 2:
            return np.where(core[..., None], photo, good), core
    raise RuntimeError(f"no visible {defect!r} in 20 attempts; the defect of this product is drawn too faintly.")


def _light(canvas: Canvas, lamp: NDArray) -> NDArray:
    """Light the height map: Lambert shading and highlight, a soft shadow on the belt, and a lamp with falloff."""
    dy, dx = np.gradient(canvas.height * canvas.size * 0.5)
    normal_z = 1 / np.sqrt(1 + dx**2 + dy**2)
    light = np.array([-0.45 + 0.05 * lamp[0], -0.55 + 0.05 * lamp[1], 0.72])
    light /= np.linalg.norm(light)
    lambert = np.clip((-dx * light[0] - dy * light[1] + light[2]) * normal_z, 0, None)
    half = light + [0, 0, 1]
    half /= np.linalg.norm(half)
    shine = np.clip((-dx * half[0] - dy * half[1] + half[2]) * normal_z, 0, 1) ** 40
    offset = round(canvas.size * 0.018)
    shadow = ndimage.gaussian_filter(np.roll(canvas.covered, (offset, offset), (0, 1)), canvas.size * 0.012)
    shade = 1 - 0.5 * shadow * (1 - canvas.covered)
    falloff = 1 + 0.08 * (lamp[2] * canvas.x + lamp[3] * canvas.y) - 0.06 * (canvas.x**2 + canvas.y**2)
    bright = (0.32 + 0.86 * lambert / light[2] * 0.78) * shade * falloff * (1 + 0.03 * lamp[4])
    return canvas.color * bright[..., None] + (canvas.gloss * shine * 0.55)[..., None]


def _save(picture: NDArray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
