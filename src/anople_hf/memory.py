"""`MemoryBank`: patches of good parts, by category and reference image, matched by cosine distance.

Where in the paper: sec. 3.4, eq. 14. Which layers, and that two of them are averaged, is PromptAD's convention.

- References are whole images, so one photo or one product can be added or taken out without training.
- The bank is a file of its own, tied to its model by the fingerprint of the prompted encoder.
- Rows are unit vectors, stored as they are matched: a reloaded bank gives the same bits.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .matching import Matcher, Reference

logger = logging.getLogger(__name__)

BANK_FILE = "memory_bank.safetensors"
FORMAT = "anople-memory-bank/1"


class MemoryBank(nn.Module):
    """R of eq. 14: good patches of every known product.

    Args:
        layers: The encoder layers whose tokens are kept, as in `AnoPLeConfig.memory_layers`.
        coarse: Whether to search in bfloat16, see `NearestPatch`; None decides by size and device.

    Attributes:
        calibration: Thresholds that came with the file it was loaded from; the ones in use are the model config's.

    Example:
        >>> bank = MemoryBank([2, 7])
        >>> photo = torch.nn.functional.normalize(torch.randn(1, 2, 225, 8), dim=-1)
        >>> bank.add("gear", photo)
        >>> distances = bank.match(photo)
        >>> distances.shape, bool(distances.max() < 1e-6)
        (torch.Size([1, 225]), True)
    """

    def __init__(self, layers: Sequence[int], *, coarse: bool | None = None) -> None:
        super().__init__()
        self.layers = list(layers)
        self.calibration: dict[str, Any] = {}
        self._references: dict[str, list[Reference]] = {}
        self._matcher = Matcher({}, coarse=coarse)

    @property
    def categories(self) -> list[str]:
        """Known products, in the order they were added."""
        return list(self._references)

    def __len__(self) -> int:
        """Remembered photos."""
        return sum(len(references) for references in self._references.values())

    def references(self, category: str) -> list[Reference]:
        """The remembered photos of `category`.

        Raises:
            KeyError: Unknown category.
        """
        self._require(category)
        return list(self._references[category])

    def add(self, category: str, features: Tensor, *, names: Sequence[str] = (), digests: Sequence[str] = ()) -> None:
        """Remember photos of a product, in addition to those already there.

        Args:
            category: The product; new or known.
            features: (B, L, n, d) patch tokens, any length; normalized here.
            names: One per photo, optional.
            digests: One per photo, optional.

        Raises:
            ValueError: A shape that does not fit, values that are not finite, or a category name that cannot be
                stored.
        """
        if not category or "/" in category:
            raise ValueError(f"category={category!r}: expected a non-empty name without '/'.")
        if features.ndim != 4 or features.shape[1] != len(self.layers):
            raise ValueError(
                f"features of shape {tuple(features.shape)}: expected (images, {len(self.layers)} layers, n, width)."
            )
        known = next(self._all(), None)
        if known is not None and known.features.shape[-1] != features.shape[-1]:
            raise ValueError(
                f"features are {features.shape[-1]} wide, the bank holds {known.features.shape[-1]}: "
                "they come from another backbone."
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"features of {category!r} are not finite; nothing was added.")
        features = F.normalize(features.detach().float(), dim=-1)
        names = list(names) or [""] * len(features)
        digests = list(digests) or [""] * len(features)
        added = [Reference(f.clone(), n, d) for f, n, d in zip(features, names, digests, strict=True)]
        self._replace(self._references | {category: self._references.get(category, []) + added})

    def remove(self, category: str, name: str | None = None) -> None:
        """Take out a product, or one of its photos, given by its name or its digest.

        Raises:
            KeyError: Unknown category or photo; the message lists the known ones.
        """
        self._require(category)
        kept = [] if name is None else [r for r in self._references[category] if name not in (r.name, r.digest)]
        if name is not None and len(kept) == len(self._references[category]):
            raise KeyError(f"no photo {name!r} of {category!r}; known: {[r.name for r in self._references[category]]}")
        others = {c: r for c, r in self._references.items() if c != category}
        self._replace({c: (kept if c == category else others[c]) for c in self._references if c in others or kept})

    def merge(self, other: "MemoryBank") -> None:
        """Take over every photo of `other` that is not here yet (by category and digest).

        Raises:
            ValueError: The banks remember different layers or widths.
        """
        if other.layers != self.layers:
            raise ValueError(f"the other bank remembers layers {other.layers}, this one {self.layers}.")
        for category in other.categories:
            here = {r.digest for r in self._references.get(category, []) if r.digest}
            new = [r for r in other.references(category) if r.digest not in here]
            if new:
                features = torch.stack([r.features for r in new])
                self.add(category, features, names=[r.name for r in new], digests=[r.digest for r in new])

    @torch.no_grad()  # what is remembered is a constant, and may have been remembered in inference mode
    def match(self, tokens: Tensor, category: str | Sequence[str] | Tensor | None = None) -> Tensor:
        """Distance of each patch to its nearest good patch, averaged over the layers (eq. 14).

        Args:
            tokens: (B, L, n, d) patch tokens, any length.
            category: Route to one product, or to one per image: names, or (B,) places in `categories` as from
                `recognize`; None searches all products.

        Returns:
            (B, n) of (1 - cos) / 2 in 0..1, float32.

        Raises:
            KeyError: Unknown category; the message lists the known ones.
            ValueError: The bank is empty.
        """
        self._require_photos()
        if category is None or isinstance(category, str):
            if category is not None:
                self._require(category)
            return self._matcher.distances(tokens, category)
        if isinstance(category, Tensor) and torch.compiler.is_compiling():  # a graph cannot choose: all, then pick
            every = [self._matcher.distances(tokens, name) for name in self.categories]
            return torch.stack(every)[category, torch.arange(tokens.shape[0], device=tokens.device)]
        if len(category) != len(tokens):
            raise ValueError(
                f"{len(category)} categories for {len(tokens)} images: expected one each, or one for all."
            )
        names = self.names(category) if isinstance(category, Tensor) else category
        distances = torch.empty(tokens.shape[0], tokens.shape[2], device=tokens.device)
        for name in dict.fromkeys(names):
            self._require(name)
            chosen = [i for i, c in enumerate(names) if c == name]
            distances[chosen] = self._matcher.distances(tokens[chosen], name)
        return distances

    @torch.no_grad()
    def recognize(self, tokens: Tensor) -> Tensor:
        """Which product each photo shows: the one that its patches are nearest to, in the mean. Ours.

        Args:
            tokens: (B, L, n, d) patch tokens, any length.

        Returns:
            (B,) places in `categories`.

        Raises:
            ValueError: The bank is empty.
        """
        self._require_photos()
        return self._matcher.recognize(tokens)

    def prepare(self, categories: Sequence[str | None]) -> None:
        """Prepare searching these products now (None: all of them), and recognizing them, not at the first photo.

        A graph is traced after this: what is prepared while tracing would be symbols.
        """
        self._require_photos()
        for category in categories:
            if category is not None:
                self._require(category)
        self._matcher.prepare(categories)

    def names(self, places: Tensor) -> list[str]:
        """The products at these places (B,) in `categories`, as from `recognize` or `AnoPLeOutput.products`."""
        categories = self.categories
        return [categories[place] for place in places.tolist()]

    def _require_photos(self) -> None:
        if not self._references:
            raise ValueError("the memory bank is empty; call model.memorize(images, category=...) first.")

    def _all(self) -> Iterator[Reference]:
        return (reference for references in self._references.values() for reference in references)

    def _require(self, category: str) -> None:
        if category not in self._references:
            raise KeyError(f"unknown category {category!r}; known: {', '.join(self._references) or 'none'}")

    def _replace(self, references: dict[str, list[Reference]]) -> None:
        # One assignment each: a thread that matches meanwhile sees the old bank or the new one.
        self._references, self._matcher = references, Matcher(references, coarse=self._matcher.coarse)

    def _apply(self, fn: Any, recurse: bool = True) -> "MemoryBank":
        """Follow `model.to(device)`; rows are plain tensors because their number is not known before loading."""
        super()._apply(fn, recurse)
        moved = {r: fn(r.features) for r in self._all()}
        if any(features is not r.features for r, features in moved.items()):  # else, what is prepared still holds
            self._replace({c: [replace(r, features=moved[r]) for r in refs] for c, refs in self._references.items()})
        return self

    def save(
        self,
        path: str | os.PathLike,
        *,
        fingerprint: str = "",
        backbone: str = "",
        calibration: Mapping[str, Any] | None = None,
        scoring: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the bank as safetensors: one tensor per category and layer, references in the header.

        Args:
            path: The file; written under a temporary name, then renamed.
            fingerprint: Digest of the prompted encoder the rows come from.
            backbone: Its CLIP, for people.
            calibration: Thresholds learned with these references, so that they travel with them.
            scoring: The settings they were learned with, `AnoPLeConfig.scoring`.
        """
        tensors = {
            f"{category}/layer.{layer}": torch.cat([r.features[i] for r in references]).contiguous()
            for category, references in self._references.items()
            for i, layer in enumerate(self.layers)
        }
        about = {
            category: [{"name": r.name, "sha256": r.digest, "patches": r.features.shape[1]} for r in references]
            for category, references in self._references.items()
        }
        header = {
            "format": FORMAT,
            "layers": json.dumps(self.layers),
            "fingerprint": fingerprint,
            "backbone": backbone,
            "references": json.dumps(about),
            "calibration": json.dumps(calibration or {}),
            "scoring": json.dumps(scoring or {}),
            "versions": json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}),
        }
        temporary = Path(f"{path}.tmp")
        save_file(tensors, temporary, metadata=header)
        temporary.replace(path)

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, fingerprint: str | None = None, scoring: Mapping[str, Any] | None = None
    ) -> "MemoryBank":
        """Read a bank.

        Args:
            path: A file written by `save`.
            fingerprint: Refuse the bank unless it carries this one.
            scoring: Leave the thresholds out, with a warning, if they were learned with other settings than these.

        Raises:
            ValueError: Not a memory bank, or one of another model; says which and what to do.
        """
        try:
            opened = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); get it again.") from error
        with opened as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not a memory bank of format {FORMAT}; expected a file saved by anople_hf."
                )
            if fingerprint is not None and header["fingerprint"] != fingerprint:
                raise ValueError(
                    f"{path} was built with another model (fingerprint {header['fingerprint'][:12]}, backbone "
                    f"{header['backbone']}; this model has {fingerprint[:12]}). Its distances would mean "
                    "nothing here: memorize the reference photos again with this model."
                )
            bank = cls(json.loads(header["layers"]))
            references: dict[str, list[Reference]] = {}
            for category, about in json.loads(header["references"]).items():
                rows = torch.stack([file.get_tensor(f"{category}/layer.{layer}") for layer in bank.layers])
                pieces = rows.split([entry["patches"] for entry in about], dim=1)
                references[category] = [
                    Reference(piece.contiguous(), entry["name"], entry["sha256"])
                    for piece, entry in zip(pieces, about, strict=True)
                ]
            bank._replace(references)
            bank.calibration = json.loads(header.get("calibration", "{}"))
            if bank.calibration and scoring is not None and json.loads(header.get("scoring", "{}")) != scoring:
                logger.warning("%s: its thresholds belong to other settings and are left out; calibrate again.", path)
                bank.calibration = {}
        return bank

    def without(self, digests: Iterable[str]) -> "MemoryBank":
        """A bank that lacks the photos with these digests; tensors are shared. Used to judge a photo by the others."""
        left_out = set(digests)
        bank = MemoryBank(self.layers, coarse=self._matcher.coarse)
        kept = {c: [r for r in refs if r.digest not in left_out] for c, refs in self._references.items()}
        bank._replace({c: refs for c, refs in kept.items() if refs})
        return bank

    def searched_exactly(self) -> "MemoryBank":
        """A bank with the same photos that is searched in float32 on every machine; tensors are shared."""
        bank = MemoryBank(self.layers, coarse=False)
        bank._replace(dict(self._references))
        return bank

    def renamed(self, rename: Callable[[str], str]) -> "MemoryBank":
        """The same bank with other names for its photos; tensors are shared."""
        bank = MemoryBank(self.layers, coarse=self._matcher.coarse)
        bank._replace({c: [replace(r, name=rename(r.name)) for r in refs] for c, refs in self._references.items()})
        return bank
