"""`Judging`: judges the photos of a review in the background, and watches a folder for more.

Two threads a review: one judges and ends when nothing is due, the other one waits for files. Both end with the review,
and when no page has asked for it in a while.
"""

import contextvars
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import IMAGE_SUFFIXES, printable
from ..inspection.watching import watch
from .inspector import Finding, NotRead
from .products import checked_photo
from .review import Review, Verdict
from .texts import describe

SHOWN_SIDE = 960
AT_ONCE = 2
"""Photos judged between two looks at what is due: few, so that the page sees them come."""
PATIENCE = 3600.0
"""Seconds without a page that asks, after which a review ends."""

Judge = Callable[[Any, Sequence[Path], str], Sequence[Finding | NotRead]]
"""Judges photos: by a visitor's products, as a product."""

_log = logging.getLogger(__name__)


class Judging:
    """What works for one review.

    Args:
        review: The review.
        judge: Judges photos; an error ends the work and is shown.
        most: Photos that the queue takes.

    Attributes:
        works: Photos are judged right now.
    """

    def __init__(self, review: Review, judge: Judge, most: int) -> None:
        self.review, self.judge, self.most = review, judge, most
        self.works = False
        self._context = contextvars.copy_context()  # whoever lends a GPU looks up there for whom

    @property
    def busy(self) -> bool:
        """Photos are judged or waited for."""
        return self.works or (self.review.watched is not None and not self.review.trouble)

    def upload(self, files: Sequence[str | Path]) -> int:
        """Take uploaded photos in; they are the review's own from now on.

        Returns:
            How many.

        Raises:
            ValueError: More than the queue takes.
        """
        review = self.review
        with review.lock:
            if len(review.items) + len(files) > self.most:
                raise ValueError(f"At most {self.most} photos in one review; start another one for the others.")
            photos = []
            for place, file in enumerate(map(Path, files), start=len(review.items)):
                own = review.folder / "photos" / str(place) / file.name
                own.parent.mkdir(parents=True)
                try:
                    os.link(file, own)
                except OSError:
                    shutil.copyfile(file, own)
                photos.append((own, file.name))
            review.add(photos)
        self.wake()
        return len(photos)

    def watch(self, folder: Path) -> None:
        """Take in the photos of a folder, and of those in it, and wait for more.

        Raises:
            ValueError: It is no folder.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder of this machine.")
        self.review.watched = folder.resolve()
        self._start(self._watch)

    def wake(self) -> None:
        """Judge what is due, if nobody does."""
        with self.review.lock:
            if not self.works and not self.review.closed:
                self.works, self.review.trouble = True, ""
                self._start(self._work)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=self._context.copy().run, args=(work,), daemon=True).start()

    @property
    def _over(self) -> bool:
        return self.review.closed or time.monotonic() - self.review.seen > PATIENCE

    def _work(self) -> None:
        review = self.review
        while True:
            with review.lock:
                items, visitor, generation = review.due(AT_ONCE), review.visitor, review.generation
                if self._over or not items:
                    self.works = False
                    return
            try:
                found = self.judge(visitor, [item.path for item in items], review.product)
                for item, one in zip(items, found, strict=True):
                    kept = one.reason if isinstance(one, NotRead) else render(one, review.folder / "shown")
                    review.take(item, kept, generation)
            except Exception as error:  # a thread that dies says nothing: the page does
                with review.lock:
                    self.works = False
                    if not review.closed:
                        _log.info("a review's photos could not be judged", exc_info=True)
                        review.trouble = str(getattr(error, "message", "") or error)
                return

    def _watch(self) -> None:
        review, folder = self.review, self.review.watched
        assert folder is not None

        def find() -> list[Path]:
            if self._over or review.watched != folder or len(review.items) >= self.most:
                raise _EndedError
            found = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
            return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)

        def whole(path: Path) -> Path:
            checked_photo(path)
            return path

        known = {printable(item.path) for item in review.items}
        try:
            for paths in watch(find, whole, every=0.5, batch_size=16, known=known, report=review.notes.append):
                room = self.most - len(review.items)
                review.add([(path, str(path.relative_to(folder))) for path in paths[:room]])
                self.wake()
        except _EndedError:
            if len(review.items) >= self.most:
                review.trouble = f"The queue is full, {self.most} photos: start a new review for the next ones."
        if review.watched == folder:
            review.watched = None


class _EndedError(Exception):
    """Nobody watches any more."""


def render(found: Finding, folder: Path) -> Verdict:
    """A finding as a verdict, its pictures written to a folder."""
    folder.mkdir(exist_ok=True)
    paths = []
    mark = f"{time.monotonic_ns():x}"
    for name, picture in (("photo", found.photo), ("overlay", found.overlay()), ("evidence", found.evidence)):
        shown = picture.convert("RGB")
        shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
        paths.append(folder / f"{mark}_{name}.jpg")
        shown.save(paths[-1], quality=88)
    numbers = found.score, found.threshold, found.ratio
    return Verdict(found.shows, found.label, *numbers, describe(found), *paths)


__all__ = ["Judging", "render"]
