"""The Dockerfile, as far as it can be checked without a builder: its context, its command, its health check."""

import json
import re
import tomllib
from pathlib import Path

from typer.main import get_command

from anople_hf.cli import app

ROOT = Path(__file__).parents[1]
TEXT = re.sub(r"\\\n *", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def given(instruction):
    return [rest for name, rest in LINES if name == instruction]


def test_what_is_copied_is_there_and_let_through_and_enough():
    copied = {source for rest in given("COPY") for source in rest.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert all((ROOT / source).exists() for source in copied)
    assert copied == {line[1:] for line in ignored if line.startswith("!")} and "*" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "src/anople_hf"}
    assert all(any(f"{path}/".startswith(f"{source}/") for source in copied) for path in needed)
    assert "serve" in project["optional-dependencies"] and '".[serve]"' in TEXT


def test_its_command_is_one_that_anople_takes():
    program, verb, *rest = json.loads(given("ENTRYPOINT")[0]) + json.loads(given("CMD")[0])
    assert program == "anople"
    context = get_command(app).commands[verb].make_context(verb, rest)
    assert (str(context.params["run"]), context.params["host"]) == ("/detector", "0.0.0.0")
    assert f"EXPOSE {context.params['port']}" in TEXT
    check = json.loads(given("HEALTHCHECK")[0].split("CMD ")[1])
    compile(check[2], "health check", "exec")
    assert f":{context.params['port']}/health" in check[2]


def test_it_does_not_run_as_root():
    names = [name for name, _ in LINES]
    assert given("USER") == ["10001"] and names.index("USER") < names.index("ENTRYPOINT")
    assert "useradd --uid 10001" in TEXT
