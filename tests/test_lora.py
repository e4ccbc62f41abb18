"""LoRA beside the prompts: what learns, what is saved, and that merging changes no score."""

import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file

from anople_hf import AnoPLeModel
from anople_hf.lora import is_lora
from anople_hf.training.configuration import TrainingConfig
from anople_hf.training.loop import parameter_groups


@pytest.fixture
def adapted(make_model, photos):
    """A model whose low-rank weights have moved, with a memory."""

    def make(**settings):
        model = make_model(lora_rank=2, **settings)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if is_lora(name):
                    weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
        model.memorize(photos[:2], "gear")
        return model

    return make


def lora_names(model):
    return {name for name, parameter in model.named_parameters() if is_lora(name)}


@pytest.mark.parametrize("towers", ["vision", "text", "both"])
def test_low_rank_weights_stand_in_the_asked_towers(make_model, towers):
    found = {"vision_model", "text_model"} if towers == "both" else {f"{towers}_model"}
    names = lora_names(make_model(lora_rank=2, lora_towers=towers, lora_targets=["k_proj"]))
    assert {name.split(".")[1] for name in names} == found
    assert {name.split(".")[6] for name in names} == {"k_proj"}
    assert len(names) == 2 * 4 * len(found)  # A and B in each of four layers


def test_untrained_low_rank_weights_change_no_score(make_model, photos):
    plain, adapted = make_model(), make_model(lora_rank=2, lora_towers="both")
    adapted.prompts.load_state_dict(plain.prompts.state_dict())
    adapted.text_features.copy_(plain.text_features)
    assert torch.equal(plain(photos, branch="prompt").scores, adapted(photos, branch="prompt").scores)


def test_trained_ones_do(make_model, adapted, photos):
    scores = [model(photos, branch="prompt").scores for model in (make_model(), adapted())]
    assert not torch.allclose(*scores, atol=1e-4)


def test_they_learn_together_with_the_prompts_and_clip_does_not(make_model, photos, processor):
    model = make_model(lora_rank=2, lora_towers="both").train()
    plan = TrainingConfig().completed(None, 8)
    learning = {id(p) for group in parameter_groups(model, plan) for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in learning) is (is_lora(name) or not name.startswith("clip.")), name
    prompts = processor.class_prompts(["gear", "nut"])
    output = model(photos, branch="prompt", **prompts)
    (output.decoder_maps.mean() + output.scores.mean()).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name in lora_names(model) if "lora_B" in name} <= moved  # A's gradient is B, and B starts at 0
    assert "prompts.visual" in moved


@pytest.mark.parametrize("save_backbone", [False, True])
def test_saved_and_loaded_with_the_prompts(adapted, photos, tmp_path, save_backbone):
    model = adapted()
    model.save_pretrained(tmp_path, save_backbone=save_backbone)
    kept = load_file(tmp_path / "model.safetensors")
    assert lora_names(model) <= set(kept)
    assert any("base_layer" in name for name in kept) is save_backbone
    loaded = AnoPLeModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(photos).scores, model(photos).scores)
    assert {
        name for name, p in loaded.named_parameters() if p.requires_grad and name.startswith("clip.")
    } == lora_names(model)


@pytest.mark.parametrize("towers", ["vision", "both"])
def test_merging_keeps_the_scores_and_leaves_peft_behind(adapted, photos, tmp_path, towers):
    model = adapted(lora_towers=towers)
    before = model(photos)
    model.merge_lora()
    after = model(photos)
    assert torch.allclose(before.scores, after.scores, atol=1e-5)
    assert torch.allclose(before.anomaly_maps, after.anomaly_maps, atol=1e-5)
    assert not lora_names(model) and not any(p.requires_grad for p in model.clip.parameters())
    model.save_pretrained(tmp_path)
    alone = (
        "import sys; sys.modules['peft'] = None\n"
        "import torch\nfrom anople_hf import AnoPLeModel\n"
        f"model = AnoPLeModel.from_pretrained({str(tmp_path)!r})\n"
        f"torch.save(model(torch.load({str(tmp_path / 'photos.pt')!r})).scores, {str(tmp_path / 'scores.pt')!r})"
    )
    torch.save(photos, tmp_path / "photos.pt")
    subprocess.run([sys.executable, "-c", alone], check=True)
    assert torch.allclose(torch.load(tmp_path / "scores.pt"), after.scores, atol=1e-6)


def test_a_bank_of_other_low_rank_weights_is_refused(adapted, tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if is_lora(name)).add_(1)
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "one" / "memory_bank.safetensors").replace(tmp_path / "other" / "memory_bank.safetensors")
    with pytest.raises(ValueError, match="built with another model"):
        AnoPLeModel.from_pretrained(tmp_path / "other")


def test_nothing_to_merge(make_model):
    with pytest.raises(ValueError, match="lora_rank=0"):
        make_model().merge_lora()


@pytest.mark.parametrize("settings", [{"lora_rank": -1}, {"lora_rank": 2, "lora_targets": ["mlp"]}])
def test_settings_out_of_range_are_refused(make_model, settings):
    with pytest.raises(StrictDataclassClassValidationError, match="lora_"):
        make_model(**settings)


def test_without_peft_it_says_what_to_install(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="anople-hf\\[peft\\]"):
        make_model(lora_rank=2)
