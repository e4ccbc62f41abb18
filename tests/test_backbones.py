"""Backbones by name: the embedded one, a folder, and clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anople_hf import backbones
from anople_hf.backbones import EMBEDDED, load_backbone, load_processor_parts


def test_embedded_backbone_has_the_papers_grid():
    clip = load_backbone(EMBEDDED)
    vision = clip.config.vision_config
    assert vision.image_size // vision.patch_size == 15 and clip.dtype == torch.float32 and not clip.training
    image, tokenizer = load_processor_parts(EMBEDDED)
    assert image(np.zeros((50, 90, 3), np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 3, 240, 240)
    ids = tokenizer("abnormal Zündschloß 3.")["input_ids"]
    assert (
        ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id == clip.config.text_config.eos_token_id
    )
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "abnormalzündschloß3."
    assert len(tokenizer("abnormal metal nut.")["input_ids"]) == 6  # common words are whole tokens
    text = clip.get_text_features(**tokenizer(["gear.", "abnormal gear."], padding=True, return_tensors="pt"))
    assert torch.isfinite(text.pooler_output).all() and (text.pooler_output[0] - text.pooler_output[1]).norm() > 1e-3


def test_embedded_tokens_tell_images_and_places_apart():
    clip = load_backbone(EMBEDDED)
    pixels = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(0)).cumsum(dim=3) / 10
    with torch.no_grad():
        encoded = clip.vision_model(pixels, output_hidden_states=True)
    assert len(encoded.hidden_states) == 7 and encoded.hidden_states[1].shape == (2, 226, 192)
    patches = torch.nn.functional.normalize(encoded.hidden_states[1][:, 1:], dim=-1)
    assert torch.isfinite(patches).all() and (patches @ patches.mT).min() < 0.9


def test_embedded_backbone_is_small_and_half_precision():
    files = list((Path(backbones.__file__).parent / "assets" / "tiny_clip").iterdir())
    assert sum(file.stat().st_size for file in files) < 16 * 2**20
    weights = load_file(next(file for file in files if file.suffix == ".safetensors"))
    assert {weight.dtype for weight in weights.values()} == {torch.float16}


def test_folder(tiny_clip):
    assert load_backbone(tiny_clip).config.projection_dim == 24
    image, tokenizer = load_processor_parts(tiny_clip)
    assert image.size["height"] == 48 and not image.do_center_crop and tokenizer.model_max_length == 40


def test_refusals(tmp_path, tiny_clip):
    with pytest.raises(ValueError, match="embedded:tiny-clip"):
        load_backbone("embedded:huge-clip")
    with pytest.raises(ValueError, match="have to be converted"):
        load_backbone("hf-hub:timm/vit_base_patch16_plus_clip_240.laion400m_e31")
    weights = tmp_path / "open_clip_model.safetensors"
    weights.touch()
    with pytest.raises(ValueError, match="have to be converted"):
        load_processor_parts(str(weights))
    with pytest.raises(OSError, match="not a folder here"):
        load_backbone("nobody/no-such-clip", cache_dir=str(tmp_path), local_files_only=True)
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a bert"):
        load_backbone(str(tmp_path))
