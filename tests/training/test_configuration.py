"""A run's settings: each choice is checked against its type, and stands on the command line as it is here."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from anople_hf.cli.command import app
from anople_hf.cli.options import described
from anople_hf.cli.train import train
from anople_hf.data.few_shot import ShotMode
from anople_hf.training.configuration import TrainingConfig, Turns
from anople_hf.training.losses import ALIGN_CHANNELS, ALIGN_MODES
from anople_hf.turns import COPIES

CHOICES = {name: get_args(kind) for name, kind in get_type_hints(TrainingConfig).items() if name in (
    "alignment", "align_channel", "mixed_precision", "shot_mode")}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_its_type(name):
    for value in CHOICES[name]:
        assert getattr(TrainingConfig(**{name: value}), name) == value
    with pytest.raises(ValueError, match=f"{name}='other': expected one of {', '.join(CHOICES[name])}"):
        TrainingConfig(**{name: "other"})


def test_choices_are_those_of_the_code_that_makes_them():
    """`losses` and `few_shot` stand alone, or come with a library that the command line does not wait for."""
    assert CHOICES["shot_mode"] == get_args(ShotMode)
    assert set(CHOICES["alignment"]) == {*ALIGN_MODES, "none"} and CHOICES["align_channel"] == ALIGN_CHANNELS


def test_turns_are_those_of_the_memory():
    assert set(get_args(Turns)) == set(COPIES)


def test_options_say_what_the_fields_say():
    options = {option.name: option for option in get_command(app).commands["train"].params}
    about, usual = described(TrainingConfig), TrainingConfig()
    for name in (field.name for field in fields(TrainingConfig) if field.name != "settings"):
        value = getattr(usual, name)
        assert options[name].default == (",".join(value) if isinstance(value, list) else value), name
        assert options[name].help.startswith(about[name].replace("`", "")), name
        assert name not in CHOICES or get_args(get_type_hints(train)[name]) == CHOICES[name]
