"""A converted folder: what is in it, that it is whole, and what the report says."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from anople_hf.backbones import EMBEDDED, load_backbone
from anople_hf.export.conversion import REPORT_FILE, convert_open_clip

SCALED = Path(__file__).parents[1] / "fixtures" / "open_clip" / "scaled"


@pytest.fixture(autouse=True)
def _without_open_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # the tests mean the same where it happens to be installed


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_transformers_alone_loads_the_folder(tmp_path, shard):
    report = convert_open_clip(str(SCALED), tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "100KB")
    expected = load_file(SCALED / "expected.safetensors")
    clip = CLIPModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found = clip.get_image_features(expected["pixels"]).pooler_output
    assert (found - expected["image_embeddings"]).abs().max() < 1e-5
    prepared = CLIPImageProcessorPil.from_pretrained(tmp_path)(expected["photo"].numpy(), return_tensors="pt")
    scale = 255 * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    assert ((prepared["pixel_values"][0] - expected["prepared"]) * scale).abs().max() <= 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.model_max_length, tokenizer.eos_token_id) == (48, 513)
    straight = load_backbone(str(SCALED)).state_dict()
    assert all(
        torch.equal(tensor, straight[name]) for name, tensor in load_backbone(str(tmp_path)).state_dict().items()
    )

    assert json.loads((tmp_path / REPORT_FILE).read_text()) == report
    # Beside qkv in one, every layer of open_clip has two layer scales; the rest is one to one.
    assert report["tensors"] == {"read": 2 * 3 * 14 + 14, "written": 2 * 3 * 16 + 14}
    assert report["parameters"] == sum(parameter.numel() for parameter in clip.parameters())
    assert (report["hidden_act"], report["open_clip"]) == ("gelu", None)


def test_what_needs_no_conversion_says_so(tmp_path):
    with pytest.raises(ValueError, match="is a transformers CLIP already"):
        convert_open_clip(EMBEDDED, tmp_path)


def test_a_disk_that_loses_bits_is_noticed(tmp_path, monkeypatch):
    save = CLIPModel.save_pretrained

    def lose_bits(self, folder, **options):
        save(self, folder, **options)
        weights = load_file(Path(folder) / "model.safetensors")
        weights["visual_projection.weight"][0, 0] += 1e-6
        save_file(weights, Path(folder) / "model.safetensors")

    monkeypatch.setattr(CLIPModel, "save_pretrained", lose_bits)
    with pytest.raises(OSError, match="does not hold what was written to it, in visual_projection.weight"):
        convert_open_clip(str(SCALED), tmp_path)
