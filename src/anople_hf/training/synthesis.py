"""Pseudo anomalies (a foreign texture in pixel space, gaussian noise in latent space) and the views of an image.

Where in the paper: sec. 3 and 3.3.2 ("pixel and latent spaces"), sec. 3.2 for the views.

The pixel anomalies follow DRAEM (Zavrtanik et al., ICCV 2021), on request CutPaste (Li et al., CVPR 2021); the latent
ones follow SimpleNet (Liu et al., CVPR 2023). Shapes stand in `shapes.py`, looks in `textures.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..images import IMAGE_SUFFIXES
from .shapes import TRIES, Floats, Mask, Pixels, perlin_mask, product_mask, strip_mask
from .textures import PROCEDURES, from_elsewhere, from_photo


class Strip(TypedDict):
    """Arguments of `strip_mask`."""

    area: tuple[float, float]
    aspect: tuple[float, float]
    turned: bool


KINDS = ("texture", "cutpaste", "scar")
SOURCES = ("mixed", "procedural", "shots")
CUTPASTE: Strip = {"area": (0.02, 0.15), "aspect": (0.3, 3.3), "turned": False}  # CutPaste's own
SCAR: Strip = {"area": (5e-4, 6e-3), "aspect": (3.0, 12.0), "turned": True}  # CutPaste's 2..16 by 10..25 pixels of 256


def latent_anomalies(
    features: Tensor, sigma: float = 0.015, mean: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """z_latent = z+ + eps with eps ~ N(mean, sigma^2) a component, brought back to length 1 (sec. 3.3.2).

    Args:
        features: z+, features of normal views, (..., d); they are L2-normalized first, so that sigma means the same
            for every backbone. At d = 640, sigma 0.015 turns a vector by a cosine of about 0.935.
        sigma: Standard deviation of the noise, >= 0.
        mean: Mean of the noise.
        generator: Source of randomness on the device of `features`; torch's global one if None.

    Returns:
        (..., d) of the dtype of `features`, L2-normalized; gradients pass to `features`.

    Example:
        >>> normal = F.normalize(torch.ones(1000, 640), dim=1)
        >>> latent = latent_anomalies(normal, generator=torch.Generator().manual_seed(0))
        >>> round((normal * latent).sum(dim=1).mean().item(), 2)
        0.93
    """
    noise = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    noise.normal_(mean, sigma, generator=generator)
    return F.normalize(F.normalize(features.float(), dim=-1) + noise, dim=-1).to(features.dtype)


def local_views(array: NDArray) -> list[NDArray]:
    """The N + 1 = 5 views of one image or mask: the global one, then four crops, row-major (sec. 3.2).

    Args:
        array: Image uint8 (2n, 2n, 3), or mask bool (2n, 2n); 480 a side for the paper's backbone.

    Returns:
        Five arrays with n a side. The crops are the very pixels. The global image is reduced by PIL's bicubic filter;
        a global mask's pixel is set where at least half of its 2x2 pixels are, which keeps a scratch of one pixel.

    Raises:
        ValueError: If the array is not square or its side is odd.

    Example:
        >>> [view.shape for view in local_views(np.zeros((480, 480, 3), np.uint8))][:2]
        [(240, 240, 3), (240, 240, 3)]
    """
    height, width = array.shape[:2]
    if height != width or height % 2:
        raise ValueError(f"the array is {height}x{width}, views need an even square; resize it, to 480x480 as a rule")
    half = height // 2
    if array.dtype == np.bool_:
        whole = array.reshape(half, 2, half, 2).sum(axis=(1, 3)) >= 2
    else:
        whole = np.asarray(Image.fromarray(array).resize((half, half), Image.Resampling.BICUBIC))
    return [whole, *(array[y : y + half, x : x + half] for y in (0, half) for x in (0, half))]


class AnomalySynthesizer:
    """Paints something foreign into a part of a normal image (z^- of eq. 10).

    out = I (1 - M) + (1 - beta) A M + beta I M, with shape M, texture A and beta ~ U(0, `max_blend`).

    Args:
        source: Where A comes from: "procedural" (drawn: clouds, stripes, checks, speckle, blobs), "shots" (one of the
            given photos, recolored, turned and shuffled), "mixed" (half and half), or a folder of textures such as
            DTD, searched recursively.
        kinds: Drawn from at random, out of "texture" (DRAEM's: a Perlin shape of A), "cutpaste" (a box that shows
            another place of the photo) and "scar" (a thin turned strip of the same); beta is 0 for the last two.
        on_product: Place anomalies on the product, not on the background, see `product_mask`.
        max_blend: Largest beta, in [0, 1); how faint an anomaly may be.
        threshold: See `perlin_mask`.
        min_area: See `perlin_mask`.
        min_change: Gray levels (0..255) by which a pixel has to change in its strongest channel to count as visible.
            Draws with less than 80 % visible pixels in the mask are made again.

    Raises:
        ValueError: If `source` is neither a known word nor a folder with images, a kind is unknown, or `max_blend` is
            out of range.

    Example:
        >>> photo = np.full((480, 480, 3), 120, np.uint8)
        >>> image, mask = AnomalySynthesizer()(photo, np.random.default_rng(0))
        >>> image.shape, mask.dtype, bool((image != photo).any(axis=2)[~mask].any())
        ((480, 480, 3), dtype('bool'), False)
    """

    def __init__(
        self,
        source: str | Path = "mixed",
        *,
        kinds: Sequence[str] = ("texture",),
        on_product: bool = False,
        max_blend: float = 0.8,
        threshold: float = 0.5,
        min_area: float = 5e-4,
        min_change: float = 4.0,
    ) -> None:
        if not 0 <= max_blend < 1:
            raise ValueError(f"max_blend is {max_blend}, expected 0 <= max_blend < 1; at 1 no anomaly could be seen")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds is {list(kinds)}, expected some of {', '.join(KINDS)}")
        self.source, self.kinds, self.on_product = source, list(kinds), on_product
        self.max_blend = max_blend
        self.threshold = threshold
        self.min_area = min_area
        self.min_change = min_change
        self.textures: list[Path] = []
        if source not in SOURCES:
            folder = Path(source)
            self.textures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not self.textures:
                raise ValueError(f"source is {str(source)!r}, expected one of {SOURCES} or a folder that holds images")

    def __call__(
        self,
        image: Pixels,
        rng: np.random.Generator,
        others: Sequence[Pixels] = (),
        region: Mask | None = None,
    ) -> tuple[Pixels, Mask]:
        """Make one anomalous twin.

        Args:
            image: A normal image, uint8 (H, W, 3); left as it is.
            rng: Source of all randomness; equal states give equal results.
            others: More normal images, uint8 (h, w, 3) of any size, as textures for the source "shots".
            region: bool (H, W), where it may lie, with any pixel set; None for anywhere.

        Returns:
            Image uint8 (H, W, 3), equal to the input outside the mask, and mask bool (H, W), never empty.

        Raises:
            ValueError: If the image is not uint8 (H, W, 3).
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
        within = product_mask(image) if self.on_product else None
        if region is not None:
            within = region & within if within is not None and (region & within).any() else region
        kind = self.kinds[rng.integers(len(self.kinds))]
        for _ in range(TRIES):
            mask = self._mask(kind, image.shape[:2], rng, within)
            texture = self._texture(image, rng, others) if kind == "texture" else from_elsewhere(image, rng)
            blend = np.float32(rng.uniform(0, self.max_blend) if kind == "texture" else 0.0)
            normal = image[mask].astype(np.float32)
            painted = np.rint((1 - blend) * texture[mask] + blend * normal)
            if (np.abs(painted - normal).max(axis=1) >= self.min_change).mean() >= 0.8:
                break
        else:
            painted = (normal + 128) % 256  # a texture like the image itself: shift every level, which always shows
        anomalous = image.copy()
        anomalous[mask] = painted.astype(np.uint8)
        return anomalous, mask

    def _mask(self, kind: str, shape: tuple[int, int], rng: np.random.Generator, within: Mask | None) -> Mask:
        if kind == "texture":
            return perlin_mask(shape, rng, self.threshold, self.min_area, within)
        return strip_mask(shape, rng, **(CUTPASTE if kind == "cutpaste" else SCAR), within=within)

    def _texture(self, image: Pixels, rng: np.random.Generator, others: Sequence[Pixels]) -> Pixels | Floats:
        shape = image.shape[:2]
        if self.textures:
            with Image.open(self.textures[rng.integers(len(self.textures))]) as texture:
                return from_photo(np.asarray(texture.convert("RGB")), shape, rng, shuffled=False)
        if self.source == "procedural" or (self.source == "mixed" and rng.random() < 0.5):
            return PROCEDURES[rng.integers(len(PROCEDURES))](shape, rng)
        photos = [image, *others]
        return from_photo(photos[rng.integers(len(photos))], shape, rng, shuffled=True)
