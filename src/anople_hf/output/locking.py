"""One writer at a time: what two processes change in one folder, none of them loses."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK = ".lock"
SOON, PATIENCE = 1.0, 600.0
"""Seconds until a waiting writer says that it waits, and until it gives up."""


@contextmanager
def changing(run: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Read, change and write a detector's folder while no other process does.

    A second writer waits, and says so; what it reads then holds what the first one wrote.

    Args:
        run: An existing folder.
        patience: Seconds to wait.

    Raises:
        OSError: Another process did not end in time, or the folder cannot be written to.
    """
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=min(SOON, patience))
    except Timeout:
        logger.warning("%s is being changed by another process; waiting for it.", run)
        try:
            lock.acquire(timeout=max(0.0, patience - SOON))
        except Timeout as error:
            raise OSError(f"{run} is still being changed by another process; try again when it has ended.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def making(output: Path) -> Iterator[None]:
    """Make a folder that nobody else is making.

    Raises:
        FileExistsError: Another process is; nothing was changed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output.with_name(f".{output.name}{LOCK}"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"another process is writing {output}; wait until it has ended, or choose another --output."
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


__all__ = ["changing", "making"]
