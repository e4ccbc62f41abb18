"""Why a photo is found strange: its strangest patch, and the good patch that is nearest to it, side by side.

And how the photos of a product are framed, shown on a photo.

The memory's map is eq. 14; what is shown of it is ours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..framing import Framing
from ..memory import MemoryBank
from ..modeling_anople import AnoPLeModel
from ..pictures.palette import DETECTED, EDGE, css
from ..tiles import counting_cells, cut, only
from ..turns import turned_copies
from ..views import View

SIDE = 400
"""Pixels of each picture."""


def draw_evidence(
    model: AnoPLeModel,
    bank: MemoryBank,
    canvas: Tensor,
    memory_map: Tensor,
    category: str | None,
    photo: Image.Image,
) -> Image.Image:
    """The strangest patch, and the good patch nearest to it, each boxed in its photo.

    A bank without views beside it has no picture of the good one; then that is said in its place.

    Args:
        model: The detector.
        bank: What the photo was compared with, on the CPU.
        canvas: (1, 3, h, w) what the model saw, or what its tiles were cut from.
        memory_map: (g, g), or (T, g, g) of T tiles.
        category: The product, told or recognized; None: all were compared with.
        photo: As shown.
    """
    side, grid = model.config.image_size, memory_map.shape[-1]
    framing = bank.framings.get(category) if category else None
    maps, views, tile = memory_map.reshape(-1, grid, grid), canvas, None
    if framing is not None:
        maps = torch.where(counting_cells(framing, side, grid).to(maps.device), maps, -1)
    place = int(maps.argmax())
    if framing is not None:
        tile, place = divmod(place, grid * grid)
        views = cut(framing, only(framing, canvas, side), side)[:, tile]
    token = F.normalize(model.encode_memory(views)[0, :, place].float(), dim=-1).cpu()
    best = (-2.0, "", "", 0)
    for name in [category] if category else bank.categories:
        for reference in bank.references(name):
            rows = reference.features if tile is None or reference.framed is None else reference.framed[tile]
            value, row = torch.einsum("lrd,ld->lr", rows, token).mean(dim=0).max(dim=0)
            best = max(best, (float(value), name, reference.digest, int(row)))
    pictures = [_boxed(photo, _box(framing, tile, place, side, grid))]
    view, (turned, near) = bank.views.get(best[2]), divmod(best[3], grid * grid)
    if view is not None and turned:  # the nearest patch is one of a turned copy: that is what is shown
        view = View.of(turned_copies(view.pixels(), bank.product(best[1]).reading)[turned])
    found = None if view is None else _boxed(view.image(), _box(framing, tile, near, side, grid))
    pictures.append(found or _no_picture())
    both = Image.new("RGB", ((SIDE + 20) * len(pictures) - 20, SIDE), "white")
    for column, picture in enumerate(pictures):
        both.paste(picture, ((SIDE + 20) * column, 0))
    return both


def counting(framing: Framing | None, size: tuple[int, int], side: int) -> NDArray[np.bool_] | None:
    """(H, W) bool: what counts of a photo; None if all of it does.

    Args:
        framing: Of its product.
        size: (width, height) of the photo as shown.
        side: Of the model's view.
    """
    mask = framing.mask(side) if framing is not None else None
    return None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def darken(picture: NDArray[np.uint8], counts: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture (H, W, 3), dark where it does not count."""
    return np.where(counts[..., None], picture, picture // 3)


def show_framing(
    picture: Image.Image, framing: Framing | None, side: int, size: Sequence[int] | None = None
) -> Image.Image:
    """A remembered photo with what does not count in the dark, and its tiles outlined.

    Args:
        picture: As the model saw it, squeezed into its square or its canvas.
        framing: Of its product; None leaves it as it is.
        side: Of the model's view.
        size: (width, height) of the photo, whose shape it gets back; None keeps that of the picture.
    """
    if framing is None:
        return picture
    factor = max(picture.size) / max(size) if size else 1.0
    picture = picture.resize([round(factor * length) for length in size or picture.size])
    counts = counting(framing, picture.size, side)
    shown = picture if counts is None else Image.fromarray(darken(np.asarray(picture.convert("RGB")), counts))
    if framing.tiled:
        pen, (height, width) = ImageDraw.Draw(shown), framing.canvas(side)
        for top, left in framing.corners(side):
            x, y = left * shown.width / width, top * shown.height / height
            box = (x, y, x + side * shown.width / width - 1, y + side * shown.height / height - 1)
            pen.rectangle(box, outline=css(DETECTED), width=max(1, shown.width // 200))
    return shown


def _box(
    framing: Framing | None, tile: int | None, place: int, side: int, grid: int
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell, as shares of the photo."""
    height, width = (side, side) if framing is None else framing.canvas(side)
    top, left = (0, 0) if framing is None or tile is None else framing.corners(side)[tile]
    cell = side / grid
    x, y = left + place % grid * cell, top + place // grid * cell
    return x / width, y / height, (x + cell) / width, (y + cell) / height


def _boxed(photo: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """A photo as a square with one cell of the patch grid boxed."""
    picture = photo.convert("RGB").resize((SIDE, SIDE))
    x, y, right, bottom = (SIDE * share for share in box)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((x - 4, y - 4, right + 4, bottom + 4), outline=css(EDGE), width=6)
    pen.rectangle((x - 3, y - 3, right + 3, bottom + 3), outline=css(DETECTED), width=3)
    return picture


def _no_picture() -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "#eeeeee")
    words = "No picture of the nearest good photo\nis stored: its memory bank came\nwithout memory_views.safetensors."
    ImageDraw.Draw(picture).multiline_text((200, 200), words, fill="black", anchor="mm", align="center", font_size=20)
    return picture


__all__ = ["counting", "darken", "draw_evidence", "show_framing"]
