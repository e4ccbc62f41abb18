"""`Inspector`: one shared, frozen detector that teaches and judges for every visitor of the app.

Memory and scores are those of sec. 3.4; thresholds and explanations are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..framed import score_views, shape_misfit
from ..framing import FramingRequest
from ..hub import public_name
from ..images import image_digest
from ..memory import MemoryBank
from ..modeling_anople import AnoPLeModel, Branch
from ..photos import Photo, UnreadableImageError
from ..pictures.overlays import heat_map_overlay
from ..processing_anople import AnoPLeProcessor
from ..teaching import Report
from .evidence import counting, darken, draw_evidence
from .products import ANY, MOST_PHOTOS, MOST_TAUGHT, Products, checked_photo
from .saving import ConflictError, save_as, save_into, state_of

SHOWN_SIDE = 1280


@dataclass
class Finding:
    """What was found on one photo.

    Attributes:
        name: Of the file.
        product: What it was judged as: told, recognized, or any.
        recognized: The product that it looks most like; "" if the product was told.
        photo: As shown, at most `SHOWN_SIDE` pixels a side.
        heat_map: (H, W) at the size of `photo`.
        score: Raw score.
        threshold: For scores.
        pixel_threshold: For the map.
        mask_level: Value of the map from which a defective part is marked; None for a good one.
        regions: Boxes of what is marked, strongest first; empty for a good part.
        evidence: The strangest patch and the good patch it is nearest to, side by side, boxed.
        label: `normal`, `defective`, or `unknown product`.
        remark: Why the photo does not fit what its product was taught with, or "".
        counts: (H, W) bool, what counts of the photo; None if all of it does.
    """

    name: str
    product: str
    photo: Image.Image
    heat_map: NDArray[np.float32]
    score: float
    threshold: float
    pixel_threshold: float
    mask_level: float | None
    regions: list[dict[str, Any]]
    evidence: Image.Image
    label: str
    recognized: str = ""
    remark: str = ""
    counts: NDArray[np.bool_] | None = None

    @property
    def ratio(self) -> float:
        """The score as a multiple of the threshold, so that photos of several products can be ordered."""
        return self.score / self.threshold if self.threshold > 0 else 3.0

    @property
    def shows(self) -> str:
        """The product that the photo shows: recognized, or told."""
        return self.recognized or self.product

    def overlay(self, opacity: float = 0.6) -> Image.Image:
        """The photo under its heat map, dark where it does not count; the contour is drawn on defective parts."""
        scale = (0.0, 2 * self.pixel_threshold)
        painted = heat_map_overlay(self.photo, self.heat_map, threshold=self.mask_level, scale=scale, alpha=opacity)
        return Image.fromarray(painted if self.counts is None else darken(painted, self.counts))


@dataclass(frozen=True)
class NotRead:
    """A file that cannot be judged.

    Attributes:
        name: Of the file.
        reason: Names the file, and says what to do.
    """

    name: str
    reason: str


class Inspector:
    """The shared detector: its weights never change, so visitors can use it at the same time.

    Args:
        model: Any detector. One without class names, that is untrained, judges by its memory alone.
        processor: Its processor.
    """

    def __init__(self, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self.branch: Branch = model.decision_branch

    def to(self, device: str | torch.device) -> Self:
        """Compute there; products stay on the CPU."""
        if self.model.device != torch.device(device):
            self.model.to(device)
        return self

    def products(self) -> Products:
        """A new visitor's products: those the detector came with, thresholds included, and nobody else's."""
        bank = self.model.memory.without([]).cpu()
        return Products(bank, came_with=len(bank), origin=state_of(bank))

    def save_into(self, products: Products, run: Path) -> None:
        """Take what a visitor changed into the run that the detector came from; new visitors begin with it.

        Raises:
            ValueError: A product was changed there meanwhile, too; nothing was saved.
            OSError: The run cannot be written to.
        """
        try:
            saved = save_into(self.model, run, products.bank, products.origin)
        except ConflictError as error:
            self.model.memory = error.bank.to(self.model.device)
            raise
        self.model.memory = saved.to(self.model.device)

    def save_as(self, products: Products, folder: Path) -> None:
        """Write the detector with a visitor's products as a new run.

        Raises:
            OSError: The folder exists already, or cannot be written.
        """
        save_as(self.model, self.processor, products.bank, folder)

    def load_bank(self, products: Products, path: str | Path) -> Products:
        """The products, and those of a memory bank that was downloaded here or pushed elsewhere.

        Raises:
            ValueError: Not a bank, one of another model, or too many photos.
        """
        bank = MemoryBank.load(path, fingerprint=self.model.fingerprint(), scoring=self.model.config.scoring)
        more = products.branch()
        more.take_in(bank)
        more.require_room()
        return more

    def save_memory(self, products: Products, path: str | Path) -> None:
        """Write a visitor's bank with its thresholds, for `load_bank` and `AnoPLeModel.load_memory`.

        Folders of this machine are left out of the names of photos and backbone.
        """
        backbone = public_name(self.model.config.backbone or "in the checkpoint")
        bank, fingerprint = products.bank.renamed(public_name), self.model.fingerprint()
        bank.save(path, fingerprint=fingerprint, backbone=backbone, scoring=self.model.config.scoring)

    @torch.inference_mode()
    def teach(
        self,
        products: Products,
        name: str,
        files: Sequence[str | Path | Image.Image],
        framing: FramingRequest | None = None,
        turns: str | None = None,
    ) -> tuple[Products, Report]:
        """The products, with more good photos of one of them and its threshold set anew; and what changed.

        Args:
            products: The visitor's; they stay as they are.
            name: The product, new or known.
            files: Good photos.
            framing: Region and tiles that are asked for; None keeps those of a known product.
            turns: Positions that its parts lie in, see `AnoPLeModel.teach`; None keeps the product's.

        Raises:
            ValueError: No name, no photo, too many, or one that cannot be used.
        """
        name = name.strip()
        if not name or name in (ANY, "*") or "/" in name or len(name) > 60:
            raise ValueError("Give the product a name of up to 60 letters, without '/'.")
        photos = _all_readable(files)
        products.require_room(len(photos))
        known, grid = products.bank.reading(name), self.model.config.grid_size
        pixels, reading = self.processor.read_good(photos, known, asked=framing, grid=grid)
        how: dict[str, Any] = {"names": _names(files), "reading": reading, "turns": turns}
        return self._changed(products, lambda model: model.teach(pixels, name, **how))

    @torch.inference_mode()
    def calibrate(
        self, products: Products, name: str, files: Sequence[str | Path | Image.Image]
    ) -> tuple[Products, Report]:
        """The products, with the threshold of one of them set by good photos that its memory does not hold.

        Args:
            products: The visitor's; they stay as they are.
            name: A known product.
            files: Good photos that were not taught; together with those of earlier calls they set the threshold.

        Raises:
            KeyError: Unknown product.
            ValueError: No photo is new, too many, or one that cannot be used.
        """
        known = products.bank.product(name)
        photos = _all_readable(files)
        if len(known.held_out) + len(photos) > MOST_TAUGHT:
            raise ValueError(f"At most {MOST_TAUGHT} photos can set the threshold of a product here.")
        ranges, framing = products.bank.ranges(name), products.bank.framings.get(name)
        pixels = self.processor(images=photos, ranges=ranges, framing=framing)["pixel_values"]
        return self._changed(products, lambda model: model.calibrate(pixels, name, names=_names(files)))

    @torch.inference_mode()
    def remove_photo(self, products: Products, name: str, digest: str) -> Products:
        """The products without one of the photos that were taught here, and the product's threshold set anew.

        Raises:
            KeyError: Unknown product or photo.
        """
        return self._changed(products, lambda model: model.remove(name, digest))[0]

    @torch.inference_mode()
    def check(
        self, products: Products, file: str | Path | Image.Image, product: str = ANY, apart: bool = False
    ) -> Finding:
        """Judge a photo.

        Args:
            products: The visitor's.
            file: The photo.
            product: What it shows; `ANY` searches all products.
            apart: Judge a photo that was taught by the others, if there are any: by itself it would be good.

        Raises:
            ValueError: Nothing taught yet, an unknown product, or a photo that cannot be used.
        """
        if product != ANY and products.names and product not in products.names:
            raise ValueError(f"Unknown product {product!r}; known: {', '.join(products.names)}.")
        if product != ANY or not products.names:
            products.thresholds(product)  # before any work: is there a threshold?
        routed, recognized, bank = None if product == ANY else product, "", self._here(products.bank)
        decoded, ranges = checked_photo(file), products.bank.ranges(routed)
        photo = decoded.to_rgb(ranges)
        side = self.model.config.image_size
        views, remarks = self.processor.views(photo, bank.sizes(routed, side)), [decoded.misfit(ranges)]
        if apart:
            others = products.bank.without([image_digest(view[0]) for view in views.values()])
            if len(others) < len(products.bank) and others.categories == products.names:
                products, bank = replace(products, bank=others), self._here(others)
                remarks.append("It was taught, and is judged by the others.")
        ((_, output, _),) = score_views(self.model, [views], routed, branch=self.branch, memory=bank)
        if output.products is not None:
            routed = recognized = bank.names(output.products)[0]
        elif routed is None:  # compared with all products; which one it shows is told all the same
            tokens = self.model.encode_memory(views[side, side].to(self.model.device, self.model.dtype))
            recognized = bank.names(bank.recognize(tokens))[0]
        canvas = views[bank.sizes(routed, side)[0]].to(self.model.device, self.model.dtype)
        assert output.memory_maps is not None
        own = products.bank.thresholds_of(routed) if routed else None
        limits = own or products.thresholds(product)
        threshold, pixel_threshold = limits.threshold, limits.pixel_threshold
        shown = _small(photo, SHOWN_SIDE)
        found = self.processor.post_process(
            output, [shown.size[::-1]], thresholds=threshold, pixel_thresholds=pixel_threshold
        )[0]
        return Finding(
            name="photo" if isinstance(file, Image.Image) else Path(file).name,
            product=routed or product,
            photo=shown,
            heat_map=found["heat_map"],
            score=found["score"],
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            mask_level=found["mask_level"],
            regions=found["regions"],
            label=found["label"],
            recognized=recognized,
            counts=counting(products.bank.framings.get(routed or ""), shown.size, side),
            remark=" ".join(filter(None, [*remarks, shape_misfit(bank, routed, decoded)])),
            evidence=draw_evidence(self.model, products.bank, canvas, output.memory_maps[0], routed, shown),
        )

    def check_many(
        self, products: Products, files: Sequence[str | Path], product: str = ANY, apart: bool = False
    ) -> list[Finding | NotRead]:
        """Judge some photos, see `check`; one that cannot be used keeps no other from being judged."""
        found: list[Finding | NotRead] = []
        for file in _counted(files):
            try:
                found.append(self.check(products, file, product, apart))
            except UnreadableImageError as error:
                found.append(NotRead(Path(file).name, str(error)))
        return found

    def _changed(self, products: Products, change: Callable[[AnoPLeModel], Report]) -> tuple[Products, Report]:
        """The products as `change` leaves a copy of them, and what it says; those given stay as they are."""
        model = self.model.with_memory(products.bank.without([]).to(self.model.device))
        report = change(model)
        return replace(products, bank=model.memory.cpu()), report

    def _here(self, bank: MemoryBank) -> MemoryBank:
        """A bank where the model computes; on the CPU it is the visitor's own, with what it has prepared."""
        device = self.model.device
        return bank if device.type == "cpu" else bank.without([]).to(device)


def _counted(files: Sequence[Any] | None, most: int = MOST_PHOTOS) -> Sequence[Any]:
    if not files:
        raise ValueError("Choose one or more photos first.")
    if len(files) > most:
        raise ValueError(f"{len(files)} photos; at most {most} at a time.")
    return files


def _all_readable(files: Sequence[Any] | None) -> list[Photo]:
    """The photos, if all of them can be used; else all that cannot are named."""
    photos, reasons = [], []
    for file in _counted(files, MOST_TAUGHT):
        try:
            photos.append(checked_photo(file))
        except UnreadableImageError as error:
            reasons.append(str(error))
    if reasons:
        raise UnreadableImageError(f"{' '.join(reasons)} Nothing was changed.")
    return photos


def _names(files: Sequence[Any]) -> list[str]:
    return [
        f"photo {number}" if isinstance(file, Image.Image) else Path(file).name
        for number, file in enumerate(files, start=1)
    ]


def _small(photo: Image.Image, side: int) -> Image.Image:
    small = photo.copy()
    small.thumbnail((side, side))
    return small


__all__ = ["Finding", "Inspector", "NotRead"]
