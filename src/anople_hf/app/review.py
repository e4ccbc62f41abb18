"""`Review`: the photos that one person goes through: how each was judged, what was answered, what comes next.

- An answer is about a verdict. Where the verdict changes later, the answer is turned with it: what was called
  defective by mistake, and is called normal now, is right now.
- Every answer, and every change of what decides, can be taken back.
- Nothing here judges: `judging.py` does, in the background.
"""

import csv
import io
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..decisions import DEFECTIVE, NORMAL, UNKNOWN
from .products import ANY

RIGHT, WRONG, UNSURE = "right", "wrong", "unsure"
NEAR, STRANGEST, ARRIVED = "nearest to the threshold first", "strangest first", "as they came"
ORDERS = (NEAR, STRANGEST, ARRIVED)
COLUMNS = ("path", "product", "score", "threshold", "ratio", "verdict", "answer", "reviewed_as")
_OTHER = {NORMAL: DEFECTIVE, DEFECTIVE: NORMAL}


@dataclass(frozen=True)
class Verdict:
    """What was found on a photo, without its pixels.

    Attributes:
        product: The product that it shows, recognized or told.
        label: `normal`, `defective`, or `unknown product`.
        score: Raw score.
        threshold: For scores.
        ratio: The score as a multiple of the threshold.
        told: The verdict in words, HTML.
        photo: The picture as shown, a file.
        overlay: The same under its heat map.
        evidence: The strangest patch, and the good patch it is nearest to.
    """

    product: str
    label: str
    score: float
    threshold: float
    ratio: float
    told: str
    photo: Path
    overlay: Path
    evidence: Path


@dataclass
class Item:
    """A photo of the queue.

    Attributes:
        number: Its place, as they came.
        path: Where it is read from.
        name: As it is shown and listed: an upload's name, or the path in the folder that is watched.
        verdict: None until it was judged.
        answer: `right`, `wrong`, `unsure`, or "".
        refused: Why it cannot be judged, or "".
        stale: Something else decides by now; it is judged again.
    """

    number: int
    path: Path
    name: str
    verdict: Verdict | None = None
    answer: str = ""
    refused: str = ""
    stale: bool = False

    @property
    def part(self) -> str:
        """What the person says of the part: `normal`, `defective`, or "" where that is open."""
        label = self.verdict.label if self.verdict else ""
        if label not in _OTHER or self.answer not in (RIGHT, WRONG):
            return ""
        return label if self.answer == RIGHT else _OTHER[label]

    def take(self, verdict: Verdict) -> None:
        """Another verdict; the answer says the same of the part as before, or is open again if it cannot."""
        part, label = self.part, self.verdict.label if self.verdict else verdict.label
        self.verdict, self.stale = verdict, False
        if part and verdict.label in _OTHER:
            self.answer = RIGHT if part == verdict.label else WRONG
        elif self.answer in (RIGHT, WRONG) and label != verdict.label:
            self.answer = ""


@dataclass(frozen=True)
class Flip:
    """A reviewed photo whose verdict would change."""

    item: Item
    before: Verdict
    after: Verdict


@dataclass(frozen=True)
class Proposal:
    """What a change would do, before anybody keeps it.

    Attributes:
        title: What would be done.
        lines: What the act reports, HTML.
        visitor: What would decide.
        base: The products it was made from; where they have changed since, it is out of date.
        verdicts: By number, the reviewed photos judged by it.
    """

    title: str
    lines: list[str]
    visitor: Any
    base: Any
    verdicts: dict[int, Verdict]


@dataclass(frozen=True)
class _Answered:
    item: Item
    before: str


@dataclass(frozen=True)
class _Kept:
    before: Any
    after: Any
    verdicts: dict[int, tuple[Verdict, str]]


@dataclass
class Review:
    """One person's queue. The judging thread and the page use it at the same time; `lock` keeps them apart.

    Attributes:
        visitor: What decides: a detector's name and the products taught to it.
        product: What the photos show; `ANY` recognizes it.
        order: One of `ORDERS`.
        items: All photos, as they came.
        current: The number of the photo on screen; None before the first is judged.
        generation: Counts what decided, so that a verdict that comes too late is told.
        watched: The folder that is watched, or None.
        trouble: Why judging stopped, or "".
        notes: Files of the watched folder that were left out.
        proposal: What waits to be kept or discarded.
        seen: When the page last asked, by the monotonic clock.
        closed: Its files are gone.
    """

    visitor: Any
    product: str = ANY
    order: str = NEAR
    items: list[Item] = field(default_factory=list)
    current: int | None = None
    generation: int = 0
    watched: Path | None = None
    trouble: str = ""
    notes: list[str] = field(default_factory=list)
    proposal: Proposal | None = None
    seen: float = field(default_factory=time.monotonic)
    closed: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="anople_review_", ignore_cleanup_errors=True)
        self._history: list[_Answered | _Kept] = []

    @property
    def folder(self) -> Path:
        """Of its own files; gone with it."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Give its files back; the thread sees it and ends."""
        with self.lock:
            self.closed = True
            self._folder.cleanup()

    # -- photos -------------------------------------------------------------------------------------------------

    def add(self, photos: Sequence[tuple[Path, str]]) -> int:
        """Put (path, name) of photos at the end; those that are there already are not added.

        Returns:
            How many are new.
        """
        with self.lock:
            known = {item.path for item in self.items}
            new = [(path, name) for path, name in photos if path not in known]
            self.items += [Item(len(self.items) + n, path, name) for n, (path, name) in enumerate(new)]
            return len(new)

    def due(self, most: int) -> list[Item]:
        """The next photos to judge: new ones, then those that something else decides about by now."""
        with self.lock:
            waiting = [item for item in self.items if item.verdict is None and not item.refused]
            return (waiting or [item for item in self.items if item.stale])[:most]

    def take(self, item: Item, found: Verdict | str, generation: int) -> None:
        """Keep a verdict, or why there is none, if what decided still decides."""
        with self.lock:
            if generation != self.generation:
                return
            if isinstance(found, str):
                item.refused, item.stale = found, False
                return
            item.take(found)
            if self.current is None:
                self.current = item.number

    @property
    def judged(self) -> list[Item]:
        """The photos that have a verdict, in the order that was chosen."""
        with self.lock:
            return sorted((item for item in self.items if item.verdict is not None), key=self._rank)

    def _rank(self, item: Item) -> tuple[float, ...]:
        verdict = item.verdict
        assert verdict is not None
        if self.order == ARRIVED:
            return (item.number,)
        unknown = verdict.label == UNKNOWN  # its ratio says nothing
        if self.order == STRANGEST:
            return (not unknown, -verdict.ratio, item.number)
        return (not unknown, abs(math.log(max(verdict.ratio, 1e-9))), item.number)

    @property
    def reviewed(self) -> list[Item]:
        """The photos that were answered."""
        return [item for item in self.items if item.answer]

    def good(self, product: str) -> list[Item]:
        """The photos of a product that were confirmed to be good."""
        return [
            item for item in self.items if item.part == NORMAL and item.verdict and item.verdict.product == product
        ]

    def open_ones(self, product: str) -> list[Item]:
        """The photos of a product that nobody called good or defective."""
        return [i for i in self.items if i.verdict and i.verdict.product == product and not i.part]

    @property
    def products(self) -> list[str]:
        """Products with photos that were confirmed to be good, those with the most first."""
        names = {item.verdict.product for item in self.items if item.verdict and item.part == NORMAL}
        return sorted(names, key=lambda name: (-len(self.good(name)), name))

    # -- going through ------------------------------------------------------------------------------------------

    @property
    def shown(self) -> Item | None:
        """The photo on screen."""
        return None if self.current is None else self.items[self.current]

    def step(self, by: int) -> None:
        """Go to the next photo, or back; at the ends it stays."""
        with self.lock:
            judged = self.judged
            if self.current is None or not judged:
                return
            place = judged.index(self.items[self.current])
            self.current = judged[min(max(place + by, 0), len(judged) - 1)].number

    def start_over(self) -> None:
        """Go to the first photo that was not answered yet."""
        with self.lock:
            judged = self.judged
            left = [item for item in judged if not item.answer] or judged
            self.current = left[0].number if left else None

    def answer(self, number: int, answer: str) -> None:
        """Answer for a photo; the next unanswered one after it comes on screen, or the first one left.

        Args:
            number: Of the photo that was on screen when the person answered.
            answer: `right`, `wrong` or `unsure`.
        """
        with self.lock:
            item = self.items[number]
            if item.verdict is None:
                return
            if item.answer != answer:
                self._history.append(_Answered(item, item.answer))
            item.answer = answer
            judged = self.judged
            place = judged.index(item)
            left = [other for other in judged[place + 1 :] + judged[:place] if not other.answer]
            if self.current == number and left:
                self.current = left[0].number

    @property
    def change_to_undo(self) -> Any:
        """The visitor that `undo` would take back; None if it would take back an answer."""
        last = self._history[-1] if self._history else None
        return last.after if isinstance(last, _Kept) else None

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return bool(self._history)

    def undo(self) -> Any:
        """Take back the last answer, or the last change of what decides, and go to its photo.

        Returns:
            The visitor to go on with, if what decides was taken back; else None.
        """
        with self.lock:
            last = self._history.pop()
            if isinstance(last, _Answered):
                last.item.answer, self.current = last.before, last.item.number
                return None
            self._decide_by(last.before)
            for number, (verdict, answer) in last.verdicts.items():
                item = self.items[number]
                item.verdict, item.answer, item.stale = verdict, answer, False
            return last.before

    # -- what would change --------------------------------------------------------------------------------------

    def flips(self, proposal: Proposal) -> list[Flip]:
        """The reviewed photos whose label would change, in the order that was chosen."""
        return [
            Flip(item, item.verdict, proposal.verdicts[item.number])
            for item in self.judged
            if item.verdict and item.number in proposal.verdicts
            and item.verdict.label != proposal.verdicts[item.number].label
        ]  # fmt: skip

    def mistakes(self, verdicts: dict[int, Verdict] | None = None) -> tuple[int, int, int]:
        """(good parts not called normal, defective parts not called defective, parts), of those answered for.

        Args:
            verdicts: Instead of those that the photos have.
        """
        alarms = missed = parts = 0
        for item in self.items:
            verdict = (verdicts or {}).get(item.number, item.verdict)
            if verdict is None or not item.part:
                continue
            parts += 1
            alarms += item.part == NORMAL and verdict.label != NORMAL
            missed += item.part == DEFECTIVE and verdict.label != DEFECTIVE
        return alarms, missed, parts

    def keep(self) -> Any:
        """Let the proposal decide: the reviewed photos take its verdicts, the others are judged again.

        Returns:
            The visitor to go on with.
        """
        with self.lock:
            proposal, self.proposal = self.proposal, None
            assert proposal is not None
            before = {item.number: (item.verdict, item.answer) for item in self.items if item.verdict}
            self._history.append(_Kept(self.visitor, proposal.visitor, before))
            self._decide_by(proposal.visitor)
            for number, verdict in proposal.verdicts.items():
                self.items[number].take(verdict)
            return proposal.visitor

    def _decide_by(self, visitor: Any) -> None:
        self.visitor, self.generation, self.proposal = visitor, self.generation + 1, None
        for item in self.items:
            item.stale = item.verdict is not None

    def to_csv(self) -> str:
        """All photos as a table, as they came; `reviewed_as` is what the person says of the part.

        Example:
            >>> Review(None).to_csv().strip()
            'path,product,score,threshold,ratio,verdict,answer,reviewed_as'
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for item in self.items:
            found = item.verdict
            if found is None:
                writer.writerow([item.name, "", "", "", "", "not judged", "", ""])
                continue
            numbers = [f"{found.score:.6f}", f"{found.threshold:.6f}", f"{found.ratio:.3f}"]
            writer.writerow([item.name, found.product, *numbers, found.label, item.answer, item.part])
        return text.getvalue()


__all__ = ["ORDERS", "RIGHT", "UNSURE", "WRONG", "Flip", "Item", "Proposal", "Review", "Verdict"]
