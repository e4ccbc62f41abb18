"""`anople export` as a user meets it: real processes, real runtimes, exit codes."""

import csv
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner
from warm_start import WarmStart

from anople_hf.cli import app
from anople_hf.exported import ExportedDetector


@pytest.fixture(scope="module")
def anople(tmp_path_factory):
    """Run a command as a process of its own."""
    with WarmStart(tmp_path_factory.mktemp("warm") / "bin", dict(os.environ)) as commands:

        def run(*arguments):
            start = [str(commands / "anople"), *map(str, arguments)]
            return subprocess.run(start, capture_output=True, text=True, timeout=200)

        yield run


@pytest.fixture(scope="module")
def trained(anople, drawn, tiny_clip, tmp_path_factory):
    run = tmp_path_factory.mktemp("export") / "run"
    options = ["--shots", 2, "--max-steps", 2, "--batch-size", 1, "--backbone", tiny_clip, "--quiet"]
    done = anople("train", drawn, "--output", run, "--categories", "brass_gear,capsule", *options)
    assert done.returncode == 0, done.stderr
    return run


def refusal(*arguments):
    """The message of a command that cannot be done."""
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exit_code == 1, done.output
    return str(done.exception)


def test_an_exported_detector_judges_as_predict_does(anople, trained, drawn, tmp_path):
    photos, out, said = drawn / "capsule" / "test", tmp_path / "out", tmp_path / "said"
    done = anople("export", trained, "--output", out, "--category", "capsule", "--photos", photos, "--quiet")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("onnx, capsule: ") and f"saved: {out}" in done.stdout
    assert "14 photos in batches of 1, 2, 3, 8 beside torch: scores within" in done.stdout
    assert "0 decisions differ" in done.stdout
    assert anople("predict", trained, photos, "--category", "capsule", "--output", said).returncode == 0
    with open(said / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    detector = ExportedDetector.from_folder(out)
    results = detector([row["path"] for row in rows])
    assert [result["label"] for result in results] == [row["label"] for row in rows] and len(rows) == 7
    assert [result["score"] for result in results] == pytest.approx([float(row["score"]) for row in rows], abs=1e-5)


def test_json_alone_on_stdout_and_overwriting(anople, trained, tmp_path):
    out = tmp_path / "out"
    options = ["--kind", "torch", "--json", "--output", out]
    done = anople("export", trained, *options)
    report = json.loads(done.stdout)
    assert report["output"] == str(out) and report["kind"] == "torch" and report["seconds"] > 0
    assert set(report["memory"]["categories"]) == {"brass_gear", "capsule"}
    assert "comparing with torch on 7 photos" in done.stderr
    first = (out / report["graph"]).stat().st_mtime_ns
    done = anople("export", trained, *options)
    assert done.returncode == 2 and "exists already" in done.stderr and "Traceback" not in done.stderr
    assert (out / report["graph"]).stat().st_mtime_ns == first
    done = anople("export", trained, *options, "--overwrite", "--branch", "memory")
    assert done.returncode == 0 and json.loads(done.stdout)["calibration"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_done_is_told(trained, tmp_path):
    out = tmp_path / "out"
    assert "known: brass_gear, capsule" in refusal(trained, "--output", out, "--category", "bolt")
    assert "not a trained detector" in refusal(tmp_path, "--output", out)
    assert "no such file or folder" in refusal(trained, "--output", out, "--photos", tmp_path / "none.png")
    assert not any(tmp_path.iterdir())


def test_a_missing_extra_ends_with_one_line(trained, tmp_path):
    """A process that cannot import onnxscript."""
    (tmp_path / "onnxscript.py").write_text("raise ImportError")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "anople_hf.cli", "export", str(trained), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 2
    assert done.stderr == 'anople: exporting to onnx needs onnxscript: pip install "anople-hf[export]".\n'
