"""What is saved comes back: all precisions, placements, attentions, shards and folders score the same."""

import copy

import pytest
import torch
from sizes import SIDE
from transformers import AutoModel, CLIPConfig, CLIPModel

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.checkpoint_anople import backbone_digest
from anople_hf.teaching import teach


@pytest.fixture(scope="module")
def original(tiny_clip):
    torch.manual_seed(0)
    photos = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"gear": "gear", "nut": "nut"}, **processor.class_prompts(["gear", "nut"]))
    torch.nn.init.normal_(model.decoder.refine.weight, std=0.1)
    model.memorize(photos[:2], "gear")
    model.memorize(photos[2:4], "nut")
    teach(model, {"gear": photos[:2], "nut": photos[2:4]}, views=2)
    return model


@pytest.fixture
def taught(original):
    return copy.deepcopy(original)


@torch.inference_mode()
def judge(model, photos, **routes):
    output = model(photos.to(model.dtype), **routes)
    return torch.cat([output.scores.float(), output.anomaly_maps.float().flatten(), output.thresholds])


@pytest.mark.parametrize("save_backbone", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precisions(taught, photos, tmp_path, dtype, save_backbone):
    """A model in half precision is saved in it and comes back as it was, by itself (dtype="auto") and when asked."""
    taught.save_pretrained(tmp_path / "full", save_backbone=save_backbone)
    loaded = AnoPLeModel.from_pretrained(tmp_path / "full", dtype=dtype)
    assert loaded.dtype == dtype
    expected = judge(loaded, photos)
    loaded.save_pretrained(tmp_path / "again", save_backbone=save_backbone)
    asked = AnoPLeModel.from_pretrained(tmp_path / "again", dtype=dtype)
    assert torch.equal(judge(asked, photos), expected)
    assert torch.equal(judge(AutoModel.from_pretrained(tmp_path / "again", dtype=dtype), photos), expected)
    assert AnoPLeModel.from_pretrained(tmp_path / "again").dtype == dtype
    # read into full precision the weights are rounded ones, but the bank is still theirs
    wide = AnoPLeModel.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert wide.memory.categories == ["gear", "nut"] and wide.fingerprint() == taught.fingerprint()
    assert torch.allclose(judge(wide, photos), judge(taught, photos), atol=0.05)
    wide.save_memory(tmp_path / "again")
    assert AnoPLeModel.from_pretrained(tmp_path / "again", dtype=torch.float32).memory.categories == ["gear", "nut"]
    with torch.no_grad():
        next(wide.prompts.parameters()).add_(0.1)
    assert wide.fingerprint() != taught.fingerprint()  # trained on: another encoder


@pytest.mark.parametrize("save_backbone", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"device_map": "cpu"}, {"device_map": "auto"}, {"attn_implementation": "sdpa"}, {"max_shard_size": "20KB"}],
    ids=str,
)
def test_placement_attention_and_shards(taught, photos, tmp_path, options, save_backbone):
    shards = {key: options[key] for key in options if key == "max_shard_size"}
    loading = {key: options[key] for key in options if key != "max_shard_size"}
    taught.save_pretrained(tmp_path, save_backbone=save_backbone, **shards)
    assert (len(list(tmp_path.glob("model*.safetensors"))) > 1) == bool(shards)
    for cls in (AnoPLeModel, AutoModel):
        loaded = cls.from_pretrained(tmp_path, **loading)
        assert torch.equal(judge(loaded, photos), judge(taught, photos))
        assert torch.equal(judge(loaded, photos, category="nut"), judge(taught, photos, category="nut"))


@pytest.mark.parametrize("save_backbone", [False, True])
def test_eager_attention(taught, photos, tmp_path, save_backbone):
    taught.save_pretrained(tmp_path, save_backbone=save_backbone)
    eager = AnoPLeModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.clip.vision_model.config._attn_implementation == "eager"
    assert torch.allclose(judge(eager, photos), judge(taught, photos), atol=1e-5)  # another order of additions
    eager.save_pretrained(tmp_path / "again", save_backbone=save_backbone)
    again = AnoPLeModel.from_pretrained(tmp_path / "again", attn_implementation="eager")
    assert torch.equal(judge(again, photos), judge(eager, photos))


@pytest.mark.parametrize("save_backbone", [False, True])
def test_subfolder(taught, photos, tmp_path, save_backbone):
    taught.save_pretrained(tmp_path / "line" / "one", save_backbone=save_backbone)
    for cls in (AnoPLeModel, AutoModel):
        loaded = cls.from_pretrained(tmp_path / "line", subfolder="one")
        assert torch.equal(judge(loaded, photos), judge(taught, photos))


def test_another_architecture_under_the_same_name(taught, tmp_path, tiny_clip):
    small = CLIPConfig.from_pretrained(tiny_clip)
    small.vision_config.num_hidden_layers = 2
    CLIPModel(small).save_pretrained(tmp_path / "clip")
    taught.config.backbone = str(tmp_path / "clip")
    taught.save_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run was trained on another version of the backbone '.*clip' than"):
        AnoPLeModel.from_pretrained(tmp_path / "run")


def test_a_missing_backbone_names_both(taught, tmp_path):
    taught.config.backbone, taught.config.backbone_revision = str(tmp_path / "gone"), "abc123"
    taught.save_pretrained(tmp_path / "run")
    with pytest.raises(OSError, match=r"run is built on the backbone '.*gone' at revision abc123, which cannot be"):
        AnoPLeModel.from_pretrained(tmp_path / "run")


def test_every_weight_of_the_backbone_counts(tiny_clip):
    clip = CLIPModel.from_pretrained(tiny_clip)
    before = backbone_digest(clip)
    assert backbone_digest(CLIPModel.from_pretrained(tiny_clip)) == before
    for name, weight in clip.named_parameters():
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.5).add_(0.5)
        assert backbone_digest(clip) != before, name
        with torch.no_grad():
            weight.copy_(kept)
    assert backbone_digest(clip) == before


def test_torch_compile_changes_no_score(taught, photos):
    expected = judge(taught, photos)
    taught.clip.vision_model.compile(backend="aot_eager", fullgraph=True)
    assert torch.allclose(judge(taught, photos), expected, atol=1e-5)
    assert torch.allclose(judge(taught, photos[:3]), judge(copy.deepcopy(taught), photos[:3]), atol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.005), (torch.bfloat16, 0.03)])
def test_half_precision_drifts_little(taught, photos, dtype, limit):
    count = len(photos)
    expected = judge(taught, photos)[:count]
    drift = (judge(taught.to(dtype), photos)[:count] - expected).abs().max()
    assert 0 < drift < limit


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_dynamic_int8_drifts_little_and_keeps_the_learned_parts(taught, photos):
    expected = judge(taught, photos)[: len(photos)]
    taught.clip = torch.ao.quantization.quantize_dynamic(taught.clip, {torch.nn.Linear}, dtype=torch.qint8)
    assert any("quantized" in type(module).__module__ for module in taught.clip.vision_model.modules())
    assert not any("quantized" in type(module).__module__ for module in taught.prompts.modules())
    drift = (judge(taught, photos)[: len(photos)] - expected).abs().max()
    assert 0 < drift < 0.05


def test_what_is_saved_can_be_read_by_whoever_may_read_the_folder(taught, tmp_path):
    """A service of another user loads it: weights and memory have the mode that a plain file gets here."""
    taught.save_pretrained(tmp_path / "run")
    plain = tmp_path / "plain"
    plain.touch()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "memory_bank.safetensors", "memory_views.safetensors"} <= set(modes)
    assert set(modes.values()) == {plain.stat().st_mode}
