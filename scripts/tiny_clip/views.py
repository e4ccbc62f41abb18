"""`make_view`: one training view, cut from a photo, turned, lit anew, and often damaged.

The student is to learn how damage looks to the teacher, so half of the views carry some: what inspection meets as
scratches, cracks, stains, foreign matter, missing and displaced parts, drawn onto real photos.
"""

from dataclasses import dataclass

import numpy as np
from photos import PhotoPool
from PIL import Image, ImageDraw, ImageFilter

SIDE = 240
DAMAGED = 0.5
"""Share of views with damage."""


@dataclass(frozen=True)
class View:
    """A view, its clean twin, and where they differ.

    Attributes:
        image: (240, 240, 3) uint8.
        clean: The same without damage; the same array where there is none.
        mask: (240, 240) bool.
        damage: What kind it is, as a word; "" for none.
    """

    image: np.ndarray
    clean: np.ndarray
    mask: np.ndarray
    damage: str


def make_view(pool: PhotoPool, index: int, seed: int) -> View:
    """View number `index`; the same for the same pool, index and seed."""
    generator = np.random.default_rng((seed, index))
    clean = _light(_cut(pool, generator), generator)
    image, mask, kind = clean, np.zeros((SIDE, SIDE), bool), ""
    if generator.random() < DAMAGED:
        kind = str(generator.choice(list(DAMAGES)))
        image, mask = DAMAGES[kind](clean, pool, generator)
        if not mask.any():
            image, kind = clean, ""
    if generator.random() < 0.3:
        noise = generator.normal(0, generator.uniform(1, 10), clean.shape)
        image, clean = (_to_uint8(photo + noise) for photo in (image, clean))
    return View(image, clean, mask, kind)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _cut(pool: PhotoPool, generator: np.random.Generator) -> np.ndarray:
    """A crop at any angle and scale, squeezed to the square as products are."""
    if pool.sheets and generator.random() < 0.2:
        photo = Image.fromarray(pool.mosaic(generator, int(generator.integers(2, 5))))
    else:
        photo = Image.fromarray(pool.photo(generator))
    if generator.random() < 0.3:  # at any angle: turn first, then cut from the middle, where there is no border
        photo = photo.rotate(generator.uniform(0, 360), Image.Resampling.BILINEAR)
        inner = min(photo.size) / 2**0.5
        left, top = (photo.width - inner) / 2, (photo.height - inner) / 2
        photo = photo.crop((round(left), round(top), round(left + inner), round(top + inner)))
    else:
        photo = photo.rotate(90 * int(generator.integers(4)), expand=True)
    share = generator.uniform(0.25, 1.0) ** 0.5
    stretch = np.exp(generator.uniform(-0.25, 0.25))
    width, height = (
        min(size, max(16, round(size * share * f))) for size, f in zip(photo.size, (stretch, 1 / stretch), strict=True)
    )
    left, top = (
        int(generator.integers(size - own + 1)) for size, own in zip(photo.size, (width, height), strict=True)
    )
    cut = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if generator.random() < 0.12:  # a part on a plain background, as many products are
        back = Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in generator.integers(0, 256, 3)))
        own = int(generator.integers(120, 220))
        shape = Image.new("L", (SIDE, SIDE), 0)
        at = generator.integers(0, SIDE - own + 1, 2)
        box = [int(at[0]), int(at[1]), int(at[0]) + own, int(at[1]) + own]
        draw = ImageDraw.Draw(shape)
        (draw.ellipse if generator.random() < 0.5 else draw.rectangle)(box, fill=255)
        back.paste(cut.resize((own, own)), (int(at[0]), int(at[1])))
        cut = Image.composite(back, Image.new("RGB", (SIDE, SIDE), back.getpixel((0, 0))), shape)
    if generator.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if generator.random() < 0.12:
        cut = cut.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 2.0)))
    return np.asarray(cut)


def _light(photo: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Other exposure, contrast and color; every sixth view is gray."""
    values = photo.astype(np.float32) / 255
    if generator.random() < 0.17:
        values = np.repeat(values @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=2)
    if generator.random() < 0.6:
        values = np.clip(values, 0, 1) ** np.float32(np.exp(generator.uniform(-0.5, 0.5)))
        contrast, lift = np.exp(generator.uniform(-0.5, 0.25)), generator.uniform(-0.12, 0.12)
        values = (values - values.mean()) * contrast + values.mean() + lift
    if generator.random() < 0.3:
        values = values * generator.uniform(0.85, 1.15, 3).astype(np.float32)
    return _to_uint8(values * 255)


def _blob(generator: np.random.Generator, least: float, most: float) -> np.ndarray:
    """(240, 240) in 0..1: a smooth, irregular spot that covers `least` to `most` of the side."""
    size = SIDE * generator.uniform(least, most)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    cy, cx = generator.uniform(0.1 * SIDE, 0.9 * SIDE, 2)
    angle, squeeze = generator.uniform(0, np.pi), generator.uniform(0.4, 1.0)
    u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    turn, far = np.arctan2(v, u), np.hypot(u, v / squeeze)
    edge = 1 + sum(
        generator.uniform(-0.25, 0.25) * np.cos(k * turn + generator.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    soft = generator.uniform(0.03, 0.3)
    return np.clip((size / 2 * edge - far) / (size * soft) + 0.5, 0, 1).astype(np.float32)


def _blend(photo: np.ndarray, other: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    changed = _to_uint8(photo * (1 - share[..., None]) + other * share[..., None])
    seen = np.abs(changed.astype(np.int16) - photo).max(axis=2) > 6
    return changed, seen


def _stroke(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scratch or crack: a thin bent line, darker or brighter than what it crosses."""
    canvas = Image.new("L", (SIDE * 2, SIDE * 2), 0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(generator.integers(1, 4))):
        at, angle = generator.uniform(0.1, 0.9, 2) * SIDE * 2, generator.uniform(0, 2 * np.pi)
        points, wild = [tuple(at)], generator.uniform(0.02, 0.6)
        for _ in range(int(generator.integers(4, 24))):
            angle += generator.normal(0, wild)
            at = at + generator.uniform(6, 18) * np.array([np.cos(angle), np.sin(angle)])
            points.append(tuple(at))
        draw.line(points, fill=255, width=int(generator.integers(1, 9)), joint="curve")
    share = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255 * generator.uniform(0.4, 1)
    tone = generator.uniform(0, 255, 3) if generator.random() < 0.3 else np.full(3, generator.choice([0.0, 255.0]))
    return _blend(photo, np.broadcast_to(tone.astype(np.float32), photo.shape), share)


def _paste(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Foreign matter: a spot with the surface of another photo."""
    other = Image.fromarray(pool.photo(generator)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return _blend(photo, np.asarray(other), _blob(generator, 0.05, 0.35) * generator.uniform(0.35, 1))


def _move(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A displaced piece: a spot that shows another place of the same photo, turned."""
    other = np.rot90(photo, int(generator.integers(4)))
    other = np.roll(other, tuple(int(s) for s in generator.integers(SIDE // 8, SIDE, 2)), axis=(0, 1))
    return _blend(photo, other, _blob(generator, 0.05, 0.3))


def _stain(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A stain: a spot of one color through which the surface still shows."""
    tone = np.broadcast_to(generator.uniform(0, 255, 3).astype(np.float32), photo.shape)
    return _blend(photo, tone, _blob(generator, 0.03, 0.3) * generator.uniform(0.2, 0.8))


def _dent(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dent or bump: one side of a spot is lit, the other lies in the shade, and the surface is bent."""
    spot = _blob(generator, 0.06, 0.3)
    blurred = np.asarray(Image.fromarray(_to_uint8(spot * 255)).filter(ImageFilter.GaussianBlur(4)), np.float32) / 255
    slope_y, slope_x = np.gradient(blurred)
    angle, depth = generator.uniform(0, 2 * np.pi), generator.uniform(600, 1800)
    shade = depth * (slope_x * np.cos(angle) + slope_y * np.sin(angle))
    y, x = np.mgrid[:SIDE, :SIDE]
    bend = generator.uniform(20, 80)
    other = photo[np.clip(np.rint(y + bend * slope_y), 0, SIDE - 1).astype(int),
                  np.clip(np.rint(x + bend * slope_x), 0, SIDE - 1).astype(int)]  # fmt: skip
    return _blend(photo, np.clip(other + shade[..., None], 0, 255), np.ones((SIDE, SIDE), np.float32))


def _wear(photo: np.ndarray, pool: PhotoPool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A worn or missing place: a spot where the surface has lost its structure."""
    picture = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(generator.uniform(3, 12)))
    return _blend(photo, np.asarray(picture), _blob(generator, 0.06, 0.35))


DAMAGES = {"scratched": _stroke, "cracked": _stroke, "contaminated": _paste, "misplaced": _move,
           "stained": _stain, "dented": _dent, "worn": _wear}  # fmt: skip
"""What was done to a view, by the word that texts call it."""
