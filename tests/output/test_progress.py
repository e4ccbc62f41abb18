"""Bars: fresh on a terminal and in a notebook, now and then in a log."""

import io
import subprocess
import sys

from anople_hf.output.progress import FOR_EYES, FOR_LOGS, seconds_between
from anople_hf.training.losses import LOSS_TERMS


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_who_looks_decides(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert seconds_between() == FOR_LOGS
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert seconds_between() == FOR_EYES
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert seconds_between() == FOR_EYES
    monkeypatch.setattr(sys, "stderr", None)  # pythonw has none
    assert seconds_between() == FOR_LOGS


def test_a_log_of_training_stays_short(drawn, tiny_clip, warm, tmp_path):
    steps = 8
    command = ["anople", "train", str(drawn), "--backbone", tiny_clip, "--shots", "1",
               "--products", "capsule", "--batch-size", "1", "--max-steps", str(steps),
               "--output", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, env=warm, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stderr.count("training:") < steps / 2
    assert f"{steps} of {steps} steps" in done.stderr  # how it ended is there
    assert not [term for term in (*LOSS_TERMS, "total") if term in done.stderr]
