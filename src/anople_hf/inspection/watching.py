"""Watches a folder that a camera writes to, and reads each photo when it is complete.

A file is complete when its size and modification time are the same in two successive checks, and it can be read. If it
cannot be read, it is checked once more, in case the camera is slow, and then skipped until it changes. Each path is
judged once.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ..images import IMAGE_SUFFIXES, UnreadableImageError, printable

ATTEMPTS = 3
"""Looks at a file that seems whole but cannot be read, before it is left out."""

State = tuple[int, int]
Read = TypeVar("Read")


def watch(
    find: Callable[[], Sequence[Path]],
    read: Callable[[Path], Read],
    *,
    every: float = 1.0,
    batch_size: int = 16,
    known: Collection[str] = (),
    most: int | None = None,
    idle: float | None = None,
    report: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[list[Read]]:
    """Wait for photos, and yield them in small batches as they arrive.

    Args:
        find: Lists the current files; files without the suffix of a photo are ignored.
        read: Reads a photo, such as `anople_hf.images.read_photo`.
        every: Seconds between two checks.
        batch_size: Maximum number of photos per batch.
        known: Paths that are not judged again.
        most: Stop after this many photos; None for no limit.
        idle: Stop after this many seconds without a new or changed file; None waits forever.
        report: Called with one line for each file that cannot be read.
        sleep: Sleep function; for tests.
        clock: Monotonic clock in seconds; for tests.

    Yields:
        What `read` made of the next photos, never an empty list.
    """
    known, given = set(known), 0
    looks: dict[Path, State] = {}
    failures: dict[Path, int] = {}
    changed = clock()
    while True:
        batch: list[Read] = []
        for path in find():
            if printable(path) in known or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            state = _state(path)
            if state is None:
                continue
            if not state[0] or looks.get(path) != state:
                if looks.get(path) != state:
                    changed = clock()
                    failures.pop(path, None)
                looks[path] = state
                continue
            if failures.get(path, 0) >= ATTEMPTS:
                continue
            try:
                photo = read(path)
            except UnreadableImageError as error:
                failures[path] = failures.get(path, 0) + 1
                changed = clock()
                end = "skipped" if failures[path] == ATTEMPTS else "tried again"
                report(f"{end}: {error}")
                continue
            known.add(printable(path))
            looks.pop(path)
            batch.append(photo)
            given += 1
            if len(batch) == batch_size or given == most:
                yield batch
                batch, changed = [], clock()
            if given == most:
                return
        if batch:
            yield batch
            changed = clock()
        if idle is not None and clock() - changed >= idle:
            return
        sleep(every)


def _state(path: Path) -> State | None:
    """Size and modification time, or None if the file is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
