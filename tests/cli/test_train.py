"""`anople train` and `preview-anomalies`: configuration files, settings, several processes."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from anople_hf.cli import app
from anople_hf.cli.train import parse_framings
from anople_hf.data import load_inspection_data
from anople_hf.framing import FramingRequest
from anople_hf.memory import BANK_FILE, MemoryBank
from anople_hf.training.configuration import TrainingConfig
from anople_hf.training.losses import LOSS_TERMS
from anople_hf.training.run import train

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


@pytest.fixture
def options(drawn, tiny_clip):
    return [str(drawn), "--backbone", tiny_clip, "--shots", "2", "--products", "capsule", "--quiet"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_yaml_gives_defaults_and_the_command_line_wins(options, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("max-steps: 3\nbatch_size: 1\nseed: 5\nanomaly_kinds: [scar, cutpaste]\n"
                    "settings:\n  coupling: t2v\n  prompt_depth: 2\n  lora_rank: 2\n")  # fmt: skip
    done = invoke(*options, "--output", tmp_path / "run", "--config", file, "--max-steps", 2)
    assert done.exit_code == 0, done.output
    assert "training:" not in done.stderr and "next:" not in done.output  # --quiet shows no bar
    used = json.loads((tmp_path / "run" / "training_args.json").read_text())
    assert (used["max_steps"], used["batch_size"], used["seed"]) == (2, 1, 5)
    assert used["settings"] == {"coupling": "t2v", "prompt_depth": 2, "lora_rank": 2}
    assert used["anomaly_kinds"] == ["scar", "cutpaste"]
    model = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (model["coupling"], model["prompt_depth"]) == ("t2v", 2)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert any("lora_B" in name and weight.any() for name, weight in weights.items())  # they start at 0


def test_the_summary_says_what_matters_and_the_terms_are_for_those_who_ask(drawn, tiny_clip, tmp_path):
    data = tmp_path / "data"
    for name in ("capsule", "biscuit"):
        shutil.copytree(drawn / name / "train/good", data / name)
    shutil.copy(data / "capsule/000.png", data / "capsule/0 copy.png")
    options = ["--backbone", tiny_clip, "--max-steps", 2, "--batch-size", 1, "--shot-mode", "first_k"]
    done = invoke(data, "--output", tmp_path / "my run", "--shots", 4, *options, "--verbose")
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert said[0] == "trained on 7 photos of 2 products, 2 steps"  # the copy counts once
    capsule = MemoryBank.load(tmp_path / "my run" / BANK_FILE).product("capsule")
    known = capsule.thresholds
    assert len(capsule.far) <= 1
    assert f"capsule: 3 photos, threshold {known.threshold:.4g}, {known.promise}" in said
    odd = said[said.index("looks odd:") + 1 : said.index("next:")]
    (copy,) = [line for line in odd if line.startswith("  copy: ")]
    assert copy.count("capsule/") == 2 and "0 copy.png" in copy
    run = f"'{tmp_path}/my run'"
    assert said[said.index("next:") + 1 :][:3] == [
        f"  anople predict {run} PHOTOS --output judged --report",
        f"  anople calibrate {run} PHOTOS  # 19 good photos of each product that it has not seen: then 5% is promised",
        f"  anople app {run}",
    ]
    assert "training:" in done.stderr and "2 of 2 steps" in done.stderr
    assert all(term in done.stderr for term in LOSS_TERMS) and "pixel_dice" not in done.stdout
    rate = ["--products", "capsule", "--false-alarm-rate", 0.5, "--json", "--quiet", "--overwrite"]
    summary = json.loads(invoke(data, "--output", tmp_path / "my run", "--shots", 1, *options, *rate).stdout)
    assert summary["next"][1].startswith(f"anople calibrate {run} capsule PHOTOS  # 1 good photo")


def test_enough_photos_in_the_data_are_pointed_to(drawn, tiny_clip, tmp_path):
    options = ["--backbone", tiny_clip, "--max-steps", 1, "--batch-size", 1, "--false-alarm-rate", 0.25, "--json"]
    shutil.copytree(drawn / "capsule", tmp_path / "data/capsule")
    done = invoke(tmp_path / "data", "--output", tmp_path / "run", "--shots", 2, *options, "--quiet")
    calibrate = json.loads(done.stdout)["next"][1].partition("  # ")[0]
    said = CliRunner().invoke(app, shlex.split(calibrate)[1:])  # the command does what it says
    assert said.exit_code == 0 and "25% false alarms promised" in said.stdout


def test_unknown_settings_are_named(options, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("max_step: 3\n")
    done = invoke(*options, "--output", tmp_path / "run", "--config", file)
    assert done.exit_code == 2 and "max_step" in done.output and not (tmp_path / "run").exists()
    wrong = invoke(*options, "--output", tmp_path / "run", "--set", "couplings=t2v")
    assert wrong.exit_code == 1 and "couplings=t2v" in str(wrong.exception)
    file.write_text("- a list\n")
    assert invoke(*options, "--output", tmp_path / "run", "--config", file).exit_code == 2


def launch(warm, count, *arguments):
    """Start the script on `count` CPU processes; `accelerate launch` itself starts only one without a GPU or MPI."""
    command = ["torchrun", "--standalone", "--nproc-per-node", str(count), str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=warm)


def test_two_processes_learn_what_one_learns(options, warm, tmp_path):
    logs = {}
    for count in (1, 2):
        output = tmp_path / f"run{count}"
        done = launch(warm, count, *options, "--max-steps", 5, "--batch-size", 4, "--output", output)
        assert done.returncode == 0, done.stderr
        assert json.loads((output / "training_args.json").read_text())["processes"] == count
        assert done.stdout.count("saved:") == done.stdout.count("trained on") == 1
        logs[count] = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    assert len(logs[1]) == len(logs[2]) == 5
    for one, two in zip(logs[1], logs[2], strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    weights = [load_file(tmp_path / f"run{count}" / "model.safetensors") for count in (1, 2)]
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-3


def test_uneven_split_is_refused(options, warm, tmp_path):
    done = launch(warm, 2, *options, "--batch-size", 3, "--output", tmp_path / "run")
    assert done.returncode != 0 and "cannot be split evenly over 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_preview_shows_photo_twin_and_outline(drawn, tiny_clip, tmp_path):
    out = tmp_path / "sheets" / "pairs.png"
    arguments = ["preview-anomalies", str(drawn), "--backbone", tiny_clip, "--count", "3", "--output", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    sheet = Image.open(out)
    assert sheet.size == (6 * 208 + 8, 2 * 208 + 8)
    photo, twin, outlined = (sheet.crop((8 + i * 208, 8, 208 + i * 208, 208)) for i in range(3))
    assert photo.tobytes() != twin.tobytes() != outlined.tobytes()
    assert [path.name for path in out.parent.iterdir()] == ["pairs.png"]


def test_preview_shows_what_is_learned_from_where_a_region_counts(drawn, tiny_clip, tmp_path):
    arguments = ["preview-anomalies", str(drawn), "--backbone", tiny_clip, "--count", "9", "--output"]
    plain, framed = (
        CliRunner().invoke(app, [*arguments, str(tmp_path / name), *more])
        for name, more in (("plain.png", []), ("framed.png", ["--region", "capsule=40,40,40,40"]))
    )
    assert plain.exit_code == framed.exit_code == 0, framed.output
    assert Image.open(tmp_path / "plain.png").tobytes() != Image.open(tmp_path / "framed.png").tobytes()
    unknown = CliRunner().invoke(app, [*arguments, str(tmp_path / "no.png"), "--region", "pill=40,40,40,40"])
    assert unknown.exit_code != 0 and not (tmp_path / "no.png").exists()


def test_region_and_tiles_are_told_by_product():
    asked = parse_framings(["gear=0,0,9,9", "nut=mask.png"], ["gear=2x3"])
    assert asked == {"gear": FramingRequest("0,0,9,9", "2x3"), "nut": FramingRequest("mask.png")}
    assert parse_framings(["0,0,9,9"], []) == {"": FramingRequest("0,0,9,9")}
    assert parse_framings([], ["gear=auto"], "12") == {"gear": FramingRequest(tiles="auto", smallest="12")}
    for wrong in (([], ["gear=2by3"]), ([], ["gear=2x3"], "12"), ([], ["gear=auto"])):
        with pytest.raises(ValueError, match=r"tiles|smallest"):
            parse_framings(*wrong)


def test_a_region_for_no_product_of_the_data_is_refused(drawn, tiny_clip):
    data = load_inspection_data(drawn, categories=["capsule", "woven_cloth"])["train"]
    config = TrainingConfig(shots=1, max_steps=1, batch_size=1)
    for framings, said in (({"gear": FramingRequest("whole")}, r"for gear; the data have capsule, woven_cloth"),
                           ({"": FramingRequest("whole")}, r"need a product, such as capsule=")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            train(data, config, backbone=tiny_clip, framings=framings, progress=False)
