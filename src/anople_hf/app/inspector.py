"""`Inspector`: one shared, frozen detector that teaches and judges for every visitor of the app.

Where in the paper: sec. 3.4 (memory, scoring); thresholds and explanations are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional as F

from ..calibration import vary
from ..hub import public_name
from ..images import image_digest
from ..memory import MemoryBank
from ..modeling_anople import AnoPLeModel, Branch
from ..pictures.overlays import heat_map_overlay
from ..pictures.palette import DETECTED, EDGE, css
from ..processing_anople import AnoPLeProcessor
from .products import ANY, MOST_PHOTOS, GoodPhoto, Products, checked_photo

SHOWN_SIDE = 1280
VIEWS = 4
"""Changed views of each photo that stand for new ones, where fewer than `ENOUGH` photos can judge each other."""
ENOUGH = 3


@dataclass
class Finding:
    """What was found on one photo.

    Attributes:
        name: Of the file.
        product: What it was judged as: told, recognized, or any.
        photo: As shown, at most `SHOWN_SIDE` pixels a side.
        heat_map: (H, W) at the size of `photo`.
        score: Raw score.
        threshold: For scores.
        pixel_threshold: For the map.
        mask_level: Value of the map from which a defective part is marked; None for a good one.
        regions: Boxes of what is marked, strongest first; empty for a good part.
        evidence: The strangest patch and the good patch it is nearest to, side by side, boxed.
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

    @property
    def label(self) -> str:
        """`normal` or `defective`."""
        return "defective" if self.score > self.threshold else "normal"

    @property
    def share(self) -> float:
        """The score as a multiple of the threshold, so that photos of several products can be ordered."""
        return self.score / self.threshold if self.threshold > 0 else 3.0

    def overlay(self, opacity: float = 0.6) -> Image.Image:
        """The photo under its heat map; the contour is drawn on defective parts."""
        scale = (0.0, 2 * self.pixel_threshold)
        return Image.fromarray(
            heat_map_overlay(self.photo, self.heat_map, threshold=self.mask_level, scale=scale, alpha=opacity)
        )


class Inspector:
    """The shared detector: its weights never change, so visitors can use it at the same time.

    Args:
        model: Any detector. One without class names, that is untrained, judges by its memory alone.
        processor: Its processor.
    """

    def __init__(self, model: AnoPLeModel, processor: AnoPLeProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self.branch: Branch = "both" if model.config.class_names else "memory"

    def to(self, device: str | torch.device) -> Self:
        """Compute there; products stay on the CPU."""
        if self.model.device != torch.device(device):
            self.model.to(device)
        return self

    def products(self) -> Products:
        """A new visitor's products: those the detector came with, thresholds included, and nobody else's."""
        own = Products(MemoryBank(self.model.memory_layers))
        own.take_in(self.model.memory.without([]).cpu(), self.model.config.calibration)
        own.came_with = len(own.bank)
        return own

    def load_bank(self, products: Products, path: str | Path) -> Products:
        """The products, and those of a memory bank that was downloaded here or pushed elsewhere.

        Raises:
            ValueError: Not a bank, one of another model, or too many photos.
        """
        bank = MemoryBank.load(path, fingerprint=self.model.fingerprint(), scoring=self.model.config.scoring)
        more = products.branch()
        more.taught |= set(more.take_in(bank, bank.calibration))
        more.require_room()
        return more

    def save_memory(self, products: Products, path: str | Path) -> None:
        """Write a visitor's bank with its thresholds, for `load_bank` and `AnoPLeModel.load_memory`.

        Folders of this machine are left out of the names of photos and backbone.
        """
        backbone = public_name(self.model.config.backbone or "in the checkpoint")
        bank, fingerprint = products.bank.renamed(public_name), self.model.fingerprint()
        about = {"calibration": products.calibration, "scoring": self.model.config.scoring}
        bank.save(path, fingerprint=fingerprint, backbone=backbone, **about)

    @torch.inference_mode()
    def teach(self, products: Products, name: str, files: Sequence[str | Path | Image.Image]) -> Products:
        """The products, with more good photos of one of them and its threshold set anew.

        Photos that the product already knows are not added twice.

        Args:
            products: The visitor's; they stay as they are.
            name: The product, new or known.
            files: Good photos.

        Raises:
            ValueError: No name, no photo, too many, or one that cannot be used.
        """
        name = name.strip()
        if not name or name in (ANY, "*") or "/" in name or len(name) > 60:
            raise ValueError("Give the product a name of up to 60 letters, without '/'.")
        photos = [checked_photo(file) for file in _counted(files)]
        products.require_room(len(photos))
        pixels = self.processor(images=photos)["pixel_values"]
        more = products.branch()
        bank = more.bank.to(self.model.device)
        names = ["" if isinstance(file, Image.Image) else Path(file).name for file in files]
        self._with(bank).memorize(pixels, name, names=names)
        for photo, image in zip(photos, pixels, strict=True):
            more.photos[image_digest(image)] = GoodPhoto(_small(photo, 480), image)
        return self._judged(more, bank, name)

    @torch.inference_mode()
    def remove_photo(self, products: Products, name: str, digest: str) -> Products:
        """The products without one of the photos that were taught here, and the product's threshold set anew.

        Raises:
            KeyError: Unknown product or photo.
        """
        more = products.branch()
        more.remove(name, digest)
        left = name in more.names and (more.judged.get(name) or name in more.brought)
        return self._judged(more, more.bank.to(self.model.device), name) if left else more

    @torch.inference_mode()
    def check(self, products: Products, file: str | Path | Image.Image, product: str = ANY) -> Finding:
        """Judge a photo.

        Args:
            products: The visitor's.
            file: The photo.
            product: What it shows; `ANY` searches all products.

        Raises:
            ValueError: Nothing taught yet, an unknown product, or a photo that cannot be used.
        """
        if product != ANY and products.names and product not in products.names:
            raise ValueError(f"Unknown product {product!r}; known: {', '.join(products.names)}.")
        products.limits(product)  # before any work: is there a threshold?
        photo = checked_photo(file)
        pixels = self.processor(images=photo)["pixel_values"].to(self.model.device)
        routed = None if product == ANY else product
        output = self.model(pixels, category=routed, branch=self.branch, memory=self._here(products.bank))
        if output.products is not None:
            routed = products.bank.names(output.products)[0]
        threshold, pixel_threshold = products.limits(routed if routed in products.calibration else product)
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
            evidence=self._evidence(products, pixels, output.memory_maps[0], routed, shown),
        )

    def check_many(self, products: Products, files: Sequence[str | Path], product: str = ANY) -> list[Finding]:
        """Judge some photos, see `check`."""
        return [self.check(products, file, product) for file in _counted(files)]

    def _here(self, bank: MemoryBank) -> MemoryBank:
        """A bank where the model computes; on the CPU it is the visitor's own, with what it has prepared."""
        device = self.model.device
        return bank if device.type == "cpu" else bank.without([]).to(device)

    def _with(self, bank: MemoryBank) -> AnoPLeModel:
        """The model with a visitor's bank in the place of its own; weights are shared, nothing of it is changed."""
        view = object.__new__(type(self.model))
        view.__dict__ = dict(self.model.__dict__)
        view.__dict__["_modules"] = {**self.model._modules, "memory": bank}
        return view

    def _judged(self, products: Products, bank: MemoryBank, name: str) -> Products:
        """Judge all photos of a product that were taught here, each by the others, and set its thresholds.

        Those that were there before are judged again: by more photos now, or by fewer.

        Args:
            products: The visitor's, to be changed.
            bank: Their memory, where the model computes.
            name: The product.
        """
        judged, peaks, generator = {}, [], torch.Generator().manual_seed(0)
        references = bank.references(name)
        views = 1 if len(references) >= ENOUGH else VIEWS
        for digest in (reference.digest for reference in references if reference.digest in products.photos):
            others = bank.without([digest])
            judge = others if name in others.categories else bank
            batch = vary(products.photos[digest].pixels, views, generator).to(self.model.device)
            output = self.model(batch, category=name, branch=self.branch, memory=judge)
            judged[digest] = output.scores.tolist()
            peaks += output.anomaly_maps.amax(dim=(1, 2)).tolist()
        products.bank = bank.cpu()
        products.calibrate(name, judged, peaks)
        return products

    def _evidence(
        self,
        products: Products,
        pixels: torch.Tensor,
        memory_map: torch.Tensor,
        category: str | None,
        photo: Image.Image,
    ) -> Image.Image:
        """The strangest patch, and the good patch nearest to it, each boxed in its photo."""
        tokens = self.model.encode_memory(pixels)
        place = int(memory_map.argmax())
        grid = memory_map.shape[-1]
        token = F.normalize(tokens[0, :, place].float(), dim=-1).cpu()
        best = (-2.0, "", 0)
        for name in [category] if category else products.names:
            for reference in products.bank.references(name):
                cosine = torch.einsum("lrd,ld->lr", reference.features, token).mean(dim=0)
                value, row = cosine.max(dim=0)
                best = max(best, (float(value), reference.digest, int(row) % (grid * grid)))
        pictures = [_boxed(photo, place, grid)]
        if best[1] in products.photos:
            pictures.append(_boxed(products.photos[best[1]].shown, best[2], grid))
        both = Image.new("RGB", (420 * len(pictures) - 20, 400), "white")
        for column, picture in enumerate(pictures):
            both.paste(picture, (420 * column, 0))
        return both


def _counted(files: Sequence[Any] | None) -> Sequence[Any]:
    if not files:
        raise ValueError("Choose one or more photos first.")
    if len(files) > MOST_PHOTOS:
        raise ValueError(f"{len(files)} photos; at most {MOST_PHOTOS} at a time.")
    return files


def _small(photo: Image.Image, side: int) -> Image.Image:
    small = photo.copy()
    small.thumbnail((side, side))
    return small


def _boxed(photo: Image.Image, place: int, grid: int) -> Image.Image:
    """A photo at 400 x 400 with one cell of the patch grid boxed."""
    picture = photo.convert("RGB").resize((400, 400))
    cell = 400 / grid
    x, y = place % grid * cell, place // grid * cell
    pen = ImageDraw.Draw(picture)
    pen.rectangle((x - 4, y - 4, x + cell + 4, y + cell + 4), outline=css(EDGE), width=6)
    pen.rectangle((x - 3, y - 3, x + cell + 3, y + cell + 3), outline=css(DETECTED), width=3)
    return picture


__all__ = ["Finding", "Inspector"]
