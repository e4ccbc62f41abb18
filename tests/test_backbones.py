"""Backbones by name: the embedded one, a folder, and clear refusals."""

import json

import numpy as np
import pytest
import torch

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


def test_folder(tiny_clip):
    assert load_backbone(tiny_clip).config.projection_dim == 24
    image, tokenizer = load_processor_parts(tiny_clip)
    assert image.size["height"] == 48 and not image.do_center_crop and tokenizer.model_max_length == 40


def test_refusals(tmp_path, tiny_clip):
    with pytest.raises(ValueError, match="embedded:tiny-clip"):
        load_backbone("embedded:huge-clip")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a bert"):
        load_backbone(str(tmp_path))
