"""`Canvas`: the height and color maps of a drawn product, and the defects that many products share."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass
class Canvas:
    """Maps of (size, size) that a product paints; coordinates x, y run from -1 to 1.

    Attributes:
        size: Side in pixels.
        rng: Randomness for the belt under the part.
        height: Height in units of half the picture; light follows its slope.
        color: (size, size, 3) in 0..1.
        gloss: Strength of the highlight.
        covered: Area covered by the part, 0..1; its shadow falls around it.
        frame: The part's own coordinates u, v, after its shift and turn.
    """

    size: int
    rng: np.random.Generator
    height: NDArray = field(init=False)
    color: NDArray = field(init=False)
    gloss: NDArray = field(init=False)
    covered: NDArray = field(init=False)
    frame: tuple[NDArray, NDArray] = field(init=False)

    def __post_init__(self) -> None:
        side = (np.arange(self.size) + 0.5) / self.size * 2 - 1
        self.y, self.x = np.meshgrid(side, side, indexing="ij")
        self.height = np.zeros((self.size, self.size))
        self.gloss, self.covered = np.zeros_like(self.height), np.zeros_like(self.height)
        self.color = np.zeros((self.size, self.size, 3))
        self.frame = self.x, self.y

    def belt(self, color: tuple[float, float, float], grain: float = 0.03) -> None:
        """Fill the ground with a conveyor belt of fine grain."""
        speckle = self.noise(self.rng, 2) + 0.5 * self.noise(self.rng, 12)
        self.color[:] = np.array(color) * (1 + grain * speckle[..., None])

    def place(self, shift: float, turn: float) -> tuple[NDArray, NDArray]:
        """Move and turn the part a little, at random; returns its coordinates."""
        dx, dy = self.rng.uniform(-shift, shift, 2)
        angle = self.rng.uniform(-turn, turn)
        x, y = self.x - dx, self.y - dy
        self.frame = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        return self.frame

    def paint(self, inside: NDArray, color: NDArray | tuple[float, ...], gloss: float | None = None) -> None:
        """Blend a color in where `inside` (0..1) says so."""
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            return
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # most parts are small; skip the rest
        inside, wanted = inside[box], np.asarray(color)
        wanted = wanted[box] if wanted.ndim == 3 and wanted.shape[0] == self.size else wanted
        self.color[box] += (wanted - self.color[box]) * inside[..., None]
        if gloss is not None:
            self.gloss[box] += (gloss - self.gloss[box]) * inside

    def edge(self, distance: NDArray) -> NDArray:
        """1 inside, 0 outside of a signed distance, one pixel soft."""
        return np.clip(0.5 - distance * self.size / 2, 0, 1)

    def noise(self, rng: np.random.Generator, grain: float) -> NDArray:
        """Smooth noise of unit deviation with features of about `grain` pixels."""
        step = max(1, int(grain / 2))
        coarse = rng.standard_normal((-(-self.size // step) + 1,) * 2)
        smooth = ndimage.gaussian_filter(coarse, grain / step / 2)
        full = ndimage.zoom(smooth, step, order=1)[: self.size, : self.size] if step > 1 else smooth[:-1, :-1]
        return full / (full.std() + 1e-9)

    def spot_on_part(self, rng: np.random.Generator, margin: float = 0.06) -> tuple[float, float]:
        """Coordinates of a random place on the part, away from its border."""
        core = ndimage.binary_erosion(
            self.covered > 0.5, iterations=max(1, round(margin * self.size / 2 / 4)), border_value=0
        )
        ys, xs = np.nonzero(core if core.any() else self.covered > 0.5)
        chosen = rng.integers(len(ys))
        return float(self.x[0, xs[chosen]]), float(self.y[ys[chosen], 0])


# -- defects that many products share ---------------------------------------------------------------------------


def scratch(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a bent groove with bright burrs."""
    along, off = stroke(canvas, rng, length=rng.uniform(0.16, 0.4), bend=rng.uniform(-0.8, 0.8))
    width = rng.uniform(0.008, 0.014)
    groove = np.exp(-((off / width) ** 2)) * along * canvas.covered
    canvas.height -= 0.012 * groove
    canvas.paint(0.65 * groove, np.clip(canvas.color * 1.5 + 0.12, 0, 1))


def crack(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a dark jagged line."""
    along, off = stroke(canvas, rng, length=rng.uniform(0.18, 0.36), bend=rng.uniform(-0.5, 0.5))
    off = off + 0.02 * canvas.noise(rng, 30) + 0.006 * canvas.noise(rng, 8)
    line = np.exp(-((off / 0.008) ** 2)) * along * canvas.covered
    canvas.height -= 0.02 * line
    canvas.paint(0.85 * line, canvas.color * 0.25)


def stain(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a spill with a darker rim."""
    depth = blob(canvas, rng, rng.uniform(0.07, 0.14))
    inside = np.clip(depth * 9, 0, 1) * canvas.covered
    rim = np.exp(-((depth / 0.05) ** 2)) * inside
    canvas.paint(0.75 * inside + 0.2 * rim, canvas.color * np.array((0.42, 0.33, 0.22)), gloss=0.2)


def contamination(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw foreign crumbs on the part."""
    x, y = canvas.spot_on_part(rng)
    for _ in range(rng.integers(3, 7)):
        dx, dy = rng.normal(0, 0.045, 2)
        size = rng.uniform(0.012, 0.032)
        crumb = canvas.edge(np.hypot(canvas.x - x - dx, (canvas.y - y - dy) * rng.uniform(0.7, 1.4)) - size)
        crumb = crumb * canvas.covered
        canvas.height += 0.02 * ndimage.gaussian_filter(crumb, 2)
        canvas.paint(0.9 * crumb, (0.25, 0.2, 0.16), gloss=0.1)


def stroke(canvas: Canvas, rng: np.random.Generator, length: float, bend: float) -> tuple[NDArray, NDArray]:
    """A bent stroke at a random place: how far along it a pixel lies (1 on it, 0 past its ends), and how far off."""
    x, y = canvas.spot_on_part(rng)
    angle = rng.uniform(0, np.pi)
    u = (canvas.x - x) * np.cos(angle) + (canvas.y - y) * np.sin(angle)
    v = -(canvas.x - x) * np.sin(angle) + (canvas.y - y) * np.cos(angle) + bend * u**2
    return 1 / (1 + np.exp(-(length / 2 - np.abs(u)) * 120)), v


def blob(canvas: Canvas, rng: np.random.Generator, size: float) -> NDArray:
    """Depth inside a round, uneven spot of about `size` at a random place; negative outside."""
    x, y = canvas.spot_on_part(rng)
    return size * (1 + 0.22 * canvas.noise(rng, 60)) - np.hypot(canvas.x - x, canvas.y - y)
