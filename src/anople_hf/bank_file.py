"""The file of a memory bank: products with their tokens, what is known of them, and the digest of every part.

- `anople-memory-bank/2` is written. One tensor per product and layer; all else is JSON in the header.
- `anople-memory-bank/3` is written if a product is framed (`framing.py`): it holds its tiles, too. An older
  reader, which would judge it unframed, refuses it.
- `anople-memory-bank/1`, which knew photos and kept thresholds in the model's config, is read and becomes a bank of
  format 2 when it is saved.
- Digests are checked on loading: a bank that lost some bits does not judge, it is refused, by the name of its part.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .framing import Framing
from .matching import Reference
from .products import Judged, Product
from .thresholds import Thresholds
from .views import write_tensors

logger = logging.getLogger(__name__)

FORMAT = "anople-memory-bank/2"
FRAMED = "anople-memory-bank/3"
BEFORE = "anople-memory-bank/1"
COMMON = "*"
"""Key of the thresholds for a product that is not told, in a bank of format 1."""


def write_bank(
    path: str | os.PathLike,
    layers: Sequence[int],
    products: Mapping[str, Product],
    common: Thresholds | None,
    about: Mapping[str, Any],
) -> None:
    """Write a bank under a temporary name, then give it its own.

    Args:
        path: The file.
        layers: The encoder layers whose tokens it holds.
        products: By name.
        common: Thresholds for a product that is not told, if they are not derived.
        about: `fingerprint` and `backbone` as text, `scoring` as a dict.
    """
    tensors = {
        f"{name}/layer.{layer}": torch.cat([photo.features[i] for photo in product.photos]).contiguous()
        for name, product in products.items()
        for i, layer in enumerate(layers)
    }
    for name, product in products.items():
        tiles = [photo.framed for photo in product.photos if photo.framed is not None]
        for i, layer in enumerate(layers if tiles else ()):
            tensors[f"{name}/framed/layer.{layer}"] = torch.cat([rows[:, i].flatten(0, 1) for rows in tiles])
    known = {
        "products": {name: _to_dict(product) for name, product in products.items()},
        "common": common.to_dict() if common else None,
        "digests": {name: tensor_digest(tensor) for name, tensor in tensors.items()},
    }
    text = json.dumps(known)
    header = {
        "format": FRAMED if any(Framing.of(product.reading) for product in products.values()) else FORMAT,
        "layers": json.dumps(list(layers)),
        "fingerprint": about["fingerprint"],
        "backbone": about["backbone"],
        "scoring": json.dumps(about["scoring"]),
        "known": text,
        "known_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "versions": json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}),
    }
    write_tensors(path, tensors, header)


def read_bank(
    path: str | os.PathLike, fingerprint: str | None, scoring: Mapping[str, Any] | None
) -> tuple[list[int], dict[str, Product], Thresholds | None]:
    """Layers, products and common thresholds of a bank; arguments and errors as for `MemoryBank.load`."""
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); get it again.") from error
    with opened as file:
        header = file.metadata() or {}
        if header.get("format") not in (FRAMED, FORMAT, BEFORE):
            raise ValueError(
                f"{path} is not a memory bank of format {FRAMED}, {FORMAT} or {BEFORE} but "
                f"{header.get('format')!r}; expected a file saved by this anople_hf, or by an older one."
            )
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path} was built with another model (fingerprint {header['fingerprint'][:12]}, backbone "
                f"{header['backbone']}; this model has {fingerprint[:12]}). Its distances would mean "
                "nothing here: memorize the reference photos again with this model."
            )
        layers = json.loads(header["layers"])
        known = _before(header) if header["format"] == BEFORE else _checked(path, header)
        products = {}
        for name, about in known["products"].items():
            parts = ["", "framed/"] if Framing.of(about.get("reading", {})) else [""]
            whole, *framed = (
                torch.stack([_tensor(path, file, f"{name}/{p}layer.{layer}", known["digests"]) for layer in layers])
                for p in parts
            )
            products[name] = _from_dict(about, whole, *framed)
    common = Thresholds.from_dict(known["common"]) if known["common"] else None
    judged = common is not None or any(product.thresholds or product.judged for product in products.values())
    if judged and scoring is not None and json.loads(header.get("scoring", "{}")) != dict(scoring):
        logger.warning("%s: its thresholds belong to other settings and are left out; calibrate again.", path)
        return layers, {name: Product(p.photos, p.word, reading=p.reading) for name, p in products.items()}, None
    return layers, products, common


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _checked(path: str | os.PathLike, header: Mapping[str, str]) -> dict[str, Any]:
    text = header.get("known", "")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("known_sha256"):
        raise ValueError(f"{path} is damaged: what it says of its products is not what was saved; get it again.")
    return json.loads(text)


def _tensor(path: str | os.PathLike, file: Any, name: str, digests: Mapping[str, str]) -> Tensor:
    try:
        tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {name} cannot be read ({error}); get it again.") from error
    if name in digests and tensor_digest(tensor) != digests[name]:
        raise ValueError(f"{path} is damaged: {name} is not what was saved; get it again.")
    return tensor


def _before(header: Mapping[str, str]) -> dict[str, Any]:
    """What format 1 knew, as format 2 says it. It kept no digests."""
    calibration = json.loads(header.get("calibration", "{}"))
    products = {
        name: {"photos": photos, "thresholds": calibration.get(name)}
        for name, photos in json.loads(header["references"]).items()
    }
    return {"products": products, "common": calibration.get(COMMON), "digests": {}}


def _to_dict(product: Product) -> dict[str, Any]:
    return {
        "word": product.word,
        "photos": [
            {"name": p.name, "sha256": p.digest, "added": p.added, "patches": p.features.shape[1]}
            | ({"copies": p.copies} if p.copies > 1 else {})
            | ({} if p.framed is None else {"tiles": [p.framed.shape[0], p.framed.shape[2]]})
            for p in product.photos
        ],
        "thresholds": product.thresholds.to_dict() if product.thresholds else None,
        "judged": {digest: judged.to_dict() for digest, judged in product.judged.items()},
        "held_out": {digest: judged.to_dict() for digest, judged in product.held_out.items()},
        "reading": dict(product.reading),
    }


def _from_dict(about: Mapping[str, Any], rows: Tensor, framed: Tensor | None = None) -> Product:
    pieces = rows.split([photo["patches"] for photo in about["photos"]], dim=1)
    tiles: Sequence[Tensor | None] = [None] * len(pieces)
    if framed is not None:
        shapes = [photo["tiles"] for photo in about["photos"]]
        parts = framed.split([count * patches for count, patches in shapes], dim=1)
        tiles = [
            part.unflatten(1, shape).transpose(0, 1).contiguous() for part, shape in zip(parts, shapes, strict=True)
        ]
    thresholds = about["thresholds"]
    return Product(
        photos=tuple(
            Reference(
                piece.contiguous(), photo["name"], photo["sha256"], photo.get("added", ""), photo.get("copies", 1), own
            )
            for piece, photo, own in zip(pieces, about["photos"], tiles, strict=True)
        ),
        word=about.get("word", ""),
        thresholds=Thresholds.from_dict(thresholds) if thresholds else None,
        judged={digest: Judged.from_dict(values) for digest, values in about.get("judged", {}).items()},
        held_out={digest: Judged.from_dict(values) for digest, values in about.get("held_out", {}).items()},
        reading=about.get("reading", {}),
    )


__all__ = ["FORMAT", "read_bank", "tensor_digest", "write_bank"]
