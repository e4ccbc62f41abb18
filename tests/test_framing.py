"""Framing: every pixel is covered, maps are put together again, lengths and regions are read as they are meant."""

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf.framing import Framing, FramingRequest, parse_tiles, pixels_of, store_region, tiles_for
from anople_hf.tiles import continued, counting_cells, cut, smooth_within, stitch, whole

SIDE, GRID = 48, 3
CUTS = [(1, 1), (1, 2), (2, 1), (2, 3), (3, 3), (1, 7)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("overlap", [0.0, 0.125, 0.4])
def test_every_pixel_is_covered_and_constant_maps_stay_constant(cuts, overlap):
    framing = Framing("", *cuts, overlap)
    corners = framing.corners(SIDE)
    assert len(corners) == cuts[0] * cuts[1]
    height, width = framing.canvas(SIDE)
    covered = np.zeros((height, width), int)
    for top, left in corners:
        assert 0 <= top <= height - SIDE and 0 <= left <= width - SIDE
        covered[top : top + SIDE, left : left + SIDE] += 1
    assert covered.min() == 1
    flat = torch.full((2, len(corners), SIDE, SIDE), 0.25)
    assert torch.allclose(stitch(framing, flat), torch.full((2, height, width), 0.25))


@pytest.mark.parametrize("cuts", CUTS)
def test_tiles_are_the_canvas_and_make_it_again(cuts):
    framing = Framing("", *cuts)
    canvas = torch.rand(2, 3, *framing.canvas(SIDE), generator=torch.Generator().manual_seed(0))
    tiles = cut(framing, canvas, SIDE)
    assert tiles.shape == (2, cuts[0] * cuts[1], 3, SIDE, SIDE)
    assert torch.allclose(stitch(framing, tiles[:, :, 0]), canvas[:, 0], atol=1e-6)


def test_the_whole_view_of_a_canvas_is_nearly_that_of_the_photo():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).resize((400, 300))
    framing = Framing("", 2, 3)
    values = torch.from_numpy(np.asarray(photo.resize(framing.canvas(SIDE)[::-1], Image.Resampling.BICUBIC)).copy())
    square = torch.from_numpy(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).copy())
    found = whole(values.permute(2, 0, 1)[None].float(), SIDE)[0].permute(1, 2, 0)
    assert (found - square.float()).abs().mean() < 2


def region(text, size=(120, 90)):
    return Framing(store_region(text, size))


@pytest.mark.parametrize(
    ("text", "share"),
    [("0,0,60,90", 0.5), ("30,30,30,30", 900 / 10800), ("0,0 120,0 120,90", 0.5), ("0,0 120,0 120,90 0,90", 1)],
)
def test_rectangles_and_polygons_cover_what_they_say(text, share):
    assert region(text).share == pytest.approx(share, abs=0.01)


def test_a_rectangle_is_exact():
    stored = Framing(store_region("10,20,30,40", (120, 90)), 3, 3, 0).mask(40)  # a canvas of 120 x 120
    rows, columns = np.nonzero(np.asarray(Image.fromarray(stored).resize((120, 90), Image.Resampling.NEAREST)))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (20, 60, 10, 40)


def test_a_mask_image_or_array_is_a_region(tmp_path):
    mask = np.zeros((90, 120), np.uint8)
    mask[:45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    drawn = store_region(mask > 0, (1200, 900))  # drawn on a smaller picture of the photo
    assert (
        store_region(str(tmp_path / "mask.png"), (120, 90)) == drawn == store_region(tmp_path / "mask.png", (120, 90))
    )
    assert Framing(drawn).share == 0.5 and Framing.of({"framing": Framing(drawn).to_dict()}) == Framing(drawn)
    assert store_region("whole", (120, 90)) == "" == store_region(np.ones((90, 120), bool), (120, 90))


def test_a_large_region_is_kept_small():
    stored = store_region("1000,1000 5000,1200 4000,3900", (6000, 4000))
    assert len(stored) < 8000 and Framing(stored).share == pytest.approx(5.5e6 / 24e6, rel=0.001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2,3", "x,y,w,h or a polygon"),
        ("1,2 3,4", "x,y,w,h or a polygon"),
        ("1.2.3,4,5,6", "x,y,w,h or a polygon"),
        ("100,0,60,90", "leaves the photo, which is 120 x 90"),
        ("5,5,0,0", "is empty"),
        ("nowhere.png", "nowhere.png"),
        ("mask.jpg", "JPEG"),
    ],
)
def test_a_region_that_cannot_be_is_refused_in_words(text, said):
    with pytest.raises(ValueError, match=said):
        store_region(text, (120, 90))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"100 x 100 pixels, the photos are 120 x 90"):
        store_region(np.ones((100, 100), bool), (120, 90))


def test_a_region_counts_in_its_own_tiles_alone():
    framing = Framing(store_region("0,0,30,90", (120, 90)), 1, 3)
    assert len(framing.corners(SIDE)) == 1
    cells = counting_cells(framing, SIDE, GRID)
    assert cells.shape == (1, GRID, GRID) and cells[:, :, 0].all() and not cells[:, :, 2].any()
    maps = stitch(framing, torch.ones(1, 1, SIDE, SIDE))
    inside = torch.from_numpy(framing.mask(SIDE))
    assert (maps[0][inside] == 1).all() and (maps[0][~inside] == 0).all()


def test_blurring_does_not_darken_the_border_of_a_region():
    framing = Framing(store_region("30,30,60,30", (120, 90)))
    inside = torch.from_numpy(framing.mask(SIDE))
    blurred = smooth_within(framing, torch.where(inside, 0.5, 0)[None], 4.0, SIDE)[0]
    assert torch.allclose(blurred[inside], torch.tensor(0.5)) and (blurred[~inside] == 0).all()


@pytest.mark.parametrize("text", ["2x0", "x3", "2", "30x30", "two by two", ""])
def test_tiles_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match=r"rows x columns"):
        parse_tiles(text)


def test_tiles_and_lengths_are_read():
    assert parse_tiles("2x3") == parse_tiles(" 2 X 3 ") == (2, 3)
    assert pixels_of("12") == pixels_of("12px") == 12 and pixels_of("1mm", "0.05mm") == pytest.approx(20)
    for smallest, size in (("0.4mm", ""), ("0.4mm", "3"), ("0", ""), ("4 lines", "")):
        with pytest.raises(ValueError, match=r"expected|say what a pixel shows"):
            pixels_of(smallest, size)


@pytest.mark.parametrize("smallest", [8, 12, 30, 64, 500])
@pytest.mark.parametrize("size", [(960, 720), (700, 700), (300, 900)])
def test_automatic_tiles_are_the_fewest_whose_cells_are_small_enough(smallest, size):
    rows, columns = tiles_for(smallest, size, 15)
    wide, high = Framing("", rows, columns).cell(size, 15)
    assert wide <= smallest + 1e-6 and high <= smallest + 1e-6
    if columns > 1:
        assert Framing("", rows, columns - 1).cell(size, 15)[0] > smallest
    if rows > 1:
        assert Framing("", rows - 1, columns).cell(size, 15)[1] > smallest


def test_too_many_tiles_are_refused():
    with pytest.raises(ValueError, match=r"at most 100 are cut"):
        tiles_for(10, (6000, 4000), 15)


def test_what_is_not_asked_for_stays():
    known = Framing(store_region("0,0,60,90", (120, 90)), 2, 3)
    size = (120, 90)
    assert FramingRequest(tiles="1x2").complete(known, size, SIDE, GRID) == Framing(known.region, 1, 2)
    assert FramingRequest(region="whole").complete(known, size, SIDE, GRID) == Framing("", 2, 3)
    assert FramingRequest("whole", "1x1").complete(known, size, SIDE, GRID).to_dict() is None
    assert FramingRequest(tiles="auto", smallest="20").complete(None, size, SIDE, GRID) == Framing("", 2, 3)
    assert not FramingRequest() and FramingRequest(region="whole")


def test_requests_that_contradict_themselves_are_refused():
    for wrong in ({"tiles": "auto"}, {"smallest": "12"}, {"tiles": "2x3", "smallest": "12"}, {"pixel_size": "1mm"},
                  {"tiles": "2by3"}, {"tiles": "auto", "smallest": "1mm"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"smallest|pixel|tiles"):
            FramingRequest(**wrong)
    with pytest.raises(ValueError, match=r"too small to be seen"):
        FramingRequest(region="5,5,1,1").complete(None, (960, 720), SIDE, GRID)


def test_beyond_a_region_a_photo_goes_on_as_in_a_mirror():
    framing = Framing(store_region("0,0,60,90", (120, 90)))
    canvas = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    moved = continued(framing, canvas, SIDE)
    half = SIDE // 2
    assert torch.equal(moved[..., :half], canvas[..., :half])
    assert torch.equal(moved[..., half : 2 * half - 1], canvas[..., : half - 1].flip(-1)[..., : half - 1])
    assert continued(None, canvas, SIDE) is canvas
