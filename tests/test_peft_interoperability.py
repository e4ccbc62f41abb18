"""PEFT from outside: `get_peft_model` around AnoPLe, as docs/peft.md tells it."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from anople_hf import AnoPLeModel

CONFIG = {
    "r": 2,
    "target_modules": r"clip\.vision_model.*\.(q_proj|v_proj)",
    "modules_to_save": ["prompts", "decoder"],
}


@pytest.fixture
def prompts(processor):
    return processor.class_prompts(["gear", "nut"])


@pytest.fixture
def trained(make_model, photos, prompts):
    """Wrapped, and moved by one step; text vectors are made anew from the moved prompts."""
    wrapped = get_peft_model(make_model(), LoraConfig(**CONFIG))
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    output = wrapped(photos, branch="prompt", **prompts)
    (output.decoder_maps.mean() + output.scores.mean()).backward()
    reached = {name for name, p in wrapped.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("prompts.modules_to_save.default.visual", "decoder.modules_to_save.default.refine.weight", "lora_B"):
        assert any(part in name for name in reached), part
    optimizer.step()
    wrapped.set_class_names({"gear": "gear", "nut": "nut"}, **prompts)
    return wrapped.eval()


def test_saved_as_an_adapter_and_loaded_onto_a_fresh_model(trained, make_model, photos, prompts, tmp_path):
    trained.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert any("prompts.visual" in name for name in names) and any("lora_A" in name for name in names)
    assert not any("position_embedding" in name for name in names)  # CLIP stays behind
    loaded = PeftModel.from_pretrained(make_model(seed=9), tmp_path).eval()
    loaded.set_class_names({"gear": "gear", "nut": "nut"}, **prompts)
    assert torch.equal(loaded(photos, branch="prompt").scores, trained(photos, branch="prompt").scores)


def test_merged_it_is_a_plain_model_that_saves_whole(trained, photos, tmp_path):
    before = trained(photos, branch="prompt").scores
    merged = trained.merge_and_unload()
    assert isinstance(merged, AnoPLeModel)
    assert torch.allclose(merged(photos, branch="prompt").scores, before, atol=1e-5)
    merged.memorize(photos[:2], "gear")
    merged.save_pretrained(tmp_path, save_backbone=True)  # its CLIP is no longer the one it is named after
    again = AnoPLeModel.from_pretrained(tmp_path)
    assert torch.equal(again(photos).scores, merged(photos).scores)


def test_add_adapter_saves_the_low_rank_weights_alone(make_model, tmp_path):
    """What docs/peft.md warns of: transformers' own way leaves prompts and decoder behind."""
    model = make_model()
    model.add_adapter(LoraConfig(r=2, target_modules=CONFIG["target_modules"]))
    model.save_pretrained(tmp_path, save_backbone=True)
    kept = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert kept and all("lora_" in name for name in kept)
