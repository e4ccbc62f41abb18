"""Which photos and detectors a command line means: files, folders, patterns, stdin; folders and Hub ids."""

import io
from pathlib import Path
from typing import get_args, get_type_hints

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from anople_hf.benchmark.plans import TABLES
from anople_hf.cli.benchmark import Table
from anople_hf.cli.export import export
from anople_hf.cli.options import Branch, find_photos, find_run
from anople_hf.export.detector import OPENERS
from anople_hf.export.graph import Kind
from anople_hf.modeling_anople import Branch as ModelBranch


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/deep/2.png", "b/3.png", "b/note.txt", "[c]/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["b/3.png"], ["b/3.png"]),
        (["a"], ["a/1.png", "a/deep/2.png"]),
        (["*/*.png"], ["[c]/4.png", "a/1.png", "b/3.png"]),
        (["a/**/*.png"], ["a/1.png", "a/deep/2.png"]),
        (["?/*.png", "a"], ["a/1.png", "b/3.png", "a/deep/2.png"]),  # each once
        (["b*"], ["b/3.png", "b/note.txt"]),  # a pattern may name folders; strange files are told later
        (["[c]"], ["[c]/4.png"]),  # what exists is no pattern
        (["[ab]/?.png"], ["a/1.png", "b/3.png"]),
    ],
)
def test_sources(sources, found, shelf):
    assert [path.as_posix() for path in find_photos(sources)] == found


def test_stdin_is_a_list_of_paths(shelf, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("b/3.png\n\na\n"))
    assert [path.as_posix() for path in find_photos(["-"])] == ["b/3.png", "a/1.png", "a/deep/2.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(ValueError, match="one a line"):
        find_photos(["-"])


def test_what_is_not_there_is_named(shelf):
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere"):
        find_photos(["a", "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"pattern '\*\.jpg'"):
        find_photos(["*.jpg"])
    with pytest.raises(ValueError, match="empty holds no photos"):
        find_photos(["empty"])
    assert find_photos(["empty", "*.jpg"], empty=True) == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_photos(["nowhere"], empty=True)


def test_a_run_is_a_folder_or_on_the_hub(online, tmp_path):
    (tmp_path / "config.json").touch()
    assert find_run(tmp_path) == {"pretrained_model_name_or_path": tmp_path}
    with pytest.raises(FileNotFoundError, match="no config.json"):
        find_run(tmp_path / "cache")
    HfApi().create_repo("me/line1")
    for name in ("me/line1", "me/line2"):
        with pytest.raises(FileNotFoundError, match=f"{name} is neither a folder here nor a detector on the Hub: "):
            find_run(Path(name))
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/line1")
    assert find_run(Path("me/line1")) == {"pretrained_model_name_or_path": "me/line1"}
    with pytest.raises(FileNotFoundError, match="hf download me/line1"):
        find_run(Path("me/line1"), own=True)


def test_a_silent_hub_is_asked_once_and_the_cache_will_do(online, monkeypatch):
    HfApi().create_repo("me/line1")
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/line1")
    HfApi().hf_hub_download("me/line1", "config.json")
    asked = []

    def silent(url):
        asked.append(url)
        raise HTTPError("Connection refused")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", silent)
    assert find_run(Path("me/line1")) == {"pretrained_model_name_or_path": "me/line1", "local_files_only": True}
    with pytest.raises(FileNotFoundError, match="^runs/line1 is neither .*: Connection refused$"):
        find_run(Path("runs/line1"))
    assert len(asked) == 2


def test_choices_are_those_of_the_code_behind_them():
    """The command line names them itself, because it does not wait for torch."""
    assert get_args(get_type_hints(export)["kind"]) == get_args(Kind) == tuple(OPENERS)
    assert get_args(Branch) == get_args(ModelBranch)
    assert {*get_args(Table), "compare"} == set(TABLES)
