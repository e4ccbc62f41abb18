"""Images and texts prepared as open_clip prepares them; the expected values are its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anople_hf.backbones import load_processor_parts
from anople_hf.open_clip import OpenClipCheckpoint, from_config_file, named_model
from anople_hf.open_clip_processing import clip_tokenizer, open_clip_processor, open_clip_tokenizer

FIXTURES = Path(__file__).parent / "fixtures" / "open_clip"


def read(name):
    return from_config_file(str(FIXTURES / name), FIXTURES / name / "open_clip_config.json")


def gray_levels(processor, photo, expected):
    prepared = processor(np.asarray(photo), return_tensors="pt")["pixel_values"][0]
    return ((prepared - expected) * 255 * torch.tensor(processor.image_std)[:, None, None]).abs().max()


@pytest.mark.parametrize("name", ["quick", "scaled"])
def test_images_to_one_gray_level(name):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    assert gray_levels(open_clip_processor(read(name)), expected["photo"], expected["prepared"]) <= 1
    squeezed, _ = load_processor_parts(str(FIXTURES / name))
    assert gray_levels(squeezed, expected["photo"], expected["squashed"]) <= 1


def test_another_size_for_the_squeezed_photo():
    image, _ = load_processor_parts(str(FIXTURES / "quick"), side=64)
    assert image(np.zeros((45, 70, 3), np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    assert list(image.image_mean) == [0.5, 0.4, 0.3] and image.resample == 2


def test_a_thousand_mixed_strings():
    pairs = json.loads((FIXTURES / "tokens.json").read_text(encoding="utf-8"))
    assert len(pairs) == 1000
    tokens = clip_tokenizer()([text for text, _ in pairs], truncation=True)["input_ids"]
    wrong = [text for (text, expected), found in zip(pairs, tokens, strict=True) if found != expected]
    assert not wrong and sum(len(found) == 77 for found in tokens) > 10


def test_tokenizer_beside_the_weights_goes_before_the_packages():
    tokenizer = open_clip_tokenizer(read("quick"))
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length) == (514, 513, 40)


def test_a_bare_file_needs_no_network(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.touch()
    image, tokenizer = load_processor_parts(f"open_clip:ViT-B-16-plus-240:{weights}")
    assert image.size == {"height": 240, "width": 240} and tokenizer("nut")["input_ids"] == [49406, 6491, 49407]


def test_refusals(tmp_path, tiny_clip):
    shutil.copy(FIXTURES / "quick" / "open_clip_config.json", tmp_path)
    alone = from_config_file(str(tmp_path), tmp_path / "open_clip_config.json")
    with pytest.raises(ValueError, match=r"no tokenizer and a vocabulary of 514 tokens.*--tokenizer"):
        open_clip_tokenizer(alone)
    assert len(open_clip_tokenizer(alone, str(FIXTURES / "quick"))) == 514
    with pytest.raises(ValueError, match="the text tower has 514 and looks for 513"):
        open_clip_tokenizer(alone, tiny_clip)
    borders = OpenClipCheckpoint("lab/clip", named_model("ViT-B-32"), {"resize_mode": "longest"})
    with pytest.raises(ValueError, match="resize_mode='longest'"):
        open_clip_processor(borders)
