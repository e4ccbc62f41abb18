"""The public names: there at once for a program, on demand for the command, known to transformers' Auto classes."""

import subprocess
import sys

import pytest

import anople_hf

CODE = """
import sys
sys.argv = [{started!r}]
import anople_hf
print("torch" in sys.modules, {{name for name in anople_hf.__all__ if getattr(anople_hf, name) is None}})
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
print(AutoConfig.for_model("anople").model_type, "image-anomaly-detection" in PIPELINE_REGISTRY.supported_tasks)
print(AutoModel._model_mapping[anople_hf.AnoPLeConfig].__name__)
"""


@pytest.mark.parametrize(
    ("started", "at_once"), [("anople.py", True), ("/usr/bin/anople", False), ("anople.exe", False)]
)
def test_names_are_there_and_known_to_transformers(started, at_once):
    code = CODE.format(started=started)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(at_once), "set()", "anople", "True", "AnoPLeModel"]


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="'anople_hf' has no attribute 'AnopleModel'"):
        _ = anople_hf.AnopleModel
