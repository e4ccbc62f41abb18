"""What a pseudo anomaly looks like: textures that are drawn, read from a folder, or made from photos.

Sec. 3.3.2 of the paper says no more than "simulated anomalies". DRAEM takes its textures from DTD, a download; the
drawn ones and those made from the shots are ours.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from .shapes import Floats, Pixels, perlin_noise, rotate

GRID = 8  # patches a side that are shuffled when a photo becomes a texture


def from_photo(photo: Pixels, shape: tuple[int, int], rng: np.random.Generator, *, shuffled: bool) -> Pixels:
    """A photo turned, recolored and, if it is to lose its form, cut into patches and shuffled.

    Args:
        photo: uint8 (h, w, 3) of any size.
        shape: (H, W) of the texture.
        rng: Source of randomness.
        shuffled: Whether its patches change places.

    Returns:
        uint8 (H, W, 3).
    """
    turned = rotate(_resize(photo, shape), float(rng.uniform(-45.0, 45.0) + 90 * rng.integers(4)))
    return _recolor(_shuffle(turned, rng) if shuffled else turned, rng)


def from_elsewhere(photo: Pixels, rng: np.random.Generator) -> Floats:
    """The photo itself, moved by at least a tenth of its sides and a little brighter or darker (CutPaste).

    Under a mask it shows another place of the same product.

    Args:
        photo: uint8 (H, W, 3).
        rng: Source of randomness.

    Returns:
        float32 (H, W, 3), 0..255.
    """
    by = [int(rng.uniform(0.1, 0.9) * side) for side in photo.shape[:2]]
    moved = np.roll(photo, by, axis=(0, 1)).astype(np.float32)
    contrast, brightness = rng.uniform(0.9, 1.1, 3), rng.uniform(-0.1, 0.1) * 255
    mean = moved.mean(axis=(0, 1))
    return np.clip((moved - mean) * contrast + mean + brightness, 0, 255).astype(np.float32)


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Two colors mixed by four octaves of noise, coarse to fine."""
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
    """Colored grain of one to eight pixels around a mean color."""
    grain = int(rng.integers(1, 9))
    coarse = rng.standard_normal((-(-shape[0] // grain), -(-shape[1] // grain), 3), dtype=np.float32)
    values = _colors(1, rng) + np.float32(rng.uniform(20, 90)) * coarse
    return np.clip(values, 0, 255).repeat(grain, axis=0).repeat(grain, axis=1)[: shape[0], : shape[1]]


def _blobs(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Flat colors along the height lines of a smooth noise; often one color fills the whole mask."""
    scale = 2.0 ** rng.uniform(0, 3)
    levels = np.floor(np.abs(perlin_noise(shape, (scale, scale), rng)) * np.float32(rng.uniform(0.5, 4)))
    return _colors(8, rng)[np.minimum(levels, 7).astype(np.intp)]


PROCEDURES: tuple[Callable[[tuple[int, int], np.random.Generator], Floats], ...] = (
    _clouds,
    _stripes,
    _checks,
    _speckle,
    _blobs,
)


def _ramp(shape: tuple[int, int], angle: float, frequency: float) -> Floats:
    """A plane that rises by `frequency` along the longer side."""
    y, x = (np.arange(size, dtype=np.float32) * np.float32(frequency / max(shape)) for size in shape)
    return np.float32(np.sin(angle)) * y[:, None] + np.float32(np.cos(angle)) * x[None, :]


def _mix(share: Floats, rng: np.random.Generator) -> Floats:
    """Two random colors by share; (H, W) to (H, W, 3)."""
    first, second = _colors(2, rng)
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def _colors(count: int, rng: np.random.Generator) -> Floats:
    """Random colors (count, 3), gray to garish: on gray parts, color alone must not give the anomaly away."""
    colors = rng.uniform(0, 255, (count, 3))
    gray = colors[:, :1]
    return (gray + rng.uniform(0, 1) * (colors - gray)).astype(np.float32)


def _recolor(image: Pixels, rng: np.random.Generator) -> Pixels:
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


def _resize(image: Pixels, shape: tuple[int, int]) -> Pixels:
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
