"""What the app does, without its face: one shared, frozen detector, and for each visitor the products they taught.

Where in the paper: sec. 3.4 (memory, scoring); thresholds, explanations and sessions are ours.
"""

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional as F

from .calibration import vary
from .images import read_image, why_unusable
from .memory import MemoryBank, image_digest
from .modeling_anople import AnoPLeModel, Branch
from .overlays import heat_map_overlay
from .palette import DETECTED, EDGE, css
from .processing_anople import AnoPLeProcessor, find_regions
from .scoring import conformal_threshold

ANY = "any product"
MOST_PHOTOS, MOST_BYTES, MOST_PIXELS = 30, 20 * 2**20, 50_000_000
SHOWN_SIDE = 1280
FALSE_ALARM_RATE = 0.05
VIEWS = 4
"""Changed views of each photo that stand for new ones, where fewer than `ENOUGH` photos can judge each other."""
ENOUGH = 3


@dataclass
class Products:
    """What one visitor taught; nobody else sees it.

    Attributes:
        bank: Patches of their good photos.
        photos: Small copies of them by digest, to be shown beside a finding.
        normal_scores: By product: scores of its good photos, each judged by the others.
        thresholds: By product: score from which a part is defective.
        pixel_thresholds: By product: the same for maps.
    """

    bank: MemoryBank
    photos: dict[str, Image.Image] = field(default_factory=dict)
    normal_scores: dict[str, list[float]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    pixel_thresholds: dict[str, float] = field(default_factory=dict)

    def limits(self, product: str) -> tuple[float, float]:
        """Thresholds for scores and maps; for any product the highest of all."""
        names = list(self.thresholds) if product == ANY else [product]
        return max(self.thresholds[n] for n in names), max(self.pixel_thresholds[n] for n in names)

    def false_alarms(self, product: str, threshold: float) -> tuple[int, int]:
        """How many views of the taught good photos lie above a threshold, and how many there are."""
        names = list(self.normal_scores) if product == ANY else [product]
        scores = [score for name in names for score in self.normal_scores[name]]
        return sum(score > threshold for score in scores), len(scores)

    def remove(self, product: str) -> None:
        """Forget a product.

        Raises:
            KeyError: It is not known.
        """
        gone = {reference.digest for reference in self.bank.references(product)}
        self.bank.remove(product)
        kept = {reference.digest for name in self.bank.categories for reference in self.bank.references(name)}
        self.photos = {digest: photo for digest, photo in self.photos.items() if digest not in gone - kept}
        for part in (self.normal_scores, self.thresholds, self.pixel_thresholds):
            part.pop(product, None)


@dataclass
class Finding:
    """What was found on one photo.

    Attributes:
        name: Of the file.
        product: What it was judged as.
        photo: As shown, at most `SHOWN_SIDE` pixels a side.
        heat_map: (H, W) at the size of `photo`.
        score: Raw score.
        threshold: For scores.
        pixel_threshold: For the map.
        regions: Boxes above `pixel_threshold`, strongest first; empty for a good part.
        evidence: The strangest patch and the good patch it is nearest to, side by side, boxed.
    """

    name: str
    product: str
    photo: Image.Image
    heat_map: NDArray[np.float32]
    score: float
    threshold: float
    pixel_threshold: float
    regions: list[dict[str, Any]]
    evidence: Image.Image

    @property
    def label(self) -> str:
        """`normal` or `defective`."""
        return "defective" if self.score > self.threshold else "normal"

    def overlay(self, opacity: float = 0.6) -> Image.Image:
        """The photo under its heat map; the contour is drawn on defective parts."""
        limit = self.pixel_threshold if self.label == "defective" else None
        scale = (0.0, 2 * self.pixel_threshold)
        return Image.fromarray(
            heat_map_overlay(self.photo, self.heat_map, threshold=limit, scale=scale, alpha=opacity)
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

    @classmethod
    def load(cls, run: str | None = None) -> "Inspector":
        """A trained detector from a folder or the Hub; None for the embedded, untrained one."""
        if run is not None:
            return cls(cast(AnoPLeModel, AnoPLeModel.from_pretrained(run)), AnoPLeProcessor.from_pretrained(run))
        model = AnoPLeModel.from_backbone("embedded:tiny-clip")
        return cls(model, AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config))

    def products(self) -> Products:
        """A new visitor's products: those the detector came with, thresholds included, and nobody else's."""
        own = Products(MemoryBank(self.model.memory_layers))
        own.bank.merge(self.model.memory)
        for name, entry in (self.model.config.calibration or {}).items():
            if name in own.bank.categories:
                own.thresholds[name], own.pixel_thresholds[name] = entry["threshold"], entry["pixel_threshold"]
                own.normal_scores[name] = list(entry.get("normal_quantiles") or [])
        return own

    @torch.inference_mode()
    def teach(self, products: Products, name: str, files: Sequence[str | Path | Image.Image]) -> int:
        """Add good photos of a product, and set its threshold anew.

        Args:
            products: The visitor's; changed only if all went well.
            name: The product, new or known.
            files: Good photos.

        Returns:
            How many photos are known of it now.

        Raises:
            ValueError: No name, no photo, too many, or one that cannot be used.
        """
        name = name.strip()
        if not name or "/" in name or name == ANY or len(name) > 60:
            raise ValueError("Give the product a name of up to 60 letters, without '/'.")
        photos = [_checked(file) for file in _counted(files)]
        pixels = self.processor(images=photos)["pixel_values"]
        view = self._own(products.bank)
        view.memorize(pixels, name)
        for photo, image in zip(photos, pixels, strict=True):
            products.photos[image_digest(image)] = _small(photo, 480)
        scores, peaks = self._judge_by_others(products.bank, pixels, name)
        products.normal_scores[name] = products.normal_scores.get(name, []) + scores
        products.thresholds[name] = conformal_threshold(products.normal_scores[name], FALSE_ALARM_RATE)
        limit = conformal_threshold(peaks, FALSE_ALARM_RATE)
        products.pixel_thresholds[name] = max(limit, products.pixel_thresholds.get(name, 0.0))
        return len(products.bank.references(name))

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
        if not products.bank.categories:
            raise ValueError("No product is known yet: teach one first, with a few good photos.")
        if product != ANY and product not in products.bank.categories:
            raise ValueError(f"Unknown product {product!r}; known: {', '.join(products.bank.categories)}.")
        photo = _checked(file)
        pixels = self.processor(images=photo)["pixel_values"]
        routed = None if product == ANY else product
        output = self.model(pixels, category=routed, branch=self.branch, memory=products.bank)
        threshold, pixel_threshold = products.limits(product)
        shown = _small(photo, SHOWN_SIDE)
        size = shown.size[::-1]
        heat_map = F.interpolate(output.anomaly_maps[None], size=size, mode="bilinear")[0, 0].numpy()
        score = float(output.scores[0])
        regions = find_regions(heat_map, heat_map > pixel_threshold, min_area=4) if score > threshold else []
        name = "photo" if isinstance(file, Image.Image) else Path(file).name
        evidence = self._evidence(products, pixels, output.memory_maps[0], routed, shown)
        return Finding(name, product, shown, heat_map, score, threshold, pixel_threshold, regions, evidence)

    def _own(self, bank: MemoryBank) -> AnoPLeModel:
        """The model with a visitor's bank in the place of its own; weights are shared, nothing of it is changed."""
        view = object.__new__(type(self.model))
        view.__dict__ = dict(self.model.__dict__)
        view.__dict__["_modules"] = {**self.model._modules, "memory": bank}
        return view

    def _judge_by_others(self, bank: MemoryBank, pixels: torch.Tensor, name: str) -> tuple[list[float], list[float]]:
        """Scores and map peaks of good photos, each judged by the other photos of its product."""
        scores, peaks, generator = [], [], torch.Generator().manual_seed(0)
        views = 1 if len(bank.references(name)) >= ENOUGH else VIEWS
        for image in pixels:
            others = bank.without([image_digest(image)])
            judge = others if name in others.categories else bank
            output = self.model(vary(image, views, generator), category=name, branch=self.branch, memory=judge)
            scores += output.scores.tolist()
            peaks += output.anomaly_maps.amax(dim=(1, 2)).tolist()
        return scores, peaks

    def _evidence(
        self,
        products: Products,
        pixels: torch.Tensor,
        memory_map: torch.Tensor,
        category: str | None,
        photo: Image.Image,
    ) -> Image.Image:
        """The strangest patch, and the good patch nearest to it, each boxed in its photo."""
        tokens = self.model.encode_image(pixels, layers=self.model.memory_layers)[2]
        assert tokens is not None  # layers were asked for
        place = int(memory_map.argmax())
        grid = memory_map.shape[-1]
        token = F.normalize(tokens[0, :, place].float(), dim=-1)
        best = (-2.0, "", 0)
        for name in [category] if category else products.bank.categories:
            for reference in products.bank.references(name):
                cosine = torch.einsum("lrd,ld->lr", reference.features, token).mean(dim=0)
                value, row = cosine.max(dim=0)
                best = max(best, (float(value), reference.digest, int(row) % (grid * grid)))
        pictures = [_boxed(photo, place, grid)]
        if best[1] in products.photos:
            pictures.append(_boxed(products.photos[best[1]], best[2], grid))
        both = Image.new("RGB", (420 * len(pictures) - 20, 400), "white")
        for column, picture in enumerate(pictures):
            both.paste(picture, (420 * column, 0))
        return both


def to_csv(findings: Sequence[Finding]) -> str:
    """Findings as a table.

    Example:
        >>> to_csv([]).strip()
        'file,product,label,score,threshold,regions'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "product", "label", "score", "threshold", "regions"])
    for found in findings:
        numbers = [f"{found.score:.6f}", f"{found.threshold:.6f}", len(found.regions)]
        writer.writerow([found.name, found.product, found.label, *numbers])
    return text.getvalue()


def to_zip(findings: Sequence[Finding]) -> bytes:
    """The table and all overlays in one archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.csv", to_csv(findings))
        for number, found in enumerate(findings):
            picture = io.BytesIO()
            found.overlay().save(picture, format="PNG")
            archive.writestr(f"{number:03}_{Path(found.name).stem}.png", picture.getvalue())
    return content.getvalue()


def _counted(files: Sequence[Any] | None) -> Sequence[Any]:
    if not files:
        raise ValueError("Choose one or more photos first.")
    if len(files) > MOST_PHOTOS:
        raise ValueError(f"{len(files)} photos; at most {MOST_PHOTOS} at a time.")
    return files


def _checked(file: str | Path | Image.Image) -> Image.Image:
    """A photo as RGB, or a reason that a visitor understands."""
    if isinstance(file, Image.Image):
        return file.convert("RGB")
    path = Path(file)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES // 2**20} MB; make it smaller.")
    if reason := why_unusable(path):
        raise ValueError(f"{reason.replace(str(path), path.name)}. Nothing was changed.")
    with Image.open(path) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{path.name} has more than {MOST_PIXELS // 10**6} million pixels; make it smaller.")
    return read_image(path)


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


__all__ = ["ANY", "Finding", "Inspector", "Products", "to_csv", "to_zip"]
