"""`anople convert`, and a converted model going through the same commands as the embedded one."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from anople_hf.cli import app

QUICK = Path(__file__).parents[1] / "fixtures" / "open_clip" / "quick"


@pytest.fixture(scope="module", autouse=True)
def _warm(warm):
    WARM[:] = [shutil.which("anople", path=warm["PATH"])]


WARM = []


def anople(*arguments):
    """A real process."""
    done = subprocess.run([*WARM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def refusal(*arguments):
    """The message of a command that cannot be done."""
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert done.exit_code == 1, done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "clip"
    done = anople("convert", QUICK, "--output", folder)
    assert "74 tensors of open_clip, 94 of transformers" in done.stdout and f"saved: {folder}" in done.stdout
    return folder


def test_converted_model_trains_saves_reloads_and_predicts(converted, drawn, tmp_path):
    """The embedded backbone's commands, word for word; open_clip's own folder, unconverted, scores the same."""
    found = {}
    for name, backbone, run_it in (("converted", converted, anople), ("as it is", QUICK, in_process)):
        run, out = tmp_path / name, tmp_path / f"{name} out"
        options = ["--shots", 2, "--max-steps", 2, "--products", "capsule", "--set", "input_size=64"]
        run_it("train", drawn, "--backbone", backbone, "--output", run, *options)
        config = json.loads((run / "config.json").read_text())
        assert (config["backbone"], config["input_size"]) == (str(backbone), 64)
        assert not any(key.startswith("clip.") for key in load_file(run / "model.safetensors"))
        run_it("predict", run, drawn / "capsule" / "test", "--output", out)
        with open(out / "scores.csv", newline="") as file:
            found[name] = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    assert len(set(found["converted"].values())) == 7
    assert found["converted"] == pytest.approx(found["as it is"], abs=1e-5)


def test_json_of_a_conversion(tmp_path):
    said = json.loads(anople("convert", QUICK, "--output", tmp_path / "clip", "--json", "--quiet").stdout)
    assert said["output"] == str(tmp_path / "clip") and said["tensors"] == {"read": 74, "written": 94}


def in_process(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def test_a_weights_file_needs_its_model(tmp_path):
    weights, output = tmp_path / "weights.pt", tmp_path / "clip"
    torch.save(load_file(QUICK / "open_clip_model.safetensors"), weights)
    assert "say which model it is" in refusal(weights, "--output", output)
    assert "none of open_clip's plain ViT CLIPs" in refusal(weights, "--model", "ViT-B-17", "--output", output)
    assert "check the model's name" in refusal(weights, "--model", "ViT-B-32", "--output", output)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]  # nothing half-written


def test_a_tokenizer_from_elsewhere(tmp_path):
    source, output = tmp_path / "source", tmp_path / "clip"
    shutil.copytree(QUICK, source, ignore=shutil.ignore_patterns("token*"))
    assert "--tokenizer" in refusal(source, "--output", output) and not output.exists()
    done = anople("convert", source, "--tokenizer", QUICK, "--output", output, "--quiet")
    assert not done.stderr
    files = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "conversion.json"} <= files


def test_an_output_in_the_way_stays(tmp_path):
    (tmp_path / "a.txt").touch()
    assert "not written by anople" in refusal(QUICK, "--output", tmp_path, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
