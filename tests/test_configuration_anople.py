"""`AnoPLeConfig`: defaults, derived values, and settings that must be refused."""

import pytest
from transformers import CLIPConfig

from anople_hf import AnoPLeConfig


def test_paper_backbone_gives_promptads_memory_layers():
    config = AnoPLeConfig(backbone_config=CLIPConfig(vision_config={"image_size": 240, "patch_size": 16}).to_dict())
    assert config.memory_layers == [2, 7]
    assert (config.grid_size, config.image_size, config.prompt_depth) == (15, 240, 9)


def test_prompt_depth_is_capped_at_the_shallower_tower():
    towers = CLIPConfig(vision_config={"num_hidden_layers": 6}, text_config={"num_hidden_layers": 4})
    assert AnoPLeConfig(backbone_config=towers).prompt_depth == 4


@pytest.mark.parametrize(
    ("coupling", "slots"), [("both", 7), ("v2t", 7), ("t2v", 3), ("independent", 3), ("text", 3), ("visual", 0)]
)
def test_text_slots_follow_the_coupling(coupling, slots):
    assert AnoPLeConfig(coupling=coupling, num_text_prompts=3, num_visual_prompts=4).text_slots == slots


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_depth": 0},
        {"num_text_prompts": -1},
        {"memory_layers": [12]},
        {"memory_layers": []},
        {"temperature": 0.0},
        {"score_temperature": 0.0},
        {"decoder_kernel": 2},
        {"smoothing_sigma": -1.0},
        {"coupling": "sideways"},
        {"prompt_depth": "9"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(Exception, match=next(iter(wrong))):
        AnoPLeConfig(**wrong)


def test_round_trip(tmp_path):
    config = AnoPLeConfig(memory_layers=[1, 3], class_names={"x": "gear"})
    config.save_pretrained(tmp_path)
    again = AnoPLeConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.backbone_config.vision_config.num_hidden_layers == 12
