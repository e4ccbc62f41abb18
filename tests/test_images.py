"""Reading photos: every kind of file becomes 8-bit RGB, or is refused by name."""

import numpy as np
import pytest
from PIL import Image

from anople_hf.images import UnreadableImageError, check_images, find_images, read_image, read_mask

RAMP = np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)


def pixels(source):
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_sixteen_bit_is_scaled_not_cut(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == RAMP[..., None]).all()
    assert (pixels(RAMP.astype(np.uint16) * 257) == RAMP[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1"])
def test_other_modes(tmp_path, mode):
    Image.fromarray(RAMP).convert(mode).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif").shape == (24, 32, 3)
    if mode in ("L", "LA", "P"):
        assert np.abs(pixels(tmp_path / "a.tif").astype(int) - RAMP[..., None]).max() <= 1


def test_transparent_pixels_lie_over_white(tmp_path):
    picture = np.zeros((20, 20, 4), np.uint8)
    picture[:10, :, 3] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png")[:10] == 0).all() and (pixels(tmp_path / "a.png")[10:] == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.dstack([RAMP] * 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (24, 32)
    assert pixels(tmp_path / "a.jpg")[-1].mean() < 80 or pixels(tmp_path / "a.jpg")[:, -1].mean() < 80


def test_arrays_and_dicts(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for source in (RAMP, RAMP / 255.0, RAMP[..., None], data, {"bytes": data}, {"path": str(tmp_path / "a.png")}):
        assert (pixels(source) == RAMP[..., None]).all()
    for wrong in (np.full((4, 4), 3.0), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.int64), 7):
        with pytest.raises(UnreadableImageError):
            read_image(wrong)


def test_masks_count_everything_above_zero(tmp_path):
    classes = np.zeros((8, 8), np.uint8)
    classes[2, 2:5] = [1, 2, 9]
    Image.fromarray(classes).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").sum() == 3
    assert read_mask(np.dstack([classes] * 3)).sum() == 3


@pytest.fixture
def mixed(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "b_good.png")
    (tmp_path / "c_cut.png").write_bytes((tmp_path / "b_good.png").read_bytes()[:60])
    (tmp_path / "d_text.png").write_text("no picture")
    (tmp_path / "e_notes.txt").write_text("notes")
    Image.fromarray(RAMP[:9]).save(tmp_path / "f_small.png")
    for ignored in (".hidden.png", "._b_good.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / ignored).write_text("x")
    (tmp_path / "a_folder").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "a_folder/z.png")
    return tmp_path


def test_listing_is_sorted_and_leaves_system_files_out(mixed):
    names = [path.name for path in find_images(mixed)]
    assert names == ["b_good.png", "c_cut.png", "d_text.png", "e_notes.txt", "f_small.png"]
    assert find_images(mixed, recursive=True)[0].name == "z.png"


def test_bad_files_are_named(mixed):
    with pytest.raises(UnreadableImageError) as error:
        check_images(find_images(mixed))
    for said in (
        "4 of 5",
        "c_cut.png",
        "d_text.png",
        "e_notes.txt",
        "f_small.png",
        "smaller than a patch",
        "--skip-bad",
    ):
        assert said in str(error.value)
    good, bad = check_images(find_images(mixed), skip_bad=True)
    assert [path.name for path in good] == ["b_good.png"] and len(bad) == 4


def test_missing_photo():
    with pytest.raises(UnreadableImageError, match=r"no such photo: nowhere\.png"):
        read_image("nowhere.png")
