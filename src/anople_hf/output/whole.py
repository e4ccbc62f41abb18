"""Output files and folders that appear complete or not at all: a failed run must not leave half a model behind."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".anople"
"""Empty file in every folder this package wrote; only such a folder, or an empty one, may be overwritten."""


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse an existing output folder before any work is done.

    Raises:
        FileExistsError: The folder exists and `overwrite` is not set, or this package did not write it.
        NotADirectoryError: The path is a file.
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
    """Provide a temporary folder beside `folder`. On success it replaces `folder`; on failure it is deleted.

    Args:
        folder: The output.
        overwrite: Replace the output of an earlier run when the new one is complete.

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
    """Rename a complete folder to its final name, replacing the folder there, if any."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Provide a temporary file name beside `path`, with the same suffix. On success the file there replaces `path`.

    The file's folder is created if needed. Processes that write the same file do not interfere with each other.
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
    """Write text or bytes as a whole file."""
    with whole_file(path) as file:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
