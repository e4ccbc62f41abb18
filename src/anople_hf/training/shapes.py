"""Where a pseudo anomaly lies: Perlin-shaped regions, boxes and scars, and the product they shall lie on.

Sec. 3.3.2 of the paper says no more than "simulated anomalies". Perlin regions are DRAEM's (Zavrtanik et al., ICCV
2021), boxes and scars CutPaste's (Li et al., CVPR 2021).

One thing differs from DRAEM, on purpose: the noise works at every image size (its generator needs the scale to divide
the size, which 240 does not do for 32).
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

TRIES = 20  # draws before a fallback that cannot fail; about one mask in thirty is drawn again
UNLIKE = 12.0  # gray levels by which the product has to stand out from the border


def perlin_noise(shape: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Perlin's gradient noise at any size.

    Args:
        shape: (H, W) in pixels.
        scale: Lattice cells along y and x, > 0; they need not divide H and W, nor be whole.
        rng: Source of randomness.

    Returns:
        float32 (H, W), about in [-1, 1], mean 0.
    """
    (across_y, offset_y), (across_x, offset_x) = (
        _lattice(size, cells) for size, cells in zip(shape, scale, strict=True)
    )
    angles = rng.uniform(0, 2 * np.pi, (across_y.shape[1], across_x.shape[1])).astype(np.float32)
    # A pixel is the weighted sum of <gradient, offset> at its four corners; offsets are separable, so two products do.
    noise = offset_y @ np.sin(angles) @ across_x.T + across_y @ np.cos(angles) @ offset_x.T
    return noise * np.float32(np.sqrt(2))


def perlin_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    threshold: float = 0.5,
    min_area: float = 5e-4,
    within: Mask | None = None,
) -> Mask:
    """The shape of an anomaly: Perlin noise of random scale and direction above a threshold, as in DRAEM.

    Args:
        shape: (H, W) in pixels.
        rng: Source of randomness.
        threshold: Level of the noise; at 0.5 the mask covers about 5 % of the image on average.
        min_area: Smallest share of the image; smaller masks are drawn again, the decoder could not show them.
        within: bool (H, W), where it may lie; None for anywhere.

    Returns:
        bool (H, W), never empty.
    """
    for _ in range(TRIES):
        angle = rng.uniform(-90.0, 90.0)
        zoom = _zoom(shape, angle)
        scale_y, scale_x = 2.0 ** rng.integers(0, 6, size=2)
        noise = rotate(perlin_noise(shape, (scale_y * zoom, scale_x * zoom), rng), angle)
        mask = noise > threshold if within is None else (noise > threshold) & within
        if mask.mean() >= max(min_area, 1 / mask.size):
            return mask
    if within is None:
        return noise >= np.quantile(noise, 0.95)
    return within & (noise >= np.quantile(noise[within], 0.95))


def strip_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
    *,
    turned: bool,
    within: Mask | None = None,
) -> Mask:
    """A filled rectangle at a random place.

    Args:
        shape: (H, W) in pixels.
        rng: Source of randomness.
        area: Smallest and largest share of the image.
        aspect: Smallest and largest ratio of its sides, drawn on a logarithmic scale.
        turned: Turn it by a random angle, as CutPaste does with scars.
        within: bool (H, W), where its center shall lie and outside of which nothing is marked; None for anywhere.

    Returns:
        bool (H, W), never empty.
    """
    height, width = shape
    pixels = rng.uniform(area[0], area[1]) * height * width
    ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
    high, wide = math.sqrt(pixels / ratio) / 2, math.sqrt(pixels * ratio) / 2
    places = np.arange(height * width) if within is None else np.flatnonzero(within)
    y, x = divmod(int(places[rng.integers(len(places))]), width)
    angle = rng.uniform(0, math.pi) if turned else 0.0
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [(a * wide, b * high) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(
        [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in corners], fill=1
    )
    mask = np.array(canvas)
    mask[y, x] = True  # however thin it is
    return mask if within is None else mask & within


def product_mask(image: Pixels) -> Mask:
    """Where the product is: what does not look like the border of the photo. Ours, and a guess.

    A photo that its product fills (a cloth, a tile) has no background; then every pixel is the product's.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        bool (H, W), at least 5 % of it set.
    """
    height, width = image.shape[:2]
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (max(1.0, height / 200), max(1.0, width / 200), 0))
    frame = np.ones((height, width), bool)
    rim_y, rim_x = max(1, height // 50), max(1, width // 50)
    frame[rim_y : height - rim_y, rim_x : width - rim_x] = False
    distance = np.abs(smooth - np.median(smooth[frame], axis=0)).max(axis=2)
    found = distance > np.quantile(distance[frame], 0.95) + UNLIKE
    step = max(1, height // 200)
    found = ndimage.binary_fill_holes(ndimage.binary_opening(found, iterations=step))
    found = ndimage.binary_erosion(found, iterations=step)  # the blur widened it
    return found if found.mean() >= 0.05 else np.ones((height, width), bool)


def rotate(image: NDArray, angle: float) -> NDArray:
    """Turn about the center and enlarge until no corner is empty; uint8 (H, W, 3) or float32 (H, W)."""
    height, width = image.shape[:2]
    zoom = _zoom((height, width), angle)
    cosine, sine = np.cos(np.radians(angle)) / zoom, np.sin(np.radians(angle)) / zoom
    x, y = width / 2, height / 2
    matrix = (cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y)
    turned = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def _zoom(shape: tuple[int, int], angle: float) -> float:
    """How much larger an image has to be so that its turned copy still covers the frame."""
    cosine, sine = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    return float(1.02 * (cosine + sine * max(shape) / min(shape)))


def _lattice(size: int, cells: float) -> tuple[Floats, Floats]:
    """Weights of the lattice points along one axis, and weights times offsets; both (size, points)."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.floor(position).astype(np.intp)
    offset = position - left
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    weights = np.zeros((size, int(np.ceil(cells)) + 1), np.float32)
    offsets = np.zeros_like(weights)
    pixels = np.arange(size)
    weights[pixels, left], weights[pixels, left + 1] = 1 - fade, fade
    offsets[pixels, left], offsets[pixels, left + 1] = (1 - fade) * offset, fade * (offset - 1)
    return weights, offsets
