"""`MemoryBank`: the known products, with the patches of their good parts, matched by cosine distance.

Where in the paper: sec. 3.4, eq. 14. Which layers, and that two of them are averaged, is PromptAD's convention.

- All that is known of a product (`Product`) is added, removed, renamed, merged, saved and pushed together.
- References are whole images, so one photo or one product can be added or taken out without training.
- The bank is a file of its own, tied to its model by the fingerprint of the prompted encoder.
- Rows are unit vectors, stored as they are matched: a reloaded bank gives the same bits.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .bank_file import read_bank, write_bank
from .framing import Framing
from .matching import Matcher, Reference
from .products import Product
from .ranges import FULL, Ranges, shared
from .thresholds import Thresholds, now, spread_quantiles
from .views import View

BANK_FILE = "memory_bank.safetensors"
Choice = Literal["mine", "theirs"]


class MemoryBank(nn.Module):
    """R of eq. 14: good patches of every known product.

    Args:
        layers: The encoder layers whose tokens are kept, as in `AnoPLeConfig.memory_layers`.
        coarse: Whether to search in bfloat16, see `NearestPatch`; None decides by size and device.

    Attributes:
        views: By digest, the remembered photos as the model saw them, as far as they are here; see `View`. Photos
            that thresholds were calibrated on may be among them.
        common: Thresholds for a product that is not told, set by hand, or from a bank of format 1, whose products
            kept no scores of their own; None: `thresholds_of(None)` derives them from the products.

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
        self.views: dict[str, View] = {}
        self._common: Thresholds | None = None
        self._derived: Thresholds | None = None
        self._products: dict[str, Product] = {}
        self._framings: dict[str, Framing] = {}
        self._matcher = Matcher({}, coarse=coarse)

    @property
    def categories(self) -> list[str]:
        """Known products, in the order they were added."""
        return list(self._products)

    def __len__(self) -> int:
        """Remembered photos."""
        return sum(len(product.photos) for product in self._products.values())

    def references(self, category: str) -> list[Reference]:
        """The remembered photos of `category`.

        Raises:
            KeyError: Unknown category.
        """
        return list(self.product(category).photos)

    @property
    def digests(self) -> set[str]:
        """Of all remembered photos, and of those that thresholds were calibrated on."""
        held_out = {digest for product in self._products.values() for digest in product.held_out}
        return {photo.digest for photo in self._all() if photo.digest} | held_out

    def product(self, category: str) -> Product:
        """All that is known of `category`.

        Raises:
            KeyError: Unknown category.
        """
        self._require(category)
        return self._products[category]

    def reading(self, category: str) -> dict[str, Any]:
        """How photos of a product are read, `Product.reading`; of a new product nothing.

        Photos of a bank that is older than ranges were read by their container, so that is the range.
        """
        if category not in self._products:
            return {}
        return {"ranges": {depth: list(ends) for depth, ends in FULL.items()}} | dict(self._products[category].reading)

    def ranges(self, category: str | None = None) -> Ranges:
        """Which values are black and white in photos of a product; None: not told, see `ranges.shared`."""
        if category is not None:
            return self._products[category].reading.get("ranges", {}) if category in self._products else {}
        return shared(product.reading.get("ranges", {}) for product in self._products.values())

    @property
    def framings(self) -> dict[str, Framing]:
        """Of the framed products; a photo that is not told is then recognized first, whatever `memory_search` says."""
        return self._framings

    def sizes(self, category: str | None, side: int) -> list[tuple[int, int]]:
        """(height, width) of the pictures of a photo that judging it may take: of one product, or of any.

        Args:
            category: Its product; None if it is not told. The model's square comes first then.
            side: Of the model's view.
        """
        framings = [self._framings.get(category)] if category is not None else [None, *self._framings.values()]
        return list(dict.fromkeys((side, side) if f is None else f.canvas(side) for f in framings))

    def update(self, category: str, **changes: Any) -> Product:
        """Change fields of a `Product`, but for its photos.

        Raises:
            KeyError: Unknown category.
        """
        product = replace(self.product(category), **changes)
        self._products = self._products | {category: product}  # patches stay: what is prepared still holds
        self._framings = _framings(self._products)
        self._derived = self._derive()
        return product

    @property
    def common(self) -> Thresholds | None:
        """As the class says."""
        return self._common

    @common.setter
    def common(self, thresholds: Thresholds | None) -> None:
        self._common = thresholds
        self._derived = self._derive()

    @property
    def decides(self) -> bool:
        """Whether any threshold is known."""
        return self._derived is not None or any(product.thresholds for product in self._products.values())

    def thresholds_of(self, category: str | None = None, *, recognized: bool = False) -> Thresholds | None:
        """The thresholds that decide about a photo; None if there are none.

        Args:
            category: The product; None if the photo is compared with all. Then the common thresholds decide, derived
                from the scores of all products' good photos with the product not told.
            recognized: It was not told; then the common thresholds stand in for those of its own. For a product that
                is told they do not: they were learned from smaller distances, those to all products.
        """
        product = None if category is None else self._products.get(category)
        if product is not None and product.thresholds is not None:
            return product.thresholds
        return self._derived if recognized or category is None else None

    def _derive(self) -> Thresholds | None:
        """The common thresholds, once for all photos that come."""
        if self.common is not None and self.common.method == "set by hand":
            return self.common
        scores: list[float] = []
        peaks: list[float] = []
        rates: list[float] = []
        photos, promised = 0, bool(self._products)
        for product in self._products.values():
            set_, (own, own_peaks) = product.thresholds, product.untold
            promised &= set_ is not None and set_.guaranteed
            if set_ is None or not own:
                continue
            photos += set_.num_photos
            rates += [set_.false_alarm_rate] if set_.false_alarm_rate else []
            factor = 1.0
            if set_.method == "set by hand" and product.judged:  # then the untold product moves by as much
                factor = set_.threshold / max(product.learn(set_.false_alarm_rate or 0.05).threshold, 1e-12)
            scores += [factor * score for score in own]
            peaks += own_peaks
        if self.common is not None:
            scores += spread_quantiles(self.common) or [self.common.threshold]
            peaks.append(self.common.pixel_threshold)
            photos += self.common.num_photos
            rates += [self.common.false_alarm_rate] if self.common.false_alarm_rate else []
        if not scores:
            return None
        how = "derived from all products"
        found = Thresholds.from_normals(
            scores, peaks, min(rates, default=0.05), num_photos=photos, exchangeable=promised, how=how
        )
        return replace(found, method="learned") if not promised else found

    def add(
        self,
        category: str,
        features: Tensor,
        *,
        names: Sequence[str] = (),
        digests: Sequence[str] = (),
        added: Sequence[str] = (),
        copies: int = 1,
        framed: Tensor | None = None,
        framing: Framing | None = None,
    ) -> None:
        """Remember photos of a product, in addition to those already there.

        Args:
            category: The product; new or known.
            features: (B, L, n, d) patch tokens of the whole photos, any length; normalized here.
            names: One per photo, optional.
            digests: One per photo, optional.
            added: When each was first remembered; now, if left out.
            copies: Turned copies whose tokens each photo has, see `turns.py`.
            framed: (B, T, L, n, d) those of the tiles of a framed product.
            framing: The product's, if it is new.

        Raises:
            ValueError: A shape that does not fit, values that are not finite, or a category name that cannot be
                stored.
        """
        _require_name(category)
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
        product = self._products.get(category, Product((), reading={"framing": framing.to_dict()} if framing else {}))
        if bool(Framing.of(product.reading)) != (framed is not None):
            raise ValueError(f"{category!r} is {'not ' if framed is not None else ''}framed: its photos are "
                             "remembered by model.teach or model.memorize.")  # fmt: skip
        if not all(torch.isfinite(rows).all() for rows in (features, framed) if rows is not None):
            raise ValueError(f"features of {category!r} are not finite; nothing was added.")
        features = F.normalize(features.detach().float(), dim=-1)
        tiles = [None] * len(features) if framed is None else F.normalize(framed.detach().float(), dim=-1).unbind()
        names = list(names) or [""] * len(features)
        digests = list(digests) or [""] * len(features)
        dates = list(added) or [now()] * len(features)
        rows = zip(features, names, digests, dates, tiles, strict=True)
        more = tuple(
            Reference(f.clone(), name, digest, date, copies, None if own is None else own.clone())
            for f, name, digest, date, own in rows
        )
        self._replace(self._products | {category: replace(product, photos=(*product.photos, *more))})

    def see_anew(self, category: str, seen: Sequence[tuple[Tensor, Tensor | None]], copies: int) -> None:
        """Give the photos of a product other tokens, in their order; all else stays.

        Args:
            category: The product.
            seen: Of each photo (1, L, n, d), and (1, T, L, n, d) of its tiles, as for `add`.
            copies: As for `add`.

        Raises:
            KeyError: Unknown category.
        """
        product = self.product(category)
        photos = []
        for photo, (rows, tiles) in zip(product.photos, seen, strict=True):
            features = F.normalize(rows.detach().float(), dim=-1)[0]
            framed = None if tiles is None else F.normalize(tiles.detach().float(), dim=-1)[0]
            photos.append(replace(photo, features=features, framed=framed, copies=copies))
        self._replace(self._products | {category: replace(product, photos=tuple(photos))})

    def remove(self, category: str, name: str | None = None) -> None:
        """Take out a product with all that is known of it, or one of its photos, by its name or its digest.

        Thresholds stay when a photo goes, but what they promise is void; `AnoPLeModel.remove` sets them anew.

        Raises:
            KeyError: Unknown category or photo; the message lists the known ones.
            ValueError: Several photos have this name.
        """
        product = self.product(category)
        gone = [r for r in product.photos if name is None or name == r.name or (name and r.digest.startswith(name))]
        if not gone:
            raise KeyError(f"no photo {name!r} of {category!r}; known: {[r.name for r in product.photos]}")
        if name is not None and len(gone) > 1:
            choices = ", ".join(r.digest[:12] for r in gone)
            raise ValueError(f"{len(gone)} photos of {category!r} are called {name!r}; give the digest: {choices}")
        kept = tuple(r for r in product.photos if r not in gone)
        digests, old = {r.digest for r in kept}, product.thresholds
        left = replace(
            product,
            photos=kept,
            judged={digest: judged for digest, judged in product.judged.items() if digest in digests},
            held_out={},  # judged by a memory that held more
            thresholds=replace(old, guaranteed=False) if old else None,
        )
        known = {c: (left if c == category else p) for c, p in self._products.items()}
        known = {c: p for c, p in known.items() if p.photos}
        self._common = self.common if known else None
        self._replace(known)
        self._drop_views()

    def rename(self, category: str, name: str) -> None:
        """Give a product another name; all that is known of it stays.

        Raises:
            KeyError: Unknown category.
            ValueError: The name cannot be stored, or is another product's.
        """
        self._require(category)
        _require_name(name)
        if name != category and name in self._products:
            raise ValueError(f"there is a product {name!r} already; remove it first, or choose another name.")
        self._replace({name if c == category else c: p for c, p in self._products.items()})

    def differing(self, other: "MemoryBank") -> list[str]:
        """A line for each product whose thresholds another bank would change: both hold it, with other ones."""
        lines = []
        for category in other.categories:
            theirs = other.product(category).thresholds
            mine = self._products[category].thresholds if category in self._products else None
            if mine is not None and theirs is not None and mine != theirs:
                lines.append(
                    f"{category}: {mine.threshold:.4g} here ({mine.promise}), {theirs.threshold:.4g} there "
                    f"({theirs.promise})"
                )
        return lines

    def merge(self, other: "MemoryBank", *, thresholds: Choice | None = None) -> None:
        """Take over every product of `other`, and every photo that is not here yet (by category and digest).

        Args:
            other: The other bank; it stays as it is.
            thresholds: Whose thresholds hold for a product that both know with other ones: `mine` or `theirs`.

        Raises:
            ValueError: The banks remember different layers or widths, a product in other positions or framed
                differently, or thresholds
                differ and nobody said whose hold.
        """
        if other.layers != self.layers:
            raise ValueError(f"the other bank remembers layers {other.layers}, this one {self.layers}.")
        for name in {*self.categories} & {*other.categories}:
            if self._framings.get(name) != other._framings.get(name):
                raise ValueError(f"both banks hold {name!r}, with another region or other tiles: its photos cannot be "
                                 "put together. Rename or remove one of the two.")  # fmt: skip
        if thresholds is None and (lines := self.differing(other)):
            raise ValueError(
                "both banks have thresholds of their own for " + "; ".join(lines) + ". Say whose hold: "
                "thresholds='mine' or 'theirs'."
            )
        for category in set(self.categories) & set(other.categories):
            here_in, there_in = (bank.product(category).reading.get("turns", "none") for bank in (self, other))
            if here_in != there_in:
                raise ValueError(
                    f"{category!r} is remembered with turns={here_in} here, with turns={there_in} there; teach it "
                    f"with the same ones first: anople teach RUN {category} PHOTOS --turns {there_in}"
                )
        for category in other.categories:
            theirs, known = other.product(category), category in self._products
            here = {r.digest for r in self.references(category) if r.digest} if known else set()
            new = [r for r in theirs.photos if r.digest not in here]
            if new:
                about: dict[str, Any] = {"names": [r.name for r in new], "digests": [r.digest for r in new],
                         "added": [r.added for r in new]}  # fmt: skip
                tiles = [r.framed for r in new if r.framed is not None]
                how: dict[str, Any] = (
                    {"framed": torch.stack(tiles), "framing": other._framings[category]} if tiles else {}
                )
                self.add(category, torch.stack([r.features for r in new]), copies=new[0].copies, **about, **how)
            mine = self._products[category]
            take = mine.thresholds is None or (thresholds == "theirs" and theirs.thresholds is not None)
            held_out = theirs.held_out if take else mine.held_out
            digests = {r.digest for r in mine.photos}
            self.update(
                category,
                word=mine.word or theirs.word,
                thresholds=theirs.thresholds if take else mine.thresholds,
                judged={**theirs.judged, **mine.judged},
                held_out={digest: judged for digest, judged in held_out.items() if digest not in digests},
                reading={**theirs.reading, **mine.reading},
            )
        self.views = {**other.views, **self.views}
        if self.common is None or (thresholds == "theirs" and other.common is not None):
            self.common = other.common

    @torch.no_grad()  # what is remembered is a constant, and may have been remembered in inference mode
    def match(
        self, tokens: Tensor, category: str | Sequence[str] | Tensor | None = None, tile: int | None = None
    ) -> Tensor:
        """Distance of each patch to its nearest good patch, averaged over the layers (eq. 14).

        Args:
            tokens: (B, L, n, d) patch tokens, any length.
            category: Route to one product, or to one per image: names, or (B,) places in `categories` as from
                `recognize`; None searches all products.
            tile: Compare with this tile of a framed product that is told, instead of with its whole photos.

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
            return self._matcher.distances(tokens, category, tile)
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

    @torch.no_grad()
    def distances(self, tokens: Tensor) -> Tensor:
        """How far each photo is from each product: mean distances of some of its patches, (B, products). Ours.

        Args:
            tokens: (B, L, n, d) patch tokens, any length.

        Raises:
            ValueError: The bank is empty.
        """
        self._require_photos()
        return self._matcher.product_distances(tokens)

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
        if not self._products:
            raise ValueError("the memory bank is empty; call model.memorize(images, category=...) first.")

    def _all(self) -> Iterator[Reference]:
        return (reference for product in self._products.values() for reference in product.photos)

    def _require(self, category: str) -> None:
        if category not in self._products:
            raise KeyError(f"unknown product {category!r}; known: {', '.join(self._products) or 'none'}")

    def _replace(self, products: dict[str, Product]) -> None:
        # One assignment each: a thread that matches meanwhile sees the old bank or the new one.
        references = {category: list(product.photos) for category, product in products.items()}
        self._products, self._matcher = products, Matcher(references, coarse=self._matcher.coarse)
        self._framings = _framings(products)
        self._derived = self._derive()

    def familiar_within(self, device: Any = None) -> Tensor | None:
        """(products,) distances, see `distances`, beyond which a photo shows no such product; NaN: not known.

        None if they are not known of any product.
        """
        limits = [product.familiar_within for product in self._products.values()]
        if not any(limits):
            return None
        return torch.tensor([float("nan") if limit is None else limit for limit in limits], device=device)

    def _drop_views(self) -> None:
        wanted = self.digests
        self.views = {digest: view for digest, view in self.views.items() if digest in wanted}

    def _with(self, products: dict[str, Product], coarse: bool | None) -> "MemoryBank":
        """Another bank with these products; all else is shared."""
        bank = MemoryBank(self.layers, coarse=coarse)
        bank.views, bank._common = dict(self.views), self.common
        bank._replace(products)
        return bank

    def _apply(self, fn: Any, recurse: bool = True) -> "MemoryBank":
        """Follow `model.to(device)`; rows are plain tensors because their number is not known before loading."""
        super()._apply(fn, recurse)
        moved = {r: replace(r, features=fn(r.features), framed=None if r.framed is None else fn(r.framed))
                 for r in self._all()}  # fmt: skip
        if any(new.features is not old.features for old, new in moved.items()):  # else, what is prepared still holds
            self._replace(_with_photos(self._products, moved.__getitem__))
        return self

    def save(
        self,
        path: str | os.PathLike,
        *,
        fingerprint: str = "",
        backbone: str = "",
        scoring: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the bank as one file, whole or not at all; see `bank_file`.

        Args:
            path: The file.
            fingerprint: Digest of the prompted encoder the rows come from.
            backbone: Its CLIP, for people.
            scoring: The settings that thresholds were learned with, `AnoPLeConfig.scoring`.
        """
        about = {"fingerprint": fingerprint, "backbone": backbone, "scoring": dict(scoring or {})}
        write_bank(path, self.layers, self._products, self.common, about)

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, fingerprint: str | None = None, scoring: Mapping[str, Any] | None = None
    ) -> "MemoryBank":
        """Read a bank, also one of format 1.

        Args:
            path: A file written by `save`.
            fingerprint: Refuse the bank unless it carries this one.
            scoring: Leave the thresholds out, with a warning, if they were learned with other settings than these.

        Raises:
            ValueError: Not a memory bank, a damaged one, or one of another model; says which and what to do.
        """
        layers, products, common = read_bank(path, fingerprint, scoring)
        bank = cls(layers)
        bank._common = common
        bank._replace(products)
        return bank

    def without(self, digests: Iterable[str]) -> "MemoryBank":
        """A bank that lacks the photos with these digests; tensors are shared. Used to judge a photo by the others."""
        left_out = set(digests)
        kept = {
            c: replace(p, photos=tuple(r for r in p.photos if r.digest not in left_out))
            for c, p in self._products.items()
        }
        return self._with({c: p for c, p in kept.items() if p.photos}, self._matcher.coarse)

    def searched_exactly(self, category: str | None = None) -> "MemoryBank":
        """A bank that is searched in float32 on every machine, with the same photos; tensors are shared.

        Args:
            category: Keep this product alone.

        Raises:
            KeyError: Unknown category.
        """
        kept = dict(self._products) if category is None else {category: self.product(category)}
        return self._with(kept, False)

    def renamed(self, rename: Callable[[str], str]) -> "MemoryBank":
        """The same bank with other names for its photos; tensors are shared."""
        products = _with_photos(self._products, lambda r: replace(r, name=rename(r.name)))
        return self._with(products, self._matcher.coarse)


def _with_photos(products: Mapping[str, Product], change: Callable[[Reference], Reference]) -> dict[str, Product]:
    return {c: replace(p, photos=tuple(map(change, p.photos))) for c, p in products.items()}


def _framings(products: Mapping[str, Product]) -> dict[str, Framing]:
    found = {name: Framing.of(product.reading) for name, product in products.items()}
    return {name: framing for name, framing in found.items() if framing is not None}


def _require_name(category: str) -> None:
    if not category.strip() or "/" in category or category == "*":
        raise ValueError(f"category={category!r}: expected a name, without '/', that is not '*'.")
