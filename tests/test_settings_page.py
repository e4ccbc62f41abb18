"""`docs/settings.md` says what the code does: written from the docstrings, complete and up to date."""

import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from anople_hf import AnoPLeConfig
from anople_hf.training.configuration import TrainingConfig

SCRIPT = Path(__file__).parents[1] / "scripts" / "settings_page.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_page_is_up_to_date(script):
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run: python scripts/settings_page.py"


@pytest.mark.parametrize("owner", [AnoPLeConfig, TrainingConfig])
def test_every_setting_is_described(script, owner):
    inherited = {field.name for field in fields(AnoPLeConfig.__mro__[1])} if owner is AnoPLeConfig else set()
    own = {field.name for field in fields(owner)} - inherited
    assert own <= set(script["described"](owner))


def test_the_papers_defaults_are_told_from_ours(script):
    whose = dict(row.split(" | ")[0:3:2] for row in script["rows"](AnoPLeConfig))
    assert whose["| `coupling`"] == "paper's" and whose["| `temperature`"] == "ours"
