"""Which photos a command line means: files, folders, patterns, stdin."""

import io

import pytest

from anople_hf.cli.options import find_photos


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
