"""The patch decoder: shapes, its start as plain projection, and that cells see neighbors but not the batch."""

import pytest
import torch

from anople_hf import AnoPLeModel
from anople_hf.decoder import PatchDecoder, value_tokens


def made(upsample=2, trained=True):
    torch.manual_seed(0)
    decoder = PatchDecoder(12, 8, upsample=upsample)
    decoder.reset_parameters()
    if trained:
        torch.nn.init.normal_(decoder.refine.weight)
    return decoder.eval()


@pytest.mark.parametrize(("upsample", "side"), [(1, 15), (2, 30), (4, 60)])
def test_shape(upsample, side):
    assert made(upsample)(torch.randn(2, 225, 12)).shape == (2, 8, side, side)


@pytest.mark.parametrize("kernel", [1, 5])
def test_another_filter_keeps_the_size(kernel):
    assert PatchDecoder(12, 8, kernel=kernel)(torch.randn(2, 25, 12)).shape == (2, 8, 10, 10)


def test_starts_as_projection_of_each_patch():
    decoder, tokens = made(1, trained=False), torch.randn(2, 9, 12)
    expected = (tokens @ decoder.project.weight.T).transpose(1, 2).unflatten(2, (3, 3))
    assert torch.allclose(decoder(tokens), expected, atol=1e-6)


def test_projecting_before_upsampling_is_the_same():
    decoder, tokens = made(2, trained=False), torch.randn(1, 9, 12)
    upsampled = torch.nn.functional.interpolate(
        tokens.transpose(1, 2).unflatten(2, (3, 3)), scale_factor=2.0, mode="bilinear"
    )
    expected = torch.einsum("bchw,dc->bdhw", upsampled, decoder.project.weight)
    assert torch.allclose(decoder(tokens), expected, atol=1e-6)


def test_images_of_a_batch_do_not_see_each_other():
    decoder, tokens = made().train(), torch.randn(4, 9, 12)
    assert torch.allclose(decoder(tokens)[:1], decoder(tokens[:1]), atol=1e-6)


def test_refinement_sees_the_neighborhood():
    decoder, tokens = made(1), torch.zeros(1, 25, 12)
    moved = tokens.clone()
    moved[0, 12] = torch.randn(12)
    changed = (decoder(moved) - decoder(tokens)).abs().sum(dim=1)[0] > 1e-6
    assert changed[1:4, 1:4].all() and changed.sum() == 9


@torch.no_grad()
def test_values_are_those_of_the_last_block_with_attention_to_oneself_alone(tiny_clip):
    vision = AnoPLeModel.from_backbone(tiny_clip).clip.vision_model
    hidden = torch.randn(2, 225, vision.config.hidden_size)
    last = vision.encoder.layers[-1]
    assert len(vision.encoder.layers) > 2
    normed = last.layer_norm1(hidden)
    attention = torch.eye(225)[None, None].expand(2, 1, -1, -1)  # a patch attends to itself, and so to its value
    values = (attention @ last.self_attn.v_proj(normed)[:, None])[:, 0]
    expected = vision.post_layernorm(last.self_attn.out_proj(values))
    assert torch.allclose(value_tokens(vision, hidden), expected, atol=1e-5)


@torch.no_grad()
def test_a_new_decoder_starts_at_the_scale_of_its_input():
    torch.manual_seed(0)
    decoder = PatchDecoder(400, 64)
    decoder.reset_parameters()
    assert decoder.project(torch.randn(200, 400)).std().item() == pytest.approx(1, rel=0.1)
    assert decoder.spatial.weight.abs().max() <= 1 / 3 < 1.05 * decoder.spatial.weight.abs().max()
