"""A taught detector in a folder, and its service in this process."""

import shutil

import pytest
import torch

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.images import read_image

PRODUCTS = ("capsule", "woven_cloth")


@pytest.fixture(scope="session")
def taught(tiny_clip, drawn, tmp_path_factory):
    """Folder of a detector that knows two drawn products from three photos each."""
    folder = tmp_path_factory.mktemp("taught")
    torch.manual_seed(0)
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({name: name for name in PRODUCTS}, **processor.class_prompts(list(PRODUCTS)))
    for name in PRODUCTS:
        photos = sorted((drawn / name / "train/good").iterdir())[:3]
        pixels = processor(images=[read_image(photo) for photo in photos])["pixel_values"]
        model.teach(pixels, name, names=[photo.name for photo in photos], views=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run(taught, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(taught, tmp_path / "line1")
