"""Photos in every form a camera or tool writes them, and the refusal of those that cannot be used."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_hf.images import (
    UnreadableImageError,
    check_images,
    find_images,
    from_printable,
    printable,
    read_image,
    read_mask,
    read_photo,
    why_unusable,
)
from anople_hf.ranges import measure

RAMP = np.linspace(0, 255, 40 * 24).astype(np.uint8).reshape(24, 40)
COLORED = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def save(folder, image, name="photo.png", **settings):
    path = folder / name
    image.save(path, **settings)
    return path


def damaged(folder, name="cut.png"):
    """A file that starts well and ends early."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = save(folder, noise, name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder / name


def test_all_sources_of_one_photo_agree(tmp_path):
    path = save(tmp_path, Image.fromarray(COLORED))
    content = path.read_bytes()
    sources = [
        path,
        str(path),
        content,
        {"path": str(path), "bytes": None},
        {"path": "elsewhere.png", "bytes": content},
        Image.open(path),
        COLORED,
        COLORED.astype(np.float32) / 255,
        COLORED.astype(np.uint16) * 257,
    ]
    for source in sources:
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), COLORED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(COLORED), exif=exif)
    upright = {
        1: COLORED, 2: COLORED[:, ::-1], 3: COLORED[::-1, ::-1], 4: COLORED[::-1],
        5: COLORED.swapaxes(0, 1), 6: np.rot90(COLORED, -1), 7: COLORED[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLORED),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(read_image(path)), upright)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif"])
def test_16_bit_gray_is_scaled_not_cut(tmp_path, name):
    deep = np.array([[0, 257], [32768, 65535]], np.uint16).repeat(10, 0).repeat(10, 1)
    path = save(tmp_path, Image.fromarray(deep), name)
    assert Image.open(path).mode.startswith("I")
    values = np.asarray(read_image(path))[::10, ::10]
    np.testing.assert_array_equal(values, np.array([[0, 1], [128, 255]])[..., None].repeat(3, -1))


def test_32_bit_integer_mode_is_scaled_as_16_bit():
    deep = Image.fromarray(np.full((20, 20), 65535, np.int32))
    assert deep.mode == "I"
    assert read_image(deep).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_photos_are_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(np.zeros((20, 30), np.uint16)), exif=exif)
    assert read_image(path).size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode):
    gray = Image.fromarray(np.where(RAMP > 127, 255, 0).astype(np.uint8)).convert("RGB")
    values = np.asarray(read_image(gray.convert(mode)))
    assert np.abs(values.astype(int) - np.asarray(gray)).max() <= 2


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_become_white(mode):
    image = Image.new(mode, (20, 20), (0, 0) if mode == "LA" else (0, 0, 0, 0))
    image.paste((0, 255) if mode == "LA" else (0, 0, 0, 255), (0, 0, 10, 20))
    assert read_image(image).getpixel((2, 2)) == (0, 0, 0)
    assert read_image(image).getpixel((15, 2)) == (255, 255, 255)


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 10, 20))
    found = read_image(save(tmp_path, image, transparency=0))
    assert found.getpixel((15, 2)) == (255, 255, 255) and found.getpixel((2, 2)) == (0, 0, 200)


def test_a_damaged_exif_block_costs_only_the_rotation(tmp_path):
    content = io.BytesIO()
    Image.fromarray(COLORED).save(content, "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff")
    assert read_image(content.getvalue()).size == (40, 24)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 20, 20), np.uint8), "shape"),
        (np.zeros((3, 20, 20), np.uint8), "shape"),
        (np.full((20, 20), 1.5), r"0\.\.1"),
        (np.full((20, 20), np.nan), r"0\.\.1"),
        (np.zeros((20, 20), np.int64), "int64"),
        (None, "NoneType"),
    ],
)
def test_unclear_arrays_are_refused_with_their_own_reason(array, reason):
    with pytest.raises(UnreadableImageError, match=reason) as refusal:
        read_image(array)
    assert "truncated" not in str(refusal.value)


def test_bad_files_are_named(tmp_path):
    text = tmp_path / "notes;1.png"
    text.write_text("no image")
    for path, reason in ((text, "not an image"), (damaged(tmp_path), "truncated"), (tmp_path / "x.png", "no such")):
        with pytest.raises(UnreadableImageError, match=reason) as refusal:
            read_image(path)
        assert str(path) in str(refusal.value) and isinstance(refusal.value, ValueError)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
def test_random_damage_never_raises_anything_else(form):
    rng, content, refused = np.random.default_rng(0), io.BytesIO(), 0
    Image.fromarray(COLORED).save(content, form)
    for _ in range(60):
        broken = bytearray(content.getvalue()[: rng.integers(1, len(content.getvalue()))])
        broken[rng.integers(len(broken))] = rng.integers(256)
        try:
            read_image(bytes(broken))
        except UnreadableImageError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_masks_are_true_above_zero(kind):
    mask = np.zeros((6, 5), kind)
    mask[2, 3] = 1  # a class index, far from white
    found = read_mask(mask)
    assert found.dtype == bool and found.shape == (6, 5)
    assert np.argwhere(found).tolist() == [[2, 3]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "LA", "I;16"])
def test_mask_files_of_every_mode(tmp_path, mode):
    mask = Image.new("I;16" if mode == "I;16" else "L", (5, 6), 0)
    mask.putpixel((3, 2), 255)
    path = save(tmp_path, mask if mode == "I;16" else mask.convert(mode))
    if mode == "P":
        indexed = Image.new("P", (5, 6), 0)
        indexed.putpalette([9, 9, 9, 0, 0, 0])
        indexed.putpixel((3, 2), 1)
        path = save(tmp_path, indexed)
    assert np.argwhere(read_mask(path)).tolist() == [[2, 3]]


def test_bad_masks_are_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"cut\.png"):
        read_mask(damaged(tmp_path))
    with pytest.raises(UnreadableImageError, match="shape"):
        read_mask(np.zeros(5))


def test_listing_is_sorted_and_without_system_files(tmp_path):
    for name in ("b.png", "a.JPG", "._a.JPG", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("deep", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.png").touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png", "notes.txt"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, recursive=True)]
    assert found == ["a.JPG", "b.png", "deep/c.png", "notes.txt"]


def test_check_finds_everything_that_cannot_be_used(tmp_path):
    good = save(tmp_path, Image.new("RGB", (16, 16)), "good.png")
    small = save(tmp_path, Image.new("RGB", (15, 40)), "small;er.png")
    (tmp_path / "notes.txt").write_text("hello")
    paths = [good, small, damaged(tmp_path), tmp_path / "notes.txt", tmp_path / "gone.png"]
    usable, reasons = check_images(paths, skip_bad=True)
    assert usable == [good]
    for path, reason, words in zip(
        paths[1:], reasons, ["smaller than a patch", "truncated", "not an image file", "no such"], strict=True
    ):
        assert str(path) in reason and words in reason
    with pytest.raises(UnreadableImageError, match="4 of 5 files") as refusal:
        check_images(paths)
    assert all(path.name in str(refusal.value) for path in paths[1:])


def test_the_first_bytes_tell_most_of_it_without_decoding(tmp_path, decoded):
    good, small = save(tmp_path, Image.new("RGB", (40, 40))), save(tmp_path, Image.new("RGB", (8, 40)), "small.png")
    cut, other = damaged(tmp_path), save(tmp_path, Image.new("RGB", (40, 40)), "other.png")
    other.write_bytes(b"no picture")
    usable, reasons = check_images([good, small, cut, other, tmp_path / "gone.png"], skip_bad=True, decode=False)
    assert usable == [good, cut] and len(reasons) == 3 and not decoded  # a photo's end is seen when it is decoded
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_photo(cut)
    assert read_photo(good).size == (40, 40)


def test_check_names_the_first_few_and_the_number(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(9)]
    with pytest.raises(UnreadableImageError, match="4 more") as refusal:
        check_images(paths)
    assert "4.png" in str(refusal.value) and "5.png" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Image size")  # what the command line does, too
def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_image, read_mask):
        with pytest.raises(UnreadableImageError, match=r"photo\.png.*10000 pixels.*2000 pixels.*ANOPLE_MAX_PIXELS"):
            read(path)
    monkeypatch.setenv("ANOPLE_MAX_PIXELS", "10_000")
    assert read_image(path).size == (100, 100) and read_mask(path).shape == (100, 100)
    monkeypatch.setenv("ANOPLE_MAX_PIXELS", "9999")
    with pytest.raises(UnreadableImageError, match=r"100 x 100 pixels.*9999 pixels"):
        read_image(path)


GRAY = (
    np.random.default_rng(3).integers(0, 256, (40, 60)).astype(np.uint8)
)  # what the deep photos below were made from


def deep(values, name, folder):
    """A file whose container is deeper than its values."""
    image = Image.fromarray(values)
    return save(folder, image, name)


@pytest.mark.parametrize(
    ("depth", "top", "values", "name"),
    [
        ("uint16", 4095, np.rint(GRAY * (4095 / 255)).astype(np.uint16), "12_bits_in_16.png"),
        ("uint16", 1023, np.rint(GRAY * (1023 / 255)).astype(np.uint16), "10_bits_in_16.tif"),
        ("uint16", 65535, GRAY.astype(np.uint16) * 257, "16_bits.png"),
        ("int32", 255, GRAY.astype(np.int32), "8_bits_in_32.tif"),
        ("float32", 4095, GRAY.astype(np.float32) * (4095 / 255), "float_to_4095.tif"),
        ("float32", 255, GRAY.astype(np.float32), "float_to_255.tif"),
        (
            "float32",
            1,
            np.where(np.arange(2400).reshape(40, 60) == 77, 1.01, GRAY / 255).astype(np.float32),
            "hot.tif",
        ),
    ],
)
def test_measured_range_gives_back_the_8_bit_photo(tmp_path, depth, top, values, name):
    photo = read_photo(deep(values, name, tmp_path))
    assert photo.depth == depth
    ranges = {depth: measure(depth, [photo.extremes])}
    assert ranges == {depth: (0, top)} and photo.misfit(ranges) == ""
    found = np.asarray(photo.to_rgb(ranges)).astype(int)
    expected = GRAY.copy()
    if name == "hot.tif":
        expected.reshape(-1)[77] = 255
    assert found.shape == (40, 60, 3) and np.abs(found - expected[..., None]).max() <= 1
    np.testing.assert_array_equal(found, np.asarray(read_image(tmp_path / name, ranges)))


@pytest.mark.parametrize("name", ["color.png", "color.tif", "packed.tif"])
@pytest.mark.parametrize("top", [4095, 65535])
def test_16_bit_color_keeps_all_its_bits(tmp_path, name, top):
    values = np.rint(COLORED * (top / 255.0)).astype(np.uint16)
    write_16_bit_color(tmp_path / name, values)
    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(photo.pixels, values)
    ranges = {"uint16": measure("uint16", [photo.extremes])}
    assert ranges["uint16"] == (0, top)
    np.testing.assert_array_equal(np.asarray(photo.to_rgb(ranges)), COLORED)


def write_16_bit_color(path, values):
    """By hand: Pillow writes 8-bit colors only."""
    height, width, _ = values.shape
    if path.suffix == ".png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        return
    data = values.astype("<u2").tobytes()
    packed = path.name.startswith("packed")
    data = zlib.compress(data) if packed else data
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 8 if packed else 1), (262, 3, 1, 2),
            (273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]  # fmt: skip
    bits = struct.pack("<HHH", 16, 16, 16)
    start = 14 + len(data)
    entries = b"".join(struct.pack("<HHII", *(t if t[0] != 258 else (258, 3, 3, 8))) for t in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + bits + data + directory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value):
    values = (GRAY / 255).astype(np.float32)
    values[3, 4] = value
    path = deep(values, "broken.tif", tmp_path)
    for read in (read_image, read_photo):
        with pytest.raises(UnreadableImageError, match=r"broken\.tif.*not finite"):
            read(path)
    assert "not finite" in (why_unusable(path) or "")


def test_a_photo_that_does_not_fit_its_product_is_named(tmp_path):
    ranges = {"uint16": [0, 4095]}
    brighter = read_photo(deep(np.full((20, 20), 5000, np.uint16), "brighter.png", tmp_path))
    assert "brighter.png: its brightest value is 5000" in brighter.misfit(ranges) and "4095" in brighter.misfit(ranges)
    assert brighter.to_rgb(ranges).getpixel((0, 0)) == (255, 255, 255)
    shallow = read_photo(save(tmp_path, Image.fromarray(COLORED), "shallow.png"))
    assert "shallow.png: its depth is uint8" in shallow.misfit(ranges) and "uint16" in shallow.misfit(ranges)
    np.testing.assert_array_equal(np.asarray(shallow.to_rgb(ranges)), COLORED)
    assert brighter.misfit({}) == shallow.misfit({}) == ""  # nothing is known of the product


def test_pages_of_a_tiff_are_refused_and_thumbnails_are_not_pages(tmp_path):
    photo, other = Image.fromarray(GRAY), Image.fromarray(255 - GRAY)
    photo.save(tmp_path / "two.tif", save_all=True, append_images=[other])
    for read in (read_image, read_photo, read_mask):
        with pytest.raises(UnreadableImageError, match=r"two\.tif.*2 pages.*split"):
            read(tmp_path / "two.tif")
    thumbnail = other.resize((16, 16))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    photo.save(tmp_path / "thumb.tif", save_all=True, append_images=[thumbnail])
    assert Image.open(tmp_path / "thumb.tif").n_frames == 2
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "thumb.tif"))[..., 0], GRAY)
    photo.save(tmp_path / "moving.webp", save_all=True, append_images=[other], lossless=True)
    with pytest.raises(UnreadableImageError, match=r"moving\.webp.*animation of 2"):
        read_image(tmp_path / "moving.webp")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_keeps_its_size(tmp_path, orientation):
    smooth = Image.fromarray(COLORED).resize((800, 600), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, smooth, "large.jpg", quality=95, exif=exif)
    whole, small = read_photo(path), read_photo(path, least=200)
    turned = (600, 800) if orientation == 6 else (800, 600)
    assert whole.size == small.size == turned and whole.pixels.size == turned
    assert small.pixels.size == tuple(side // 4 for side in turned)
    views = [
        np.asarray(photo.to_rgb().resize((60, 60), Image.Resampling.BICUBIC)).astype(int) for photo in (whole, small)
    ]
    assert np.abs(views[0] - views[1]).mean() < 1
    assert read_photo(path, least=401).pixels.size == turned


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "line").mkdir()
    save(tmp_path / "line", Image.fromarray(COLORED), "a.png")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "line", target_is_directory=True)
    (tmp_path / "all" / "back").symlink_to(tmp_path / "all", target_is_directory=True)
    assert find_images(tmp_path / "all", recursive=True) == [tmp_path / "all" / "linked" / "a.png"]


def test_a_name_that_is_no_text_is_printable():
    path = Path(os.fsdecode(b"caf\xe9.png"))
    assert printable(path) == "caf\\xe9.png" and printable("gut-\u00fc.png") == "gut-\u00fc.png"
    assert from_printable(printable(path)) == path and from_printable("a.png") == Path("a.png")
    with pytest.raises(UnreadableImageError, match=r"caf\\xe9\.png"):
        read_image(path)
