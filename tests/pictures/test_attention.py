"""Attention of single tokens: real weights of the last layer, for the view that was asked for."""

import pytest
import torch

from anople_hf.pictures.attention import attention_maps


def test_maps_add_up_and_leave_the_model_as_it_was(make_model, photos):
    model = make_model()
    before, scores = model.clip.config.vision_config._attn_implementation, model(photos, branch="prompt").scores
    attention = model.clip.vision_model.encoder.layers[-1].self_attn
    hooks = dict(attention._forward_hooks)  # those that transformers installs when hidden states are asked for
    maps = attention_maps(model, photos)
    grid = model.config.grid_size
    for name in ("cls", "prefix"):
        assert maps[name].shape == (6, grid, grid)
        torch.testing.assert_close(maps[name].sum(dim=(1, 2)), torch.ones(6))
    assert model.clip.config.vision_config._attn_implementation == before
    torch.testing.assert_close(model(photos, branch="prompt").scores, scores)
    assert attention._forward_hooks == hooks


def test_the_maps_are_those_of_the_attention_by_hand(make_model, photos):
    model = make_model()
    attention = model.clip.vision_model.encoder.layers[-1].self_attn
    seen = []
    handle = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)),
        with_kwargs=True,
    )
    maps = attention_maps(model, photos[:1])
    handle.remove()
    hidden = seen[0][0]
    heads, width = attention.num_heads, attention.head_dim
    query, key = (part(hidden).view(-1, heads, width).transpose(0, 1) for part in (attention.q_proj, attention.k_proj))
    weights = torch.softmax(query @ key.transpose(1, 2) * width**-0.5, dim=-1).mean(dim=0)
    count = model.config.grid_size**2
    for name, place in (("cls", 0), ("prefix", 1 + count)):
        expected = weights[place, 1 : 1 + count] / weights[place, 1 : 1 + count].sum()
        torch.testing.assert_close(maps[name].flatten(), expected, atol=1e-6, rtol=1e-4)


def test_each_view_has_its_own_prefix(make_model, photos):
    model = make_model()
    whole, first, second = (attention_maps(model, photos[:1], view=view)["prefix"] for view in (None, 0, 1))
    assert not torch.allclose(first, second) and not torch.allclose(whole, first)


def test_without_a_prefix_there_is_cls_alone(make_model, photos):
    model = make_model(scale_prefix=False)
    assert set(attention_maps(model, photos)) == {"cls"}
    for view in (0, 7):
        with pytest.raises(ValueError, match="expected 0..3, and a model with a scale prefix"):
            attention_maps(model, photos, view=view)
