"""The shapes of the usual CLIPs, and other input sizes, through the whole product; random weights, two layers."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from anople_hf import AnoPLeConfig, AnoPLeModel, AnoPLeProcessor
from anople_hf.backbones import load_backbone
from anople_hf.data import load_inspection_data
from anople_hf.training import TrainingConfig, train

# Side, patch, vision width, heads; text width, heads; joint width.
VARIANTS = {
    "B/32": (224, 32, 768, 12, 512, 8, 512),
    "B/16": (224, 16, 768, 12, 512, 8, 512),
    "L/14": (224, 14, 1024, 16, 768, 12, 768),
    "L/14@336": (336, 14, 1024, 16, 768, 12, 768),
    "B/16+ 240": (240, 16, 896, 14, 640, 10, 640),
}


@pytest.fixture(scope="module")
def photos(drawn):
    return load_inspection_data(drawn, categories=["capsule"])["train"]


def make_clip(folder, tokenizer_folder, side, patch, width, heads, text_width, text_heads, joint):
    """A CLIP of true widths and grids; two layers and a thin MLP keep it quick."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    vision = {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": heads, "num_hidden_layers": 2}
    text = {"hidden_size": text_width, "intermediate_size": 64, "num_attention_heads": text_heads}
    text |= {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 40}
    text |= {"eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(
        projection_dim=joint, vision_config=vision | {"image_size": side, "patch_size": patch}, text_config=text
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return str(folder)


def through_the_product(backbone, photos, folder, **settings):
    """Train one step, remember, calibrate, save, reload, score; the reloaded model and its output on a new photo."""
    plan = TrainingConfig(
        shots=2, max_steps=1, batch_size=1, warmup_share=0, multi_scale=False, calibration_views=1,
        settings={"memory_layers": [0], **settings},
    )  # fmt: skip
    run = train(photos, plan, backbone=backbone, progress=False)
    assert np.isfinite(list(run.history[0].values())).all()
    assert run.model.decoder.refine.weight.any()  # it starts at 0
    run.save(folder)

    model, processor = AnoPLeModel.from_pretrained(folder).eval(), AnoPLeProcessor.from_pretrained(folder)
    assert sorted(run.shots["capsule"]) == sorted(reference.name for reference in model.memory.references("capsule"))
    shots = [row for row in photos if row["path"] in run.shots["capsule"]]
    new = next(row for row in photos if row["path"] not in run.shots["capsule"])
    with torch.no_grad():
        known, found = (model(processor(images=row["image"])["pixel_values"]) for row in (shots[0], new))
        before = run.model(run.processor(images=new["image"])["pixel_values"])
    assert torch.allclose(found.scores, before.scores, rtol=1e-5, atol=0)
    assert known.memory_maps.max() < 1e-5 < found.memory_maps.max()  # what was remembered is no distance from itself
    return model, found


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name, tiny_clip, tmp_path, photos):
    side, patch, *widths = VARIANTS[name]
    backbone = make_clip(tmp_path / "clip", tiny_clip, side, patch, *widths)
    model, output = through_the_product(backbone, photos, tmp_path / "run", decoder_upsample=1)
    grid = side // patch
    assert output.memory_maps.shape == output.decoder_maps.shape == (1, grid, grid)
    assert output.anomaly_maps.shape == (1, side, side)
    assert model.prompts.visual.shape[-1] == widths[0] and output.text_features.shape == (2, widths[-1])


@pytest.mark.parametrize("size", [448, 672])
def test_larger_input(size, tiny_clip, tmp_path, photos):
    backbone = make_clip(tmp_path / "clip", tiny_clip, 240, 16, 64, 2, 32, 2, 24)
    model, output = through_the_product(backbone, photos, tmp_path / "run", input_size=size)
    grid = size // 16
    assert (model.config.image_size, model.config.grid_size) == (size, grid)
    assert output.memory_maps.shape == (1, grid, grid) and output.decoder_maps.shape == (1, 2 * grid, 2 * grid)
    assert output.anomaly_maps.shape == (1, size, size)


def test_positions_are_interpolated_in_their_places(tiny_clip):
    """A grid twice as fine sees the old positions: each new one lies between its four old neighbors' values."""
    clip = load_backbone(tiny_clip)
    grid = 3
    with torch.no_grad():  # a position's vector is its row and column
        rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        weight = clip.vision_model.embeddings.position_embedding.weight
        weight.zero_()
        weight[1:, 0], weight[1:, 1] = rows.flatten().float(), columns.flatten().float()
        clip.vision_model.embeddings.patch_embedding.weight.zero_()
        found = clip.vision_model.embeddings(torch.zeros(1, 3, 96, 96), interpolate_pos_encoding=True)[0, 1:]
    found = found.unflatten(0, (6, 6))
    assert (found[1:, :, 0] >= found[:-1, :, 0]).all() and torch.allclose(found[..., 0], found[..., 1].T)
    assert found[2:4, 0, 0].mean() == pytest.approx(1, abs=1e-4)


def test_own_size_is_bit_equal_to_no_size(make_model, photos, tiny_clip):
    processor = AnoPLeProcessor.from_backbone(tiny_clip, make_model().config)
    pixels = processor(images=photos[:2]["image"])["pixel_values"]
    plain, same = make_model(), make_model(input_size=48)
    assert torch.equal(plain.encode_image(pixels, layers=[1])[2], same.encode_image(pixels, layers=[1])[2])
    assert plain.fingerprint() == same.fingerprint() != make_model(input_size=64).fingerprint()


def test_sizes_that_cannot_be_are_refused(make_model):
    config = load_backbone("embedded:tiny-clip").config.to_dict()
    for wrong, instead in ((450, 448), (10, 16), (0, 16), (-16, 16)):
        with pytest.raises(Exception, match=f"multiple of the backbone's patch of 16 pixels, for example {instead}"):
            AnoPLeConfig(backbone_config=config, input_size=wrong)
    # A grid that is not the configured one would cut prompts into the patches without a word.
    model = make_model(input_size=64)
    for side in (48, 80):
        with pytest.raises(ValueError, match=rf"views of {side} x {side} pixels, expected 64 x 64"):
            model.memorize(torch.zeros(1, 3, side, side), "gear")
