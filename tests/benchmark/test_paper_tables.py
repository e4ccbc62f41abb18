"""Every table of the paper, to the end, on small trees in the layouts of its data sets."""

import pytest
from datasets import Dataset
from PIL import Image

from anople_hf.benchmark import make_plan, render, run_plan
from anople_hf.benchmark.ablations import ABLATIONS
from anople_hf.benchmark.plans import name_source

QUICK = {"max_steps": 1, "batch_size": 1, "calibration_views": 1}
WORK = {
    "table1": (("mvtec", "visa", "real_iad"), {"shots": (1,)}),
    "table2": (("mvtec",), {"held_out": ("bottle",)}),
    "table3": (("mvtec", "visa"), {}),
    "table4": (("mvtec",), {"rows": ("full model", "a: text to vision", "c: global view alone", "d: object prompts")}),
    "table5": (("bmad",), {}),
    "figure1b": (("mvtec",), {}),
    "compare": (("mvtec",), {"shots": (1, 2), "methods": ("patchcore", "winclip-zero")}),
}
EXPECTED = {
    "table1": (
        "| MVTec-AD | 1-shot | SPADE |",
        "(96.0,",
        "| VisA | 1-shot | PromptAD | (82.4)",
        "| Real-IAD |",
        "3 of 15",
    ),
    "table2": (
        "| MVTec-AD | train, 1-shot | AnoPLe |",
        "held-out, 1-shot | INP-Former | (67.7)",
        "without bottle",
        "87.5,",
        "held-out, 1-shot | AnoPLe, held-out class remembered |",
    ),
    "table3": ("| MVTec-AD | screw, 1-shot | AnoPLe |", "(53.9,", "pcb4, 1-shot | PromptAD* | (90.4)"),
    "table4": ("| MVTec-AD | 1-shot | a: text to vision |", "(93.5,", "b: no alignment | (93.7)"),
    "table5": ("| BMAD | Brain, 4-shot | AnoPLe |", "(79.8,", "Liver, 4-shot | UniVAD | (72.8)"),
    "figure1b": ("| MVTec-AD | 1-shot | AnoPLe |", "(27.9,", "WinCLIP", "| AnoPLe, batches of 16 |"),
    "compare": ("| MVTec-AD | 2-shot | PatchCore |", "WinCLIP, zero-shot", "quoted from the paper"),
}


@pytest.mark.parametrize("table", WORK)
def test_table_runs_to_the_end(table, trees, tiny_clip, tmp_path):
    names, options = WORK[table]
    plan = make_plan(table, [trees[name] for name in names], backbone=tiny_clip, seeds=(0,), training=QUICK, **options)
    results = run_plan(plan, tmp_path, progress=False)
    text = render(plan, results, tmp_path)
    assert text == (tmp_path / "table.md").read_text()
    for expected in EXPECTED[table]:
        assert expected in text, text
    with Image.open(tmp_path / "table.png") as plot:
        assert plot.size[0] > 400
    rows = Dataset.from_parquet(str(tmp_path / "categories.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(rows) == sum(len(result.rows) for result in results) and "pixel_aupr" in rows.column_names
    images = Dataset.from_parquet(str(tmp_path / "images.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(images) == sum(len(result.images) for result in results)


def test_every_ablation_has_its_own_work(trees, tiny_clip):
    plan = make_plan("table4", [trees["mvtec"]], backbone=tiny_clip, seeds=(0, 1))
    rows = [row for row in ABLATIONS if row != "ours: decoder reads the values"]  # as the full model does here
    assert [cell.row for cell in plan.cells[::2]] == rows
    assert len({cell.key for cell in plan.cells}) == 2 * len(rows)


def test_a_row_that_changes_nothing_is_left_out_and_named(trees, tiny_clip):
    full, values, last = "full model", "ours: decoder reads the values", "ours: decoder reads the last tokens"
    for settings, kept, left_out in (({}, last, values), ({"decoder_tokens": "last"}, values, last)):
        plan = make_plan(
            "table4",
            [trees["mvtec"]],
            backbone=tiny_clip,
            seeds=(0, 1),
            rows=(full, values, last),
            settings=settings,
        )
        assert [cell.row for cell in plan.cells] == [full, full, kept, kept]
        assert sum(left_out in note and full in note for note in plan.notes) == 1


def test_every_table_can_be_run_with_both_memory_scopes(trees, tiny_clip):
    for table in ("table1", "table2", "table4"):
        plan = make_plan(
            table, [trees["mvtec"]], backbone=tiny_clip, seeds=(0,), shots=(1,), scopes=("all", "product")
        )
        ours = [cell for cell in plan.cells if cell.method == "anople"]
        assert [cell.settings_in_use["memory_search"] for cell in ours] == ["all", "product"] * (len(ours) // 2)
        assert len({cell.key for cell in plan.cells}) == len(plan.cells)
        assert all(not cell.scope for cell in plan.cells if cell.method != "anople")


def test_data_sets_are_named_by_their_categories(trees, tmp_path):
    assert [name_source(trees[name])[0] for name in ("mvtec", "visa", "real_iad", "bmad")] == [
        "MVTec-AD", "VisA", "Real-IAD", "BMAD",
    ]  # fmt: skip
    assert name_source(f"mine={trees['mvtec']}") == ("mine", trees["mvtec"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "table9"}, "no table 'table9'; there are table1"),
        ({"methods": ("padim",)}, "unknown methods padim; expected anople, spade"),
        ({"shots": (3,)}, "'bottle' has 2 good photos, 3 shots are planned"),
        ({"table": "table2", "held_out": ("cup",)}, "no category 'cup'"),
        ({"table": "table4", "rows": ("e",)}, r"no rows \['e'\]"),
        ({"table": "table4", "methods": ("spade",)}, "about AnoPLe alone"),
        ({"rows": ("full model",)}, "table1 takes no rows"),
        ({"scopes": ("own",)}, "unknown scopes own"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_any_work(change, message, trees, tiny_clip):
    options = {"table": "table1", "shots": (1,), **change}
    with pytest.raises(ValueError, match=message):
        make_plan(options.pop("table"), [trees["mvtec"]], backbone=tiny_clip, **options)


def test_data_without_test_photos_is_refused(tiny_clip, tmp_path, trees):
    (tmp_path / "cup").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "cup/0.png")
    with pytest.raises(ValueError, match="has no test photos"):
        make_plan("table1", [str(tmp_path)], backbone=tiny_clip)
