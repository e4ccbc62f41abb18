"""`Reviewing`: what the buttons of the review tab do. The review is one visitor's own; see `review.py`."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..teaching import Report
from .desk import TOGETHER, Desk, Visitor, said
from .inspector import NotRead
from .judging import Judging, render
from .products import Products
from .review import NEAR, Item, Proposal, Review
from .review_texts import card, describe_proposal, describe_threshold, listed, progress_of

MOST_HERE, MOST_FROM_ELSEWHERE = 2000, 200
"""Photos of one review, where only this machine reaches the app, and where others do."""
SOON, WATCHING, LATER = 0.7, 2.0, 20.0
"""Seconds between two looks of the page at its review: while photos are judged, waited for, or only to say that one is
still there."""


class Reviewing:
    """The actions.

    Args:
        desk: The app's.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.most = MOST_HERE if desk.detectors.anything else MOST_FROM_ELSEWHERE

    def _judge(self, visitor: Visitor, paths: Sequence[Path], product: str) -> list[Any]:
        return self.desk.ask(visitor, "check_many", paths, product, True)

    def start(
        self, visitor: Visitor, judging: Judging | None, files: Sequence[str] | None, folder: str, product: str
    ) -> tuple[Any, ...]:
        """Add photos to the review, or begin one."""
        folder = (folder or "").strip()
        if not files and not folder:
            raise said("Choose photos first" + (", or name a folder." if self.desk.detectors.anything else "."))
        if folder and not self.desk.detectors.anything:
            raise said("Only the machine that the app runs on may watch a folder.")
        visitor.products.thresholds(product) if visitor.products.names else self._nothing_known()
        if judging is None or judging.review.closed:
            judging = Judging(Review(visitor, product), self._judge, self.most)
        elif judging.review.product != product:
            raise said(f"This review judges its photos as {judging.review.product!r}; put it away first.")
        try:
            if folder:
                judging.watch(Path(folder).expanduser())
            judging.upload(files or [])
        except ValueError as error:
            raise said(str(error)) from error
        return judging, None, gr.Accordion(open=False), gr.Timer(SOON), *self.face(judging)

    @staticmethod
    def _nothing_known() -> None:
        raise said("No product is known yet: teach one first, with a few good photos.")

    def come_back(self, judging: Judging | None) -> tuple[Any, ...]:
        """The page was loaded again: its review goes on where it was."""
        there = judging is not None and not judging.review.closed
        return gr.Accordion(open=not there), gr.Timer(SOON if there else LATER), *self.face(judging)

    def end(self, judging: Judging | None) -> tuple[Any, ...]:
        """Put the review away, to begin another one."""
        if judging is not None:
            judging.review.close()
        return None, None, gr.Accordion(open=True), gr.Timer(LATER), *self.face(None)

    def tick(self, judging: Judging | None, on_screen: str) -> tuple[Any, ...]:
        """What became of the photos since; the photo on screen stays."""
        if judging is None or judging.review.closed:
            return gr.Timer(LATER), *[gr.skip()] * len(self.face(None))
        face = list(self.face(judging))
        if face[2] == on_screen:
            face[2:7] = [gr.skip()] * 5
        return gr.Timer(self._pace(judging)), *face

    @staticmethod
    def _pace(judging: Judging) -> float:
        if judging.works:
            return SOON
        return WATCHING if judging.busy else LATER

    def face(self, judging: Judging | None) -> tuple[Any, ...]:
        """All that the tab shows of a review."""
        if judging is None or judging.review.closed:
            closed = gr.Button(interactive=False)
            hidden = gr.Column(visible=False)
            return "", hidden, "", "", None, None, None, [], closed, closed, closed, "", hidden
        review = judging.review
        with review.lock:
            judged, shown = review.judged, review.shown
            found = shown.verdict if shown is not None else None
            pictures = [found.photo, found.overlay, found.evidence] if found else [None] * 3
            good = [item for product in review.products for item in review.good(product)]
            count = {0: "the confirmed good ones", 1: "the confirmed good one"}
            confirmed = count.get(len(good), f"the {len(good)} confirmed good ones")
            proposal = review.proposal
            return (
                progress_of(review, judging.busy),
                gr.Column(visible=shown is not None),
                _ticket(shown),
                card(shown) if shown is not None else "",
                *(str(path) if path else None for path in pictures),
                listed(judged),
                gr.Button(interactive=review.can_undo),
                gr.Button(f"Teach {confirmed}", interactive=bool(good)),
                gr.Button(f"Calibrate with {confirmed}", interactive=bool(good)),
                describe_proposal(review, proposal) if proposal else "",
                gr.Column(visible=proposal is not None),
            )

    @staticmethod
    def _open(judging: Judging | None) -> Review:
        if judging is None:
            raise said("There is no review yet: drop photos first.")
        if judging.review.closed:
            raise said("This review was put away, because no page asked for it in an hour. Start a new one.")
        return judging.review

    def go(self, judging: Judging | None, by: int) -> tuple[Any, ...]:
        """To the next photo, or back."""
        self._open(judging).step(by)
        return self.face(judging)

    def answer(self, judging: Judging | None, on_screen: str, answer: str) -> tuple[Any, ...]:
        """Right, wrong or unsure, of the verdict that was on screen; if it has changed since, it is shown first."""
        review = self._open(judging)
        with review.lock:
            number = int(on_screen.partition(":")[0]) if on_screen else None
            if number is not None and _ticket(review.items[number]) == on_screen:
                review.answer(number, answer)
        return self.face(judging)

    def undo(self, visitor: Visitor, judging: Judging | None) -> tuple[Any, ...]:
        """Take back the last answer, or the last change of what decides."""
        review = self._open(judging)
        with review.lock:
            change = review.change_to_undo
            if change is not None and change.products is not visitor.products:
                raise said("What was kept last cannot be taken back any more: other things were taught or set since.")
            back = review.undo() if review.can_undo else None
        if back is not None and judging is not None:
            judging.wake()
        visitor = replace(visitor, products=back.products) if back is not None else visitor
        return visitor, gr.Timer(SOON), *self.face(judging)

    def sort(self, judging: Judging | None, order: str) -> tuple[Any, ...]:
        """Another order; the first photo that is left comes on screen."""
        if judging is None:
            return self.face(None)
        review = self._open(judging)
        review.order = order or NEAR
        review.start_over()
        return self.face(judging)

    def jump(self, judging: Judging | None, event: gr.SelectData) -> tuple[Any, ...]:
        """To the photo whose row was clicked."""
        review = self._open(judging)
        with review.lock:
            row, judged = event.index[0], review.judged
            if row < len(judged):
                review.current = judged[row].number
        return self.face(judging)

    def save_table(self, judging: Judging | None) -> str:
        """The review as a CSV file."""
        path = self.desk.downloads.place("review.csv")
        path.write_text(self._open(judging).to_csv(), encoding="utf-8")
        return str(path)

    # -- learning from it ---------------------------------------------------------------------------------------

    def teach(self, visitor: Visitor, judging: Judging | None, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Show what it would change to teach the photos that were confirmed to be good."""
        return self._learn(
            visitor, judging, "teach", "If you teach the photos that you confirmed to be good", progress
        )

    def calibrate(self, visitor: Visitor, judging: Judging | None, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Show what it would change to set the thresholds by them."""
        return self._learn(
            visitor, judging, "calibrate", "If the photos that you confirmed to be good set the threshold", progress
        )

    def judge_again(self, visitor: Visitor, judging: Judging | None, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Show what it changes that other things were taught or set since the review began."""
        review = self._open(judging)
        self._same_detector(visitor, review)
        if visitor.products is review.visitor.products:
            raise said("Nothing was taught, calibrated, removed or set since these photos were judged.")
        old, new = review.visitor.products, visitor.products
        lines = [
            describe_threshold(name, old.bank.thresholds_of(name) if name in old.names else None,
                               new.bank.thresholds_of(name))
            for name in new.names
        ]  # fmt: skip
        return self._propose(visitor, new, judging, "By what was taught or set since", lines, progress)

    def _learn(
        self, visitor: Visitor, judging: Judging | None, task: str, title: str, progress: Any
    ) -> tuple[Any, ...]:
        review = self._open(judging)
        self._same_detector(visitor, review)
        products, lines = visitor.products, []
        for product in review.products:
            good = review.good(product)
            progress((0, len(good)), desc=f"{product}: {len(good)} good photos", unit="photos")
            products, report = self._ask(replace(visitor, products=products), task, product, good)
            lines += [describe_threshold(product, report.before, report.after, report.why), *_remarks(report)]
            left = review.open_ones(product)
            if task == "calibrate" and left:
                lines.append(
                    f"Photos of {escape(product)} without an answer: {len(left)}. If they are less strange than "
                    "these, the threshold comes out higher than it has to be, and the promise is not about all parts: "
                    "review a whole lot, then calibrate."
                )
        if not lines:
            raise said("No photo was confirmed to be good yet: answer for some first.")
        return self._propose(replace(visitor, products=products), visitor.products, judging, title, lines, progress)

    def _ask(self, visitor: Visitor, task: str, product: str, items: list[Item]) -> tuple[Products, Report]:
        return self.desk.ask(visitor, task, product, [item.path for item in items])

    def _propose(
        self,
        visitor: Visitor,
        base: Products,
        judging: Judging | None,
        title: str,
        lines: list[str],
        progress: Any,
    ) -> tuple[Any, ...]:
        review = self._open(judging)
        items, verdicts = review.reviewed, {}
        for start in range(0, len(items), TOGETHER):
            progress((start, len(items)), desc="judging the reviewed photos again", unit="photos")
            some = items[start : start + TOGETHER]
            found = self._judge(visitor, [item.path for item in some], review.product)
            for item, one in zip(some, found, strict=True):
                if not isinstance(one, NotRead):
                    verdicts[item.number] = render(one, review.folder / "shown")
        with review.lock:
            review.proposal = Proposal(title, lines, visitor, base, verdicts)
        return self.face(judging)

    @staticmethod
    def _same_detector(visitor: Visitor, review: Review) -> None:
        if visitor.detector != review.visitor.detector:
            raise said(f"This review was judged by {review.visitor.detector}: load that detector again first.")

    def keep(self, visitor: Visitor, judging: Judging | None) -> tuple[Any, ...]:
        """Let the proposal decide from now on."""
        review = self._open(judging)
        if review.proposal is None:
            raise said("There is nothing to keep.")
        if review.proposal.base is not visitor.products:
            review.proposal = None
            raise said("Other things were taught or set since, so this is out of date: do it again.")
        visitor = replace(visitor, products=review.keep().products)
        if judging is not None:
            judging.wake()
        return visitor, gr.Timer(SOON), *self.face(judging)

    def discard(self, judging: Judging | None) -> tuple[Any, ...]:
        """Leave everything as it is."""
        self._open(judging).proposal = None
        return self.face(judging)


def _ticket(item: Item | None) -> str:
    """What is on screen: which photo, with which verdict."""
    return "" if item is None or item.verdict is None else f"{item.number}:{item.verdict.photo.stem}"


def _remarks(report: Report) -> list[str]:
    copies = [f"{photo} shows the same photo as {other}, and counts once" for photo, other in report.copies]
    known = [f"{len(report.known)} of the photos known already"] if report.known else []
    return [escape(line) for line in [*known, *copies, *report.suspicious]]


__all__ = ["Reviewing"]
