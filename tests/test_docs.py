"""Every snippet of README, docs and tutorials runs as it stands: in order, in an empty folder, in real shells.

A comment `<!-- first: ... -->` in a page holds what has to be there before its first snippet, such as photos.
The Hub is a local stand-in; what trains does so for two small steps, in float32; sample data sets are drawn smaller.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "model_cards").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```|^<!-- (first):\n(.*?)^-->", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
TRAINS = re.compile(r"(anople train|train\.py|cli train) ")
FEW = "--train 9 --test-good 8 --test-defective 8"  # every photo that a page names is still there


def blocks_of(page):
    """(language, text) of what is run; `make ...` has a test of its own."""
    found = [(a or "bash", b or d) for a, b, _, d in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [(language, text) for language, text in found if not text.startswith("make ")]


RUN = [page for page in PAGES if page.is_relative_to(ROOT / "docs") or page.name == "README.md"]
RUN = [page for page in RUN if page.parent.name != "model_cards" and blocks_of(page)]


def shortened(text):
    """Two small steps are enough to see that a command works; a processor without bfloat16 takes a minute for one."""
    text = text.replace("--mixed_precision bf16", "--mixed_precision no").replace("demo-data ", f"demo-data {FEW} ")
    lines = []
    for line in re.sub(r"\\\n *", "", text).splitlines():
        for option, value in (("--max-steps", 2), ("--batch-size", 2)):
            if TRAINS.search(line) and option not in line:
                line = re.sub(r"( #.*)?$", rf" {option} {value}\1", line, count=1)
        lines.append(line)
    return "\n".join(lines)


@pytest.fixture
def shell(warm, tmp_path):
    """Run a block; what it left in the background ends with the test."""
    started = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = tmp_path / "here"
    here.mkdir()
    (here / "scripts").symlink_to(ROOT / "scripts")

    def run(language, text):
        text = shortened(text) if language == "bash" else text
        start = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else ["python", "-c"]
        process = subprocess.Popen(
            [*start, re.sub(r"\b(7860|8000)\b", port, text)], cwd=here, env=warm, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process.pid)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"{text}\n{out}\n{err}"

    yield run
    for group in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, shell):
    for language, text in blocks_of(page):
        shell(language, text)


def test_pages_that_have_to_teach_by_running():
    names = {page.stem for page in RUN}
    assert {"README", "own_data", "new_product", "hub", "cluster", "edge", "app", "data", "export", "peft"} <= names


def test_quickstart(warm, tmp_path):
    """`make quickstart`, with two products and two steps, in the environment that is there."""
    few = [
        f"DRAWN=--products capsule,woven_cloth --size 64 {FEW}",
        "LEARN=--max-steps 2 --batch-size 2",
        "VENV=none",
    ]
    commands = warm["PATH"].split(os.pathsep)[0]
    command = ["make", "quickstart", "-o", "none/.installed", f"OUT={tmp_path}/q", *few, f"BIN={commands}"]
    done = subprocess.run(command, cwd=ROOT, env=warm, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean") == 2 and f"detector: {tmp_path}/q/model" in done.stdout
    assert Image.open(tmp_path / "q" / "contact_sheet.png").width > 500


def test_notebook_runs_from_top_to_bottom(warm, tmp_path):
    cells = json.loads((ROOT / "docs" / "anople.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(["python", "-c", code], cwd=tmp_path, env=warm, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "image AUROC" in done.stdout and "threshold" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_hold(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page):
    """Every `anople VERB --option` in the documentation is a verb with that option, every scripts/*.py a file."""
    from typer.main import get_command

    from anople_hf.cli import app

    root = get_command(app)
    text = re.sub(r"\\\n *", "", page.read_text(encoding="utf-8"))
    for verb, rest in re.findall(r"(?:^|`|\$ |\n {4})anople ([a-z][a-z-]+)([^`\n|;]*)", text):
        assert verb in root.commands, verb
        command = root.commands[verb]
        if verb == "data" and rest.split():
            command = command.commands[rest.split()[0]]
        known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
        shown = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", rest.split(" #")[0]))
        assert shown <= known | {"--help"}, f"anople {verb}: {shown - known}"
    assert all((ROOT / name).exists() for name in re.findall(r"\bscripts/\w+\.py", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_shown_exist(page):
    """Tables name the file in which an equation of the paper, or what a reader wants to change, lives."""
    named = re.findall(r"`((?!scripts/|tests/)[a-z_/]+\.py)(?:: \w+)?`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / "src" / "anople_hf" / name).is_file()]
    assert len(named) > 5 or page.name not in ("concepts.md", "structure.md")


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r": (\S+\.md)$", menu, flags=re.M))
