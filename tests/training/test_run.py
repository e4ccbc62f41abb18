"""`train()`: seeded, learns, freezes CLIP, leaves a finished detector behind."""

import json
from dataclasses import replace

import pytest
import torch

from anople_hf import AnoPLeModel
from anople_hf.data import load_inspection_data
from anople_hf.training import TrainingConfig, train
from anople_hf.training.loop import parameter_groups


@pytest.fixture(scope="module")
def two_categories(drawn):
    return load_inspection_data(drawn, categories=["brass_gear", "capsule"])["train"]


def run(data, tiny_clip, **changes):
    config = TrainingConfig(**{"shots": 2, "max_steps": 3, "batch_size": 2, "calibration_views": 2, **changes})
    return train(data, config, backbone=tiny_clip)


@pytest.fixture(scope="module")
def trained(two_categories, tiny_clip):
    return run(two_categories, tiny_clip)


def weights(result):
    return {n: p for n, p in result.model.state_dict().items() if not n.startswith("clip.")}


def test_leaves_a_finished_detector(trained, photos):
    model = trained.model
    assert model.config.class_names == {"brass_gear": "brass gear", "capsule": "capsule"}
    assert model.memory.categories == ["brass_gear", "capsule"] and len(model.memory) == 4
    assert all(model.memory.thresholds_of(name) for name in (None, "brass_gear", "capsule"))
    assert [report.product for report in trained.reports] == model.memory.categories
    assert model.memory.product("brass_gear").word == "brass gear"
    output = model(photos)
    assert torch.isfinite(output.scores).all() and not output.thresholds.isnan().any()
    assert not model.training


def test_terms_are_logged_and_add_up(trained):
    assert len(trained.history) == 3
    for terms in trained.history:
        assert set(terms) == {"pixel_dice", "pixel_focal", "image", "image_latent", "align", "total"}
        assert terms["total"] == pytest.approx(sum(v for k, v in terms.items() if k != "total"), rel=1e-5)


def test_clip_stays_and_the_rest_moves(trained, tiny_clip):
    torch.manual_seed(0)
    start = AnoPLeModel.from_backbone(tiny_clip)
    now, before = trained.model.state_dict(), start.state_dict()
    assert all(torch.equal(now[n], before[n]) for n in now if n.startswith("clip."))
    moved = {n.split(".")[0] for n in weights(trained) if not torch.equal(now[n], before[n])}
    assert moved == {"prompts", "decoder", "text_features"}


def test_same_seed_same_weights_other_seed_other_weights(trained, two_categories, tiny_clip):
    again, other = run(two_categories, tiny_clip), run(two_categories, tiny_clip, seed=1)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(trained).items())
    assert again.history == trained.history and again.shots == trained.shots
    assert other.history != trained.history and other.shots != trained.shots


def test_loss_falls(two_categories, tiny_clip):
    # The values of a random CLIP's last block, and its projection, are worth less than those of a trained one.
    settings = {"learning_rate": 5e-3, "project_rate": 1.0, "normal_views": [], "settings": {"decoder_tokens": "last"}}
    history = run(two_categories, tiny_clip, max_steps=40, multi_scale=False, **settings).history
    for term, share in {"total": 0.95, "pixel_dice": 0.85}.items():
        early, late = (sum(terms[term] for terms in part) / 8 for part in (history[:8], history[-8:]))
        assert late < share * early, term


def test_no_alignment_leaves_the_term_out_of_the_total(two_categories, tiny_clip):
    terms = run(two_categories, tiny_clip, max_steps=1, alignment="none").history[0]
    assert terms["total"] == pytest.approx(sum(v for k, v in terms.items() if k not in ("total", "align")), rel=1e-5)
    mean = run(two_categories, tiny_clip, max_steps=1, alignment="mean").history[0]
    assert mean["align"] != terms["align"]


def test_saved_run_holds_everything(trained, photos, tmp_path):
    trained.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "memory_bank.safetensors",
        "processor_config.json",
        "shots.json",
        "training_args.json",
        "training_log.jsonl",
    }
    arguments = json.loads((tmp_path / "training_args.json").read_text())
    assert arguments["seed"] == 0 and arguments["versions"]["torch"] == torch.__version__
    assert json.loads((tmp_path / "shots.json").read_text())["categories"] == trained.shots
    assert len((tmp_path / "training_log.jsonl").read_text().splitlines()) == 3
    assert torch.equal(AnoPLeModel.from_pretrained(tmp_path)(photos).scores, trained.model(photos).scores)


def test_what_is_odd_is_told_once(trained):
    loud = replace(trained, history=[{**terms, "image": 0.9} for terms in trained.history])
    assert "the loss term image ended at 0.900, and guessing costs 0.693: nothing was learned from it" in loud.odd
    odd = [replace(report, copies=[("b.png", "a.png")], mixed=["uint16: they differ"]) for report in trained.reports]
    calm = [{name: 0.0 for name in terms} for terms in trained.history]
    found = replace(trained, reports=odd, history=calm).odd
    assert found == ["copy: b.png shows the same photo as a.png", "uint16: they differ"]
    assert replace(trained, reports=[], history=calm).lines()[-1] == "nothing looks odd"


def test_turns_are_trained_with_remembered_and_kept(trained, two_categories, tiny_clip):
    turned = run(two_categories, tiny_clip, turns=["8", "capsule=none"], max_steps=1)
    bank, plain = turned.model.memory, trained.model.memory
    assert [photo.copies for photo in bank.references("brass_gear")] == [8, 8] and len(bank) == 4
    assert bank.product("brass_gear").reading["turns"] == "8"
    assert "brass_gear: turns 8: each photo is remembered at 8 angles" in str(turned.reports[0])
    assert dict(bank.product("capsule").reading) == dict(plain.product("capsule").reading)
    assert [photo.copies for photo in bank.references("capsule")] == [1, 1]
    with pytest.raises(ValueError, match=r"turns of nut: no such product; expected brass_gear, capsule\."):
        run(two_categories, tiny_clip, turns=["nut=4"])


def test_listed_shots_are_taken(two_categories, tiny_clip):
    listed = {"capsule": ["capsule/train/good/004.png"]}
    config = TrainingConfig(max_steps=1, calibration_views=1)
    result = train(two_categories, config, backbone=tiny_clip, listed_shots=listed)
    assert result.shots == listed and result.model.memory.categories == ["capsule"]


def test_vectors_do_not_decay(make_model):
    model = make_model()
    groups = parameter_groups(model, TrainingConfig(weight_decay=0.1).completed(None, 8))
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])
    free = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {id(p) for n, p in model.named_parameters() if p.requires_grad and p.ndim == 1} <= free
    assert {id(model.prompts.text), id(model.prompts.visual), id(model.prompts.scale_prefix)} <= free
    learning = sum(p.requires_grad for p in model.parameters())
    assert sum(len(group["params"]) for group in groups) == learning


def test_each_part_learns_at_its_own_rate(make_model):
    model = make_model()
    plan = TrainingConfig(learning_rate=0.5, projection_rate=0.25, decoder_rate=2.0, project_rate=0.125)
    rate = {id(p): g["lr"] for g in parameter_groups(model, plan.completed(None, 8)) for p in g["params"]}
    expected = {"text": 0.5, "visual": 0.5, "scale_prefix": 0.5, "vision_to_text": 0.125, "text_to_vision": 0.125}
    expected |= {"project": 0.0625, "spatial": 1.0, "norm": 1.0, "refine": 1.0}
    found = {n.split(".")[1]: rate[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert found == expected


def test_clips_projection_in_the_decoder_stays_unless_it_is_asked_to_learn(trained, two_categories, tiny_clip):
    def moved(result):
        torch.manual_seed(0)
        start = AnoPLeModel.from_backbone(tiny_clip, **result.config.settings)
        return not torch.equal(result.model.decoder.project.weight, start.decoder.project.weight)

    assert not moved(trained)
    assert moved(run(two_categories, tiny_clip, project_rate=0.1, max_steps=2))
    assert moved(run(two_categories, tiny_clip, settings={"decoder_init": "random"}, max_steps=2))


@pytest.mark.parametrize(
    ("backbone", "photos", "given", "steps"),
    [
        ("embedded:tiny-clip", 12, {}, 100),  # the floor
        ("embedded:tiny-clip", 120, {}, 600),
        ("laion/CLIP", 60, {}, 3000),
        ("laion/CLIP", 1, {}, 300),
        ("laion/CLIP", 60, {"recipe": "fast"}, 300),
        ("laion/CLIP", 61, {"epochs": 3, "min_steps": 1}, 92),
        ("laion/CLIP", 60, {"max_steps": 7}, 7),
    ],
)
def test_steps_follow_from_the_photos_and_the_recipe(backbone, photos, given, steps):
    plan = TrainingConfig(**given).completed(backbone, photos)
    assert plan.max_steps == steps and plan.completed(backbone, photos) == plan


@pytest.mark.parametrize(
    "wrong",
    [
        {"shots": 0},
        {"max_steps": 0},
        {"alignment": "x"},
        {"false_alarm_rate": 1.5},
        {"recipe": "slow"},
        {"epochs": 0},
        {"latent_noise": "here"},
        {"normal_views": ["flip"]},
        {"turns": ["nut=5"]},
        {"project_rate": -1.0},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_broken_loss_stops_with_step_and_photos(two_categories, tiny_clip):
    with pytest.raises(FloatingPointError, match=r"step \d.*train/good"):
        run(two_categories, tiny_clip, learning_rate=float("inf"))
