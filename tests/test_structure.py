"""The house rules that a reader relies on, held by the syntax trees of the source files.

Where in the paper: nowhere; the rules are those of the package's design (direction of imports, flat model files).
"""

import ast
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

SOURCE = Path(__file__).resolve().parents[1] / "src" / "anople_hf"
FILES = sorted(SOURCE.rglob("*.py"))

# Files that stand alone, so that each can be read, tested and replaced by itself.
ALONE = ("decoder", "nearest", "scoring", "losses", "anomaly_shapes", "ranking")
# Files that `trust_remote_code` copies to a Hub repository, with all they import: flat, with few dependencies.
MODEL_ROOTS = (
    "configuration_anople",
    "prompts",
    "adaptation",
    "decoder",
    "memory",
    "scoring",
    "modeling_anople",
    "processing_anople",
    "images",
    "backbones",
    "pipeline",
    "hub",
)
MODEL_DEPENDENCIES = {"torch", "numpy", "PIL", "scipy", "transformers", "huggingface_hub", "safetensors"}
ASKED_FOR = {"peft"}  # imported inside a function, in a try that says what to install
MOST_LINES = 350


def imports(tree: ast.AST) -> tuple[set[str], set[tuple[int, str]]]:
    """Top-level names of absolute imports, and (dots, module) of relative ones."""
    absolute: set[str] = set()
    relative: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            absolute |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            relative |= {(node.level, name) for name in names}
        elif isinstance(node, ast.ImportFrom):
            absolute.add((node.module or "").split(".")[0])
    return absolute, relative


def existing(names: tuple[str, ...]) -> list[Path]:
    return [SOURCE / f"{name}.py" for name in names if (SOURCE / f"{name}.py").exists()]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def model_files() -> list[Path]:
    """The roots and every sibling that they import, directly or through another."""
    found: list[Path] = []
    waiting = existing(MODEL_ROOTS)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            _, relative = imports(parse(path))
            waiting += existing(tuple(name for dots, name in relative if dots == 1))
    return sorted(found)


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_import_scan_sees_every_form():
    tree = ast.parse("import a.b\nfrom c.d import e\nfrom . import f\nfrom .g import h\nfrom ..i import j")
    assert imports(tree) == ({"a", "c"}, {(1, "f"), (1, "g"), (2, "i")})


@pytest.mark.parametrize("path", existing(ALONE), ids=label)
def test_imports_no_sibling(path):
    absolute, relative = imports(parse(path))
    assert not relative, f"{path.name} has to stand alone, it imports {sorted(relative)}"
    assert "anople_hf" not in absolute


@pytest.mark.parametrize("path", model_files(), ids=label)
def test_model_files_stay_flat_and_light(path):
    absolute, relative = imports(parse(path))
    foreign = absolute - MODEL_DEPENDENCIES - ASKED_FOR - set(sys.stdlib_module_names)
    assert not foreign, f"{path.name} imports {sorted(foreign)}, which remote code cannot count on"
    nested = [f"{'.' * dots}{name}" for dots, name in relative if dots > 1 or "." in name or (SOURCE / name).is_dir()]
    assert not nested, f"{path.name} imports {nested}, remote code is copied as one flat folder"


@pytest.mark.parametrize("path", model_files(), ids=label)
def test_remote_code_asks_for_nothing_more(path):
    """Transformers refuses remote code over any import it sees outside of a try, even one for type checkers only."""
    assert set(get_imports(path)) - set(sys.stdlib_module_names) <= MODEL_DEPENDENCIES


@pytest.mark.parametrize("path", FILES, ids=label)
def test_source_file_is_short_documented_and_silent(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree), "the first line has to say what the file is"
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not printed, f"print in lines {printed}; use logging"
