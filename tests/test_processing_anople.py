"""`AnoPLeProcessor`: views, prompts with slots, decisions."""

import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf import AnoPLeConfig, AnoPLeOutput, AnoPLeProcessor
from anople_hf.data import load_inspection_data


def test_the_whole_photo_stays_in_view(processor):
    """No crop: a bright column at the very border survives."""
    photo = np.zeros((100, 300, 3), np.uint8)
    photo[:, -12:] = 255
    pixels = processor(images=photo)["pixel_values"]
    assert pixels.shape == (1, 3, 48, 48)
    assert pixels[0, 0, :, -1].mean() > pixels[0, 0, :, :40].max()


def test_every_kind_of_input_gives_the_same_view(processor, tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "p.png")
    kinds = [
        photo,
        Image.fromarray(photo),
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        (tmp_path / "p.png").read_bytes(),
    ]
    views = processor(images=kinds)["pixel_values"]
    assert views.shape[0] == 5 and (views == views[:1]).all()


def test_prompts_reserve_slots_behind_sos(processor):
    prompts = processor.class_prompts(["gear", "metal_nut"])
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    tokenizer = processor.tokenizer
    assert ids.shape == mask.shape and ids.shape[:2] == (2, 2)
    assert (ids[..., 0] == tokenizer.bos_token_id).all()
    for label, word in ((0, "gear ."), (1, "abnormal gear .")):
        row = ids[label, 0][mask[label, 0].bool()].tolist()
        assert tokenizer.decode(row[1 + processor.text_slots : -1]).strip() == word
        assert row[-1] == tokenizer.eos_token_id and row.count(tokenizer.eos_token_id) == 1
    assert mask.sum(dim=-1).max() == ids.shape[-1]  # trimmed to the longest


def test_prompt_type_object_hides_the_class(tiny_clip, make_model):
    config = make_model(prompt_type="object").config
    ids = AnoPLeProcessor.from_backbone(tiny_clip, config).class_prompts(["gear", "nut"])["input_ids"]
    assert torch.equal(ids[:, 0], ids[:, 1])


def test_too_long_and_missing_names(processor):
    with pytest.raises(ValueError, match="takes .* tokens"):
        processor.class_prompts(["gear", "x" * 60])
    with pytest.raises(ValueError, match="empty"):
        processor.class_prompts([])
    with pytest.raises(ValueError, match="empty"):
        processor(images=[])


def test_a_column_of_a_data_set_is_a_batch(processor, drawn):
    column = load_inspection_data(drawn, categories=["capsule"])["test"]["image"]
    assert processor(images=column)["pixel_values"].shape[0] == len(column) > 1


def output(scores=(0.1, 0.3), thresholds=(0.2, 0.2)):
    maps = torch.zeros(2, 48, 48)
    maps[:, 8:16, 24:40] = torch.tensor(scores)[:, None, None]
    return AnoPLeOutput(
        scores=torch.tensor(scores),
        anomaly_maps=maps,
        thresholds=torch.tensor(thresholds),
        pixel_thresholds=torch.tensor([0.05, 0.05]),
    )


def test_decisions_and_regions_at_the_photos_size(processor):
    good, bad = processor.post_process(output(), target_sizes=[(48, 48), (96, 144)])
    assert good["label"] == "normal" and not good["mask"].any() and good["regions"] == []
    assert bad["label"] == "defective" and bad["score"] == pytest.approx(0.3)
    assert bad["heat_map"].shape == bad["mask"].shape == (96, 144)
    left, top, right, bottom = bad["regions"][0]["box"]
    assert abs(left - 72) <= 4 and abs(right - 120) <= 4 and abs(top - 16) <= 3 and abs(bottom - 32) <= 3
    assert len(bad["regions"]) == 1


def test_a_defective_part_shows_its_place_though_its_map_stays_low(processor):
    result = processor.post_process(output(), pixel_thresholds=0.9)[1]
    assert result["label"] == "defective" and result["pixel_threshold"] == pytest.approx(0.9)
    assert result["mask_level"] == pytest.approx(0.9 * 0.3) and result["regions"][0]["box"] == (24, 8, 40, 16)
    good = processor.post_process(output(), pixel_thresholds=0.9)[0]
    assert good["mask_level"] is None and not good["regions"]
    flat = output()
    flat.anomaly_maps = torch.zeros(2, 48, 48)  # nothing stands out: nothing is marked
    assert processor.post_process(flat)[1]["label"] == "defective" and not processor.post_process(flat)[1]["regions"]


def test_own_threshold_wins_and_none_gives_no_label(processor):
    assert processor.post_process(output(), thresholds=0.05)[0]["label"] == "defective"
    without = output()
    without.thresholds = None
    result = processor.post_process(without)[0]
    assert result["label"] is None and result["threshold"] is None
    with pytest.raises(ValueError, match="1 target sizes for 2 images"):
        processor.post_process(output(), target_sizes=[(1, 1)])


def test_backends_agree_to_one_level(tiny_clip, tmp_path):
    """With torchvision beside, PIL does the work unless asked; asked, it differs by one of 255 levels at most."""
    pytest.importorskip("torchvision")
    built = AnoPLeProcessor.from_backbone(tiny_clip, AnoPLeConfig())
    built.save_pretrained(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = built(images=photo)["pixel_values"]
    assert torch.equal(AnoPLeProcessor.from_pretrained(tmp_path)(images=photo)["pixel_values"], expected)
    other = AnoPLeProcessor.from_pretrained(tmp_path, backend="torchvision")
    assert type(other.image_processor) is not type(built.image_processor)
    level = 1 / (255 * min(built.image_processor.image_std))
    assert (other(images=photo)["pixel_values"] - expected).abs().max() <= 1.01 * level
