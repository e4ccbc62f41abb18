"""The public names: there at once for a program, on demand for the command, known to transformers' Auto classes."""

import subprocess
import sys

import pytest

import anople_hf

CODE = """
import sys
sys.argv = ["/usr/bin/anople"]
import anople_hf
print("torch" in sys.modules, {name for name in anople_hf.__all__ if getattr(anople_hf, name) is None})
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
print(AutoConfig.for_model("anople").model_type, "image-anomaly-detection" in PIPELINE_REGISTRY.supported_tasks)
print(AutoModel._model_mapping[anople_hf.AnoPLeConfig].__name__)
"""


def test_the_command_has_the_names_on_demand():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "set()", "anople", "True", "AnoPLeModel"]


@pytest.mark.parametrize(
    ("started", "command"),
    [("/usr/bin/anople", True), ("anople.exe", True), ("anople.py", False), ("-c", False), ("-m", False)],
)
def test_what_is_the_command(started, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert anople_hf._is_command() is command


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="'anople_hf' has no attribute 'AnopleModel'"):
        _ = anople_hf.AnopleModel
