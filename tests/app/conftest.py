"""The embedded detector, one product that it was taught, and a photo with a hole in it."""

import pytest
from PIL import Image

from anople_hf.app.detectors import SAMPLER, Detectors
from anople_hf.data.drawn import render, render_defective
from anople_hf.data.drawn_products import PRODUCTS


@pytest.fixture(scope="session")
def detectors():
    return Detectors(device="cpu")


@pytest.fixture(scope="session")
def inspector(detectors):
    return detectors.get(SAMPLER)


@pytest.fixture(scope="session")
def taught_once(inspector):
    photos = [Image.fromarray(render(PRODUCTS["woven_cloth"], [7, index], 96)) for index in range(4)]
    return inspector.teach(inspector.products(), "woven_cloth", photos)[0]


@pytest.fixture
def products(taught_once):
    return taught_once.branch()


@pytest.fixture(scope="session")
def holed():
    photo, mask = render_defective(PRODUCTS["woven_cloth"], "hole", [7, 50], 96)
    return Image.fromarray(photo), mask
