"""The web app: teach a product with a few good photos, check others, move the threshold, take the results along.

Where in the paper: nowhere, this is ours. What it does is in `app_session.py`; here is only its face.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .app_session import ANY, MOST_PHOTOS, Finding, Inspector, Products, to_csv, to_zip
from .data.drawn import draw_dataset
from .palette import DEFECTIVE_TEXT, GOOD_TEXT

SAMPLES = ("capsule", "woven_cloth")
SECONDS_KEPT = 3600
ABOUT = f"""
**What it does.** It remembers patches of good photos and shows where a new photo differs from all of them.

**What it is not.** No proof that a part is good: a threshold from a few photos promises no error rate, light and
position should be those of the photos it was taught with, and a bad part among the good ones is learnt as good.

**Your photos.** Nothing you upload is kept beyond {SECONDS_KEPT // 60} minutes, and nobody else sees it.
At most {MOST_PHOTOS} photos at a time, 20 MB each.
"""
UNTRAINED = (
    "This is the small embedded backbone, untrained: it compares patches and knows no text. Good for trying out; "
    "for a line, train a detector on a larger backbone and start `anople app RUN`."
)
CSS = f"""
.gradio-container {{max-width: 1100px !important; margin: auto}}
.defective {{color: {DEFECTIVE_TEXT}; font-weight: 700; font-size: 1.4em}}
.normal {{color: {GOOD_TEXT}; font-weight: 700; font-size: 1.4em}}
.dark .defective {{color: #ff9d6b}} .dark .normal {{color: #8ac4e6}}
"""


def build(run: str | None = None) -> Any:
    """The app as Gradio blocks; `launch` starts it.

    Args:
        run: A trained detector, folder or Hub id; None takes the embedded backbone and drawn sample products.

    Raises:
        ImportError: Gradio is not installed; says how.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError('the app needs Gradio: pip install "anople-hf[app]".') from error

    inspector = Inspector.load(run)
    starter, examples = _starter(inspector, sample=run is None)

    def said(error: Exception) -> gr.Error:
        return gr.Error(str(error.args[0] if error.args else error), duration=8, print_exception=False)

    def choices(products: Products, chosen: str | None = None) -> Any:
        names = [*products.bank.categories, ANY]
        return gr.Dropdown(choices=names, value=chosen if chosen in names else names[0])

    def check(products: Products, file: str | None, product: str, opacity: float) -> tuple[Any, ...]:
        try:
            if not file:
                raise ValueError("Choose a photo first.")
            found = inspector.check(products, file, product)
        except (ValueError, KeyError) as error:
            raise said(error) from error
        return found, describe(found), np.asarray(found.overlay(opacity)), found.evidence

    def repaint(found: Finding | None, opacity: float) -> Any:
        return None if found is None else np.asarray(found.overlay(opacity))

    def check_batch(products: Products, files: list[str] | None, product: str) -> tuple[Any, ...]:
        bar = gr.Progress()
        try:
            if not files:
                raise ValueError("Choose one or more photos first.")
            if len(files) > MOST_PHOTOS:
                raise ValueError(f"{len(files)} photos; at most {MOST_PHOTOS} at a time.")
            found = [inspector.check(products, file, product) for file in bar.tqdm(files, desc="checking")]
        except (ValueError, KeyError) as error:
            raise said(error) from error
        rows = [[f.name, f.label, round(f.score, 4), round(f.threshold, 4), len(f.regions)] for f in found]
        pictures = [(f.overlay(), f"{f.name}: {f.label}") for f in found]
        folder = Path(tempfile.mkdtemp(prefix="anople_app_"))
        (folder / "scores.csv").write_text(to_csv(found), encoding="utf-8")
        (folder / "overlays.zip").write_bytes(to_zip(found))
        return rows, pictures, str(folder / "scores.csv"), str(folder / "overlays.zip")

    def teach(products: Products, name: str, files: list[str] | None) -> tuple[Any, ...]:
        try:
            count = inspector.teach(products, name or "", files or [])
        except (ValueError, KeyError) as error:
            raise said(error) from error
        told = f"**{name.strip()}**: {count} good photos known. Threshold {products.thresholds[name.strip()]:.4f}."
        return (products, told, *[choices(products, name.strip())] * 4)

    def remove(products: Products, product: str) -> tuple[Any, ...]:
        try:
            if product == ANY:
                raise ValueError("Choose one product to forget.")
            products.remove(product)
        except (ValueError, KeyError) as error:
            raise said(error) from error
        return (products, f"**{product}** is forgotten.", *[choices(products)] * 4)

    def show_threshold(products: Products, product: str) -> tuple[Any, str]:
        if not products.thresholds:
            raise said(ValueError("No product is known yet: teach one first."))
        level = products.limits(product)[0]
        slider = gr.Slider(minimum=0, maximum=round(3 * level, 4), step=round(3 * level / 300, 6), value=level)
        return slider, false_alarms(products, product, level)

    def move_threshold(products: Products, product: str, level: float) -> tuple[Products, str]:
        for name in [product] if product != ANY else list(products.thresholds):
            products.thresholds[name] = float(level)
        return products, false_alarms(products, product, level)

    def download_bank(products: Products) -> str:
        if not products.bank.categories:
            raise said(ValueError("No product is known yet: teach one first."))
        path = Path(tempfile.mkdtemp(prefix="anople_app_")) / "memory_bank.safetensors"
        products.bank.save(
            path, fingerprint=inspector.model.fingerprint(), backbone=str(inspector.model.config.backbone)
        )
        return str(path)

    with gr.Blocks(title="AnoPLe", delete_cache=(SECONDS_KEPT // 6, SECONDS_KEPT), analytics_enabled=False) as app:
        state = gr.State(lambda: copy.deepcopy(starter), time_to_live=SECONDS_KEPT)
        last = gr.State(None, time_to_live=SECONDS_KEPT)
        gr.Markdown("# AnoPLe\nTeach a product with a few good photos, then find what is wrong with others.")
        if run is None:
            gr.Markdown(UNTRAINED)
        names = [*starter.bank.categories, ANY]
        with gr.Tab("Check a photo"):
            with gr.Row():
                with gr.Column():
                    photo = gr.Image(type="filepath", label="Photo", sources=["upload", "clipboard"], height=320)
                    product = gr.Dropdown(names, value=names[0], label="Product", elem_id="check-product")
                    checked = gr.Button("Check", variant="primary", elem_id="check")
                with gr.Column():
                    verdict = gr.HTML("<p>No photo checked yet.</p>", elem_id="verdict")
                    overlay = gr.Image(label="Heat map", interactive=False, height=320, elem_id="overlay")
                    opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity of the heat map")
                    evidence = gr.Image(
                        label="Strangest patch, and the good patch it is nearest to", interactive=False, height=240
                    )
            if examples:
                gr.Examples([[path, name] for path, name in examples], [photo, product], label="Samples")
            outputs = [last, verdict, overlay, evidence]
            checked.click(check, [state, photo, product, opacity], outputs, api_name="check")
            opacity.change(repaint, [last, opacity], overlay, api_visibility="private", show_progress="hidden")
        with gr.Tab("Check many"):
            files = gr.File(file_count="multiple", label="Photos", elem_id="batch-files")
            batch_product = gr.Dropdown(names, value=names[0], label="Product")
            batch = gr.Button("Check all", variant="primary", elem_id="batch")
            table = gr.Dataframe(
                headers=["file", "label", "score", "threshold", "regions"], label="Results", interactive=False
            )
            gallery = gr.Gallery(label="Heat maps", columns=4, height=360)
            with gr.Row():
                scores = gr.File(label="scores.csv", interactive=False)
                archive = gr.File(label="overlays.zip", interactive=False)
            batch.click(check_batch, [state, files, batch_product], [table, gallery, scores, archive],
                        api_name="check_batch")  # fmt: skip
        with gr.Tab("Teach"):
            name = gr.Textbox(label="Name of the product", placeholder="brass gear", max_length=60, elem_id="name")
            good = gr.File(file_count="multiple", label="Good photos, 3 to 10", elem_id="good-files")
            taught = gr.Button("Teach", variant="primary", elem_id="teach")
            told = gr.Markdown(elem_id="told")
            with gr.Row():
                known = gr.Dropdown(names, value=names[0], label="Known products")
                forget = gr.Button("Forget this product", elem_id="forget")
                bank = gr.DownloadButton("Download the memory bank")
            bank.click(download_bank, state, bank, api_name="download_bank")
        with gr.Tab("Threshold"):
            whose = gr.Dropdown(names, value=names[0], label="Product")
            shown = gr.Button("Show", elem_id="show-threshold")
            level = gr.Slider(0, 1, 0.5, label="Threshold: a part with a higher score is defective", elem_id="level")
            alarms = gr.Markdown(elem_id="alarms")
            shown.click(show_threshold, [state, whose], [level, alarms], api_visibility="private")
            level.release(move_threshold, [state, whose, level], [state, alarms], api_name="set_threshold")
        with gr.Tab("About"):
            gr.Markdown(ABOUT)
        menus = [product, batch_product, known, whose]
        taught.click(teach, [state, name, good], [state, told, *menus], api_name="teach", show_progress_on=told)
        forget.click(remove, [state, known], [state, told, *menus], api_name="remove", show_progress_on=told)
    return app


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
        theme=theme, css=CSS, max_file_size="20mb", **options
    )


def describe(found: Finding) -> str:
    """Decision, score against threshold, and regions, as HTML."""
    side = "above" if found.label == "defective" else "not above"
    boxes = "".join(
        f"<li>x {x0}-{x1}, y {y0}-{y1}, strongest {region['peak']:.3f}</li>"
        for region in found.regions[:5]
        for x0, y0, x1, y1 in [region["box"]]
    )
    more = f"<p>Regions (pixels of the picture shown):</p><ol>{boxes}</ol>" if boxes else ""
    return (
        f'<p role="status"><span class="{found.label}">{found.label}</span><br>score {found.score:.4f}, {side} the '
        f"threshold {found.threshold:.4f} ({found.product})</p>{more}"
    )


def false_alarms(products: Products, product: str, level: float) -> str:
    """What a threshold would do to the good photos that were taught."""
    above, count = products.false_alarms(product, level)
    if not count:
        return "No scores of good photos are known."
    return (
        f"At **{level:.4f}**, {above} of {count} views of the taught good photos would be called defective "
        f"({above / count:.0%}). New parts vary more: expect more false alarms than this."
    )


def _starter(inspector: Inspector, *, sample: bool) -> tuple[Products, list[tuple[str, str]]]:
    """What every visitor begins with, and sample photos to click on."""
    products = inspector.products()
    if not sample:
        return products, []
    folder = Path(tempfile.mkdtemp(prefix="anople_samples_"))
    draw_dataset(folder, categories=list(SAMPLES), train=6, test_good=1, test_defective=3, size=256, seed=1)
    examples = []
    for name in SAMPLES:
        inspector.teach(products, name, sorted((folder / name / "train" / "good").iterdir()))
        tests = sorted((folder / name / "test").rglob("*.png"))
        examples += [(str(path), name) for path in tests][:4]
    return products, examples


__all__ = ["build", "describe", "launch"]
