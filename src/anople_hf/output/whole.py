"""Output folders that appear whole or not at all.

A run that fails must not leave half a model behind.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".anople"
"""Empty file in every folder this package wrote; only such a folder, or an empty one, may be overwritten."""


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse an output folder that is in the way, before any work is done.

    Raises:
        FileExistsError: It exists and `overwrite` is not set, or it was not written by this package.
        NotADirectoryError: It is a file.
    """
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; expected a folder to write to.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists already; choose another --output, or replace it with --overwrite.")
    if not (folder / MARK).exists():
        raise FileExistsError(f"{folder} was not written by anople and is not replaced; choose another --output.")


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes its place, on failure it is removed.

    Args:
        folder: The output.
        overwrite: Replace an output of an earlier run, only once the new one is complete.

    Raises:
        FileExistsError: See `check_output`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "run"
        >>> with whole_folder(target) as work:
        ...     _ = (work / "a.txt").write_text("a")
        >>> sorted(path.name for path in target.iterdir())
        ['.anople', 'a.txt']
    """
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)  # left over from a run that was killed
    work.mkdir()
    try:
        yield work
        (work / MARK).touch()
        take_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def take_place(work: Path, folder: Path) -> None:
    """Give a folder that is whole the name of the one it replaces, if that exists."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, of the same ending; on success the file there takes its place.

    The file's folder is made if needed. Processes that write the same file do not get into each other's way.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a text or bytes as a whole file."""
    with whole_file(path) as file:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
