"""Backbones by name: the embedded one, a folder, and clear refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from anople_hf import AnoPLeConfig, AnoPLeModel, AnoPLeProcessor, backbones
from anople_hf.backbones import EMBEDDED, KNOWN, full_name, load_backbone, load_processor_parts, recommended_settings

OPEN_CLIP = Path(__file__).parent / "fixtures" / "open_clip"


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
    assert len(tokenizer("a photo of the road.")["input_ids"]) == 8  # common words are whole tokens
    text = clip.get_text_features(**tokenizer(["gear.", "abnormal gear."], padding=True, return_tensors="pt"))
    assert torch.isfinite(text.pooler_output).all() and (text.pooler_output[0] - text.pooler_output[1]).norm() > 1e-3


def test_embedded_tokens_tell_images_and_places_apart():
    clip = load_backbone(EMBEDDED)
    pixels = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(0)).cumsum(dim=3) / 10
    with torch.no_grad():
        encoded = clip.vision_model(pixels, output_hidden_states=True)
    assert len(encoded.hidden_states) == 7 and encoded.hidden_states[4].shape == (2, 226, 256)
    patches = torch.nn.functional.normalize(encoded.hidden_states[4][:, 1:], dim=-1)
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


def hub_cache(root, repository, commits):
    """What a download leaves behind: one snapshot a commit, the last is main."""
    store = root / f"models--{repository.replace('/', '--')}"
    for number, folder in enumerate(commits):
        commit = f"{number:040x}"
        shutil.copytree(folder, store / "snapshots" / commit)
        for name in ("main", f"v{number}"):
            (store / "refs").mkdir(exist_ok=True)
            (store / "refs" / name).write_text(commit)
    return {"cache_dir": str(root), "local_files_only": True}


def test_a_hub_id_of_open_clip_from_the_cache(tmp_path):
    cached = hub_cache(tmp_path, "lab/clip", [OPEN_CLIP / "scaled", OPEN_CLIP / "quick"])
    for name in ("lab/clip", "hf-hub:lab/clip"):
        assert load_backbone(name, **cached).config.projection_dim == 12
    assert load_backbone("lab/clip", revision="v0", **cached).config.projection_dim == 20
    image, tokenizer = load_processor_parts("lab/clip", revision="v0", **cached)
    assert image.size["height"] == 40 and tokenizer.model_max_length == 48
    with pytest.raises(OSError, match=r"could not be had from the Hub"):
        load_backbone("lab/clip", revision="v2", **cached)

    model = AnoPLeModel.from_backbone("lab/clip", revision="v0", **cached)
    model.save_pretrained(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < 200_000  # named, not copied
    again = AnoPLeModel.from_pretrained(tmp_path / "run", **cached)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (
        AnoPLeProcessor.from_backbone("lab/clip", model.config, revision="v0", **cached).tokenizer.eos_token_id == 513
    )


def test_a_repository_that_holds_both_is_read_as_transformers_clip(tmp_path, tiny_clip):
    both = shutil.copytree(tiny_clip, tmp_path / "both")
    shutil.copy(OPEN_CLIP / "quick" / "open_clip_config.json", both)
    assert load_backbone(str(both)).config.projection_dim == 24
    # timm's repositories have a config.json of their own beside open_clip's.
    of_timm = shutil.copytree(OPEN_CLIP / "quick", tmp_path / "timm")
    (of_timm / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_clip_224"}))
    assert load_backbone(str(of_timm)).config.projection_dim == 12


def test_nothing_is_fetched_before_it_is_asked_for(tmp_path, tiny_clip, monkeypatch):
    def fetch(*args, **kwargs):
        raise AssertionError("looked for a file")

    config = AnoPLeConfig(backbone="lab/no-such-clip", backbone_config=load_backbone(tiny_clip).config.to_dict())
    monkeypatch.setattr(backbones, "cached_file", fetch)
    monkeypatch.setattr("transformers.utils.hub.cached_files", fetch)
    AnoPLeModel(config)


def test_refusals(tmp_path, tiny_clip):
    with pytest.raises(ValueError, match="embedded:tiny-clip"):
        load_backbone("embedded:huge-clip")
    weights = tmp_path / "open_clip_model.safetensors"
    weights.touch()
    with pytest.raises(ValueError, match="say which model it is"):
        load_processor_parts(str(weights))
    for name in ("nobody/no-such-clip", "hf-hub:nobody/no-such-clip"):
        with pytest.raises(OSError, match=r"not a folder here.*open_clip:MODEL:FILE"):
            load_backbone(name, cache_dir=str(tmp_path), local_files_only=True)
    with pytest.raises(ValueError, match=r"neither config\.json nor open_clip_config\.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a bert"):
        load_backbone(str(tmp_path))


# As their repositories state them: towers as (width, layers, heads), then side, joint width and activation.
REAL = {
    "small": ((256, 10, 4), (256, 3, 4), 224, 512, "quick_gelu"),
    "base": ((768, 12, 12), (512, 12, 8), 224, 512, "quick_gelu"),
    "paper": ((896, 12, 14), (640, 12, 10), 240, 640, "gelu"),
}


def test_short_names_stand_for_one_backbone_each():
    assert list(KNOWN) == ["tiny", "small", "base", "paper"]
    assert full_name("tiny") == EMBEDDED and full_name("paper") == KNOWN["paper"].source
    assert full_name("./tiny") == "./tiny"  # a folder of that name
    for name, known in KNOWN.items():
        assert recommended_settings(name) == recommended_settings(known.source) == known.settings
    model = AnoPLeModel.from_backbone("tiny")
    assert (
        model.config.backbone == EMBEDDED
        and model.config.memory_layers == recommended_settings("tiny")["memory_layers"]
    )


@pytest.mark.parametrize("name", list(REAL))
def test_known_backbones_fit_their_real_configurations(name):
    """With random weights of that shape: settings are accepted, a photo of its side gets a score and a map."""
    (width, layers, heads), (text_width, text_layers, text_heads), side, joint, act = REAL[name]
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
              "num_attention_heads": heads, "image_size": side, "patch_size": 16, "hidden_act": act}  # fmt: skip
    text = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_hidden_layers": text_layers,
            "num_attention_heads": text_heads, "hidden_act": act, "vocab_size": 1000, "bos_token_id": 0,
            "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    clip = CLIPConfig(vision_config=vision, text_config=text, projection_dim=joint)
    model = AnoPLeModel(AnoPLeConfig(backbone_config=clip.to_dict(), **recommended_settings(name))).eval()
    assert model.config.image_size == KNOWN[name].side == side
    # 4 bytes a number; the vocabulary of the real ones has 49,408 words
    numbers = sum(p.numel() for p in CLIPModel(clip).parameters()) + (49408 - 1000) * text_width
    assert 4 * numbers / 1e6 == pytest.approx(KNOWN[name].megabytes, rel=0.02)
    photos = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    model.memorize(photos[:1], "gear")
    found = model(photos, branch="memory")
    assert found.anomaly_maps.shape == (2, side, side) and found.scores[0] < 1e-6 < found.scores[1]


def test_the_page_of_backbones_says_what_the_table_says():
    page = (Path(__file__).parents[1] / "docs" / "backbones.md").read_text(encoding="utf-8")
    for name, known in KNOWN.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        source = "embedded" if known.source == EMBEDDED else f"`{known.source}`"
        assert all(part in row for part in (source, f"{known.megabytes} MB", f"| {known.side} |", known.license))
