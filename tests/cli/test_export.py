"""`anople export` as a user meets it: real processes, a real runtime, exit codes."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import anople_hf.export.graph
from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.cli import app, main
from anople_hf.export import ExportedDetector
from anople_hf.teaching import teach

PRODUCTS = ("brass_gear", "capsule")


@pytest.fixture(scope="module")
def anople(warm):
    """Run a command as a process of its own."""

    def run(*arguments):
        start = ["anople", *map(str, arguments)]
        return subprocess.run(start, env=warm, capture_output=True, text=True, timeout=200)

    return run


@pytest.fixture(scope="module")
def run(drawn, tiny_clip, tmp_path_factory):
    """A detector's folder, as `anople train` leaves it."""
    torch.manual_seed(0)
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({name: name for name in PRODUCTS}, **processor.class_prompts(list(PRODUCTS)))
    shots = {name: sorted((drawn / name / "train" / "good").iterdir())[:2] for name in PRODUCTS}
    pixels = {name: processor(images=photos)["pixel_values"] for name, photos in shots.items()}
    for name, views in pixels.items():
        model.memorize(views, category=name)
    teach(model, pixels, views=2)
    folder = tmp_path_factory.mktemp("export") / "run"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(anople, run, drawn, tmp_path_factory):
    """The folder of an export in a process of its own, and what that said."""
    out = tmp_path_factory.mktemp("exported") / "out"
    photos = drawn / "capsule" / "test"
    done = anople("export", run, "-o", out, "--product", "capsule", "--photos", photos, "--json", "--quiet")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return out, json.loads(done.stdout)


def refusal(*arguments):
    """The message of a command that cannot be done."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exit_code == 1, done.output
    return str(done.exception)


def test_an_exported_detector_judges_as_predict_does(anople, run, exported, drawn, tmp_path):
    out, report = exported
    assert report["output"] == str(out) and report["kind"] == "onnx" and report["seconds"] > 0
    assert report["parity"]["photos"] == 14 and report["parity"]["decisions"] == {"different": 0, "ties": 0}
    said = tmp_path / "said"
    photos = drawn / "capsule" / "test"
    done = anople("predict", run, photos, "--product", "capsule", "--no-unknown", "--output", said)
    assert done.returncode == 0, done.stderr
    with open(said / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    results = ExportedDetector.from_folder(out)([row["path"] for row in rows])
    assert [result["label"] for result in results] == [row["label"] for row in rows] and len(rows) == 7
    assert [result["score"] for result in results] == pytest.approx([float(row["score"]) for row in rows], abs=1e-5)


def test_an_earlier_export_stays(anople, run, exported):
    out, _ = exported
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    done = anople("export", run, "--output", out)
    assert done.returncode == 2 and "exists already" in done.stderr and "Traceback" not in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("branch", ["both", "memory"])
def test_what_it_says_to_people(branch, run, exported, tmp_path, monkeypatch):
    """The numbers of an export, and what was asked for."""
    report, asked = exported[1], {}
    if branch == "memory":
        report = report | {"category": None, "calibration": None}
        report["parity"] = {name: value for name, value in report["parity"].items() if name != "decisions"}
    monkeypatch.setattr(
        anople_hf.export.graph, "export", lambda model, processor, output, **given: asked.update(given) or report
    )
    options = [
        "--branch",
        branch,
        "--kind",
        "openvino",
        "--overwrite",
        *(["--product", "capsule"] * (branch == "both")),
    ]
    done = CliRunner().invoke(app, ["export", str(run), "--output", str(tmp_path / "out"), *options])
    category = "capsule" if branch == "both" else None
    assert asked == {"kind": "openvino", "category": category, "branch": branch, "photos": [], "overwrite": True}
    assert f"openvino, {category or 'all products'}: {report['bytes'] / 1e6:.1f} MB" in done.output
    assert "14 photos in batches of 1, 2, 3, 8 beside torch: scores within" in done.output
    assert ("0 decisions differ" if category else "no threshold") in done.output
    assert f"saved: {tmp_path / 'out'}" in done.output


def test_what_cannot_be_done_is_told(run, tmp_path):
    out = tmp_path / "out"
    assert "known: brass_gear, capsule" in refusal(run, "--output", out, "--product", "bolt")
    assert "not a trained detector" in refusal(tmp_path, "--output", out)
    assert "no such file or folder" in refusal(run, "--output", out, "--photos", tmp_path / "none.png")
    assert not any(tmp_path.iterdir())


def test_a_missing_extra_ends_with_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(sys, "argv", ["anople", "export", str(run), "--output", str(tmp_path / "out"), "--quiet"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == 'anople: exporting to onnx needs onnxscript: pip install "anople-hf[export]".'
