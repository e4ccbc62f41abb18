"""The house rules that a reader relies on, held by the syntax trees of the source files.

The rules are those of the package's design: what ships with a model stands flat, a folder is for the installed package
only, and imports go one way.
"""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "anople_hf"
FILES = sorted(SOURCE.rglob("*.py"))
FLAT = sorted(path for path in SOURCE.glob("*.py") if path.name != "__init__.py")

# Files that stand alone, so that each can be read, tested and replaced by itself.
ALONE = ("decoder", "matching", "scoring", "training/losses", "training/shapes", "evaluation/ranking")
# A folder may import from those before it, and from the flat files.
FOLDERS = ("output", "data", "training", "evaluation", "pictures", "inspection", "baselines", "export", "benchmark",
           "app", "service", "cli")  # fmt: skip
APART = ("evaluate_modules",)  # each of its folders is uploaded to the Hub by itself
MODEL_DEPENDENCIES = {"torch", "numpy", "PIL", "scipy", "transformers", "huggingface_hub", "safetensors"}
ASKED_FOR = {"peft"}  # imported inside a function, in a try that says what to install
MOST_LINES = 600


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


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_files(path: Path) -> set[Path]:
    """The package's files that a file imports, wherever it does, but not for type checkers alone."""
    found = set()
    for node in ast.walk(ast.Module([part for part in parse(path).body if not is_type_checking(part)], [])):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1].joinpath(*(node.module or "").split(".") if node.module else ())
        for alias in node.names:
            places = (folder / f"{alias.name}.py", folder / alias.name / "__init__.py", folder.with_suffix(".py"),
                      folder / "__init__.py")  # fmt: skip
            found.add(next(place for place in places if place.is_file()))
    return found - {path}


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def floor(path: Path) -> int:
    """0 for the flat files, 1 and more for the folders in their order."""
    parts = path.relative_to(SOURCE).parts
    return 0 if len(parts) == 1 else 1 + FOLDERS.index(parts[0])


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def room(path: Path) -> str:
    """The folder of a file, or `flat`."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else "flat"


def imported_rooms() -> dict[str, set[str]]:
    """Each room and the others that its files import from."""
    found: dict[str, set[str]] = {room(path): set() for path in FILES}
    for path in FILES:
        found[room(path)] |= {room(other) for other in imported_files(path)} - {room(path)}
    return found


def needed_arrows(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows of a graph without circles, less those that a longer path implies."""

    def reached(start: str) -> set[str]:
        return graph[start].union(*map(reached, graph[start]))

    return {(a, b) for a in graph for b in graph[a] if not any(b in reached(c) for c in graph[a] - {b})}


def drawn(page: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Rooms and arrows of the Mermaid picture on a page."""
    picture = page.split("```mermaid\n")[1].split("```")[0]
    arrows = {(a, b) for a, targets in re.findall(r"^ +(\w+) --> (.+)$", picture, re.M) for b in targets.split(" & ")}
    return set(re.findall(r"^ +(\w+)\[", picture, re.M)), arrows


def test_import_scan_sees_every_form():
    tree = ast.parse("import a.b\nfrom c.d import e\nfrom . import f\nfrom .g import h\nfrom ..i import j")
    assert imports(tree) == ({"a", "c"}, {(1, "f"), (1, "g"), (2, "i")})


def test_file_scan_sees_every_form():
    found = {label(path) for path in imported_files(SOURCE / "export" / "graph.py")}
    assert {"__init__.py", "modeling_anople.py", "export/parity.py", "output/whole.py"} <= found
    assert not {"export/graph.py", "export/__init__.py"} & found
    assert "modeling_anople.py" not in {label(path) for path in imported_files(SOURCE / "calibration.py")}


def test_flat_is_what_ships_with_a_model(make_model, processor, tmp_path):
    """The files that saving for `trust_remote_code` writes are the flat ones: all of them, and no other."""
    from transformers import pipeline

    pipeline("image-anomaly-detection", model=make_model(), processor=processor).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.py")) == [path.name for path in FLAT]


def test_every_folder_has_its_floor():
    folders = {path.relative_to(SOURCE).parts[0] for path in FILES if path.parent != SOURCE}
    assert folders == {*FOLDERS, *APART}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[len(SOURCE.parts)] not in APART], ids=label)
def test_imports_go_one_way(path):
    upward = [label(found) for found in imported_files(path) if floor(found) > floor(path)]
    assert not upward, f"{label(path)} imports {upward}, which stand above it"


def test_imports_make_no_circle():
    TopologicalSorter({path: imported_files(path) for path in FILES}).prepare()  # CycleError names the circle


def test_picture_scan_sees_every_form():
    page = '```mermaid\nflowchart TD\n    a["<b>a/</b>"]\n    b["B"]\n    a --> b & c\n    b --> c\n```\n    d["D"]'
    assert drawn(page) == ({"a", "b"}, {("a", "b"), ("a", "c"), ("b", "c")})
    assert needed_arrows({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {("a", "b"), ("b", "c")}


def test_the_picture_of_the_structure_is_true():
    """The rooms and arrows that docs/structure.md draws are those of the source files."""
    rooms, arrows = drawn((ROOT / "docs" / "structure.md").read_text(encoding="utf-8"))
    measured = imported_rooms()
    assert rooms == set(measured)
    assert arrows == needed_arrows(measured)


@pytest.mark.parametrize("path", [SOURCE / f"{name}.py" for name in ALONE], ids=label)
def test_imports_no_sibling(path):
    absolute, relative = imports(parse(path))
    assert not relative, f"{path.name} has to stand alone, it imports {sorted(relative)}"
    assert "anople_hf" not in absolute


@pytest.mark.parametrize("path", FLAT, ids=label)
def test_model_files_stay_flat_and_light(path):
    absolute, relative = imports(parse(path))
    foreign = absolute - MODEL_DEPENDENCIES - ASKED_FOR - set(sys.stdlib_module_names)
    assert not foreign, f"{path.name} imports {sorted(foreign)}, which remote code cannot count on"
    nested = [f"{'.' * dots}{name}" for dots, name in relative if dots > 1 or "." in name or (SOURCE / name).is_dir()]
    assert not nested, f"{path.name} imports {nested}, remote code is copied as one flat folder"


@pytest.mark.parametrize("path", FLAT, ids=label)
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
