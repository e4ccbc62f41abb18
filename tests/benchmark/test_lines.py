"""How cells become lines: averages in the paper's order, what is quoted, and what differs."""

from dataclasses import fields, replace

import pytest

from anople_hf import AnoPLeConfig
from anople_hf.backbones import recommended_settings
from anople_hf.benchmark.cells import Cell, CellResult
from anople_hf.benchmark.lines import make_lines
from anople_hf.benchmark.plans import Plan
from anople_hf.benchmark.quoted import differences, figures, find
from anople_hf.data.published import PUBLISHED
from anople_hf.evaluation.metrics import ALL_METRICS
from anople_hf.training import TrainingConfig

UNNAMED = {"backbone_config", "backbone", "backbone_revision", "backbone_fingerprint", "class_names", "calibration",
           "prompt_fingerprint", "recipe", "shots", "seed", "settings"}  # fmt: skip
"""What a cell says elsewhere, or what a model writes down about itself."""
OTHER = {
    "coupling": "text", "prompt_type": "object", "text_aggregation": "mean", "decoder_init": "random",
    "memory_layers": [1],
    "decoder_tokens": "last", "memory_search": "product", "lora_towers": "both", "lora_targets": ["k_proj"],
    "abnormal_word": "broken", "shot_mode": "first_k", "anomaly_source": "shots", "anomaly_kinds": ["scar"],
    "normal_views": ["turn"], "turns": ["4"], "latent_noise": "none", "alignment": "mean", "align_channel": "label",
    "mixed_precision": "bf16", "compile": "inductor", "report_to": ["wandb"], "false_alarm_rate": 0.1,
    "warmup_share": 0.1, "temperature": 0.01, "input_size": 480, "batch_size": 4, "accumulate": 2, "decoder_kernel": 5,
}  # fmt: skip
PAPERS = "timm/vit_base_patch16_plus_clip_240.laion400m_e31"


def cell(seed=0, dataset="MVTec-AD", **fields):
    return Cell(dataset, "somewhere", "anople", fields.pop("shots", 1), seed, fields.pop("backbone", PAPERS), **fields)


def result(values, method="AnoPLe"):
    rows = [
        {"method": method, "category": name, **dict.fromkeys(ALL_METRICS), "image_auroc": value, "pixel_auroc": value}
        for name, value in values.items()
    ]
    return CellResult({}, rows, [], {}, {}, {method: 10.0})


COUNTS = {"MVTec-AD": PUBLISHED["MVTec-AD"]}


def test_mean_over_categories_then_one_value_a_seed():
    plan = Plan("table1", [cell(0), cell(1)], COUNTS)
    line, *quoted = make_lines(plan, [result({"a": 0.5, "b": 0.7}), result({"a": 0.9, "b": 0.9})])
    assert line.values["image_auroc"] == pytest.approx([60.0, 90.0]) and line.values["aupro"] == []
    assert line.paper == find("table1", "MVTec-AD", "1", "AnoPLe") and line.differs == []
    assert [other.label for other in quoted] == [
        "SPADE", "PatchCore", "WinCLIP", "PromptAD", "IIPAD", "INP-Former",
    ]  # fmt: skip
    assert all(other.quoted for other in quoted)


def test_branches_of_an_ablation_have_lines_of_their_own():
    plan = Plan("table4", [cell(0, row="full model"), cell(1, row="full model")], COUNTS)
    both = [result({"a": 0.9}), result({"a": 0.8})]
    for found, value in zip(both, (0.5, 0.6), strict=True):
        found.rows.extend(result({"a": value}, "AnoPLe, prompts alone").rows)
    full, alone, *_ = make_lines(plan, both)
    assert (full.label, full.values["image_auroc"]) == ("full model", pytest.approx([90.0, 80.0]))
    assert (alone.label, alone.values["image_auroc"]) == ("full model, prompts alone", pytest.approx([50.0, 60.0]))
    assert full.paper == find("table4", "MVTec-AD", "full model") and alone.paper is None


def test_held_out_is_averaged_apart():
    plan = Plan("table2", [cell(0, held_out="a"), cell(0, held_out="b")], COUNTS)
    lines = make_lines(plan, [result({"a": 0.2, "b": 0.8, "c": 0.6}), result({"a": 0.9, "b": 0.4, "c": 0.7})])
    found = {line.group: line.values["image_auroc"] for line in lines if not line.quoted}
    assert found["train, 1-shot"] == pytest.approx([75.0])  # (80, 60), (90, 70)
    assert found["held-out, 1-shot"] == pytest.approx([30.0])
    assert found["without a"] == pytest.approx([20.0]) and found["without b"] == pytest.approx([40.0])


def test_unseen_anomalies_and_medical_tasks_are_lines_of_their_own():
    plan = Plan("table3", [cell()], COUNTS)
    lines = [line for line in make_lines(plan, [result({"screw": 0.5, "tile": 0.9})]) if not line.quoted]
    assert [(line.group, line.paper) for line in lines] == [("screw, 1-shot", {"image_auroc": 53.9})]
    plan = Plan("table5", [cell(dataset="BMAD", shots=4)], {"BMAD": {"Retina_RESC": (4, 1, 1)}})
    line = make_lines(plan, [result({"Retina_RESC": 0.5})])[0]
    assert line.paper == {"image_auroc": 91.4, "pixel_auroc": 97.0} and line.differs == []


def test_speed_is_not_in_per_cent():
    (line,) = make_lines(Plan("figure1b", [cell()], COUNTS), [result({"a": 0.5})])
    assert line.values == {"images_per_second": [10.0]} and line.paper == {"images_per_second": 27.92}


def test_differences_are_named():
    some = {"bottle": (24, 20, 63)}
    assert differences("table1", cell(), COUNTS["MVTec-AD"]) == []
    assert differences("table1", cell(backbone="openai/clip-vit-base-patch16", route=True, shots=8), some) == [
        "backbone clip-vit-base-patch16", "1 of 15 categories", "number of photos", "8 shots", "category told",
        "smoothing_sigma=2.24",
    ]  # fmt: skip
    assert differences("table1", cell(dataset="mine", backbone="ViT-B-16-plus-240"), some) == ["data set"]
    assert differences("table5", cell(dataset="BMAD"), {}) == ["1 shots"]
    recommended = [f"{name}={value}" for name, value in recommended_settings("embedded:tiny-clip").items()]
    ours = ["backbone embedded:tiny-clip", "recipe=fast"]
    found = differences("table1", cell(backbone="embedded:tiny-clip"), COUNTS["MVTec-AD"])
    assert found[:2] == ours and set(found[2:]) == set(recommended) and "memory_search=product" in found
    told = cell(backbone="embedded:tiny-clip", route=True, scope="all")
    found = differences("table1", told, COUNTS["MVTec-AD"])
    assert "category told" in found and "memory_search=product" not in found
    spade = replace(cell(backbone="embedded:tiny-clip"), method="spade")
    assert differences("table1", spade, COUNTS["MVTec-AD"]) == ours[:1]
    assert differences("table1", cell(dataset="Real-IAD"), {"mint": (1, 1, 1)}) == ["1 of 30 categories"]


def test_every_setting_and_training_field_off_its_default_is_named():
    counts = COUNTS["MVTec-AD"]
    changed = cell(training={"max_steps": 5, "batch_size": 2, "anomaly_kinds": ["scar"]}, settings={"lora_rank": 4})
    assert differences("table1", changed, counts) == ["lora_rank=4", "max_steps=5", "anomaly_kinds=['scar']"]
    for owner, place in ((AnoPLeConfig, "settings"), (TrainingConfig, "training")):
        for field in fields(owner):
            if field.name in UNNAMED or field.name not in owner.__annotations__:
                continue
            default = getattr(owner, field.name) if place == "settings" else getattr(owner(), field.name)
            other = OTHER.get(field.name, not default if isinstance(default, bool) else 3)
            named = differences("table1", cell(**{place: {field.name: other}}), counts)
            assert named == [f"{field.name}={other}"], field.name
            assert differences("table1", cell(**{place: {field.name: default}}), counts) == []


def test_what_makes_a_row_of_the_papers_is_no_difference_from_it():
    counts = COUNTS["MVTec-AD"]
    row = cell(row="c: global view alone", training={"multi_scale": False}, settings={"scale_prefix": False})
    assert differences("table4", row, counts) == []
    assert differences("table4", replace(row, row="full model"), counts) == ["scale_prefix=False", "multi_scale=False"]
    own = cell(row="ours: temperature 0.01", settings={"temperature": 0.01})
    assert differences("table4", own, counts) == ["temperature=0.01"]


def test_cells_of_one_method_have_labels_of_their_own():
    cells = [cell(scope="all"), cell(scope="product")]
    lines = make_lines(Plan("table1", cells, COUNTS), [result({"a": 0.5}), result({"a": 0.6})])
    found = {line.label: line.values["image_auroc"] for line in lines if not line.quoted}
    assert found == {"AnoPLe, all memories": [50.0], "AnoPLe, own memory": [60.0]}
    cells = [cell(held_out="a"), cell(held_out="a", held_out_memory=True)]
    lines = make_lines(Plan("table2", cells, COUNTS), [result({"a": 0.2, "b": 0.8}), result({"a": 0.4, "b": 0.8})])
    held = {line.label: line.values["image_auroc"] for line in lines if line.group.startswith("held-out")
            and not line.quoted}  # fmt: skip
    assert held == {"AnoPLe": [20.0], "AnoPLe, held-out class remembered": [40.0]}


def test_quoted_figures_are_the_papers():
    assert find("table1", "Real-IAD", "1", "AnoPLe") == {
        "image_auroc": 81.2, "image_aupr": 80.1, "pixel_auroc": 96.7, "aupro": 88.0,
    }  # fmt: skip
    assert find("table1", "Real-IAD", "1", "IIPAD") is None and find("table9") is None
    assert find("table4", "VisA", "d: object prompts") == {"image_auroc": 84.3, "pixel_auroc": 95.8}
    assert "Quoted, not measured" in figures()["source"]
