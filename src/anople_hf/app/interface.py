"""The face of the app: tabs, fields and buttons, and which action of the `Desk` each one starts."""

from abc import ABCMeta
from collections.abc import Callable, Sequence
from typing import Any

from .detectors import Detectors
from .products import ANY
from .review_texts import KEYS
from .texts import ABOUT, CSS, FRAMING, LEGEND, PAIR, SECONDS_KEPT, TITLE, introduce

MOST_UPLOADED = "200mb"  # for a memory bank; photos have a limit of their own
TAB_KEY = """() => {
  let key = sessionStorage.getItem("anople");
  if (!key) {
    key = [...crypto.getRandomValues(new Uint8Array(24))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("anople", key);
  }
  return [key];
}"""
"""What a tab of the browser is known by when it loads the page again; it ends with the tab."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
IN_TURN: dict[str, Any] = {"concurrency_id": "album", "concurrency_limit": 1}  # what a click means depends on the last


def build(
    runs: Sequence[str] = (), *, anything: bool = False, lend: Callable[[Callable], Callable] | None = None
) -> Any:
    """The app as Gradio blocks; `launch` starts it.

    Args:
        runs: Trained detectors to choose from, folders or Hub ids; the first is shown first. The embedded backbone
            with its drawn samples is always there.
        anything: Let visitors load any folder of this machine and any Hub id; only where nobody else reaches the app.
        lend: Decorator of the function that computes, such as `spaces.GPU(duration=60)`.

    Raises:
        ImportError: Gradio is not installed; says how.
        ValueError: The first detector cannot be loaded.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError('the app needs Gradio: pip install "anople-hf[app]".') from error
    from ..turns import COPIES
    from .desk import AS_BEFORE, Desk
    from .review_tab import review_tab
    from .reviewing import Reviewing

    detectors = Detectors(runs, anything=anything, device="cpu" if lend else None)
    desk = Desk(detectors, lend)
    reviewing = Reviewing(desk)
    first = desk.arrive()
    names = [ANY, *first.products.names]
    samples, found, told_first, painted, reason, path = desk.first_look(first)

    with gr.Blocks(title="AnoPLe", delete_cache=(SECONDS_KEPT // 6, SECONDS_KEPT), analytics_enabled=False) as app:
        visitor, last, key = gr.State(), gr.State(), gr.State("")
        visitor.value = desk.arrive  # each visitor's own; given as an argument, it would answer every loaded page, too
        last.value = lambda: found
        tab_key = gr.Textbox(visible=False)
        gr.HTML(TITLE)
        about = gr.Markdown(introduce(first.detector, detectors.get(first.detector), first.products), elem_id="about")
        with gr.Tab("Check a photo"):
            with gr.Row():
                with gr.Column(scale=6):
                    verdict = gr.HTML(told_first, elem_id="verdict")
                    overlay = gr.Image(
                        painted,
                        label="Heat map",
                        interactive=False,
                        height=330,
                        elem_id="overlay",
                        buttons=["download", "fullscreen"],
                        alt_text="The photo under its heat map",
                    )
                    gr.HTML(LEGEND)
                    opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the heat map")
                with gr.Column(scale=5):
                    evidence = gr.Image(
                        reason,
                        show_label=False,
                        interactive=False,
                        height=225,
                        elem_id="evidence",
                        buttons=["download"],
                        alt_text="The strangest patch, boxed, and the good patch it is nearest to",
                    )
                    gr.HTML(PAIR)
                    dataset = gr.Dataset(
                        label="Samples: click one",
                        components=["image"],
                        samples=samples.constructor_args.get("samples") or [[path]] * bool(path),
                        type="index",
                        layout="gallery",
                        visible=samples.visible,
                        elem_id="samples",
                    )
                    photo = _photo_field(
                        path,
                        type="filepath",
                        label="Photo",
                        sources=["upload", "webcam", "clipboard"],
                        height=230,
                        elem_id="photo",
                        buttons=[],
                        alt_text="The photo",
                    )
                    with gr.Row(equal_height=True):
                        product = gr.Dropdown(names, value=ANY, label="Product", elem_id="check-product", scale=2)
                        checked = gr.Button("Check", variant="primary", elem_id="check", scale=1)
            shown = [last, verdict, overlay, evidence]
            asked = [visitor, photo, product, opacity]
            checks = [
                checked.click(desk.check, asked, shown, api_name="check", show_progress_on=[verdict, overlay]),
                photo.upload(desk.check, asked, shown, api_visibility="private", show_progress_on=[verdict, overlay]),
            ]
            for check in checks:  # on a phone the verdict stands above the button
                check.success(None, js="() => {document.getElementById('verdict').scrollIntoView({block: 'nearest'})}")
            picked = dataset.click(desk.sample, dataset, [photo, product], **QUIET)
            picked.success(desk.check, asked, shown, api_visibility="private", show_progress_on=[verdict, overlay])
            opacity.change(desk.repaint, [last, opacity], overlay, **QUIET)
        with gr.Tab("Review"):
            review = review_tab(reviewing, visitor, names, anything=anything)
        with gr.Tab("Check many"):
            files = gr.File(file_count="multiple", label="Photos, up to 30", height=160, elem_id="batch-files")
            with gr.Row(equal_height=True):
                batch_product = gr.Dropdown(names, value=ANY, label="Product", elem_id="batch-product", scale=3)
                batch = gr.Button("Check all", variant="primary", elem_id="batch", scale=1)
            unjudged = gr.HTML(elem_id="unjudged")
            headers = ["file", "product", "label", "times threshold", "score", "threshold", "regions"]
            table = gr.Dataframe(headers=headers, label="Results", interactive=False)
            gallery = gr.Gallery(
                label="Heat maps, the strangest first",
                columns=4,
                height=360,
                buttons=["download", "fullscreen"],
                elem_id="heat-maps",
            )
            with gr.Row():
                scores = gr.File(label="scores.csv", interactive=False)
                archive = gr.File(label="overlays.zip", interactive=False)
            judged = [table, gallery, scores, archive, unjudged]
            batch.click(desk.check_batch, [visitor, files, batch_product], judged,
                        api_name="check_batch", show_progress_on=table)  # fmt: skip
        with gr.Tab("Teach") as teaching:
            name = gr.Textbox(label="Name of the product", placeholder="brass gear", max_length=60, elem_id="name")
            good = gr.File(file_count="multiple", label="Good photos, 3 to 10", height=160, elem_id="good-files")
            with gr.Accordion("What counts in its photos, tiles, turned parts", open=False, elem_id="framing"):
                gr.HTML(FRAMING)
                with gr.Row():
                    region = gr.Textbox("", label="Region: x,y,width,height in pixels", placeholder="80,40,480,400",
                                        info="Or a polygon: x,y x,y x,y. 'whole' takes a region away.", scale=2,
                                        elem_id="region")  # fmt: skip
                    tiles = gr.Textbox("", label="Tiles: rows x columns", placeholder="2x3", elem_id="tiles",
                                       info="'1x1' cuts no more.")  # fmt: skip
                    turns = gr.Dropdown([AS_BEFORE, *COPIES], value=AS_BEFORE, label="Parts lie turned",
                                        info="4: at right angles; 8: between them, too; free: any.",
                                        elem_id="turns")  # fmt: skip
                with gr.Row():
                    paint = gr.Button("Paint on the first photo", elem_id="paint")
                    taken = gr.Button("Take the painted region", elem_id="take-region")
                drawing = gr.ImageEditor(
                    type="pil",
                    label="Paint what counts",
                    sources=[],
                    transforms=[],
                    layers=False,
                    brush=gr.Brush(default_size=40, colors=["rgba(0, 229, 255, 0.6)"], color_mode="fixed"),
                    height=420,
                    visible=False,
                    elem_id="drawing",
                )
                said_region = gr.Markdown(elem_id="said-region")
            painted = gr.State(None)
            paint.click(lambda files: gr.ImageEditor(desk.canvas(files), visible=True), good, drawing, **QUIET)
            taken.click(desk.take_region, drawing, [painted, said_region], **QUIET)
            teach = gr.Button("Teach", variant="primary", elem_id="teach")
            told = gr.Markdown(elem_id="told")
            with gr.Row(equal_height=True):
                known = gr.Dropdown(names, value=names[-1 if len(names) == 1 else 1], label="Known products", scale=2,
                                    elem_id="known")  # fmt: skip
                remove = gr.Button("Remove this product", elem_id="remove")
                bank = gr.DownloadButton("Download the memory bank", elem_id="bank")
            chosen = gr.State("")
            with gr.Column(visible=False) as album:
                gr.Markdown("Its good photos and their scores, the least alike first:")
                remembered = gr.Gallery(
                    show_label=False,
                    columns=6,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="good-photos",
                )
                remove_photo = gr.Button("Remove the chosen photo", interactive=False, elem_id="remove-photo")
            with gr.Accordion("Load a memory bank", open=False):
                given = gr.File(file_types=[".safetensors"], label="memory_bank.safetensors", elem_id="bank-file")
                take = gr.Button("Add its products", elem_id="take-bank")
            bank.click(desk.download_bank, visitor, bank, api_name="download_bank")
        with gr.Tab("Threshold") as thresholds:
            whose = gr.Dropdown(names, value=names[-1 if len(names) == 1 else 1], label="Product", elem_id="whose")
            level = gr.Slider(0, 1, 0.5, label="Threshold: a part with a higher score is defective", elem_id="level")
            alarms = gr.HTML(elem_id="alarms")
            with gr.Accordion("Set it by new good photos", open=False):
                gr.Markdown(
                    "Good photos of this product that were **not** taught make the false-alarm rate a promise: "
                    "19 or more for 5 %."
                )
                new = gr.File(file_count="multiple", label="New good photos", height=160, elem_id="new-files")
                calibrate = gr.Button("Calibrate", variant="primary", elem_id="calibrate")
                calibrated = gr.Markdown(elem_id="calibrated")
            calibrates = calibrate.click(
                desk.calibrate,
                [visitor, whose, new],
                [visitor, calibrated, level, alarms],
                api_name="calibrate",
                show_progress_on=calibrated,
            )
            for ask in (thresholds.select, whose.change):
                ask(desk.show_threshold, [visitor, whose], [level, alarms], **QUIET)
            moves = level.input(  # by mouse, keyboard or number; the last one of a drag counts
                desk.move_threshold,
                [visitor, whose, level],
                [visitor, alarms],
                api_name="set_threshold",
                trigger_mode="always_last",
                show_progress="hidden",
            )
        with gr.Tab("Detector"):
            with gr.Row(equal_height=True):
                detector = gr.Dropdown(
                    detectors.names,
                    value=first.detector,
                    allow_custom_value=anything,
                    label="Choose a detector",
                    info="Or type the folder of a trained one, or its Hub id." if anything else "Offered here.",
                    scale=4,
                    elem_id="detector",
                )
                loaded = gr.Button("Load", elem_id="load", scale=1)
            with gr.Column(visible=anything):
                gr.Markdown("### Save what you taught")
                with gr.Row(equal_height=True):
                    save = gr.Button("Save to the run", elem_id="save", scale=1)
                    folder = gr.Textbox(label="Folder of a new run", placeholder="runs/line2", scale=3,
                                        elem_id="new-run")  # fmt: skip
                    save_as = gr.Button("Save as a new run", elem_id="save-as", scale=1)
            saved = gr.Markdown(elem_id="saved")
            gr.Markdown(ABOUT)
        menus = [product, batch_product, review.product, known, whose]
        learned = [visitor, told, *menus]
        changed = [visitor, about, dataset, *shown, photo, *menus]
        remembered.select(desk.choose_photo, [visitor, known], [chosen, remove_photo], **QUIET, **IN_TURN)
        how: dict[str, Any] = {"api_visibility": "public" if anything else "private", "show_progress_on": saved}
        saves = save.click(desk.save, visitor, [visitor, saved, *menus], api_name="save", **how)
        save_as.click(desk.save_as, [visitor, folder], [saved, detector], api_name="save_as", **how)
        begins = loaded.click(desk.load, [visitor, detector], changed, api_name="load", show_progress_on=about)
        begins.success(desk.show_threshold, [visitor, whose], [level, alarms], **QUIET)
        framed = [region, tiles, turns, painted]
        teaches = teach.click(desk.teach, [visitor, name, good, *framed], learned, api_name="teach",
                              show_progress_on=told)  # fmt: skip
        learns = [
            begins,
            teaches,
            take.click(desk.load_bank, [visitor, given], learned, api_name="load_bank", show_progress_on=told),
            remove.click(desk.remove, [visitor, known], learned, api_name="remove", show_progress_on=told),
            remove_photo.click(desk.remove_photo, [visitor, known, chosen], learned, api_visibility="private",
                               show_progress_on=told, **IN_TURN),
        ]  # fmt: skip
        teaches.success(  # the next product is not framed as the last one without a word
            lambda: ("", "", AS_BEFORE, None, "", gr.ImageEditor(None, visible=False)),
            None,
            [*framed, said_region, drawing],
            **QUIET,
        )
        for show in (teaching.select, known.input, *(learning.success for learning in learns)):
            show(desk.show_photos, [visitor, known, chosen], [album, remembered, chosen, remove_photo],
                 **QUIET, **IN_TURN)  # fmt: skip
        opened = app.load(
            desk.come_back,
            tab_key,
            [key, visitor, detector, about, dataset, *shown, photo, *menus, review.judging],
            js=TAB_KEY,
            **QUIET,
        )
        opened.success(reviewing.come_back, review.judging, [review.source, review.timer, *review.face], **QUIET)
        for change in (*learns, calibrates, moves, saves, *review.changes, *review.begins):
            change.success(desk.sessions.keep, [key, visitor, review.judging], **QUIET)
        review.timer.tick(desk.sessions.keep, [key, visitor, review.judging], **QUIET)
    return app


def _photo_field(*value: Any, **options: Any) -> Any:
    """Gradio's field for a photo, but it gives the file as it was uploaded.

    Gradio decodes it first: it fails at a damaged file without a word, and clips 16-bit values. A class of its own,
    because Gradio makes a new field of the same class for a visitor as soon as the field was filled.
    """
    import gradio as gr

    def preprocess(self: Any, payload: Any) -> Any:
        inline = payload is not None and (payload.url or "").startswith("data:")
        return gr.Image.preprocess(self, payload) if payload is None or inline else payload.path

    # Not by a `class` statement: Gradio's would write a .pyi file beside this one. A template looks like its parent.
    parts = {"preprocess": preprocess, "is_template": True}
    return ABCMeta.__new__(type(gr.Image), "PhotoField", (gr.Image,), parts)(*value, **options)


def launch(app: Any, **options: Any) -> Any:
    """Start the app with its look and its limits.

    Args:
        app: From `build`.
        options: Of Gradio's `launch`: `server_name`, `server_port`, `share`, ...
    """
    import gradio as gr

    plain = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(primary_hue="blue", font=plain, font_mono=["ui-monospace", "monospace"])
    return app.queue(default_concurrency_limit=2, max_size=32).launch(
        theme=theme,
        css=CSS,
        head=KEYS,
        max_file_size=MOST_UPLOADED,
        run_history=False,
        footer_links=["api", "settings"],
        **options,
    )


__all__ = ["build", "launch"]
