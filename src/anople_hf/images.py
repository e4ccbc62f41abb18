"""Reads photos as cameras and tools write them: upright 8-bit RGB, or a clear error.

The data sets mix grayscale, 16-bit, palette and rotated files; cameras put 10, 12 or 14 bits into 16. A file is
decoded into a `Photo`, and the range of its product makes 8 bits of it.
"""

import hashlib
import io
import logging
import os
import re
import struct
import sys
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .photos import STRIP, Photo, TooLargeError, UnreadableImageError
from .ranges import Extremes, Ranges, measure

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SMALLEST = 16
"""Pixels a photo needs on each side: one patch of the paper's backbone."""
SCREEN = 2000
"""Pixels of the longer side of a picture for people. A larger JPEG is decoded at half, a quarter or an eighth of its
size, as long as so many are left."""
LIMIT = "ANOPLE_MAX_PIXELS"
"""Environment variable: how many pixels a photo may have. Default: twice Pillow's `MAX_IMAGE_PIXELS`, 179 million."""

TIMEOUT = 20
"""Seconds to wait for a photo from the network."""

# What Pillow's decoders raise on damaged files besides OSError; it depends on the format.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_ORIENTATION, _SUBFILE = 0x0112, 0x00FE  # tags of EXIF and TIFF
_REDUCED = 1 | 4  # a TIFF page that is a thumbnail or a mask of another one


def read_image(source: Any, ranges: Ranges | None = None) -> Image.Image:
    """Read a photo as 8-bit RGB.

    EXIF rotation is applied, deeper values are scaled rather than clipped, and transparent pixels are placed on white.

    Args:
        source: Path, http(s) URL, bytes, a `datasets` image dict with `path` or `bytes`, PIL image, numpy array (H, W)
            or (H, W, 1 | 3 | 4), or torch tensor, also (1 | 3 | 4, H, W). Values are uint8, uint16, or floats in 0..1.
        ranges: Of its product, see `MemoryBank.ranges`; without, see `Photo.to_rgb`.

    Raises:
        UnreadableImageError: Missing, truncated or no image; names the file.

    Example:
        >>> read_image(np.full((4, 6), 65535, np.uint16)).getpixel((0, 0))
        (255, 255, 255)
        >>> read_image(np.full((4, 6), 2048, np.uint16), {"uint16": [0, 4095]}).getpixel((0, 0))
        (128, 128, 128)
    """
    try:
        photo = _decode(source)
        if ranges and (why := photo.misfit(ranges)):
            logger.warning("%s", why)
        return photo.to_rgb(ranges)
    except UnreadableImageError as error:  # says what is wrong already
        raise UnreadableImageError(_by_name(source, error)) from error
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
    values = _as_array(source)  # as it is: scaling to 8 bits would lose small class indices
    if values is None:
        try:
            content = _content(source)
            image = _open(content)
            if image is not content:
                _go_to_only_page(image)
            image.load()
        except UnreadableImageError as error:
            raise UnreadableImageError(f"the mask {_name(source)}: {error}") from error
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

    Files of another kind are listed as well. `check_images` reports them, so that nothing is skipped silently. Links
    to folders are followed; one that leads back to a folder it lies in is not followed again.

    Args:
        folder: An existing folder.
        recursive: Search subfolders as well.
    """
    folder = Path(folder)
    return sorted(
        path
        for path in _walk(folder, recursive, {folder.resolve()})
        if not path.name.startswith(".") and path.name.lower() not in _SYSTEM_FILES
    )


def _walk(folder: Path, recursive: bool, above: set[Path]) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif recursive and not path.name.startswith(".") and path.is_dir() and path.resolve() not in above:
            yield from _walk(path, True, above | {path.resolve()})


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


def read_photo(source: Any, *, least: int | None = None, most: int | None = None) -> Photo:
    """Decode a photo for a model, and refuse one that is smaller than a patch.

    Args:
        source: As for `read_image`. Only a path needs the suffix of an image file.
        least: A JPEG may be decoded smaller, if its longer side keeps so many pixels; None decodes all of it.
        most: Pixels that a file's photo may have; one with more is not decoded.

    Raises:
        TooLargeError: It has more pixels than `most`.
        UnreadableImageError: The reason, in one line; the caller adds what to do.
    """
    return _read_photo(source, lambda given: _decode(given, least, most))


def measure_reading(sources: Iterable[Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How good photos of a product are to be read, see `Product.reading`: what is known, and what is found out now.

    Photos of 8 bits are only looked at, deeper ones are decoded, one at a time.

    Args:
        sources: Its good photos, as for `read_image`.
        known: Of the product, `MemoryBank.reading`: its ranges stay; photos of another depth get one of their own.

    Returns:
        `known`, with `ranges` by depth and the usual `size` (width, height).

    Raises:
        UnreadableImageError: Names the photo.
    """
    found: dict[str, list[Any]] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    for source in sources:
        look = _read_photo(source, _look)
        sizes[look.size] += 1
        found.setdefault(look.depth, []).append(look.extremes)
    ranges: dict[str, Any] = {depth: list(measure(depth, values)) for depth, values in found.items()}
    size = {"size": list(sizes.most_common(1)[0][0])} if sizes else {}
    return size | dict(known or {}) | {"ranges": ranges | dict((known or {}).get("ranges", {}))}


class _Look(NamedTuple):
    depth: str
    size: tuple[int, int]
    extremes: Extremes | None


def _look(source: Any) -> _Look:
    """Depth, upright size and values of a photo; one of 8 bits need not be decoded for that."""
    if not isinstance(source, (Photo, Image.Image)) and _as_array(source) is None:
        with _open(_content(source)) as image:
            if image.format in ("JPEG", "MPO", "BMP", "WEBP"):
                return _Look("uint8", _upright_size(image), None)
    photo = _decode(source)
    return _Look(photo.depth, photo.size, photo.extremes)


def _read_photo(source: Any, read: Callable[[Any], Any]) -> Any:
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() not in IMAGE_SUFFIXES:
        raise UnreadableImageError(f"{printable(source)} is not an image file (expected {', '.join(IMAGE_SUFFIXES)})")
    try:
        image = read(source)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"no such photo: {_name(source)}") from error
    except TooLargeError:
        raise
    except UnreadableImageError as error:
        raise UnreadableImageError(_by_name(source, error)) from error
    except _BROKEN as error:
        raise UnreadableImageError(_broken(source, error)) from error
    width, height = image.size
    if min(width, height) < SMALLEST:
        raise UnreadableImageError(
            f"{_name(source)} is {width} x {height} pixels, smaller than a patch ({SMALLEST} x {SMALLEST})"
        )
    return image


def _decode(source: Any, least: int | None = None, most: int | None = None) -> Photo:
    if isinstance(source, Photo):
        return source
    array = _as_array(source)
    if array is not None:
        return _from_array(array)
    name, content = _name(source), _content(source)
    image: Any = _open(content)
    if most is not None and image.width * image.height > most:
        raise TooLargeError(f"{name} has more than {most // 10**6} million pixels; make it smaller.")
    own, size, deep = image is not content, None, False
    low: Any = None
    if own:
        _go_to_only_page(image)
        size = _shrink(image, least) if least is not None else None
        deep = any(";16" in _raw_mode(tile) for tile in image.tile)
        if deep and image.mode in ("RGB", "RGBA"):
            low = _open(content)  # Pillow keeps the upper byte of 16-bit colors: the lower one is decoded beside it
            low.seek(image.tell())
            low.tile = [tile._replace(args=_of_lower_bytes(tile)) for tile in low.tile]
    image = _upright(image, own)
    if low is not None:
        return _deep_color(image, _upright(low, True), name)
    if deep and image.mode == "LA" and image.getextrema()[0][1] < 64:
        raise UnreadableImageError("16-bit gray with transparency is read by its upper 8 bits, and these are almost "
                                   "empty; save it without transparency.")  # fmt: skip
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Photo(image, name)
    return Photo(_to_rgb(image), name, size=size)


def _peek(source: Any) -> Any:
    """Read only the first bytes: whether it is a picture, and its size."""
    if isinstance(source, (Photo, Image.Image)) or _as_array(source) is not None:
        return _decode(source)
    image = _open(_content(source))
    image.close()
    return image


def _by_name(source: Any, error: UnreadableImageError) -> str:
    named = str(error).startswith(_name(source)) or not isinstance(source, (str, Path, dict, Image.Image))
    return str(error) if named else f"{_name(source)}: {error}"


def _broken(source: Any, error: BaseException) -> str:
    return f"{_name(source)} is truncated or not an image ({type(error).__name__}: {error})"


def _as_array(source: Any) -> np.ndarray | None:
    """The values of an array, a list of lists or a tensor; None for all else."""
    if isinstance(source, (str, bytes, bytearray, Path, dict, Image.Image)):
        return None
    if hasattr(source, "detach"):  # a torch tensor, wherever it lies
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
        if source.ndim == 3 and source.shape[0] in (1, 3, 4):  # torch's order of axes
            source = source.transpose(1, 2, 0)
    if isinstance(source, Iterable) or hasattr(source, "__array__"):
        return np.asarray(source)
    raise UnreadableImageError(
        f"cannot read a photo from {type(source).__name__}; expected a path, PIL image or array."
    )


def _content(source: Any) -> Any:
    """Path, bytes or PIL image of a source."""
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source["path"]
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _fetch(source)
    return source


def _open(content: Any) -> Image.Image:
    if isinstance(content, Image.Image):
        return content
    told = os.environ.get(LIMIT, "").replace("_", "")
    if told and not told.isdecimal():
        raise UnreadableImageError(f"{LIMIT}={told!r}; expected a number of pixels, such as 400000000.")
    most = int(told) if told else 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None
    if told and Image.MAX_IMAGE_PIXELS and int(told) > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (int(told) + 1) // 2  # Pillow's own limit refuses at twice its value
    try:
        image = Image.open(io.BytesIO(content) if isinstance(content, (bytes, bytearray)) else content)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(_too_large(str(error), most)) from error
    if most is not None and image.width * image.height > most:
        raise UnreadableImageError(_too_large(f"{image.width} x {image.height} pixels", most))
    return image


def _too_large(found: str, most: int | None) -> str:
    found = found.split(" exceeds")[0]
    return f"too large ({found}): a photo may have {most} pixels. If the file is to be trusted, set {LIMIT} higher."


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read()
    except OSError as error:
        raise UnreadableImageError(f"{url} cannot be fetched ({error}); check the address.") from error


def _go_to_only_page(image: Any) -> None:
    """Refuse a file of several pictures; thumbnails and masks of a picture do not count, nor what phones add (MPO)."""
    pages = getattr(image, "n_frames", 1)
    if pages == 1 or image.format == "MPO":
        return
    if image.format != "TIFF":
        raise UnreadableImageError(f"an animation of {pages} pictures, expected one; save them as files of their own.")
    whole = []
    for page in range(pages):
        image.seek(page)
        if not image.tag_v2.get(_SUBFILE, 0) & _REDUCED:
            whole.append(page)
    if len(whole) > 1:
        raise UnreadableImageError(
            f"a TIFF of {len(whole)} pages, expected one photo a file; split it, for example: tiffsplit FILE, or with "
            "ImageMagick: magick FILE page-%d.tif"
        )
    image.seek(whole[0] if whole else 0)


def _shrink(image: Any, least: int) -> tuple[int, int] | None:
    """Have a JPEG decoded smaller; the upright size of all of it, or None if nothing changes."""
    longest = max(image.size)
    factor = next((factor for factor in (8, 4, 2) if longest // factor >= least), 1)
    if image.format not in ("JPEG", "MPO") or factor == 1:
        return None
    whole = _upright_size(image)
    image.draft(None, tuple(max(1, side // factor) for side in image.size))
    return whole


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture that is not decoded yet, once it is turned as EXIF says."""
    return image.size[::-1] if image.getexif().get(_ORIENTATION, 1) > 4 else image.size


def _upright(image: Image.Image, own: bool) -> Image.Image:
    """Decoded, and turned as EXIF says; somebody else's picture stays as it is."""
    image.load()
    try:
        if own:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        if not image.info.get("exif"):
            raise
        return image  # sound pixels with a damaged EXIF block: only its rotation is lost


def _raw_mode(tile: Any) -> str:
    """How a decoder packs the pixels of a tile, such as RGB;16B."""
    return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])


def _of_lower_bytes(tile: Any) -> Any:
    """A decoder's arguments for the lower byte of 16-bit values where Pillow asks for the upper one."""
    native = "L" if sys.byteorder == "little" else "B"
    mode = _raw_mode(tile)
    order = mode[-1] if mode[-1] in "LB" else native
    lower = mode[:-1] + {"L": "B", "B": "L"}[order]
    return lower if isinstance(tile.args, str) else (lower, *tile.args[1:])


def _deep_color(high: Image.Image, low: Image.Image, name: str) -> Photo:
    """16-bit colors from their upper and lower bytes; transparency keeps its upper byte."""
    width, height = high.size
    values = np.empty((height, width, 3), np.uint16)
    step = max(1, STRIP // width)
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        upper, lower = (np.asarray(image.crop(box))[..., :3] for image in (high, low))
        values[top : box[3]] = upper.astype(np.uint16) << 8 | lower
    return Photo(values, name, alpha=high.getchannel("A") if high.mode == "RGBA" else None)


def _from_array(array: np.ndarray) -> Photo:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise UnreadableImageError(f"an array of shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4).")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return Photo(_to_rgb(Image.fromarray(array)))
    if array.dtype != np.uint16 and not np.issubdtype(array.dtype, np.floating):
        raise UnreadableImageError(f"an array of {array.dtype}; expected uint8, uint16, or floats in 0..1.")
    array = array if array.dtype == np.uint16 else array.astype(np.float32)
    alpha = None
    if array.ndim == 3 and array.shape[-1] == 4:
        opacity = array[..., 3] / 257.0 if array.dtype == np.uint16 else array[..., 3] * 255
        alpha = Image.fromarray(np.rint(np.clip(np.nan_to_num(opacity), 0, 255)).astype(np.uint8))
        array = array[..., :3]
    return Photo(array, alpha=alpha, is_array=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    """8 bits of any mode as RGB."""
    if image.mode == "RGB":
        return image
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def printable(path: str | Path) -> str:
    r"""A path in words that any file and terminal takes: bytes that are not UTF-8 as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def from_printable(name: str) -> Path:
    """The file whose `printable` path this is."""
    if os.path.exists(name):
        return Path(name)
    return Path(
        os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), name.encode()))
    )


def is_text(path: str | Path) -> bool:
    """Whether a path is UTF-8, so that tables and JSON can hold it."""
    return printable(path) == os.fspath(path)


def _name(source: Any) -> str:
    if isinstance(source, dict):
        source = source.get("path") or "the photo"
    if isinstance(source, Image.Image):
        source = getattr(source, "filename", "") or "the photo"
    if isinstance(source, Photo):
        return source.name
    return printable(source) if isinstance(source, (str, Path)) else "the photo"


def image_digest(image: Any) -> str:
    """SHA-256 of one view (3, H, W), computed on its float32 values."""
    return hashlib.sha256(image.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
