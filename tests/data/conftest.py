"""Small trees of photos on disk, in the layouts that the package reads."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo():
    """Write a photo of one gray level."""

    def write(path, level=100, side=20):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), level, np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def mvtec(tmp_path, photo):
    """Two categories; gear has good, scratched and bent test photos, one of the bent without a mask; nut no test."""
    root = tmp_path / "line"
    for index in (2, 0, 1):
        photo(root / "gear" / "train" / "good" / f"{index:03}.png", level=index)
        photo(root / "nut" / "train" / "good" / f"{index:03}.png", level=10 + index)
    photo(root / "gear" / "test" / "good" / "000.png", 50)
    photo(root / "gear" / "test" / "scratch" / "000.png", 60)
    photo(root / "gear" / "test" / "scratch" / "001.png", 61)
    photo(root / "gear" / "test" / "bent" / "000.png", 70)
    photo(root / "gear" / "test" / "bent" / "001.png", 71)
    truth = root / "gear" / "ground_truth"
    photo(truth / "scratch" / "001_mask.png", 201)
    photo(truth / "scratch" / "000_mask.png", 200)
    photo(truth / "bent" / "001.png", 211)
    (root / "gear" / "train" / "good" / "._000.png").touch()
    (root / "gear" / "test" / "good" / "Thumbs.db").touch()
    (root / "readme.txt").touch()
    return root


@pytest.fixture
def truncate():
    """Cut a file in half."""

    def cut(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return cut
