"""What a detector can see: the size of a cell, and shapes that lose too much."""

import pytest

from anople_hf.sight import cell_size, describe_sight


def test_a_cell_covers_its_share_of_the_photo():
    assert cell_size((6000, 4000), 15) == (400, pytest.approx(266.67, abs=0.01))
    (line,) = describe_sight((240, 240), 15)
    assert "covers 16 x 16" in line


@pytest.mark.parametrize(("size", "said"), [((2500, 100), "25:1"), ((100, 400), "4:1"), ((300, 100), "")])
def test_long_photos_are_named(size, said):
    lines = describe_sight(size, 15)
    assert len(lines) == (2 if said else 1) and said in lines[-1]
