"""How good photos are judged for their product's thresholds: each one as if the model had never seen it.

- A photo of the memory is looked at in several mildly changed views (shift, turn, zoom, light), matched against a
  memory that lacks it. Such scores are not those of new parts: the asked rate is an aim.
- A photo that is unknown to the memory is judged as it is. Such photos and new good parts are exchangeable, and the
  rate is a promise: in the mean over draws of n photos, at most the asked share of new good parts is called defective,
  whatever the model is worth. It takes n >= 1/rate - 1 photos.
- A product's own threshold is set from photos whose product is told. Where the model recognizes it (`memory_search`),
  the promise holds for the photos that it takes for the right product.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .framed import typical_distance
from .memory import MemoryBank
from .products import Judged
from .tiles import continued, whole
from .turns import draw_degrees, turned
from .views import View

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel


def vary(image: Tensor, count: int, generator: torch.Generator, reading: Mapping[str, Any] | None = None) -> Tensor:
    """Views of a good part as the next photo of it might look; the first is the photo itself.

    Args:
        image: (3, H, W) normalized view.
        count: Views wanted, at least 1.
        generator: Source of randomness, on the CPU.
        reading: Of its product: a part that lies in several positions (`turns`) is seen in any of them.

    Returns:
        (count, 3, H, W). Up to 3 % shift and zoom, 3 degrees, 8 % contrast and 0.08 normalized units of light.
    """
    amount = torch.rand(count, 6, generator=generator) * 2 - 1
    amount[0] = 0
    angle, zoom = amount[:, 0] * math.radians(3), 1 + 0.03 * amount[:, 1]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos, -sin, 0.06 * amount[:, 2], sin, cos, 0.06 * amount[:, 3]], dim=1).view(count, 2, 3)
    views = image.float().cpu().expand(count, -1, -1, -1)
    if reading is not None and reading.get("turns", "none") != "none":
        views = turned(views, draw_degrees(reading["turns"], count, generator), reading.get("size"))
    grid = F.affine_grid(theta, list(views.shape), align_corners=False)
    moved = F.grid_sample(views, grid, padding_mode="reflection", align_corners=False)
    moved = moved * (1 + 0.08 * amount[:, 4]).view(-1, 1, 1, 1) + 0.08 * amount[:, 5].view(-1, 1, 1, 1)
    return torch.cat([image[None].float().cpu(), moved[1:]]).to(image.dtype)


@torch.inference_mode()
def judge(model: "AnoPLeModel", category: str, image: Tensor, digest: str, *, views: int = 8, seed: int = 0) -> Judged:
    """Judge a good photo by the others of its product.

    Args:
        model: With its memory, which may hold the photo.
        category: Its product, which the memory knows.
        image: (3, H, W) view; of a framed product, its canvas.
        digest: Of the photo, see `image_digest`; decides with `seed` how its views are changed, whatever was judged
            before.
        views: Views judged of it; the first is the photo itself.
        seed: Fixes the views.
    """
    generator = torch.Generator().manual_seed(seed + int(digest[:12], 16))
    framing, side = model.memory.framings.get(category), model.config.image_size
    image = continued(framing, image, side)
    batch = vary(image, views, generator, model.memory.product(category).reading).to(model.device, model.dtype)
    others = model.memory.without([digest])
    # A product with a single photo has no other to be judged by: then its own, seen in changed views.
    own = others if category in others.categories else model.memory
    branch = model.decision_branch
    if own.framings:  # what is not told is recognized first, and then told
        told = untold = model(batch, category=category, branch=branch, memory=own)
    else:
        untold = model(batch, branch=branch, memory=own)
        alike = len(own.categories) == 1 or _all_are(category, untold.products, own)
        told = untold if alike else model(batch, category=category, branch=branch, memory=own)
    distances = own.distances(model.encode_memory(batch if framing is None else whole(batch, side)))
    place = own.categories.index(category)
    nearest = own.categories[int(distances[0].argmin())]
    away = distances[:, place] if framing is None else typical_distance(told.memory_maps, framing, side)
    return Judged(
        scores=tuple(told.scores.tolist()),
        peaks=tuple(told.anomaly_maps.amax(dim=(1, 2)).tolist()),
        untold_scores=tuple(untold.scores.tolist()),
        untold_peaks=tuple(untold.anomaly_maps.amax(dim=(1, 2)).tolist()),
        distances=tuple(away.tolist()),
        color=_color_distance(model.memory, category, image, digest),
        taken_for="" if nearest == category else nearest,
    )


def judge_all(
    model: "AnoPLeModel",
    category: str,
    pixels: Mapping[str, Tensor],
    *,
    held_out: Sequence[str] | None = None,
    views: int = 8,
    seed: int = 0,
) -> None:
    """Judge all photos of a product anew, as far as they can be seen, and keep what was found with the product.

    Those of the memory in changed views, those it does not hold (`Product.held_out`) as they are.

    Args:
        model: With its memory.
        category: The product.
        pixels: By digest, views (3, H, W) in full precision; others are taken from `MemoryBank.views`.
        held_out: Digests of the photos that the memory does not hold; None: those that were judged before.
        views: As for `judge`.
        seed: As for `judge`.
    """
    bank = model.memory
    product = bank.product(category)

    def found(digests: Sequence[str], known: Mapping[str, Judged], views: int) -> dict[str, Judged]:
        judged = {}
        for digest in digests:
            seen = digest in pixels or digest in bank.views
            if seen:
                image = pixels[digest] if digest in pixels else bank.views[digest].pixels()
                judged[digest] = judge(model, category, image, digest, views=views, seed=seed)
            elif digest in known:
                judged[digest] = known[digest]
        return judged

    remembered = [photo.digest for photo in product.photos if photo.digest]
    apart = [digest for digest in (product.held_out if held_out is None else held_out) if digest not in remembered]
    bank.update(
        category,
        judged=found(remembered, product.judged, views),
        held_out=found(apart, product.held_out, 1),
    )


def _color_distance(bank: MemoryBank, category: str, image: Tensor, digest: str) -> float:
    others = [bank.views[p.digest] for p in bank.references(category) if p.digest != digest and p.digest in bank.views]
    if not others:
        return 0.0
    mine = View.of(image).color()
    return min(float((mine - other.color()).norm()) for other in others)


def _all_are(category: str, products: Tensor | None, bank: MemoryBank) -> bool:
    """Whether every view was recognized as this product: then telling it changes nothing."""
    return products is not None and set(bank.names(products)) == {category}


__all__ = ["judge", "judge_all", "vary"]
