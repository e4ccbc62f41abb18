"""open_clip checkpoints by name: which model a configuration means, and what is refused by its name."""

import json
from pathlib import Path

import pytest

from anople_hf.open_clip import clip_config, from_config_file, from_file, named_model, split_name

FIXTURES = Path(__file__).parent / "fixtures" / "open_clip"
PLAIN = {"embed_dim": 8, "vision_cfg": {"width": 64}, "text_cfg": {"width": 64, "heads": 2}}


def test_the_papers_backbone():
    config = clip_config(named_model("ViT-B-16-plus-240"))
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.intermediate_size) == (896, 14, 3584)
    assert (vision.image_size, vision.patch_size, vision.hidden_act) == (240, 16, "gelu")
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (640, 10, 12)
    assert (text.eos_token_id, text.hidden_act, text.layer_norm_eps) == (49407, "gelu", 1e-5)
    assert config.projection_dim == 640


def test_odd_ratios_are_cut_as_open_clip_cuts_them():
    vision = clip_config(named_model("ViT-bigG-14")).vision_config
    assert (vision.intermediate_size, vision.num_attention_heads) == (8192, 16)
    assert clip_config(named_model("ViT-g-14")).vision_config.intermediate_size == 6144


def test_activation_comes_from_name_or_configuration():
    assert clip_config(named_model("ViT-B-32-quickgelu")).vision_config.hidden_act == "quick_gelu"
    assert clip_config({**PLAIN, "quick_gelu": True}).text_config.hidden_act == "quick_gelu"
    assert clip_config(PLAIN).text_config.hidden_act == "gelu"
    with pytest.raises(ValueError, match="plain ViT CLIPs: ViT-S-32-alt"):
        named_model("RN50-quickgelu")


@pytest.mark.parametrize(
    ("part", "settings", "named"),
    [
        (None, {"custom_text": True}, "custom text tower"),
        (None, {"multimodal_cfg": {"width": 512}}, "CoCa"),
        (None, {"init_logit_bias": -10}, "SigLIP"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "ResNet"),
        ("vision_cfg", {"timm_model_name": "convnext_base"}, "timm vision tower"),
        ("vision_cfg", {"attentional_pool": True}, "attentional pooling"),
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type='avg'"),
        ("vision_cfg", {"no_ln_pre": True}, "no_ln_pre"),
        ("vision_cfg", {"pos_embed_type": "sin_cos_2d"}, "sin_cos_2d"),
        ("vision_cfg", {"qk_norm": True}, "qk_norm"),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}, "act_kwargs"),
        ("vision_cfg", {"image_size": [224, 336]}, "not square"),
        ("vision_cfg", {"a_key_of_tomorrow": 3}, "a_key_of_tomorrow=3"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "text tower of another library"),
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}, "another tokenizer"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type='last'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask"),
        ("text_cfg", {"embed_cls": True}, "embed_cls"),
        ("text_cfg", {"proj_bias": True}, "proj_bias"),
        ("text_cfg", {"proj_type": "none"}, "proj_type='none'"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, part, settings, named):
    model = {**PLAIN, part: {**PLAIN[part], **settings}} if part else {**PLAIN, **settings}
    file = tmp_path / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(ValueError, match="Plain ViT CLIPs can be converted") as refusal:
        from_config_file("lab/clip", file)
    assert named in str(refusal.value) and str(refusal.value).startswith("lab/clip")


def test_settings_without_effect_on_the_result_pass():
    dropped = {**PLAIN, "vision_cfg": {**PLAIN["vision_cfg"], "patch_dropout": 0.5, "output_tokens": True}}
    assert clip_config(dropped).vision_config.hidden_size == 64
    assert clip_config({**PLAIN, "custom_text": False, "init_logit_scale": 2.0}).projection_dim == 8


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"embed_dim": 8}}', "\x00"])
def test_a_file_of_something_else_is_named(tmp_path, text):
    file = tmp_path / "open_clip_config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"open_clip_config\.json of lab/clip is not open_clip's"):
        from_config_file("lab/clip", file)


def test_names():
    assert split_name("local-dir:runs/a") == ("runs/a", None)
    assert split_name(r"open_clip:ViT-B-32:C:\weights.pt") == (r"C:\weights.pt", "ViT-B-32")
    for wrong in ("open_clip:ViT-B-32", "open_clip:", "open_clip::weights.pt"):
        with pytest.raises(ValueError, match="expected open_clip:MODEL:FILE"):
            split_name(wrong)
    with pytest.raises(ValueError, match="no such weights file"):
        from_file("nowhere.pt", "ViT-B-32")


def test_a_folder_without_weights_says_so(tmp_path):
    file = tmp_path / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": PLAIN}))
    with pytest.raises(OSError, match=r"no weights; expected one of open_clip_model\.safetensors"):
        from_config_file(str(tmp_path), file).weights()
