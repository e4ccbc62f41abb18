"""Output folders appear whole or not at all."""

import pytest

from anople_hf.output.whole import check_output, whole_folder


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as work:
        (work / "half.txt").write_text("x")
        raise RuntimeError
    assert not any(tmp_path.iterdir())


def test_overwriting_keeps_the_old_until_the_new_is_whole(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as work:
        (work / "old.txt").write_text("x")
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_output(out)
    with pytest.raises(RuntimeError), whole_folder(out, overwrite=True):
        raise RuntimeError
    assert (out / "old.txt").exists()
    with whole_folder(out, overwrite=True) as work:
        (work / "new.txt").write_text("x")
    assert sorted(path.name for path in out.iterdir()) == [".anople", "new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_we_did_not_write_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="not written by anople"):
        check_output(tmp_path / "mine", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        check_output(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
