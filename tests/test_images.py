"""Photos in every form a camera or tool writes them, and the refusal of those that cannot be used."""

import io

import numpy as np
import pytest
from PIL import Image

from anople_hf.images import UnreadableImageError, check_images, find_images, read_image, read_mask, read_photo

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


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_image, read_mask):
        with pytest.raises(UnreadableImageError, match="DecompressionBomb"):
            read(path)
