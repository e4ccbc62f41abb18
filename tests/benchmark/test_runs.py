"""Tables that are interrupted, spread over processes, or asked for again: the same numbers, and nothing done twice."""

import json
import signal
import subprocess
import time

import pytest
from datasets import Dataset

from anople_hf.benchmark import make_plan, run_plan, runs

QUICK = {"max_steps": 1, "batch_size": 1, "calibration_views": 1}


@pytest.fixture
def plan(trees, tiny_clip):
    return make_plan(
        "table1", [trees["mvtec"]], backbone=tiny_clip, seeds=(0, 1), shots=(1,), methods=("spade", "anople"),
        training=QUICK,
    )  # fmt: skip


def numbers(folder):
    return [Dataset.from_parquet(str(folder / f"{name}.parquet")).to_list() for name in ("categories", "images")]


def test_what_is_there_is_not_done_again(plan, tmp_path, monkeypatch):
    whole = run_plan(plan, tmp_path / "whole", progress=False)
    done = []

    def measure(cell, really=runs.measure):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell.key)
        return really(cell)

    monkeypatch.setattr(runs, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "cut", progress=False)
    assert len(list((tmp_path / "cut/cells").iterdir())) == 2 and not (tmp_path / "cut/images.parquet").exists()
    monkeypatch.setattr(runs, "measure", lambda cell: done.append(cell.key) or measure.__defaults__[0](cell))
    again = run_plan(plan, tmp_path / "cut", progress=False)
    assert len(done) == len(set(done)) == len(plan.cells) == 4
    assert [result.rows for result in again] == [result.rows for result in whole]
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


def test_shots_of_every_cell_are_stored(plan, tmp_path):
    run_plan(plan, tmp_path, progress=False)
    stored = json.loads((tmp_path / "shots.json").read_text())
    shots, listed = stored["cells"], stored["seeds 0-4"]["MVTec-AD"]["1"]
    assert set(listed) == set("01234") and all(set(own) == {"bottle", "screw", "tile"} for own in listed.values())
    assert all(shots[cell.key] == listed[str(cell.seed)] for cell in plan.cells)
    assert set(shots) == {cell.key for cell in plan.cells}
    assert all(set(chosen) == {"bottle", "screw", "tile"} for chosen in shots.values())
    spade, anople = (next(cell.key for cell in plan.cells if cell.method == name) for name in ("spade", "anople"))
    assert shots[spade] == shots[anople]  # the same photos for every method


def test_a_key_knows_what_changes_the_numbers(plan, trees, tiny_clip, tmp_path):
    def keys(data, **options):
        return {cell.key for cell in make_plan("table1", [data], backbone=tiny_clip, shots=(1,), **options).cells}

    plain = keys(trees["mvtec"])
    assert plain == keys(trees["mvtec"])
    for options in ({"shot_mode": "first_k"}, {"route": True}):
        assert not plain & keys(trees["mvtec"], **options)
    other = keys(trees["mvtec"], training={"max_steps": 3}, settings={"coupling": "t2v"})
    assert {key.split("-")[2] for key in other & plain} == {"spade", "patchcore", "winclip"}  # these are not trained
    assert not plain & keys(f"MVTec-AD={trees['bmad']}")  # other photos under the same name


def test_a_damaged_cell_is_named(plan, tmp_path):
    run_plan(plan, tmp_path, progress=False)
    file = next((tmp_path / "cells").iterdir())
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file.name} is no finished cell .* delete it"):
        run_plan(plan, tmp_path, progress=False)


def start(count, trees, tiny_clip, warm, output):
    launcher = ["torchrun", "--standalone", "--nproc-per-node", str(count)] if count > 1 else ["python"]
    command = [*launcher, "-m", "anople_hf.cli", "compare", trees["mvtec"], "--output", str(output)]
    command += ["--backbone", tiny_clip]
    command += ["--shots", "1", "--seeds", "0,1", "--method", "spade", "--method", "anople", "--max-steps", "2"]
    return subprocess.Popen(
        [*command, "--threads", "1"], env=warm, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_and_a_killed_one_give_the_same_numbers(trees, tiny_clip, warm, tmp_path):
    cut = start(1, trees, tiny_clip, warm, tmp_path / "cut")
    deadline = time.time() + 120
    while not list((tmp_path / "cut").glob("cells/*.json")) and time.time() < deadline:
        time.sleep(0.02)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    cut.stdout.close()
    cut.stderr.close()
    assert not (tmp_path / "cut/table.md").exists()
    tables = {}
    for name, count in (("cut", 1), ("two", 2)):
        process = start(count, trees, tiny_clip, warm, tmp_path / name)
        out, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        assert out.count("saved:") == 1
        tables[name] = (tmp_path / name / "table.md").read_text()
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "two")
    assert tables["cut"] == tables["two"]
