"""Saved states: whole or not at all, without CLIP, and a killed run ends with the weights of one that was not."""

import json
import logging
import random
import signal
import subprocess
import time

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from anople_hf.training.states import MANIFEST, TrainingStates, drop_states


@pytest.fixture
def small(tmp_path):
    """A model with a frozen part, its optimizer, and a keeper of their states."""

    def make(folder=tmp_path / "states", identity=None, **options):
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"clip": torch.nn.Linear(3, 3), "decoder": torch.nn.Linear(3, 1)})
        model["clip"].requires_grad_(False)
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(model["decoder"].parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)

        def step():
            model["decoder"](torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return model, step, TrainingStates(folder, accelerator, identity or {"seed": 0}, **options)

    return make


def test_state_holds_what_learns_and_nothing_else(small, tmp_path):
    _, step, keeper = small()
    step()
    keeper.save(1, [{"total": 1.0}])
    folder = tmp_path / "states" / "step-000001"
    assert set(load_file(folder / "model.safetensors")) == {"decoder.weight", "decoder.bias"}
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-000001"]


def test_last_states_are_kept_and_the_newest_is_restored(small):
    model, step, keeper = small(keep=2)
    for number in range(1, 5):
        step()
        keeper.save(number, [{"total": 0.0}] * number)
    assert [folder.name for folder in keeper._saved()] == ["step-000003", "step-000004"]
    other, _, reader = small(keep=2)
    assert not torch.equal(other["decoder"].weight, model["decoder"].weight)
    assert reader.restore() == (4, [{"total": 0.0}] * 4)
    assert torch.equal(other["decoder"].weight, model["decoder"].weight)


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damaged_newest_falls_back_loudly(small, damage, caplog):
    _, step, keeper = small()
    for number in (1, 2):
        step()
        keeper.save(number, [{}] * number)
    newest = keeper._saved()[-1]
    weights = newest / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "remove":
        weights.unlink()
    else:
        (newest / MANIFEST).write_text("{")
    with caplog.at_level(logging.WARNING):
        assert small()[2].restore()[0] == 1
    assert "step-000002 is damaged" in caplog.text


def test_other_settings_are_refused_by_name(small):
    small(identity={"seed": 0, "shots": 4})[2].save(1, [])
    with pytest.raises(ValueError, match=r"other settings \(shots=4\)"):
        small(identity={"seed": 0, "shots": 2})[2].restore()


def test_nothing_saved_starts_at_the_beginning(small):
    assert small()[2].restore() == (0, [])


def test_drop_states_keeps_logs(tmp_path):
    (tmp_path / "work" / "states").mkdir(parents=True)
    (tmp_path / "work" / "anople").mkdir()
    drop_states(tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["anople"]
    (tmp_path / "work" / "anople").rmdir()
    drop_states(tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_killed_again_and_again(drawn, tiny_clip, warm, tmp_path):
    """SIGKILL at random moments; the run that is resumed each time ends with exactly the uninterrupted weights."""
    command = ["anople", "train", str(drawn), "--backbone", tiny_clip, "--quiet",
               "--shots", "2", "--products", "capsule", "--max-steps", "60", "--checkpoint-every", "4"]  # fmt: skip
    subprocess.run([*command, "--output", str(tmp_path / "whole")], check=True, capture_output=True, env=warm)
    clock, last = random.Random(0), -1
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path / "killed"), "--resume"], stderr=subprocess.PIPE, env=warm
        )
        states, deadline = tmp_path / "killed.training" / "states", time.time() + 60
        while _newest(states) <= last and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(clock.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed").exists()
        last = _newest(states)
        assert 0 < last < 60
    subprocess.run(
        [*command, "--output", str(tmp_path / "killed"), "--resume"], check=True, capture_output=True, env=warm
    )
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)
    logs = [(tmp_path / name / "training_log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 60
    assert not (tmp_path / "killed.training").exists()
    assert json.loads((tmp_path / "killed" / "training_args.json").read_text())["max_steps"] == 60


def _newest(states):
    return max((int(folder.name.split("-")[1]) for folder in states.glob("step-*")), default=-1)
