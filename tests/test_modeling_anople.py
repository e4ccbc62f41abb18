"""`AnoPLeModel`: scores from their parts, memory, persistence, errors."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoProcessor, CLIPModel

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.scoring import abnormal_probability, fuse
from anople_hf.thresholds import Thresholds


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    torch.nn.init.normal_(model.decoder.refine.weight, std=0.1)
    model.memorize(photos[:2], "gear", names=["a.png", "b.png"])
    model.memorize(photos[2:4], "nut")
    model.memory.common = Thresholds(0.125, 0.0625)
    model.memory.update("gear", thresholds=Thresholds(0.25, 0.0625))
    return model.eval()


@torch.no_grad()
def test_decoder_starts_as_the_plain_projection(tiny_clip, photos):
    """MaskCLIP's features: CLIP's own projection of every patch, until the refinement has learned something."""
    model = AnoPLeModel.from_backbone(tiny_clip)
    with torch.no_grad():
        _, tokens, _ = model.encode_image(photos)
        plain = model.clip.visual_projection(tokens).transpose(1, 2).unflatten(2, (3, 3))
        enlarged = torch.nn.functional.interpolate(plain, scale_factor=2.0, mode="bilinear")
        assert torch.allclose(model.decoder(tokens), enlarged, atol=1e-6)
        from_noise = AnoPLeModel.from_backbone(tiny_clip, decoder_init="random")
        assert not torch.allclose(from_noise.decoder(tokens), enlarged, atol=1e-2)


def test_score_follows_equations_9_15_and_16(taught, photos):
    output = taught(photos)
    assert output.scores.shape == (6,) and output.anomaly_maps.shape == (6, 48, 48)
    fused = fuse(
        torch.nn.functional.interpolate(output.decoder_maps[:, None], size=(48, 48), mode="bilinear")[:, 0],
        torch.nn.functional.interpolate(output.memory_maps[:, None], size=(48, 48), mode="bilinear")[:, 0],
    )
    assert torch.allclose(output.scores, fuse(output.image_probabilities, fused.amax(dim=(1, 2))), atol=1e-6)
    expected = abnormal_probability(output.image_features, taught.text_features, 0.07)
    assert torch.equal(output.image_probabilities, expected)


def maskclip(model, photos):
    """M-hat by hand: every patch's value in the last block, projected, compared with the two texts, then enlarged."""
    vision = model.clip.vision_model
    before = vision(
        photos, prompts=model.prompts.for_vision(), prefix=model.prompts.prefix(torch.full((len(photos),), 4)),
        output_hidden_states=True,
    ).hidden_states[-2][:, 1:10]  # fmt: skip
    block, linear, norm = vision.encoder.layers[-1], torch.nn.functional.linear, torch.nn.functional.layer_norm

    def normed(x, layer):
        return norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)

    attention = block.self_attn
    values = linear(normed(before, block.layer_norm1), attention.v_proj.weight, attention.v_proj.bias)
    values = linear(values, attention.out_proj.weight, attention.out_proj.bias)
    dense = linear(normed(values, vision.post_layernorm), model.clip.visual_projection.weight)
    dense = dense.transpose(1, 2).unflatten(2, (3, 3))
    dense = torch.nn.functional.interpolate(dense, scale_factor=2.0, mode="bilinear")
    cosines = torch.einsum("bdhw,kd->bkhw", torch.nn.functional.normalize(dense, dim=1), model.text_features)
    return (cosines / model.config.temperature).softmax(dim=1)[:, 1]


@torch.no_grad()
def test_the_map_starts_as_that_of_maskclip(make_model, photos):
    model, attended = make_model(), make_model(decoder_tokens="last")
    expected = maskclip(model, photos)
    assert torch.allclose(model(photos, branch="prompt").decoder_maps, expected, atol=1e-5)
    assert not torch.allclose(attended(photos, branch="prompt").decoder_maps, expected, atol=1e-2)
    shallow = make_model(prompt_depth=1)  # the last block's own prompts are no part of what its values are made of
    assert torch.allclose(shallow(photos, branch="prompt").decoder_maps, maskclip(shallow, photos), atol=1e-5)


@torch.no_grad()
def test_values_of_patches_cost_two_projections_and_no_second_pass(make_model, photos):
    calls = []
    model = make_model(num_text_prompts=0)
    for module in model.clip.vision_model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, given, __: calls.append(given[0].shape[1]))
    model(photos, branch="prompt")
    tokens = 1 + 9 + 1 + 4
    assert sorted(calls) == [9] * 2 + [tokens] * 6 * 4  # q, k, v, out and the two of the MLP, in 4 layers


@torch.no_grad()
def test_text_aggregation_weighs_long_vectors(make_model, processor):
    """Mean of unit vectors against mean of raw ones: equal for one class, different for two."""
    vectors = {}
    for how in ("unit_mean", "mean"):
        model = make_model(text_aggregation=how)
        vectors[how] = [model.encode_text(**processor.class_prompts(names)) for names in (["gear"], ["gear", "nut"])]
    assert torch.allclose(vectors["mean"][0], vectors["unit_mean"][0], atol=1e-6)
    assert not torch.allclose(vectors["mean"][1], vectors["unit_mean"][1], atol=1e-6)


@torch.no_grad()
def test_branches(taught, photos):
    prompt, memory = taught(photos, branch="prompt"), taught(photos, branch="memory")
    assert prompt.memory_maps is None and memory.decoder_maps is None and memory.image_probabilities is None
    assert torch.equal(memory.scores, memory.memory_maps.amax(dim=(1, 2)))
    assert memory.scores[:4].max() < 1e-6 < memory.scores[4:].min()  # remembered photos have no distance
    assert torch.allclose(prompt.scores, fuse(prompt.image_probabilities, prompt.decoder_maps.amax(dim=(1, 2))))
    assert prompt.thresholds is None  # thresholds were learned for the full score


@torch.no_grad()
def test_photos_are_judged_with_a_temperature_of_their_own(taught, photos):
    """What is learned from keeps tau; where photos are judged, logits are those of tau times tau / score tau."""
    sharp = taught(photos)
    taught.config.score_temperature = 10 * taught.config.temperature
    soft = taught(photos)
    logits = torch.logit(sharp.image_probabilities.double()) / 10
    assert torch.allclose(torch.logit(soft.image_probabilities.double()), logits, atol=1e-4)
    assert torch.equal(sharp.memory_maps, soft.memory_maps)
    learned_from = taught.train()(photos, branch="prompt").image_probabilities
    assert torch.allclose(learned_from, sharp.image_probabilities, atol=1e-6)


@torch.no_grad()
def test_text_tower_does_not_run_in_scoring(taught, photos):
    calls = []
    handle = taught.clip.text_model.register_forward_hook(lambda *_: calls.append(1))
    taught(photos)
    assert not calls
    taught(photos, branch="prompt", input_ids=torch.tensor([[[63, 3, 9, 9, 9, 9, 9, 9, 9, 64]]] * 2))
    handle.remove()
    assert len(calls) == 1


@torch.no_grad()
def test_one_vision_pass_per_batch(taught, photos):
    calls = []
    taught.clip.vision_model.register_forward_hook(lambda *_: calls.append(1))
    taught(photos)
    assert len(calls) == 1


def test_batch_size_and_order_change_no_score(taught, photos):
    together = taught(photos).scores
    alone = torch.cat([taught(photo[None]).scores for photo in photos])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(taught(photos.flip(0)).scores.flip(0), together, atol=1e-6)


@torch.no_grad()
def test_thresholds_follow_the_route(taught, photos):
    assert taught(photos).thresholds.tolist() == [0.125] * 6
    assert taught(photos, category="gear").thresholds.tolist() == [0.25] * 6
    assert taught(photos[:1], category=["nut"]).thresholds.isnan().all()


@torch.no_grad()
def test_an_untold_product_is_recognized_and_has_its_own_threshold(taught, photos):
    taught.memorize(photos[3:], "nut")
    taught.config.memory_search = "product"
    assert taught(photos, category="gear").products is None
    found = taught(photos)
    names = taught.memory.names(found.products)
    assert names == ["gear"] * 2 + ["nut"] * 4  # each photo is known
    assert found.thresholds.tolist() == [0.25] * 2 + [0.125] * 4  # nuts have none of their own: the common one
    told = taught(photos, category=names)
    assert torch.allclose(found.scores, told.scores, atol=1e-6)
    assert torch.allclose(found.anomaly_maps, told.anomaly_maps, atol=1e-6)


@pytest.mark.parametrize("first", ["memory", "both"])
@pytest.mark.parametrize("layers", [[0], [0, 1]])
def test_what_the_memory_compares_needs_only_the_first_layers(first, layers, make_model, photos, monkeypatch):
    """The same bits as the whole tower's, whichever runs first; the layers behind them are not run."""
    model = make_model(memory_layers=layers)
    if first == "both":
        model.encode_image(photos, layers=layers)
    ran = []
    for index, layer in enumerate(model.clip.vision_model.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    found = model.encode_memory(photos)
    assert ran == list(range(max(layers) + 1)) and max(layers) + 1 <= len(model.clip.vision_model.encoder.layers)
    assert torch.equal(found, model.encode_image(photos, layers=layers)[2])
    assert torch.equal(found, model.encode_memory(photos))
    local = torch.zeros(len(photos), dtype=torch.long)
    assert torch.equal(model.encode_memory(photos, local), model.encode_image(photos, local, layers)[2])


def test_memorize_adds_a_product_and_remove_takes_it_out(taught, photos):
    before = taught(photos)
    taught.memorize(photos[4:], "cap")
    assert taught.memory.categories == ["gear", "nut", "cap"]
    assert taught(photos[4:], category="cap", branch="memory").scores.max() < 1e-6
    taught.memorize(photos[4:], "cap")  # the same photos once more
    assert len(taught.memory.references("cap")) == 2
    taught.remove("cap")
    after = taught(photos)
    assert torch.equal(before.scores, after.scores)
    taught.remove("gear")
    assert taught.memory.thresholds_of("gear") is None and taught.memory.thresholds_of() is not None


def test_gradients_reach_every_learned_part_and_never_clip(make_model, tiny_clip, photos):
    model = make_model().train()
    torch.nn.init.normal_(model.decoder.refine.weight, std=0.1)  # it starts at 0 and would block its own inputs
    prompts = AnoPLeProcessor.from_backbone(tiny_clip, model.config).class_prompts(["gear"])
    output = model(photos[:5], branch="prompt", views=torch.arange(5), **prompts)
    (output.scores.sum() + output.decoder_maps.square().sum()).backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # depth 4 of 4 layers: every prompt layer counts
    assert silent == []
    assert not [n for n, p in model.clip.named_parameters() if p.grad is not None or p.requires_grad]


@pytest.mark.parametrize("save_backbone", [None, True])
@torch.no_grad()
def test_round_trip_is_bit_identical(taught, photos, tmp_path, save_backbone):
    expected = taught(photos)
    taught.save_pretrained(tmp_path, save_backbone=save_backbone)
    for loaded in (AnoPLeModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        output = loaded(photos)
        for name in ("scores", "anomaly_maps", "thresholds", "memory_maps", "decoder_maps"):
            assert torch.equal(output[name], expected[name]), name
        assert torch.equal(loaded(photos, category="gear").scores, taught(photos, category="gear").scores)
        assert [r.name for r in loaded.memory.references("gear")] == ["a.png", "b.png"]
        assert not any(p.requires_grad for p in loaded.clip.parameters())
        assert all(p.requires_grad for p in loaded.prompts.parameters())


def test_checkpoint_is_small_unless_asked(taught, tmp_path):
    from safetensors import safe_open

    def keys(folder):
        with safe_open(folder / "model.safetensors", "pt") as file:
            return set(file.keys())

    taught.save_pretrained(tmp_path / "small")
    taught.save_pretrained(tmp_path / "alone", save_backbone=True)
    assert not [key for key in keys(tmp_path / "small") if key.startswith("clip.")]
    assert {f"clip.{key}" for key in taught.clip.state_dict()} < keys(tmp_path / "alone")
    assert json.loads((tmp_path / "alone/config.json").read_text())["backbone"] is None
    assert taught.config.backbone is not None  # saving changed the copy on disk only


def test_fresh_process_gives_the_same_bits(taught, photos, tmp_path):
    taught.save_pretrained(tmp_path)
    torch.save(photos, tmp_path / "photos.pt")
    code = (
        "import sys, torch, anople_hf; from transformers import AutoModel;"
        f"torch.set_num_threads({torch.get_num_threads()});"
        "p = torch.load(sys.argv[1] + '/photos.pt'); m = AutoModel.from_pretrained(sys.argv[1]);"
        "o = m(p); torch.save([o.scores.detach(), o.anomaly_maps.detach()], sys.argv[1] + '/out.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    scores, maps = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        expected = taught(photos)
    assert torch.equal(scores, expected.scores) and torch.equal(maps, expected.anomaly_maps)


def test_what_was_taught_in_inference_mode_serves_calls_with_gradients(make_model, photos):
    model = make_model(smoothing_sigma=1.75)  # a blur that no other test has made
    with torch.inference_mode():
        model.memorize(photos[:2], "gear")
        expected = model(photos)
    output = model(photos)
    assert output.scores.requires_grad and torch.allclose(output.scores, expected.scores, atol=1e-6)
    output.decoder_maps.sum().backward()


def test_load_without_memory(taught, photos, tmp_path):
    taught.save_pretrained(tmp_path)
    loaded = AnoPLeModel.from_pretrained(tmp_path, memory=False)
    with pytest.raises(ValueError, match="no memory bank"):
        loaded(photos)
    assert loaded(photos, branch="prompt").scores.shape == (6,)


def test_thresholds_of_an_older_config_move_into_the_bank(taught, tmp_path, caplog):
    taught.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "calibration" not in config
    entry = {"threshold": 9.0, "pixel_threshold": 9.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"calibration": {"gear": entry, "nut": entry}}))
    loaded = AnoPLeModel.from_pretrained(tmp_path)
    assert "thresholds in config.json are not used (gear)" in caplog.text and "anople threshold" in caplog.text
    assert loaded.memory.thresholds_of("gear").threshold == 0.25  # the bank's holds
    assert loaded.memory.thresholds_of("nut").threshold == 9.0  # it had none
    loaded.save_memory(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_views_are_saved_beside_the_bank(taught, photos, tmp_path):
    taught.save_pretrained(tmp_path)
    loaded = AnoPLeModel.from_pretrained(tmp_path)
    assert loaded.memory.views.keys() == taught.memory.views.keys() == taught.memory.digests
    digest = loaded.memory.references("gear")[0].digest
    assert (loaded.memory.views[digest].pixels() - photos[0]).abs().max() < 0.02
    assert loaded.memory.views[digest].image().size == (48, 48)
    (tmp_path / "memory_views.safetensors").unlink()
    assert AnoPLeModel.from_pretrained(tmp_path).memory.views == {}


def test_stale_bank_is_refused(taught, tmp_path, make_model, photos):
    taught.save_pretrained(tmp_path / "a")
    other = make_model(seed=5)
    other.memorize(photos, "gear")
    other.save_pretrained(tmp_path / "b")
    (tmp_path / "b/memory_bank.safetensors").replace(tmp_path / "a/memory_bank.safetensors")
    with pytest.raises(ValueError, match="another model"):
        AnoPLeModel.from_pretrained(tmp_path / "a")


def test_changed_backbone_is_refused(taught, tmp_path, tiny_clip):
    import shutil

    shutil.copytree(tiny_clip, tmp_path / "clip")
    taught.config.backbone = str(tmp_path / "clip")
    taught.save_pretrained(tmp_path / "run")
    clip = CLIPModel.from_pretrained(tmp_path / "clip")
    torch.nn.init.normal_(clip.vision_model.embeddings.patch_embedding.weight)
    clip.save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="another version of the backbone"):
        AnoPLeModel.from_pretrained(tmp_path / "run")


def test_missing_backbone_names_it(taught, tmp_path):
    taught.config.backbone = str(tmp_path / "gone")
    taught.save_pretrained(tmp_path / "run")
    with pytest.raises(Exception, match="gone"):
        AnoPLeModel.from_pretrained(tmp_path / "run")


@torch.no_grad()
def test_half_precision_checkpoint_loads_with_its_bank(taught, photos, tmp_path):
    taught.save_pretrained(tmp_path)
    half = AnoPLeModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.memory.categories == ["gear", "nut"]
    assert torch.allclose(half(photos.bfloat16()).scores, taught(photos).scores, atol=0.05)


def test_errors_name_what_to_do(make_model, photos, tiny_clip):
    model = make_model()
    with pytest.raises(ValueError, match="memorize"):
        model(photos)
    model.memorize(photos, "gear")
    with pytest.raises(KeyError, match="unknown product 'bolt'; known: gear"):
        model(photos, category="bolt")
    untaught = AnoPLeModel.from_backbone(tiny_clip)
    with pytest.raises(ValueError, match="set_class_names"):
        untaught(photos, branch="prompt")
    with pytest.raises(ValueError, match="3 names for 6 images"):
        model.memorize(photos, "gear", names=["a", "b", "c"])


def test_processor_round_trip(taught, processor, tmp_path):
    taught.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, AnoPLeProcessor) and again.text_slots == taught.config.text_slots
    assert torch.equal(again.class_prompts(["gear"])["input_ids"], processor.class_prompts(["gear"])["input_ids"])
