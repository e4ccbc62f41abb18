"""Converted weights against results that open_clip itself gave (see scripts/open_clip_reference.py), and refusals."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anople_hf.backbones import load_backbone
from anople_hf.export.conversion import record_layers
from anople_hf.open_clip import from_config_file
from anople_hf.open_clip_weights import read_weights, to_transformers

FIXTURES = Path(__file__).parent / "fixtures" / "open_clip"
TOLERANCE = 1e-5


@pytest.fixture
def checkpoint():
    return from_config_file(str(FIXTURES / "quick"), FIXTURES / "quick" / "open_clip_config.json")


@pytest.fixture
def state():
    return load_file(FIXTURES / "quick" / "open_clip_model.safetensors")


def put_beside(folder, state, name="open_clip_pytorch_model.bin"):
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_bytes((FIXTURES / "quick" / "open_clip_config.json").read_bytes())
    torch.save(state, folder / name)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("name", ["quick", "scaled"])
def test_every_layer_equals_open_clips(name):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    clip = load_backbone(str(FIXTURES / name))
    embeddings, layers = record_layers(
        clip.vision_model.encoder.layers, lambda: clip.get_image_features(expected["pixels"]).pooler_output
    )
    assert (embeddings - expected["image_embeddings"]).abs().max() < TOLERANCE
    assert (torch.stack(layers) - expected["vision_layers"]).abs().max() < TOLERANCE

    # open_clip pads with 0, transformers' tokenizer with the end of the text: neither reaches the text before it.
    ids, end = expected["ids"], clip.config.text_config.eos_token_id
    behind = torch.arange(ids.shape[1]) > (ids == end).int().argmax(dim=1, keepdim=True)
    for padding, mask in ((0, None), (end, (~behind).long())):
        embeddings, layers = record_layers(
            clip.text_model.encoder.layers,
            lambda padding=padding, mask=mask: (
                clip.get_text_features(ids.masked_fill(behind, padding), attention_mask=mask).pooler_output
            ),
        )
        assert (embeddings - expected["text_embeddings"]).abs().max() < TOLERANCE
        difference = (torch.stack(layers) - expected["text_layers"]).abs()
        assert difference[:, ~behind].max() < TOLERANCE


def test_pickles_of_training_and_of_several_processes(tmp_path, state):
    plain = load_backbone(str(FIXTURES / "quick")).state_dict()
    named = {f"module.{name}": tensor for name, tensor in state.items()}
    trained = {
        "epoch": 3,
        "name": "run",
        "state_dict": named,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1.0}]},
    }
    for number, content in enumerate((state, trained)):
        loaded = load_backbone(str(put_beside(tmp_path / str(number), content))).state_dict()
        assert all(torch.equal(loaded[name], plain[name]) for name in plain)


def test_half_precision_becomes_float32(tmp_path, state):
    half = {name: tensor.half() for name, tensor in state.items()}
    clip = load_backbone(str(put_beside(tmp_path, half)))
    assert clip.dtype == torch.float32 and not clip.training
    assert torch.equal(clip.vision_model.post_layernorm.bias, state["visual.ln_post.bias"].half().float())


def test_numbers_among_old_tensors_and_a_scale_with_a_dimension(checkpoint, state):
    old = {**state, "input_resolution": torch.tensor(32), "logit_scale": state["logit_scale"].reshape(1)}
    assert to_transformers(old, checkpoint)["logit_scale"].shape == ()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = put_beside(tmp_path / "evil", {**state, "extra": Evil()})
    with pytest.raises(ValueError, match=r"does not load safely.*Take the \.safetensors"):
        load_backbone(str(folder))
    assert not (tmp_path / "was_run").exists()


def test_other_files_are_refused(tmp_path, state):
    script = tmp_path / "script.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(script)  # what OpenAI's own .pt files are
    damaged = tmp_path / "damaged.pt"
    torch.save(state, damaged)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (tmp_path / "text.bin").write_text("a web page that says the file has moved")
    (tmp_path / "empty.pt").touch()
    for file in (script, damaged, tmp_path / "text.bin", tmp_path / "empty.pt"):
        with pytest.raises(ValueError, match="does not load safely"):
            read_weights(file)
    torch.save({"epoch": 1}, tmp_path / "epoch.pt")
    with pytest.raises(ValueError, match="no state_dict"):
        read_weights(tmp_path / "epoch.pt")
    (tmp_path / "cut.safetensors").write_bytes(
        (FIXTURES / "quick" / "open_clip_model.safetensors").read_bytes()[:9000]
    )
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_weights(tmp_path / "cut.safetensors")


def test_tensors_that_do_not_fit_are_named(checkpoint, state):
    def refused(match, **changes):
        changed = {**state, **changes}
        with pytest.raises(ValueError, match=match):
            to_transformers({name: tensor for name, tensor in changed.items() if tensor is not None}, checkpoint)

    refused(r"lacks the tensors for \['vision_model.pre_layrnorm.bias'", **{"visual.ln_pre.bias": None})
    refused(r"holds text.ln_final.weight.*custom text tower", **{"text.ln_final.weight": torch.zeros(3)})
    refused(r"holds logit_bias.*SigLIP", logit_bias=torch.zeros(()))
    refused(r"holds visual.layer1.0.conv1.weight", **{"visual.layer1.0.conv1.weight": torch.zeros(3)})
    refused(r"holds the layer scale", **{"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(32)})
    refused(r"visual.proj of shape \(12, 30\), not \(12, 32\)", **{"visual.proj": torch.zeros(30, 12)})
    refused("visual.proj holds NaN", **{"visual.proj": torch.full((32, 12), float("nan"))})
    more = {"transformer.resblocks.2.ln_1.weight": torch.ones(16)}
    refused(r"ViT 32 wide, 3 layers, 32/8: check the model's name", **more)


def test_missing_layer_scale_is_named(tmp_path):
    settings = json.loads((FIXTURES / "scaled" / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    state = load_file(FIXTURES / "scaled" / "open_clip_model.safetensors")
    del state["transformer.resblocks.1.ls_2.gamma"]
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"lacks the layer scale transformer.resblocks.1.ls_2.gamma"):
        load_backbone(str(tmp_path))


def test_the_wrong_name_for_a_file_is_seen(tmp_path, state):
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt has .* of shape .*ViT 896 wide.*check the model's name"):
        load_backbone(f"open_clip:ViT-B-16-plus-240:{tmp_path / 'weights.pt'}")
    with pytest.raises(ValueError, match=r"is a file; say which model it is: open_clip:ViT-B-16-plus-240:"):
        load_backbone(str(tmp_path / "weights.pt"))
