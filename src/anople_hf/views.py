"""`View`: a remembered photo as the model saw it, in 8 bits, so that it can be shown, and judged again. Ours.

Views stand in a file of their own beside the bank (`memory_views.safetensors`) and are pushed only if that is asked
for: tokens are features, views are pictures of somebody's parts.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

VIEWS_FILE = "memory_views.safetensors"
FORMAT = "anople-memory-views/1"
COARSE = 48
"""Cells along a side at which two photos are compared: noise and blocks of a codec are averaged out."""
ALIKE = 0.035
"""Mean difference of these cells, in deviations of CLIP's pixels, below which two photos are one, saved twice. On
drawn parts and three real data sets, copies at JPEG 50 to 90, WebP 80 and half the size differ by at most 0.028,
photos of different parts by at least 0.050."""


@dataclass(frozen=True, eq=False)
class View:
    """One photo.

    Attributes:
        levels: (3, S, S) uint8: the photo's own, if it was normalized as CLIP's are; else each channel from its
            lowest to its highest value.
        ends: (3, 2) what levels 0 and 255 are, normalized as the model takes them.

    Example:
        >>> photo = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> view = View.of(photo)
        >>> bool((view.pixels() - photo).abs().max() < 1 / 255)
        True
    """

    levels: Tensor
    ends: Tensor

    @classmethod
    def of(cls, pixels: Tensor) -> "View":
        """From a normalized view (3, S, S)."""
        pixels = pixels.detach().float().cpu()
        ends = _clip_ends()
        levels = _levels(pixels, ends)
        if levels.min() < -0.01 or levels.max() > 255.01 or (levels - levels.round()).abs().max() > 0.01:
            ends = torch.stack([pixels.amin(dim=(1, 2)), pixels.amax(dim=(1, 2))], dim=1)
            levels = _levels(pixels, ends)
        return cls(levels.round().to(torch.uint8), ends)

    def pixels(self) -> Tensor:
        """The normalized view again: every bit, if it was normalized as CLIP's are; else to half of an 8-bit level."""
        if torch.equal(self.ends, _clip_ends()):  # as the image processor does it: scores amplify what is rounded
            mean, std = _clip_colors()
            return ((self.levels.double() * (1 / 255)).float() - mean) / std
        low, span = self.ends[:, :1, None], (self.ends[:, 1:] - self.ends[:, :1])[..., None]
        return low + self.levels.float() / 255 * span

    def image(self) -> Image.Image:
        """As a picture, with CLIP's mean and deviation of colors."""
        mean, std = _clip_colors()
        shown = ((self.pixels() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(shown.permute(1, 2, 0).numpy())

    def color(self) -> Tensor:
        """(2,) mean of red over green, and of blue over green, in -1..1: a color without its brightness.

        Example:
            >>> View.of(torch.zeros(3, 8, 8)).color()  # CLIP's mean color
            tensor([ 0.0236, -0.0496])
        """
        mean, std = _clip_colors()
        red, green, blue = (self.pixels() * std + mean).mean(dim=(1, 2))
        return torch.stack([red - green, blue - green])

    def cells(self) -> Tensor:
        """(3, 48, 48) means of the view, to be compared by `are_copies`."""
        return F.adaptive_avg_pool2d(self.pixels(), COARSE)


def _clip_colors() -> tuple[Tensor, Tensor]:
    """Mean and deviation that CLIP's photos are normalized by, (3, 1, 1) each."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return mean, std


def _clip_ends() -> Tensor:
    """(3, 2) what black and white are, normalized as CLIP's photos."""
    mean, std = _clip_colors()
    return torch.cat([-mean / std, (1 - mean) / std], dim=2)[:, 0]


def _levels(pixels: Tensor, ends: Tensor) -> Tensor:
    low, span = ends[:, :1, None], (ends[:, 1:] - ends[:, :1]).clamp_min(1e-6)[..., None]
    return (pixels - low) / span * 255


def are_copies(mine: Tensor, theirs: Tensor) -> bool:
    """Whether the `View.cells` of two photos are those of one photo, perhaps saved again in another format or size.

    Example:
        >>> cells = View.of(torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))).cells()
        >>> are_copies(cells, cells + 0.01), are_copies(cells, cells.flip(1))
        (True, False)
    """
    return bool((mine - theirs).abs().mean() < ALIKE)


def save_views(path: str | os.PathLike, views: Mapping[str, View]) -> None:
    """Write views by digest."""
    tensors = {f"{digest}/levels": view.levels.contiguous() for digest, view in views.items()}
    tensors |= {f"{digest}/ends": view.ends.contiguous() for digest, view in views.items()}
    write_tensors(path, tensors, {"format": FORMAT})


def write_tensors(path: str | os.PathLike, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name first, so that a failure leaves the old file as it was.

    Raises:
        OSError: It cannot be written.
    """
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=header)
        let_others_read([temporary])
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}); it stays as it was.") from error
    finally:
        temporary.unlink(missing_ok=True)


def let_others_read(files: Iterable[Path]) -> None:
    """Give files the mode of a plain new file beside them: safetensors lets nobody but their owner read them."""
    for file in files:
        plain = file.with_name(f".{file.name}.{os.getpid()}.mode")
        try:
            plain.touch()
            file.chmod(plain.stat().st_mode)
        finally:
            plain.unlink(missing_ok=True)


def load_views(path: str | os.PathLike, digests: Iterable[str]) -> dict[str, View]:
    """Read the views with these digests, as far as the file holds them.

    Raises:
        ValueError: Damaged, or no file of views.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ValueError(f"{path} holds no views of format {FORMAT}; take it away, teach the photos again.")
            there = set(file.keys())
            return {
                digest: View(file.get_tensor(f"{digest}/levels"), file.get_tensor(f"{digest}/ends"))
                for digest in digests
                if f"{digest}/levels" in there
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); take it away, and teach the photos again.") from error


__all__ = ["VIEWS_FILE", "View", "are_copies", "let_others_read", "load_views", "save_views", "write_tensors"]
