"""`Scorer`: one thread that scores what has queued up, so that concurrent requests share a pass.

A photo that comes while nothing is scored is scored at once; those that come meanwhile wait for the next pass
together. Nobody waits for a batch to fill.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from ..inspection.predict import Prediction
from ..photos import Photo
from .detector import ServedDetector

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """So many photos wait that one more is refused."""


@dataclass
class _Job:
    photo: Photo
    product: str | None
    answer: "Future[Prediction]" = field(default_factory=Future)


class Scorer:
    """`with Scorer(detector) as scorer:` starts the thread; at the end it scores what still waits.

    Args:
        detector: What scores.
        batch_size: Photos in one pass.
        most: Photos that may wait or be scored at a time, those of running requests included.
        observe: Called with the number of photos of each pass.
    """

    def __init__(
        self,
        detector: ServedDetector,
        *,
        batch_size: int = 16,
        most: int = 128,
        observe: Callable[[int], None] = lambda photos: None,
    ) -> None:
        self.detector, self.batch_size, self.most, self._observe = detector, batch_size, most, observe
        self.waiting = 0
        self._counting = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="scorer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @contextmanager
    def room(self, photos: int) -> Iterator[None]:
        """Hold the places of so many photos, from before they are decoded until they are answered.

        Raises:
            BusyError: There are not so many.
        """
        with self._counting:
            if self.waiting + photos > self.most:
                raise BusyError(f"{self.waiting} photos wait and at most {self.most} may; send these again soon.")
            self.waiting += photos
        try:
            yield
        finally:
            with self._counting:
                self.waiting -= photos

    def submit(self, photos: Sequence[Photo], product: str | None = None) -> "list[Future[Prediction]]":
        """Queue photos; each answer comes when its pass is done."""
        jobs = [_Job(photo, product) for photo in photos]
        for job in jobs:
            self._jobs.put(job)
        return [job.answer for job in jobs]

    def _work(self) -> None:
        ending = False
        while not ending:
            jobs: list[_Job] = []
            while not ending and len(jobs) < self.batch_size:
                try:
                    job = self._jobs.get(block=not jobs)
                except queue.Empty:
                    break
                ending = job is None
                jobs += [job] if job else []
            jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if jobs:
                self._score(jobs)

    def _score(self, jobs: list[_Job]) -> None:
        self._observe(len(jobs))
        try:
            found = self.detector.score([job.photo for job in jobs], [job.product for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            logger.warning("a pass of %d photos failed (%s); each is scored alone.", len(jobs), error)
            for job in jobs:  # one photo's trouble, such as an unknown product, is not the others'
                self._score([job])
            return
        for job, prediction in zip(jobs, found, strict=True):
            job.answer.set_result(prediction)


__all__ = ["BusyError", "Scorer"]
