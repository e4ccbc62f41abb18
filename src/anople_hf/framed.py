"""How photos of framed products are remembered and judged: within their region, tile by tile, as one photo. Ours.

- Each used tile is a view of its own (sec. 3.1, 3.2), compared with the same tile of the good photos (eq. 14). Their
  fused maps (eq. 15) make one map of the photo; its score is the highest of eq. 16 over the tiles.
- What does not count is 0 in the views after normalization, and in the map: nothing outside of the region can change
  what is said of a photo whose product is told.
- A photo that is not told is recognized by its whole, plain view, as plain products are, then judged as its product's
  photos are framed. So a detector that holds a framed product recognizes, whatever `memory_search` says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .framing import Framing, Size
from .memory import MemoryBank
from .photos import Photo
from .scoring import fuse_maps, image_scores, resize_map
from .tiles import counting_cells, cut, mask_of, only, smooth_within, stitch

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel, AnoPLeOutput


def encode_framed(model: "AnoPLeModel", canvas: Tensor, framing: Framing) -> Tensor:
    """What the memory compares of framed photos: (B, T, L, n, d) tokens of the used tiles of canvases (B, 3, h, w)."""
    side = model.config.image_size
    tiles = cut(framing, only(framing, _on_canvas(canvas, framing, side), side), side)
    return torch.stack([model.encode_memory(tile) for tile in tiles.unbind(dim=1)], dim=1)


def score_products(
    model: "AnoPLeModel",
    pixel_values: Tensor,
    category: str | Sequence[str] | None,
    branch: Any,
    bank: MemoryBank,
    text: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of `AnoPLeOutput` where the bank holds framed products; arguments as for `AnoPLeModel.forward`.

    Args:
        model: The detector.
        pixel_values: (B, 3, h, w): the model's squares; canvases where the products are tiled.
        category: Products; None recognizes them.
        branch: As for `AnoPLeModel.forward`.
        bank: The memory.
        text: `input_ids` and `attention_mask`.
    """
    count = len(pixel_values)
    products = None
    if category is None:
        products = bank.recognize(model.encode_memory(pixel_values))
        names = bank.names(products)
    else:
        names = [category] * count if isinstance(category, str) else list(category)
        if len(names) != count:
            raise ValueError(f"{len(names)} categories for {count} images: expected one each, or one for all.")
    parts: list[tuple[list[int], dict[str, Any]]] = []
    for name in dict.fromkeys(names):
        places = [place for place, other in enumerate(names) if other == name]
        views = pixel_values if len(places) == count else pixel_values[places]
        framing = bank.framings.get(name)
        if framing is None:
            parts.append((places, dict(model.score_plain(views, name, branch, bank, **text))))
        else:
            parts.append((places, _score(model, views, name, framing, branch, bank, text)))
    fields = _together(parts)
    limits = model.thresholds_for(fields["scores"], names if products is None else None, branch, bank, products)
    return fields | {"products": products, "thresholds": limits[0], "pixel_thresholds": limits[1]}


def typical_distance(memory_maps: Tensor, framing: Framing, side: int) -> Tensor:
    """(B,) how far framed photos are from their product: the median of memory maps (B, [T,] g, g) where it counts.

    A defect covers less than half of what counts, so it moves the median little.
    """
    grid = memory_maps.shape[-1]
    inside = counting_cells(framing, side, grid).to(memory_maps.device)
    return memory_maps.reshape(-1, *inside.shape)[:, inside].median(dim=1).values


def score_views(
    model: Any,
    photos: Sequence[Mapping[Size, Tensor]],
    category: str | Sequence[str] | None = None,
    **how: Any,
) -> "list[tuple[list[int], AnoPLeOutput, list[Any]]]":
    """Judge photos whose products may be cut differently: in as many passes as there are sizes of pictures.

    Args:
        model: With its memory; or a baseline, whose products are never framed.
        photos: By (height, width), pictures (1, 3, height, width) of each photo, see `AnoPLeProcessor.views`.
        category: One product, or one for each photo; None: not told.
        how: `branch` and `memory`, as for a call of the model.

    Returns:
        For each pass the places of its photos, its output, and their products: told, recognized, or None.
    """
    side, bank = model.config.image_size, how.get("memory") or model.memory

    def pictures(places: Sequence[int], size: Size) -> Tensor:
        return torch.cat([photos[place][size] for place in places]).to(model.device, model.dtype)

    everyone = list(range(len(photos)))
    told = [category] * len(photos) if category is None or isinstance(category, str) else list(category)
    if not bank.framings:
        output = model(pictures(everyone, (side, side)), category=category, **how)
        return [(everyone, output, told if output.products is None else bank.names(output.products))]
    products = None
    if category is None:
        products = bank.recognize(model.encode_memory(pictures(everyone, (side, side))))
        told = list(bank.names(products))
    groups: dict[Size, list[int]] = {}
    for place, name in enumerate(told):
        groups.setdefault(bank.sizes(name, side)[0], []).append(place)
    found = []
    for size, places in groups.items():
        names = [str(told[place]) for place in places]
        output = model(pictures(places, size), category=names, **how)
        if products is not None:
            output.products = products[places]
            limits = model.thresholds_for(
                output.scores, None, how.get("branch") or model.decision_branch, bank, output.products
            )
            output.thresholds, output.pixel_thresholds = limits
        found.append((places, output, list(names)))
    return found


def least_side(bank: MemoryBank, category: str | None, side: int) -> int:
    """Pixels of the longer side below which a photo may not be decoded, or its tiles would be blown up; 0 without.

    Arguments as for `MemoryBank.sizes`.
    """
    names = bank.framings if category is None else [category] if category in bank.framings else []
    sizes = {name: bank.product(name).reading.get("size") for name in names}
    return max((bank.framings[name].least(size, side) for name, size in sizes.items() if size), default=0)


def shape_misfit(bank: MemoryBank, category: str | None, photo: Photo) -> str:
    """Why a photo of a told product does not fit how that is framed, by name, or ""."""
    size = bank.product(category).reading.get("size") if category in bank.framings else None
    if size is None or abs(photo.size[0] * size[1] / (photo.size[1] * size[0]) - 1) <= 0.02:
        return ""
    shapes = f"{photo.size[0]} x {photo.size[1]} pixels, its product was framed at {size[0]} x {size[1]}"
    return f"{photo.name}: {shapes}; region and tiles are stretched with it"


def _score(
    model: "AnoPLeModel",
    canvas: Tensor,
    name: str,
    framing: Framing,
    branch: Any,
    bank: MemoryBank,
    text: Mapping[str, Any],
) -> dict[str, Any]:
    """Fields of the output for canvases (B, 3, h, w) of one framed product."""
    side, grid = model.config.image_size, model.config.grid_size
    canvas = only(framing, _on_canvas(canvas, framing, side, name), side)
    mask = mask_of(framing, side)
    inside = None if mask is None else cut(framing, mask[None, None].to(canvas.device), side)[0, :, 0]
    kept: dict[str, list[Tensor]] = {}
    for tile, views in enumerate(cut(framing, canvas, side).unbind(dim=1)):
        seen = model.look(views, branch, **text)
        memory_map = None
        if seen.remembered is not None:
            memory_map = bank.match(seen.remembered, name, tile).unflatten(1, (grid, grid))
        fused = resize_map(fuse_maps(seen.decoder_map, memory_map, side), side)
        if inside is not None:
            fused = torch.where(inside[tile], fused, 0)
        own = {
            "scores": image_scores(fused, seen.probability),
            "fused": fused,
            "image_probabilities": seen.probability,
            "decoder_maps": seen.decoder_map,
            "memory_maps": memory_map,
            "image_features": seen.image_features,
        }
        for field, value in own.items():
            kept.setdefault(field, []).extend([] if value is None else [value])
        text_features = seen.text_features
    stacked: dict[str, Any] = {field: torch.stack(values, dim=1) for field, values in kept.items() if values}
    scores, best = stacked["scores"].max(dim=1)
    anomaly_maps = smooth_within(framing, stitch(framing, stacked["fused"]), model.config.smoothing_sigma, side)
    fields: dict[str, Any] = {"scores": scores, "anomaly_maps": anomaly_maps, "text_features": text_features}
    if "image_probabilities" in stacked:
        fields["image_probabilities"] = stacked["image_probabilities"].gather(1, best[:, None])[:, 0]
    for field in ("decoder_maps", "memory_maps", "image_features"):
        if field in stacked:
            fields[field] = stacked[field] if framing.tiled else stacked[field][:, 0]
    limit = bank.product(name).familiar_within
    if "memory_maps" in stacked and limit is not None:
        fields["strangeness"] = typical_distance(stacked["memory_maps"], framing, side) / limit
    return fields


def _on_canvas(canvas: Tensor, framing: Framing, side: int, name: str = "the product") -> Tensor:
    wanted = framing.canvas(side)
    if tuple(canvas.shape[-2:]) != wanted:
        given, expected = (" x ".join(map(str, size)) for size in (canvas.shape[-2:], wanted))
        raise ValueError(
            f"{name} is taught in {framing.rows} x {framing.columns} tiles: expected pictures of {expected} pixels, "
            f"not {given}. The pipeline and `anople predict` make them; in Python, tell the product and give "
            "processor(images=photo, framing=model.memory.framings[product])."
        )
    return canvas


def _together(parts: Sequence[tuple[list[int], dict[str, Any]]]) -> dict[str, Any]:
    """One batch of several; where products are not known well enough, NaN; what has no common shape is left out."""
    if len(parts) == 1:
        return parts[0][1]
    merged: dict[str, Any] = {"text_features": parts[0][1].get("text_features")}
    for field in ("scores", "anomaly_maps", "image_probabilities", "decoder_maps", "memory_maps", "image_features",
                  "strangeness"):  # fmt: skip
        values = [fields.get(field) for _, fields in parts]
        if field == "strangeness" and any(value is not None for value in values):
            values = [torch.full_like(fields["scores"], float("nan")) if fields.get(field) is None else fields[field]
                      for _, fields in parts]  # fmt: skip
        there = [value for value in values if value is not None]
        if len(there) < len(values) or len({value.shape[1:] for value in there}) > 1:
            continue
        whole = torch.empty_like(torch.cat(there))
        for (places, _), value in zip(parts, there, strict=True):
            whole[places] = value
        merged[field] = whole
    return merged


__all__ = ["encode_framed", "least_side", "score_products", "score_views", "shape_misfit", "typical_distance"]
