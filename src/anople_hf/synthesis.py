"""Pseudo anomalies (Perlin-shaped texture in pixel space, gaussian noise in latent space) and the views of an image.

Where in the paper: sec. 3 and 3.3.2 ("pixel and latent spaces"), sec. 3.2 for the views.

The pixel anomalies follow DRAEM (Zavrtanik et al., ICCV 2021), the latent ones SimpleNet (Liu et al., CVPR 2023).
Two things differ from DRAEM, on purpose: the noise works at every image size (its generator needs the scale to divide
the size, which 240 does not do for 32), and textures need no download. They are drawn here or taken from the shots.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

SOURCES = ("mixed", "procedural", "shots")
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
GRID = 8  # patches a side that are shuffled when a photo becomes a texture
TRIES = 20  # draws before a fallback that cannot fail; about one mask in thirty is drawn again


def latent_anomalies(
    features: Tensor, sigma: float = 0.015, mean: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """z_latent = z+ + eps with eps ~ N(mean, sigma^2) a component, brought back to length 1 (sec. 3.3.2).

    Args:
        features: z+, features of normal views, (..., d); they are L2-normalised first, so that sigma means the same
            for every backbone. At d = 640, sigma 0.015 turns a vector by a cosine of about 0.935.
        sigma: Standard deviation of the noise, >= 0.
        mean: Mean of the noise.
        generator: Source of randomness on the device of `features`; torch's global one if None.

    Returns:
        (..., d) of the dtype of `features`, L2-normalised; gradients pass to `features`.

    Example:
        >>> normal = F.normalize(torch.ones(1000, 640), dim=1)
        >>> latent = latent_anomalies(normal, generator=torch.Generator().manual_seed(0))
        >>> round((normal * latent).sum(dim=1).mean().item(), 2)
        0.93
    """
    noise = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    noise.normal_(mean, sigma, generator=generator)
    return F.normalize(F.normalize(features.float(), dim=-1) + noise, dim=-1).to(features.dtype)


def local_views(array: NDArray) -> list[NDArray]:
    """The N + 1 = 5 views of one image or mask: the global one, then four crops, row-major (sec. 3.2).

    Args:
        array: Image uint8 (2n, 2n, 3), or mask bool (2n, 2n); 480 a side for the paper's backbone.

    Returns:
        Five arrays with n a side. The crops are the very pixels. The global image is reduced by PIL's bicubic filter;
        a global mask's pixel is set where at least half of its 2x2 pixels are, which keeps a scratch of one pixel.

    Raises:
        ValueError: If the array is not square or its side is odd.

    Example:
        >>> [view.shape for view in local_views(np.zeros((480, 480, 3), np.uint8))][:2]
        [(240, 240, 3), (240, 240, 3)]
    """
    height, width = array.shape[:2]
    if height != width or height % 2:
        raise ValueError(f"the array is {height}x{width}, views need an even square; resize it, to 480x480 as a rule")
    half = height // 2
    if array.dtype == np.bool_:
        whole = array.reshape(half, 2, half, 2).sum(axis=(1, 3)) >= 2
    else:
        whole = np.asarray(Image.fromarray(array).resize((half, half), Image.Resampling.BICUBIC))
    return [whole, *(array[y : y + half, x : x + half] for y in (0, half) for x in (0, half))]


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
    shape: tuple[int, int], rng: np.random.Generator, threshold: float = 0.5, min_area: float = 5e-4
) -> Mask:
    """The shape of an anomaly: Perlin noise of random scale and direction above a threshold, as in DRAEM.

    Args:
        shape: (H, W) in pixels.
        rng: Source of randomness.
        threshold: Level of the noise; at 0.5 the mask covers about 5 % of the image on average.
        min_area: Smallest share of the image; smaller masks are drawn again, the decoder could not show them.

    Returns:
        bool (H, W), never empty.
    """
    for _ in range(TRIES):
        angle = rng.uniform(-90.0, 90.0)
        zoom = _zoom(shape, angle)
        scale_y, scale_x = 2.0 ** rng.integers(0, 6, size=2)
        noise = _rotate(perlin_noise(shape, (scale_y * zoom, scale_x * zoom), rng), angle)
        mask = noise > threshold
        if mask.mean() >= max(min_area, 1 / mask.size):
            return mask
    return noise >= np.quantile(noise, 0.95)


class AnomalySynthesizer:
    """Paints a foreign texture into a Perlin-shaped part of a normal image (z^- of eq. 10).

    out = I (1 - M) + (1 - beta) A M + beta I M, with texture A and beta ~ U(0, `max_blend`).

    Args:
        source: Where A comes from: "procedural" (drawn: clouds, stripes, checks, speckle, blobs), "shots" (one of the
            given photos, recoloured, turned and shuffled), "mixed" (half and half), or a folder of textures such as
            DTD, searched recursively.
        max_blend: Largest beta, in [0, 1); how faint an anomaly may be.
        threshold: See `perlin_mask`.
        min_area: See `perlin_mask`.
        min_change: Grey levels (0..255) by which a pixel has to change in its strongest channel to count as visible.
            Draws with less than 80 % visible pixels in the mask are made again.

    Raises:
        ValueError: If `source` is neither a known word nor a folder with images, or `max_blend` is out of range.

    Example:
        >>> photo = np.full((480, 480, 3), 120, np.uint8)
        >>> image, mask = AnomalySynthesizer()(photo, np.random.default_rng(0))
        >>> image.shape, mask.dtype, bool((image != photo).any(axis=2)[~mask].any())
        ((480, 480, 3), dtype('bool'), False)
    """

    def __init__(
        self,
        source: str | Path = "mixed",
        *,
        max_blend: float = 0.8,
        threshold: float = 0.5,
        min_area: float = 5e-4,
        min_change: float = 4.0,
    ) -> None:
        if not 0 <= max_blend < 1:
            raise ValueError(f"max_blend is {max_blend}, expected 0 <= max_blend < 1; at 1 no anomaly could be seen")
        self.source = source
        self.max_blend = max_blend
        self.threshold = threshold
        self.min_area = min_area
        self.min_change = min_change
        self.textures: list[Path] = []
        if source not in SOURCES:
            folder = Path(source)
            self.textures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not self.textures:
                raise ValueError(f"source is {str(source)!r}, expected one of {SOURCES} or a folder that holds images")

    def __call__(self, image: Pixels, rng: np.random.Generator, others: Sequence[Pixels] = ()) -> tuple[Pixels, Mask]:
        """Make one anomalous twin.

        Args:
            image: A normal image, uint8 (H, W, 3); left as it is.
            rng: Source of all randomness; equal states give equal results.
            others: More normal images, uint8 (h, w, 3) of any size, as textures for the source "shots".

        Returns:
            Image uint8 (H, W, 3), equal to the input outside the mask, and mask bool (H, W), never empty.

        Raises:
            ValueError: If the image is not uint8 (H, W, 3).
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
        mask = perlin_mask(image.shape[:2], rng, self.threshold, self.min_area)
        normal = image[mask].astype(np.float32)
        for _ in range(TRIES):
            texture = self._texture(image, rng, others)[mask]
            blend = np.float32(rng.uniform(0, self.max_blend))
            painted = np.rint((1 - blend) * texture + blend * normal)
            if (np.abs(painted - normal).max(axis=1) >= self.min_change).mean() >= 0.8:
                break
        else:
            painted = (normal + 128) % 256  # a texture like the image itself: shift every level, which always shows
        anomalous = image.copy()
        anomalous[mask] = painted.astype(np.uint8)
        return anomalous, mask

    def _texture(self, image: Pixels, rng: np.random.Generator, others: Sequence[Pixels]) -> Pixels | Floats:
        shape = image.shape[:2]
        if self.textures:
            with Image.open(self.textures[rng.integers(len(self.textures))]) as texture:
                return _recolour(_rotate(_resize(np.asarray(texture.convert("RGB")), shape), _turn(rng)), rng)
        if self.source == "procedural" or (self.source == "mixed" and rng.random() < 0.5):
            return PROCEDURES[rng.integers(len(PROCEDURES))](shape, rng)
        photos = [image, *others]
        photo = _resize(photos[rng.integers(len(photos))], shape)
        return _recolour(_shuffle(_rotate(photo, _turn(rng)), rng), rng)


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Two colours mixed by four octaves of noise, coarse to fine."""
    scale = 2.0 ** rng.uniform(0, 4)
    octaves = (perlin_noise(shape, (scale * 2**o, scale * 2**o), rng) * np.float32(0.6**o) for o in range(4))
    return _mix(0.5 + 0.6 * sum(octaves, np.zeros(shape, np.float32)), rng)


def _stripes(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Bands across a random direction, soft or hard, straight or wavy."""
    phase = _ramp(shape, rng.uniform(0, np.pi), 2.0 ** rng.uniform(2, 6))
    phase += rng.choice([0.0, 1.0]).astype(np.float32) * perlin_noise(shape, (4, 4), rng)
    return _mix(0.5 + np.float32(rng.uniform(0.5, 4)) * np.sin(2 * np.pi * phase), rng)


def _checks(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A turned chess board."""
    angle, frequency = rng.uniform(0, np.pi), 2.0 ** rng.uniform(2, 6)
    columns, rows = (np.floor(_ramp(shape, angle + turn, frequency)) for turn in (0.0, np.pi / 2))
    return _mix(np.mod(columns + rows, 2), rng)


def _speckle(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Coloured grain of one to eight pixels around a mean colour."""
    grain = int(rng.integers(1, 9))
    coarse = rng.standard_normal((-(-shape[0] // grain), -(-shape[1] // grain), 3), dtype=np.float32)
    values = _colours(1, rng) + np.float32(rng.uniform(20, 90)) * coarse
    return np.clip(values, 0, 255).repeat(grain, axis=0).repeat(grain, axis=1)[: shape[0], : shape[1]]


def _blobs(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Flat colours along the height lines of a smooth noise; often one colour fills the whole mask."""
    scale = 2.0 ** rng.uniform(0, 3)
    levels = np.floor(np.abs(perlin_noise(shape, (scale, scale), rng)) * np.float32(rng.uniform(0.5, 4)))
    return _colours(8, rng)[np.minimum(levels, 7).astype(np.intp)]


PROCEDURES: tuple[Callable[[tuple[int, int], np.random.Generator], Floats], ...] = (
    _clouds,
    _stripes,
    _checks,
    _speckle,
    _blobs,
)


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


def _ramp(shape: tuple[int, int], angle: float, frequency: float) -> Floats:
    """A plane that rises by `frequency` along the longer side."""
    y, x = (np.arange(size, dtype=np.float32) * np.float32(frequency / max(shape)) for size in shape)
    return np.float32(np.sin(angle)) * y[:, None] + np.float32(np.cos(angle)) * x[None, :]


def _mix(share: Floats, rng: np.random.Generator) -> Floats:
    """Two random colours by share; (H, W) to (H, W, 3)."""
    first, second = _colours(2, rng)
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def _colours(count: int, rng: np.random.Generator) -> Floats:
    """Random colours (count, 3), grey to garish: on grey parts, colour alone must not give the anomaly away."""
    colours = rng.uniform(0, 255, (count, 3))
    grey = colours[:, :1]
    return (grey + rng.uniform(0, 1) * (colours - grey)).astype(np.float32)


def _recolour(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Gamma, contrast and brightness a channel, channels exchanged, half of the time solarised: one look-up table."""
    levels = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.5, 2, 3)
    levels = (levels - 0.5) * rng.uniform(0.6, 1.6, 3) + 0.5 + rng.uniform(-0.3, 0.3, 3)
    if rng.random() < 0.5:
        levels = np.where(levels > rng.uniform(0.2, 0.8), 1 - levels, levels)
    table = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return np.stack([table[image[..., source], channel] for channel, source in enumerate(rng.permutation(3))], axis=-1)


def _shuffle(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Cut into 8x8 patches and put back in random order; a size that 8 does not divide is filled up by wrapping."""
    height, width = image.shape[:2]
    high, wide = -(-height // GRID), -(-width // GRID)
    filled = np.pad(image, ((0, high * GRID - height), (0, wide * GRID - width), (0, 0)), mode="wrap")
    patches = filled.reshape(GRID, high, GRID, wide, 3).swapaxes(1, 2).reshape(GRID * GRID, high, wide, 3)
    patches = patches[rng.permutation(GRID * GRID)].reshape(GRID, GRID, high, wide, 3).swapaxes(1, 2)
    return patches.reshape(GRID * high, GRID * wide, 3)[:height, :width]


def _turn(rng: np.random.Generator) -> float:
    return float(rng.uniform(-45.0, 45.0) + 90 * rng.integers(4))


def _zoom(shape: tuple[int, int], angle: float) -> float:
    """How much larger an image has to be so that its turned copy still covers the frame."""
    cosine, sine = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    return float(1.02 * (cosine + sine * max(shape) / min(shape)))


def _rotate(image: NDArray, angle: float) -> NDArray:
    """Turn about the centre and enlarge until no corner is empty; uint8 (H, W, 3) or float32 (H, W)."""
    height, width = image.shape[:2]
    zoom = _zoom((height, width), angle)
    cosine, sine = np.cos(np.radians(angle)) / zoom, np.sin(np.radians(angle)) / zoom
    x, y = width / 2, height / 2
    matrix = (cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y)
    turned = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def _resize(image: Pixels, shape: tuple[int, int]) -> Pixels:
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
