"""The face of the review tab: which field and button starts which action of `Reviewing`."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from .review import ORDERS, RIGHT, UNSURE, WRONG
from .review_texts import HEADERS, HOW, LEARN, MOST_LISTED
from .reviewing import LATER, Reviewing
from .texts import PAIR

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# A key that is pressed while the last one is under way counts, too.
IN_TURN: dict[str, Any] = {"concurrency_id": "review", "concurrency_limit": 4, "trigger_mode": "multiple"}


@dataclass
class ReviewTab:
    """What the rest of the page needs of the tab.

    Attributes:
        product: The menu of products.
        judging: State: the review.
        timer: Looks at it again and again.
        source: The fold-out with the fields for new photos.
        face: What shows a review, in the order of `Reviewing.face`.
        changes: Events that change the visitor.
        begins: Events that begin a review or put it away.
    """

    product: Any
    judging: Any
    timer: Any
    source: Any
    face: list[Any]
    changes: list[Any]
    begins: list[Any]


def review_tab(reviewing: Reviewing, visitor: Any, names: list[str], *, anything: bool) -> ReviewTab:
    """Build the tab inside of the app's blocks.

    Args:
        reviewing: Its actions.
        visitor: The visitor's state.
        names: Products to choose from; the first is chosen.
        anything: A folder of this machine may be watched.
    """
    judging = gr.State(None)
    timer = gr.Timer(LATER)
    gr.HTML(HOW)
    with gr.Accordion("Photos to review", open=True) as source:
        files = gr.File(file_count="multiple", label="Photos", height=150, elem_id="review-files")
        with gr.Row(equal_height=True):
            product = gr.Dropdown(names, value=names[0], label="Product", elem_id="review-product", scale=2)
            folder = gr.Textbox(
                label="Or a folder to watch: new photos join",
                placeholder="/data/line1/today",
                visible=anything,
                scale=3,
                elem_id="review-folder",
            )
            start = gr.Button("Add to the review", variant="primary", elem_id="review-start", scale=1)
    progress = gr.HTML(elem_id="review-progress")
    with gr.Column(visible=False) as desk:
        on_screen = gr.Textbox(visible=False)  # an answer is about what was seen
        with gr.Row():
            with gr.Column():
                told = gr.HTML(elem_id="review-card")
                overlay = _picture("Heat map", 350, "review-overlay")
            with gr.Column():
                photo = _picture("Photo", 260, "review-photo")
                evidence = _picture("", 215, "review-evidence", "Strangest patch and nearest good one, boxed")
                gr.HTML(PAIR)
        with gr.Row(elem_id="review-answers"):
            back = gr.Button("← Back", elem_id="review-back", min_width=70, scale=1)
            right = gr.Button("✓ Right", elem_id="review-right", variant="primary", min_width=90, scale=2)
            wrong = gr.Button("✗ Wrong", elem_id="review-wrong", variant="primary", min_width=90, scale=2)
            unsure = gr.Button("? Unsure", elem_id="review-unsure", min_width=90, scale=2)
            forth = gr.Button("Next →", elem_id="review-next", min_width=70, scale=1)
            undo = gr.Button("Undo", elem_id="review-undo", min_width=70, scale=1)
        with gr.Accordion("Learn from the review", open=True):
            gr.HTML(LEARN)
            with gr.Row():
                teach = gr.Button("Teach", elem_id="review-teach", min_width=200)
                calibrate = gr.Button("Calibrate", elem_id="review-calibrate", min_width=200)
                again = gr.Button("Judge again by what is known now", elem_id="review-again", min_width=200)
            proposal = gr.HTML(elem_id="review-proposal")
            with gr.Column(visible=False) as decide, gr.Row():
                keep = gr.Button("Keep it", variant="primary", elem_id="review-keep")
                discard = gr.Button("Discard it", elem_id="review-discard")
        with gr.Accordion(f"All photos (the first {MOST_LISTED}), order, table", open=False):
            order = gr.Radio(list(ORDERS), value=ORDERS[0], label="Order", elem_id="review-order")
            rows = gr.Dataframe(headers=HEADERS, label="Click a row to see the photo", interactive=False,
                                max_height=320, elem_id="review-rows")  # fmt: skip
            with gr.Row():
                table = gr.Button("Make the table (CSV)", elem_id="review-table")
                written = gr.File(label="review.csv", interactive=False, elem_id="review-csv")
                end = gr.Button("Put this review away", variant="stop", elem_id="review-end")

    face = [progress, desk, on_screen, told, photo, overlay, evidence, rows, undo, teach, calibrate, proposal, decide]
    begin = [judging, files, source, timer, *face]
    starts = gr.on(
        [start.click, folder.submit], reviewing.start, [visitor, judging, files, folder, product], begin,
        api_visibility="private", show_progress_on=progress,
    )  # fmt: skip
    starts.success(None, js="() => {document.activeElement?.blur()}")  # from now on keys answer
    ends = end.click(reviewing.end, judging, begin, **QUIET)
    timer.tick(reviewing.tick, [judging, on_screen], [timer, *face], **QUIET)
    for button, by in ((back, -1), (forth, 1)):
        button.click(lambda judging, by=by: reviewing.go(judging, by), judging, face, **QUIET, **IN_TURN)
    for button, word in ((right, RIGHT), (wrong, WRONG), (unsure, UNSURE)):
        button.click(
            lambda judging, seen, word=word: reviewing.answer(judging, seen, word),
            [judging, on_screen], face, **QUIET, **IN_TURN,
        )  # fmt: skip
    order.input(reviewing.sort, [judging, order], face, **QUIET)
    rows.select(reviewing.jump, judging, face, **QUIET)
    table.click(reviewing.save_table, judging, written, **QUIET)
    how: dict[str, Any] = {"api_visibility": "private", "show_progress_on": proposal}
    for button, action in ((teach, reviewing.teach), (calibrate, reviewing.calibrate), (again, reviewing.judge_again)):
        button.click(action, [visitor, judging], face, api_name=f"review_{action.__name__}", **how)
    changes = [
        undo.click(reviewing.undo, [visitor, judging], [visitor, timer, *face], **QUIET, **IN_TURN),
        keep.click(reviewing.keep, [visitor, judging], [visitor, timer, *face], **QUIET),
    ]
    discard.click(reviewing.discard, judging, face, **QUIET)
    return ReviewTab(product, judging, timer, source, face, changes, [starts, ends])


def _picture(label: str, height: int, elem_id: str, words: str = "") -> Any:
    return gr.Image(
        label=label or None,
        show_label=bool(label),
        interactive=False,
        height=height,
        type="filepath",
        buttons=["fullscreen"],
        elem_id=elem_id,
        alt_text=words or label,
        min_width=240,
    )


__all__ = ["ReviewTab", "review_tab"]
