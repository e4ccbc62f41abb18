"""The patch decoder: shapes, its start as plain projection, and that cells see neighbors but not the batch."""

import pytest
import torch

from anople_hf.decoder import PatchDecoder


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
