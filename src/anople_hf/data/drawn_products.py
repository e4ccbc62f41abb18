"""The products of the sample data set and their defects.

To add a product, write one function that draws it and one per defect.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .canvas import Canvas, blob, contamination, crack, scratch, stain

Draw = Callable[[Canvas, np.random.Generator], None]


@dataclass
class Product:
    """How to draw a good part and its defects."""

    draw: Draw
    defects: dict[str, Draw]


# -- brass gear -------------------------------------------------------------------------------------------------


def _gear(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.belt((0.23, 0.25, 0.28))
    u, v = canvas.place(0.04, 0.35)
    r, phi = np.hypot(u, v), np.arctan2(v, u)
    teeth = 0.66 + 0.055 * np.tanh(5 * np.sin(14 * phi))
    body = np.maximum(r - teeth, 0.17 - r)
    rim = np.maximum(np.abs(r - 0.41) - 0.1, 0)  # a groove turned into the face
    inside = canvas.edge(body)
    turned = ndimage.gaussian_filter1d(rng.standard_normal(2048), 1.5)[np.clip((r * 1400).astype(int), 0, 2047)]
    canvas.height = 0.06 * np.clip(-body / 0.03, 0, 1) - 0.025 * (rim == 0) * inside + 0.0006 * turned * inside
    canvas.height = ndimage.gaussian_filter(canvas.height, 2)
    brass = np.array((0.72, 0.56, 0.27)) * (1 + 0.05 * turned[..., None] + 0.03 * canvas.noise(rng, 40)[..., None])
    canvas.paint(inside, brass, gloss=0.7)
    canvas.covered = inside


def _missing_tooth(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.frame
    angle = (rng.integers(14) * 2 + 0.5) * np.pi / 14
    away = np.hypot(u - 0.71 * np.cos(angle), v - 0.71 * np.sin(angle)) - rng.uniform(0.085, 0.12)
    gone = canvas.edge(away + 0.012 * canvas.noise(rng, 14))
    canvas.height *= 1 - gone
    canvas.paint(gone, np.array((0.23, 0.25, 0.28)) * (1 + 0.03 * canvas.noise(rng, 2)[..., None]), gloss=0.0)
    canvas.covered = canvas.covered * (1 - gone)


# -- capsule ----------------------------------------------------------------------------------------------------


def _capsule(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.belt((0.82, 0.83, 0.84), grain=0.012)
    u, v = canvas.place(0.05, 0.12)
    r = np.hypot(np.clip(np.abs(u) - 0.4, 0, None), v)
    inside = canvas.edge(r - 0.3)
    canvas.height = 0.8 * np.sqrt(np.clip(0.09 - r**2, 0, None)) * 0.62
    seam = np.exp(-(((u - 0.02) / 0.012) ** 2))
    canvas.height += 0.006 * (u < 0.02) * inside - 0.006 * seam * inside
    canvas.height = ndimage.gaussian_filter(canvas.height, 2)
    left, right = np.array((0.78, 0.2, 0.17)), np.array((0.9, 0.87, 0.76))
    color = np.where((u < 0.02)[..., None], left, right) * (1 + 0.01 * canvas.noise(rng, 30)[..., None])
    canvas.paint(inside, color, gloss=1.0)
    canvas.paint(inside * canvas.edge(_print(u, v)), (0.12, 0.12, 0.2))
    canvas.covered = inside


def _print(u: NDArray, v: NDArray) -> NDArray:
    """Distance to the imprint "HF" on the light half."""
    bars = [(0.16, 0, 0.014, 0.1), (0.28, 0, 0.014, 0.1), (0.22, 0, 0.06, 0.013), (0.38, 0, 0.014, 0.1),
            (0.43, -0.087, 0.055, 0.013), (0.42, 0.0, 0.04, 0.013)]  # fmt: skip
    return np.min([np.maximum(np.abs(u - x) - w, np.abs(v - y) - h) for x, y, w, h in bars], axis=0)


def _dent(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y = canvas.spot_on_part(rng, 0.2)
    r = np.hypot(canvas.x - x, canvas.y - y)
    canvas.height -= 0.08 * np.exp(-((r / rng.uniform(0.06, 0.1)) ** 2)) * canvas.covered


def _misprint(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.frame
    shift, smear = rng.uniform(-0.05, 0.05), rng.uniform(0.06, 0.12)
    canvas.paint(canvas.covered * canvas.edge(_print(u, v) - 0.004), (0.9, 0.87, 0.76))
    for step in np.linspace(0, 1, 5):
        ghost = canvas.covered * canvas.edge(_print(u - shift - smear * step, v - smear * (step - 0.3)))
        canvas.paint(0.35 * ghost, (0.12, 0.12, 0.2))


# -- woven cloth ------------------------------------------------------------------------------------------------


def _cloth(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.place(0.3, 0.03)
    canvas.frame = u + 0.006 * canvas.noise(rng, 90), v + 0.006 * canvas.noise(rng, 90)
    _weave(canvas, rng, *canvas.frame)
    canvas.covered = np.ones_like(canvas.height)


def _weave(canvas: Canvas, rng: np.random.Generator, u: NDArray, v: NDArray) -> None:
    threads = 30
    over = np.sin(np.pi * threads * u) * np.sin(np.pi * threads * v) > 0
    warp, weft = np.abs(np.cos(np.pi * threads * u)), np.abs(np.cos(np.pi * threads * v))
    canvas.height = ndimage.gaussian_filter(0.011 * np.where(over, weft, warp), 1.2)
    fiber = 1 + 0.07 * canvas.noise(rng, 2)[..., None] + 0.03 * canvas.noise(rng, 25)[..., None]
    canvas.color = np.where(over[..., None], (0.3, 0.4, 0.56), (0.42, 0.51, 0.63)) * fiber
    canvas.gloss[:] = 0.05


def _hole(canvas: Canvas, rng: np.random.Generator) -> None:
    inside = np.clip(blob(canvas, rng, rng.uniform(0.06, 0.11)) * 60, 0, 1)
    frayed = np.clip(inside + 0.25 * canvas.noise(rng, 3) * (inside > 0) * (inside < 1), 0, 1)
    canvas.height -= 0.03 * frayed
    canvas.paint(0.95 * frayed, (0.07, 0.07, 0.08), gloss=0.0)


def _pulled_thread(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.frame if rng.random() < 0.5 else canvas.frame[::-1]
    row = (rng.integers(-12, 12) + 0.5) / 15
    start, length = rng.uniform(-0.7, 0.1), rng.uniform(0.4, 0.7)
    wave = 0.012 * np.sin(u * 22 + rng.uniform(0, 6))
    thread = np.exp(-(((v - row - wave) / 0.013) ** 2)) * (u > start) * (u < start + length)
    canvas.height += 0.02 * ndimage.gaussian_filter(thread, 1.5)
    canvas.paint(0.8 * thread, (0.72, 0.77, 0.84))


# -- circuit board ----------------------------------------------------------------------------------------------

CHIPS = [(-0.32, -0.3, 0.2, 0.2), (0.4, 0.36, 0.16, 0.22)]
PARTS = [(0.2, -0.55), (0.2, -0.35), (0.2, -0.15), (-0.6, 0.2), (-0.6, 0.42), (-0.25, 0.5), (0.62, -0.5), (0.62, -0.2)]
TRACES = [
    ((-0.12, -0.3), (0.2, -0.35)),
    ((-0.12, -0.22), (0.4, 0.14)),
    ((-0.32, -0.1), (-0.25, 0.5)),
    ((0.2, -0.55), (0.62, -0.5)),
    ((-0.6, 0.2), (-0.42, -0.1)),
    ((0.24, 0.36), (-0.25, 0.5)),
    ((0.62, -0.2), (0.5, 0.14)),
    ((-0.6, 0.42), (-0.6, 0.68)),
]


def _board(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.belt((0.6, 0.6, 0.58), grain=0.015)
    u, v = canvas.place(0.03, 0.04)
    inside = canvas.edge(np.maximum(np.abs(u), np.abs(v)) - 0.84)
    canvas.height = 0.03 * inside
    canvas.paint(inside, np.array((0.05, 0.3, 0.17)) * (1 + 0.04 * canvas.noise(rng, 3)[..., None]), gloss=0.25)
    for start, end in TRACES:
        trace = canvas.edge(_path(u, v, start, end) - 0.014)
        canvas.height += 0.004 * trace
        canvas.paint(0.8 * trace, (0.2, 0.47, 0.24))
    for x, y in [(-0.74, -0.74), (0.74, -0.74), (-0.74, 0.74), (0.74, 0.74)]:
        r = np.hypot(u - x, v - y)
        canvas.paint(canvas.edge(np.abs(r - 0.055) - 0.02), (0.8, 0.68, 0.36), gloss=0.6)
        canvas.paint(canvas.edge(r - 0.035), (0.3, 0.3, 0.3))
    for x, y, w, h in CHIPS:
        jx, jy = rng.normal(0, 0.004, 2)
        for pin in np.linspace(-0.8, 0.8, 7):
            pins = np.maximum(np.abs(np.abs(u - x - jx) - w - 0.02) - 0.03, np.abs(v - y - jy - pin * h) - 0.012)
            _solid(canvas, pins, 0.012, (0.75, 0.76, 0.77), 0.8)
        _solid(canvas, np.maximum(np.abs(u - x - jx) - w, np.abs(v - y - jy) - h), 0.05, (0.11, 0.11, 0.12), 0.3)
        canvas.paint(canvas.edge(np.hypot(u - x + 0.7 * w, v - y + 0.75 * h) - 0.022), (0.3, 0.3, 0.3))
    for x, y in PARTS:
        jx, jy = rng.normal(0, 0.005, 2)
        _solid(canvas, np.maximum(np.abs(u - x - jx) - 0.1, np.abs(v - y - jy) - 0.045), 0.02, (0.78, 0.79, 0.8), 0.8)
        _solid(
            canvas, np.maximum(np.abs(u - x - jx) - 0.065, np.abs(v - y - jy) - 0.048), 0.012, (0.58, 0.42, 0.26), 0.3
        )
    canvas.height = ndimage.gaussian_filter(canvas.height, 1.5)
    canvas.covered = inside


def _solid(canvas: Canvas, distance: NDArray, height: float, color: tuple[float, ...], gloss: float) -> None:
    inside = canvas.edge(distance)
    canvas.height += height * np.clip(-distance / 0.012, 0, 1)
    canvas.paint(inside, color, gloss)


def _path(u: NDArray, v: NDArray, start: tuple[float, float], end: tuple[float, float]) -> NDArray:
    """Distance to a trace that runs level first, then straight down."""
    (x0, y0), (x1, y1) = start, end
    level = np.hypot(u - np.clip(u, min(x0, x1), max(x0, x1)), v - y0)
    return np.minimum(level, np.hypot(u - x1, v - np.clip(v, min(y0, y1), max(y0, y1))))


def _missing_part(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.frame
    x, y = PARTS[rng.integers(len(PARTS))]
    gone = canvas.edge(np.maximum(np.abs(u - x) - 0.12, np.abs(v - y) - 0.07))
    canvas.height += (0.03 - canvas.height) * gone
    canvas.paint(gone, np.array((0.05, 0.3, 0.17)) * (1 + 0.04 * canvas.noise(rng, 3)[..., None]), gloss=0.25)
    for side in (-0.08, 0.08):
        pad = np.maximum(np.abs(u - x - side) - 0.025, np.abs(v - y) - 0.045)
        canvas.paint(canvas.edge(pad), (0.8, 0.68, 0.36), gloss=0.6)


def _solder_bridge(canvas: Canvas, rng: np.random.Generator) -> None:
    inside = np.clip(blob(canvas, rng, rng.uniform(0.045, 0.075)) * 50, 0, 1) * canvas.covered
    canvas.height += 0.05 * ndimage.gaussian_filter(inside, 5)
    canvas.paint(inside, (0.8, 0.81, 0.83), gloss=1.0)


def _burn(canvas: Canvas, rng: np.random.Generator) -> None:
    inside = np.clip(blob(canvas, rng, rng.uniform(0.09, 0.15)) * 8, 0, 1) * canvas.covered
    canvas.paint(0.85 * inside, np.array((0.12, 0.08, 0.05)) * (1 + 0.2 * canvas.noise(rng, 10)[..., None]), gloss=0.0)


# -- biscuit ----------------------------------------------------------------------------------------------------


def _biscuit(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.belt((0.36, 0.38, 0.42), grain=0.02)
    u, v = canvas.place(0.04, 3.14)
    r, phi = np.hypot(u, v), np.arctan2(v, u)
    body = r - 0.7 - 0.022 * np.cos(22 * phi)
    inside = canvas.edge(body)
    crumb = 0.003 * canvas.noise(rng, 6) + 0.004 * canvas.noise(rng, 30)
    canvas.height = (0.09 * np.sqrt(np.clip(-body / 0.7, 0, 1)) + crumb) * inside
    baked = np.clip(1 + body / 0.35, 0, 1) ** 2
    color = np.array((0.85, 0.66, 0.38)) * (1 - baked[..., None] * np.array((0.22, 0.34, 0.45)))
    canvas.paint(inside, color * (1 + 0.05 * canvas.noise(rng, 8)[..., None]), gloss=0.02)
    nearest = np.full_like(u, np.inf)  # squared distance to the nearest of the pricked holes
    for radius, count in ((0.0, 1), (0.26, 6), (0.5, 12)):
        for a in 2 * np.pi * np.arange(count) / count:
            nearest = np.minimum(nearest, (u - radius * np.cos(a)) ** 2 + (v - radius * np.sin(a)) ** 2)
    canvas.height -= 0.03 * np.exp(-nearest / 0.022**2)
    canvas.paint(canvas.edge(np.sqrt(nearest) - 0.02), (0.42, 0.27, 0.13))
    canvas.height = ndimage.gaussian_filter(canvas.height, 1.5)
    canvas.covered = inside


def _broken(canvas: Canvas, rng: np.random.Generator) -> None:
    u, v = canvas.frame
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.56)
    away = (
        depth - (u * np.cos(angle) + v * np.sin(angle)) + 0.03 * canvas.noise(rng, 40) + 0.01 * canvas.noise(rng, 10)
    )
    gone = canvas.edge(away)
    canvas.height *= 1 - gone
    canvas.paint(gone, np.array((0.36, 0.38, 0.42)) * (1 + 0.02 * canvas.noise(rng, 2)[..., None]), gloss=0.0)
    canvas.covered = canvas.covered * (1 - gone)


PRODUCTS: dict[str, Product] = {
    "brass_gear": Product(
        _gear, {"missing_tooth": _missing_tooth, "scratch": scratch, "stain": stain, "crack": crack}
    ),
    "capsule": Product(
        _capsule, {"crack": crack, "dent": _dent, "misprint": _misprint, "contamination": contamination}
    ),
    "woven_cloth": Product(_cloth, {"hole": _hole, "pulled_thread": _pulled_thread, "stain": stain}),
    "circuit_board": Product(
        _board, {"missing_part": _missing_part, "solder_bridge": _solder_bridge, "burn": _burn, "scratch": scratch}
    ),
    "biscuit": Product(_biscuit, {"broken": _broken, "crack": crack, "contamination": contamination}),
}
"""Every product by its category name."""
