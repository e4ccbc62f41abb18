"""The optimization: photos count alike however a step is split, and saving memory changes nothing else."""

import logging
import math
import re
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from anople_hf.data import load_inspection_data
from anople_hf.training import TrainingConfig, train
from anople_hf.training.latent import with_latent
from anople_hf.training.loop import above_chance, learn, parameter_groups, training_losses
from anople_hf.training.losses import dice_loss, equal_shares, image_loss


@pytest.fixture(scope="module")
def two_categories(drawn):
    return load_inspection_data(drawn, categories=["brass_gear", "capsule"])["train"]


def run(data, tiny_clip, **changes):
    beside = {key: changes.pop(key) for key in ("work_folder", "resume", "init_from") if key in changes}
    config = TrainingConfig(**{"shots": 2, "max_steps": 3, "batch_size": 4, "calibration_views": 2, **changes})
    return train(data, config, backbone=None if "init_from" in beside else tiny_clip, **beside)


@pytest.fixture(scope="module")
def plain(two_categories, tiny_clip):
    return run(two_categories, tiny_clip)


def close(history, other, tolerance):
    assert len(history) == len(other)
    for terms, others in zip(history, other, strict=True):
        assert terms == pytest.approx(others, rel=tolerance, abs=tolerance)


def test_terms_of_equal_parts_average_to_the_terms_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    photos = torch.arange(4).repeat_interleave(5)
    shown = torch.rand(20, generator=generator) < 0.5
    maps, masks = torch.rand(20, 6, 6, generator=generator), torch.rand(20, 6, 6, generator=generator)
    z = torch.nn.functional.normalize(torch.randn(20, 8, generator=generator), dim=1)
    w = torch.nn.functional.normalize(torch.randn(2, 8, generator=generator), dim=1)

    def terms(part):
        seen = shown[part]
        dice = dice_loss(maps[part][seen], masks[part][seen], shares=equal_shares(seen, photos[part])[seen])
        latent = z[part][~seen].flip(1)
        return torch.stack([dice, image_loss(z[part], w, seen.long(), 0.07, latent, photos[part])[1]])

    halves = (terms(slice(0, 10)) + terms(slice(10, 20))) / 2
    assert torch.allclose(terms(slice(0, 20)), halves, atol=1e-6)


def test_accumulation_changes_nothing(plain, two_categories, tiny_clip):
    close(run(two_categories, tiny_clip, accumulate=2).history, plain.history, 1e-5)


def test_gradient_checkpointing_changes_nothing(plain, two_categories, tiny_clip):
    result = run(two_categories, tiny_clip, gradient_checkpointing=True)
    close(result.history, plain.history, 1e-6)
    assert not result.model.clip.vision_model.encoder.gradient_checkpointing


def test_gradient_checkpointing_keeps_fewer_activations(make_model, photos):
    saved = []
    for wanted in (False, True):
        model = make_model().train()
        if wanted:
            model.clip.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            model(photos, branch="prompt")
        saved.append(sum(kept))
    assert saved[1] < 0.7 * saved[0]


def test_compiled_towers_learn_the_same(plain, two_categories, tiny_clip):
    torch._dynamo.utils.counters.clear()
    result = run(two_categories, tiny_clip, compile="aot_eager", max_steps=2)  # inductor takes a minute
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    close(result.history[:1], plain.history[:1], 1e-3)
    assert not any("_orig_mod" in name for name in result.model.state_dict())


def test_bf16_learns_and_its_losses_are_float32(plain, two_categories, tiny_clip):
    result = run(two_categories, tiny_clip, mixed_precision="bf16")
    assert result.history != plain.history
    close(result.history, plain.history, 0.1)
    assert result.model.dtype == torch.float32
    photo = torch.zeros(1, 3, 48, 48)
    assert result.model(photo).image_features.dtype == torch.float32  # autocast ended with training


def test_deterministic_algorithms_are_switched_on(two_categories, tiny_clip):
    try:
        run(two_categories, tiny_clip, max_steps=1, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_resumed_run_equals_an_uninterrupted_one(plain, two_categories, tiny_clip, tmp_path):
    run(two_categories, tiny_clip, work_folder=tmp_path, checkpoint_every=1)
    newest = sorted((tmp_path / "states").glob("step-*"))
    assert [folder.name for folder in newest] == ["step-000002", "step-000003"]
    shutil.rmtree(newest[1])
    again = run(two_categories, tiny_clip, work_folder=tmp_path, checkpoint_every=1, resume=True)
    assert again.history == plain.history
    mine, theirs = again.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_non_finite_loss_saves_the_state_before_it(two_categories, tiny_clip, tmp_path):
    with pytest.raises(FloatingPointError, match=r"not finite at step 2.*train/good"):
        run(two_categories, tiny_clip, learning_rate=float("inf"), warmup_share=0.0, work_folder=tmp_path)
    assert [folder.name for folder in (tmp_path / "states").iterdir()] == ["step-000001"]


def test_training_on_starts_from_a_detector(plain, two_categories, tiny_clip, tmp_path):
    plain.save(tmp_path)
    still = run(two_categories, tiny_clip, init_from=tmp_path, learning_rate=0.0, max_steps=1)
    assert torch.equal(still.model.decoder.project.weight, plain.model.decoder.project.weight)
    assert still.model.fingerprint() == plain.model.fingerprint()
    with pytest.raises(ValueError, match="cannot be changed"):
        run(two_categories, tiny_clip, init_from=tmp_path, settings={"coupling": "t2v"})
    with pytest.raises(ValueError, match="either a backbone or init_from"):
        train(two_categories, TrainingConfig(), backbone=tiny_clip, init_from=tmp_path)


def test_tensorboard_gets_every_term(two_categories, tiny_clip, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(two_categories, tiny_clip, report_to=["tensorboard"], work_folder=tmp_path)
    events = next(tmp_path.rglob("events.out.tfevents*")).parent
    log = EventAccumulator(str(events)).Reload()
    assert [event.value for event in log.Scalars("total")] == pytest.approx([t["total"] for t in result.history])
    assert set(log.Tags()["scalars"]) >= set(result.history[0])


def test_a_long_training_tells_its_terms_twenty_times(two_categories, tiny_clip, caplog):
    with caplog.at_level(logging.DEBUG, logger="anople_hf.training.loop"):
        history = run(two_categories, tiny_clip, max_steps=41, batch_size=1, multi_scale=False).history
    told = [re.fullmatch(r"step (\d+) of 41: .*image (\d\.\d{3}), .*", message) for message in caplog.messages]
    told = {int(line[1]): float(line[2]) for line in told if line}
    assert list(told) == [*range(2, 41, 2), 41]  # every second step, and the last
    assert told[8] == pytest.approx((history[6]["image"] + history[7]["image"]) / 2, abs=6e-4)


def test_a_term_above_chance_is_told_by_its_name():
    good = {"pixel_focal": 0.9, "image": 0.5, "image_latent": 0.6}
    assert above_chance([{**good, "image": 9.0}] * 4 + [good]) == {}
    assert above_chance([good] * 4 + [{**good, "image_latent": 0.73}]) == {"image_latent": pytest.approx(0.73)}
    bad = {**good, "image": 0.9}
    assert above_chance([bad] * 8 + [good] * 2) == {}
    assert above_chance([good] * 8 + [bad, good]) == {"image": pytest.approx(0.7)}
    assert above_chance([{**good, "image": math.log(2)}]) == {}  # a guess is not above chance


def test_fsdp_is_refused_before_anything_is_learned(make_model, processor):
    """Torch's fully_shard takes no scalar parameters, and CLIPModel has one; see the message."""
    accelerator = Accelerator(cpu=True)
    kind = accelerator.state.distributed_type
    accelerator.state.distributed_type = DistributedType.FSDP
    try:
        with pytest.raises(ValueError, match="Choose plain multi-GPU training"):
            learn(make_model(), None, processor.class_prompts(["gear"]), TrainingConfig(), accelerator)
    finally:
        accelerator.state.distributed_type = kind


@pytest.mark.parametrize(
    "change",
    [
        {"alignment": "mean"},
        {"alignment": "none"},
        {"align_channel": "label"},
        {"multi_scale": False},
        {"latent_sigma": 0.1},
        {"latent_mean": 1.0},
        {"latent_noise": "middle"},
        {"latent_noise": "image"},
        {"latent_noise": "none"},
        {"normal_views": []},
        {"normal_views": ["turn"]},
        {"learning_rate": 5e-3},
        {"warmup_share": 0.7},
        {"projection_rate": 1.0},
        {"decoder_rate": 0.1},
        {"project_rate": 1.0},
        {"settings": {"decoder_tokens": "last"}},
        {"anomaly_source": "procedural"},
        {"anomaly_kinds": ["scar"]},
        {"anomalies_on_product": True},
        {"settings": {"scale_prefix": False}},
        {"settings": {"prompt_type": "object"}},
        {"settings": {"temperature": 0.5}},
        {"settings": {"text_aggregation": "mean"}},
        {"settings": {"decoder_init": "random"}},
        {"settings": {"share_projections": True}},
    ],
    ids=str,
)
def test_every_setting_changes_what_is_learned(plain, two_categories, tiny_clip, change):
    changed = run(two_categories, tiny_clip, **change)
    terms = [(step["total"], step["pixel_dice"], step["align"]) for step in (changed.history[2], plain.history[2])]
    assert terms[0] != pytest.approx(terms[1], rel=1e-6)


def test_the_rate_rises_from_zero(two_categories, tiny_clip):
    """With one step of warm-up out of two, the second step sees the weights that the first one left as they were."""
    still, rising, without = (
        run(two_categories, tiny_clip, max_steps=2, **change).history[1]
        for change in ({"learning_rate": 0.0}, {"warmup_share": 0.5}, {"warmup_share": 0.0})
    )
    assert rising == still
    assert without["total"] != pytest.approx(still["total"], rel=1e-6)


def test_mean_alignment_looks_at_every_patch_alike(plain, two_categories, tiny_clip):
    """Same weights, same views at step 1: only L_align may differ."""
    first = run(two_categories, tiny_clip, max_steps=1, alignment="mean").history[0]
    same = {name for name in first if first[name] == pytest.approx(plain.history[0][name], rel=1e-5)}
    assert same == set(first) - {"align", "total"}


def test_without_alignment_the_total_lacks_it(two_categories, tiny_clip):
    terms = run(two_categories, tiny_clip, max_steps=1, alignment="none").history[0]
    others = sum(value for name, value in terms.items() if name not in ("align", "total"))
    assert terms["total"] == pytest.approx(others, rel=1e-5) and terms["align"] > 0


def test_one_photo_with_a_fixed_mask_can_be_learned_by_heart(make_model, processor, photos):
    """M-hat rises inside the mask and falls outside it; so a mask that is mirrored, soft or elsewhere shows."""
    model = make_model().train()
    prompts = processor.class_prompts(["gear", "nut"])
    mask = torch.zeros(2, 48, 48, dtype=torch.bool)
    mask[1, :16, :32] = True  # the two upper left patches
    twin = photos[0].clone()
    twin[:, :16, :32] = 2.0
    batch = {
        "pixel_values": torch.stack([photos[0], twin]), "masks": mask, "labels": torch.tensor([0, 1]),
        "views": torch.tensor([4, 4]), "photos": torch.tensor([0, 0]),
    }  # fmt: skip
    config = TrainingConfig(learning_rate=1e-2).completed(None, 1)
    optimizer = torch.optim.AdamW(parameter_groups(model, config))

    def step():
        seen, noise = with_latent(batch, model.config, config)
        output = model(seen["pixel_values"], branch="prompt", views=seen["views"], noise=noise, **prompts)
        return output, training_losses(output, seen, config, model.config.temperature)

    before = step()[0].decoder_maps[1]
    for _ in range(80):
        step()[1]["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    output, losses = step()
    after, good = output.decoder_maps[1], output.decoder_maps[0]
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[:2, :4] = True
    assert after[inside].mean() > max(0.7, before[inside].mean().item())
    assert after[~inside].mean() < min(0.3, before[~inside].mean().item()) and good.mean() < 0.3
    assert losses["image"] < 0.3 and losses["image_latent"] < 0.5


def test_a_masks_cell_holds_its_anomalous_share(make_model, processor, photos, monkeypatch):
    """A thin defect covers a part of a cell; taken from the nearest pixel it would be a whole one, or none."""
    given = {}
    monkeypatch.setattr("anople_hf.training.loop.total_loss", lambda **terms: given.update(terms) or terms)
    model, mask = make_model().train(), torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[0, 8:10, 8:48] = True  # two of the eight rows of the second row of cells
    batch = {"pixel_values": photos[:1], "masks": mask, "labels": torch.tensor([1]), "views": torch.tensor([4]),
             "photos": torch.tensor([0]), "made_latent": torch.tensor([False])}  # fmt: skip
    output = model(photos[:1], branch="prompt", **processor.class_prompts(["gear", "nut"]))
    training_losses(output, batch, TrainingConfig(), 0.07)
    expected = torch.zeros(6, 6)
    expected[1, 1:] = 0.25
    assert torch.allclose(given["masks"][0], expected)
