"""Reads photos as cameras and tools write them: the result is always upright 8-bit RGB, or a clear error.

The data sets mix grayscale, 16-bit, palette and rotated files.
"""

import hashlib
import io
import struct
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SMALLEST = 16
"""Pixels a photo needs on each side: one patch of the paper's backbone."""

TIMEOUT = 20
"""Seconds to wait for a photo from the network."""

# What Pillow's decoders raise on damaged files besides OSError; it depends on the format.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


class UnreadableImageError(ValueError):
    """A photo that cannot be used. The message names the file and says what to do."""


def read_image(source: Any) -> Image.Image:
    """Read a photo as 8-bit RGB.

    EXIF rotation is applied, 16-bit values are scaled rather than clipped, and transparent pixels are placed on white.

    Args:
        source: Path, http(s) URL, bytes, a `datasets` image dict with `path` or `bytes`, PIL image, numpy array (H, W)
            or (H, W, 1 | 3 | 4), or torch tensor, also (1 | 3 | 4, H, W). Values are uint8, uint16, or floats in 0..1.

    Raises:
        UnreadableImageError: Missing, truncated or no image; names the file.

    Example:
        >>> read_image(np.full((4, 6), 65535, np.uint16)).getpixel((0, 0))
        (255, 255, 255)
    """
    try:
        return _decode(source)
    except UnreadableImageError:  # says what is wrong already
        raise
    except FileNotFoundError as error:
        raise UnreadableImageError(f"no such photo: {_name(source)}; check the path.") from error
    except _BROKEN as error:
        raise UnreadableImageError(
            f"{_broken(source, error)}; replace the file, or leave it out with --skip-bad."
        ) from error


def read_mask(source: Any) -> np.ndarray:
    """Read a ground-truth mask: (H, W) bool, True where the value is above 0 (VisA's masks hold class indices 1..9).

    Args:
        source: As for `read_image`; arrays may hold any numbers, (H, W) or (H, W, channels).

    Raises:
        UnreadableImageError: Missing, truncated or no image; names the file.
    """
    if isinstance(source, np.ndarray):  # as it is: scaling to 8 bits would lose small class indices
        values = source
    else:
        try:
            image = _open(source)
            image.load()
        except UnreadableImageError:
            raise
        except _BROKEN as error:
            raise UnreadableImageError(
                f"the mask {_name(source)} cannot be read ({type(error).__name__}: {error}); replace the file."
            ) from error
        values = np.asarray(image)
        if image.mode in ("LA", "PA", "RGBA"):
            values = values[..., :-1]
    if values.ndim not in (2, 3):
        raise UnreadableImageError(f"a mask of shape {values.shape}; expected (H, W) or (H, W, channels).")
    return np.asarray(values > 0 if values.ndim == 2 else (values > 0).any(axis=-1))


def find_images(folder: str | Path, recursive: bool = False) -> list[Path]:
    """List all files of a folder that should be photos, sorted, without hidden and system files.

    Files of another kind are listed as well. `check_images` reports them, so that nothing is skipped silently.

    Args:
        folder: An existing folder.
        recursive: Search subfolders as well.
    """
    folder = Path(folder)
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name.lower() not in _SYSTEM_FILES
    )


def check_images(
    paths: Sequence[Path], skip_bad: bool = False, *, decode: bool = True
) -> tuple[list[Path], list[str]]:
    """Look at every photo once, before any work starts.

    Args:
        paths: Files.
        skip_bad: Return the reasons instead of raising.
        decode: False reads their first bytes only; for photos that are decoded later anyway.

    Returns:
        The usable paths, and one line for each unusable one.

    Raises:
        UnreadableImageError: Names the first few bad files and says how many there are.
    """
    good, bad = [], []
    for path in paths:
        reason = why_unusable(path, decode=decode)
        if reason:
            bad.append(reason)
        else:
            good.append(path)
    if bad and not skip_bad:
        more = f"\n... and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UnreadableImageError(
            f"{len(bad)} of {len(paths)} files cannot be used:\n"
            + "\n".join(bad[:5])
            + more
            + "\nReplace them, or skip them with --skip-bad."
        )
    return good, bad


def why_unusable(source: Any, *, decode: bool = True) -> str | None:
    """Say why a file cannot be used as a photo, or return None.

    Args:
        source: As for `read_photo`.
        decode: False reads the first bytes only and finds no damage behind them.
    """
    try:
        _read_photo(source, _decode if decode else _peek)
    except UnreadableImageError as error:
        return str(error)
    return None


def read_photo(source: Any) -> Image.Image:
    """Read a photo for a model: as `read_image`, but refuse one that is smaller than a patch.

    Args:
        source: As for `read_image`. Only a path needs the suffix of an image file.

    Raises:
        UnreadableImageError: The reason, in one line; the caller adds what to do.
    """
    return _read_photo(source, _decode)


def _read_photo(source: Any, read: Callable[[Any], Image.Image]) -> Image.Image:
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() not in IMAGE_SUFFIXES:
        raise UnreadableImageError(f"{source} is not an image file (expected {', '.join(IMAGE_SUFFIXES)})")
    try:
        image = read(source)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"no such photo: {_name(source)}") from error
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{_name(source)}: {error}") from error
    except _BROKEN as error:
        raise UnreadableImageError(_broken(source, error)) from error
    width, height = image.size
    if min(width, height) < SMALLEST:
        raise UnreadableImageError(
            f"{_name(source)} is {width} x {height} pixels, smaller than a patch ({SMALLEST} x {SMALLEST})"
        )
    return image


def _decode(source: Any) -> Image.Image:
    image = _open(source)
    image.load()
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except _BROKEN:
        if not image.info.get("exif"):
            raise
        return _to_rgb(image)  # sound pixels with a damaged EXIF block: only its rotation is lost


def _peek(source: Any) -> Image.Image:
    """Read only the first bytes: whether it is a picture, and its size."""
    image = _open(source)
    if image is not source:
        image.close()
    return image


def _broken(source: Any, error: BaseException) -> str:
    return f"{_name(source)} is truncated or not an image ({type(error).__name__}: {error})"


def _open(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source["path"]
    if isinstance(source, (bytes, bytearray)):
        return Image.open(io.BytesIO(source))
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return Image.open(io.BytesIO(_fetch(source)))
    if isinstance(source, (str, Path)):
        return Image.open(source)
    if hasattr(source, "detach"):  # a torch tensor, wherever it lies
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
        if source.ndim == 3 and source.shape[0] in (1, 3, 4):  # torch's order of axes
            source = source.transpose(1, 2, 0)
    if isinstance(source, Iterable) or hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise UnreadableImageError(
        f"cannot read a photo from {type(source).__name__}; expected a path, PIL image or array."
    )


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read()
    except OSError as error:
        raise UnreadableImageError(f"{url} cannot be fetched ({error}); check the address.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise UnreadableImageError(f"an array of shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4).")
    if array.dtype == np.uint16:
        array = np.round(array / 257.0).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise UnreadableImageError("a float array must hold values in 0..1.")
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UnreadableImageError(f"an array of {array.dtype}; expected uint8, uint16, or floats in 0..1.")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray(np.clip(np.round(np.asarray(image) / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
        return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _name(source: Any) -> str:
    if isinstance(source, dict):
        source = source.get("path") or "the photo"
    if isinstance(source, Image.Image):
        source = getattr(source, "filename", "") or "the photo"
    return str(source) if isinstance(source, (str, Path)) else "the photo"


def image_digest(image: Any) -> str:
    """SHA-256 of one view (3, H, W), computed on its float32 values."""
    return hashlib.sha256(image.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
