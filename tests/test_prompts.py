"""Coupled prompts and their hooks: what reaches which tower, and that CLIP itself is never changed."""

import copy
import threading

import pytest
import torch
from transformers import CLIPModel

from anople_hf.prompts import CoupledPrompts, attach_prompts, write_slots

MODES = {
    "both": {"text", "visual", "vision_to_text", "text_to_vision"},
    "t2v": {"text", "visual", "text_to_vision"},
    "v2t": {"text", "visual", "vision_to_text"},
    "independent": {"text", "visual"},
    "text": {"text"},
    "visual": {"visual"},
}


def gradients(model, prompts, photos):
    """Names of the prompt parts that get a gradient from one image-text product, over all five views."""
    views = torch.arange(5)
    image = model.encode_image(photos[:5], views)[0]
    (image @ model.encode_text(**prompts).T).square().sum().backward()
    return {name.split(".")[0] for name, p in model.prompts.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("coupling", MODES)
def test_coupling_decides_what_learns(make_model, tiny_clip, photos, coupling):
    from anople_hf import AnoPLeProcessor

    model = make_model(coupling=coupling)
    prompts = AnoPLeProcessor.from_backbone(tiny_clip, model.config).class_prompts(["gear", "nut"])
    assert gradients(model, prompts, photos) == MODES[coupling] | {"scale_prefix"}
    assert all(p.grad is None for p in model.clip.parameters())


def by_hand(model, photos, ids):
    """Both towers with prompts written as plain loops over CLIP's own layers: z_0 (B, d) and texts (N, d)."""
    linear, normalize = torch.nn.functional.linear, torch.nn.functional.normalize
    p = model.prompts
    text, visual, joined, seen = [], [], model.clip.text_model, model.clip.vision_model
    for j in range(p.depth):  # eq. 6
        down, up = p.vision_to_text[j], p.text_to_vision[j]
        text.append(torch.cat([p.text[j], linear(p.visual[j], down.weight, down.bias)]))
        visual.append(torch.cat([p.visual[j], linear(p.text[j], up.weight, up.bias)]))

    patches = seen.embeddings.patch_embedding(photos).flatten(2).transpose(1, 2)
    hidden = torch.cat([seen.embeddings.class_embedding.expand(len(photos), 1, -1), patches], dim=1)
    hidden = seen.pre_layrnorm(hidden + seen.embeddings.position_embedding.weight)
    first = torch.cat([p.scale_prefix[4][None], visual[0]])  # without positions, through the same norm
    hidden = torch.cat([hidden, seen.pre_layrnorm(first).expand(len(photos), -1, -1)], dim=1)
    for index, layer in enumerate(seen.encoder.layers):
        if 0 < index < p.depth:
            hidden = torch.cat([hidden[:, :-8], visual[index].expand(len(photos), -1, -1)], dim=1)
        hidden = layer(hidden, None)
    image = model.clip.visual_projection(seen.post_layernorm(hidden[:, 0]))

    words = joined.embeddings.token_embedding(ids)
    words[:, 1:9] = text[0]
    hidden = words + joined.embeddings.position_embedding.weight[: ids.shape[1]]  # prompts have places in a sentence
    length = ids.shape[1]
    causal = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    for index, layer in enumerate(joined.encoder.layers):
        if 0 < index < p.depth:
            hidden = torch.cat([hidden[:, :1], text[index].expand(len(ids), -1, -1), hidden[:, 9:]], dim=1)
        hidden = layer(hidden, causal)
    ends = (ids == model.config.text_config.eos_token_id).int().argmax(dim=1)
    pooled = joined.final_layer_norm(hidden)[torch.arange(len(ids)), ends]
    return normalize(image, dim=-1), normalize(model.clip.text_projection(pooled), dim=-1)


@torch.no_grad()
def test_both_towers_equal_a_prompted_clip_written_by_hand(make_model, tiny_clip, photos):
    """Layer norms, positions, slots and coupling: what of them is left out or moved, shows here."""
    from anople_hf import AnoPLeProcessor

    model = make_model(prompt_depth=3)
    model.prompts.reset_parameters(std=1.0)  # as large as tokens are, so that they count
    ids = AnoPLeProcessor.from_backbone(tiny_clip, model.config).class_prompts(["gear"])["input_ids"]
    image, text = by_hand(model, photos, ids[:, 0])
    assert torch.allclose(model.encode_image(photos)[0], image, atol=1e-5)
    assert torch.allclose(model.encode_text(ids), text, atol=1e-5)


@pytest.mark.parametrize(("side", "other", "way"), [("image", "text", "t2v"), ("text", "visual", "v2t")])
def test_a_gradient_crosses_over_only_where_the_coupling_lets_it(make_model, tiny_clip, photos, side, other, way):
    """From the image vector back to the prompts of the text, and from the text vectors back to those of vision."""
    from anople_hf import AnoPLeProcessor

    for coupling in ("both", way, "independent", "t2v" if way == "v2t" else "v2t"):
        model = make_model(coupling=coupling)
        if side == "image":
            found = model.encode_image(photos[:2])[0]
        else:
            prompts = AnoPLeProcessor.from_backbone(tiny_clip, model.config).class_prompts(["gear", "nut"])
            found = model.encode_text(**prompts)
        found[:, 0].sum().backward()
        gradient = getattr(model.prompts, other).grad
        reached = gradient is not None and bool(gradient.any(dim=-1).all())
        assert reached is (coupling in ("both", way)), coupling


def test_every_row_of_the_prefix_learns(make_model, photos):
    model = make_model()
    model.encode_image(photos[:5], torch.arange(5))[0].square().mean(dim=0)[0].backward()
    assert model.prompts.scale_prefix.grad.abs().sum(dim=1).gt(0).all()


def test_without_prompts_and_prefix_the_model_is_clip_bit_for_bit(tiny_clip, make_model, photos):
    model = make_model(num_text_prompts=0, num_visual_prompts=0, scale_prefix=False)
    clip = CLIPModel.from_pretrained(tiny_clip).eval()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(clip.get_image_features(photos).pooler_output, dim=-1)
        assert torch.equal(model.encode_image(photos)[0], expected)
        ids = torch.tensor([[[63, 3, 9, 64]], [[63, 4, 4, 64]]])
        plain = torch.nn.functional.normalize(clip.get_text_features(ids[:, 0]).pooler_output, dim=-1)
        assert torch.allclose(model.encode_text(ids), plain, atol=1e-7)


def test_hooked_clip_without_arguments_is_untouched(tiny_clip, photos):
    plain, hooked = (CLIPModel.from_pretrained(tiny_clip).eval() for _ in range(2))
    attach_prompts(hooked)
    assert plain.state_dict().keys() == hooked.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(plain.vision_model(photos)[0], hooked.vision_model(photos)[0])


def test_deep_prompts_replace_their_slots_and_the_token_count_is_constant(make_model, photos):
    model = make_model(prompt_depth=3)
    states = model.clip.vision_model(
        photos,
        prompts=model.prompts.for_vision(),
        prefix=model.prompts.prefix(torch.full((6,), 4)),
        output_hidden_states=True,
    ).hidden_states
    tokens = 1 + 9 + 1 + 8
    assert {state.shape[1] for state in states} == {tokens}


def test_depth_one_equals_deep_prompts_that_nobody_wrote(make_model, photos):
    model = make_model(prompt_depth=1)
    prompts = model.prompts.for_vision()
    prefix = model.prompts.prefix(torch.full((6,), 4))
    first = model.clip.vision_model(photos, prompts=prompts, prefix=prefix)[0]
    empty = prompts[0].new_zeros(0, prompts[0].shape[1])
    padded = model.clip.vision_model(photos, prompts=(prompts[0], empty, empty), prefix=prefix)[0]
    assert torch.equal(first, padded)


def test_prefix_and_every_prompt_change_the_image_features(make_model, photos):
    model = make_model(prompt_depth=3)
    before = model.encode_image(photos)[0]
    local = model.encode_image(photos, torch.zeros(6, dtype=torch.long))[0]
    assert (before - local).abs().max() > 1e-5
    for layer in range(3):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.prompts.visual[layer] += torch.randn(4, 32)  # a constant would vanish in the layer norm
        assert (changed.encode_image(photos)[0] - before).abs().max() > 1e-5


def test_image_features_do_not_depend_on_the_class_list(make_model, photos):
    few, many = make_model(names=("gear",)), make_model(names=("gear", "nut", "cap"))
    assert torch.equal(few.encode_image(photos)[0], many.encode_image(photos)[0])
    assert not torch.equal(few.text_features, many.text_features)


def test_padding_of_the_prompts_is_exact(make_model, tiny_clip):
    from anople_hf import AnoPLeProcessor

    model = make_model()
    prompts = AnoPLeProcessor.from_backbone(tiny_clip, model.config).class_prompts(["gear", "nut"])
    ids = torch.nn.functional.pad(prompts["input_ids"], (0, 6), value=model.clip.text_model.eos_token_id)
    mask = torch.nn.functional.pad(prompts["attention_mask"], (0, 6))
    assert torch.allclose(model.encode_text(**prompts), model.encode_text(ids, mask), atol=1e-6)


def test_two_threads_with_two_prompt_sets_on_one_clip(make_model, photos):
    model = make_model()
    sets = [tuple(p * scale for p in model.prompts.for_vision()) for scale in (1.0, 30.0)]
    prefix = model.prompts.prefix(torch.full((6,), 4))
    with torch.no_grad():
        right = [model.clip.vision_model(photos, prompts=p, prefix=prefix).pooler_output for p in sets]
    assert (right[0] - right[1]).abs().max() > 1e-2
    wrong = []

    def ask(index):
        with torch.no_grad():
            for _ in range(30):
                answer = model.clip.vision_model(photos, prompts=sets[index], prefix=prefix).pooler_output
                wrong.append(not torch.allclose(answer, right[index], atol=1e-5))

    threads = [threading.Thread(target=ask, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 60 and not any(wrong)


def test_deepcopy_is_independent(make_model, photos):
    model = make_model()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.prompts.visual += 5
        model.clip.vision_model.pre_layrnorm.weight.mul_(3)
    fresh = make_model()
    assert torch.equal(twin.encode_image(photos)[0], fresh.encode_image(photos)[0])


def test_write_slots_overwrites_only_the_slots():
    hidden = torch.zeros(2, 5, 3)
    written = write_slots(hidden, torch.ones(2, 3), start=1)
    assert written[:, 1:3].eq(1).all() and written[:, [0, 3, 4]].eq(0).all() and hidden.eq(0).all()


def test_parameter_counts_of_the_papers_backbone():
    """Method notes 4.2: J = 9, C_t = C_v = 4, d_t = 640, d_v = 896."""

    def count(**settings):
        widths = {"text_width": 640, "visual_width": 896, "num_views": 5}
        return sum(p.numel() for p in CoupledPrompts(9, 4, 4, **widths, **settings).parameters())

    assert count() == 10_395_520
    assert count(share_projections=True) == 1_208_192
    assert count(coupling="independent") == 55_296 + 4_480


def test_prompts_start_small_and_projections_keep_their_length():
    torch.manual_seed(0)
    prompts = CoupledPrompts(4, 8, 8, text_width=128, visual_width=192, num_views=5)
    prompts.reset_parameters()
    for name, parameter in prompts.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        spread = parameter.shape[-1] ** -0.5 if name.endswith("weight") else 0.02
        assert parameter.std().item() == pytest.approx(spread, rel=0.1), name
        assert abs(parameter.mean().item()) < 5 * spread / parameter.numel() ** 0.5, name
