"""The `anople` command: verbs for what a quality engineer does, each a thin face on the package.

Where in the paper: `train` is sec. 3.3, `memorize` and `predict` sec. 3.4, `evaluate` sec. 4.1.

Exit codes, like those of grep and diff: 0 done; 1 an anomaly was found, only from `predict --fail-on-anomaly`;
2 trouble: wrong usage, input that cannot be used (the message says what to do), or a defect of this program;
130 stopped by Ctrl-C.
"""

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .benchmark import compare, figures, reproduce
from .convert import convert
from .data import data_app
from .export import export
from .hub import card, push
from .options import (
    Batch,
    Branch,
    Json,
    Overwrite,
    OwnRun,
    Quiet,
    Run,
    Seed,
    SkipBad,
    list_photos,
    load_run,
    quieten,
    tell,
)
from .predict import predict
from .train import preview_anomalies, train
from .web import app as start_app

if TYPE_CHECKING:
    from ..evaluation.measurement import EvaluationResult

TROUBLE, STOPPED = 2, 130

app = typer.Typer(
    help="Few-shot multi-class visual anomaly detection: teach products with a few good photos, find defective parts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

app.command("train", epilog="Example: anople train photos/ --shots 4 --output runs/line1")(train)
app.command("predict", epilog="Example: anople predict runs/line1 'incoming/*.png' --output judged --report")(predict)
app.command("convert", epilog="Example: anople convert you/some-open-clip --output clip")(convert)
app.command("export", epilog="Example: anople export runs/line1 --output line1_onnx --category gear")(export)
app.command("preview-anomalies", epilog="Example: anople preview-anomalies photos/ --output anomalies.png")(
    preview_anomalies
)
app.command("push", epilog="Example: anople push runs/line1 you/line1 --private")(push)
app.command("card", epilog="Example: anople card runs/line1 you/line1 --evaluation table.json")(card)
app.command("compare", epilog="Example: anople compare photos/ --output runs/compare --shots 4 --parts")(compare)
app.command("reproduce", epilog="Example: anople reproduce table1 data/mvtec --output runs/table1")(reproduce)
app.command("figures", epilog="Example: anople figures runs/line1 photos/ --output figures/")(figures)
app.command("app", epilog="Example: anople app runs/line1")(start_app)
app.add_typer(data_app, name="data")


@app.command(epilog="Example: anople memorize runs/line1 gear photos/gear/ 'more/*.png'")
def memorize(
    run: OwnRun,
    category: Annotated[str, typer.Argument(help="Name of the product, new or known.")],
    photos: Annotated[list[str], typer.Argument(help="Good photos: files, folders, patterns, or - for stdin.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a product, or more photos of a known one, without training."""
    quieten(quiet)
    from ..calibration import calibrate

    model, processor = load_run(run, own=True)
    paths = list_photos(photos, skip_bad)
    pixels = processor(images=paths)["pixel_values"]
    before = len(model.memory)
    model.memorize(pixels, category, names=[str(path) for path in paths])
    found = calibrate(model, {category: pixels}, false_alarm_rate=false_alarm_rate)
    model.save_memory(run)
    added, known = len(model.memory) - before, list(model.memory.categories)
    tell(
        as_json,
        {"category": category, "added": added, "threshold": found[category].threshold, "known": known},
        f"{category}: {added} photos added; known: {', '.join(known)}",
    )


@app.command("calibrate", epilog="Example: anople calibrate runs/line1 photos/ --false-alarm-rate 0.01")
def calibrate_verb(
    run: OwnRun,
    data: Annotated[Path, typer.Argument(help="More good photos, laid out as for train.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds from good photos that the detector has not seen: then the false-alarm rate is a promise.

    Photos that are in its memory are left out. 5 % takes at least 19 photos a product, 1 % takes 99.
    """
    quieten(quiet)
    from ..calibration import calibrate_on_new
    from ..configuration_anople import SHARED
    from ..data import load_inspection_data
    from ..images import image_digest

    model, processor = load_run(run, own=True)
    split = load_inspection_data(data, skip_bad=skip_bad)["train"]
    photos, lines = {}, []
    for category in dict.fromkeys(split["category"]):
        known = {reference.digest for reference in model.memory.references(category)}
        rows = split.filter(lambda name, wanted=category: name == wanted, input_columns="category")
        pixels = processor(images=list_photos([data / path for path in rows["path"]], skip_bad))["pixel_values"]
        photos[category] = pixels[[image_digest(image) not in known for image in pixels]]
        lines.append(
            f"{category}: {len(photos[category])} new photos, {len(pixels) - len(photos[category])} known ones"
        )
    photos = {category: pixels for category, pixels in photos.items() if len(pixels)}
    if not photos:
        raise ValueError(f"{data} holds only photos that are in the memory; thresholds need new ones.")
    thresholds = calibrate_on_new(model, photos, false_alarm_rate=false_alarm_rate)
    for name, found in thresholds.items():
        whom = "any category" if name == SHARED else name
        promise = "promised" if found.guaranteed else f"not promised by {found.num_photos} photos"
        lines.append(f"{whom}: threshold {found.threshold:.4f}, {false_alarm_rate:.1%} false alarms {promise}")
    model.save_memory(run)
    tell(as_json, {"thresholds": {name: found.to_dict() for name, found in thresholds.items()}}, *lines)


@app.command(epilog="Example: anople remove runs/line1 gear --photo photos/gear/003.png")
def remove(
    run: OwnRun,
    category: Annotated[str, typer.Argument(help="Product to forget.")],
    photo: Annotated[str | None, typer.Option(help="Only this photo of it, by its name.")] = None,
    as_json: Json = False,
) -> None:
    """Take a product, or one of its photos, out of a detector's memory."""
    quieten(True)
    model, _ = load_run(run, own=True)
    model.remove(category, photo)
    model.save_memory(run)
    known = list(model.memory.categories)
    tell(
        as_json,
        {"category": category, "photo": photo, "known": known},
        f"{photo or category} removed; known: {', '.join(known) or 'none'}",
    )


@app.command(epilog="Example: anople evaluate runs/line1 data/ --json table.json --plots plots/")
def evaluate(
    run: Run,
    data: Annotated[Path, typer.Argument(help="Data set in the MVTec-AD layout, with a test split.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table here, too; - prints it alone.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG) here.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Write histograms, ROC and precision-recall curves, and bars (PNG) here.")
    ] = None,
    branch: Annotated[Branch, typer.Option(help="The model, or one of its parts alone.")] = "both",
    route: Annotated[bool, typer.Option("--route", help="Tell each image's category: another protocol.")] = False,
    more: Annotated[bool, typer.Option("--more", help="Show F1-max, pixel AUPR, AUPRO variants, too.")] = False,
    batch_size: Batch = 16,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Measure a detector: image AUROC and AUPR, pixel AUROC, AUPRO, per category and mean."""
    quieten(quiet)
    from ..data import load_inspection_data
    from ..evaluation.measurement import evaluate as measure
    from ..output.whole import write_whole
    from ..pictures.charts import write_plots
    from ..pictures.sheets import write_sheet

    as_json = json_file == Path("-")
    model, processor = load_run(run, quiet=quiet)
    splits = load_inspection_data(data, skip_bad=skip_bad)
    if "test" not in splits:
        raise ValueError(f"{data} has no test split: expected {data}/<category>/test/<defect or good>/*.png.")
    result = measure(
        model, processor, splits["test"], branch=branch, route=route, batch_size=batch_size, progress=not quiet
    )
    recognized = result.protocol["category_recognized"]
    known = "known" if route else "not given but recognised" if recognized else "not given"
    tell(
        as_json,
        result.to_dict(),
        result.table(),
        *([f"\n{result.table(more=True)}\n"] if more else []),
        f"{len(result.images)} images, category {known}, branch {branch}, {result.images_per_second:.1f} images/s; "
        f"maps and masks {result.protocol['mask_size']} px (masks {result.protocol['mask_rule']}), AUPRO "
        f"{result.protocol['aupro']}",
        *_said(result),
    )
    written: list[Path] = []
    if json_file and not as_json:
        write_whole(json_file, json.dumps(result.to_dict(), indent=2) + "\n")
        written.append(json_file)
    if sheet:
        written.append(write_sheet(model, processor, splits["test"], sheet, route=route))
    if plots:
        entries = {
            name: model.config.calibration_of(name if route or recognized else None, recognized=recognized)
            for name in result.categories
        }
        limits = {name: entry.get("threshold") for name, entry in entries.items()}
        written += write_plots(result, plots, limits if branch == "both" else None)
    for path in written:
        typer.echo(f"saved: {path}", err=as_json)


def _said(result: "EvaluationResult") -> list[str]:
    """Recognition and decisions, as far as there are any."""
    lines = [] if result.recognized is None else [f"product recognised on {result.recognized:.1%} of the images"]
    called = zip(result.errors(), ("good parts called defective", "defective parts called good"), strict=True)
    if errors := [f"{share:.1%} of the {what}" for share, what in called if share is not None]:
        lines.append(f"at the thresholds: {', '.join(errors)}")
    return lines


@app.command("demo-data", epilog="Example: anople demo-data data/")
def demo_data(
    output: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    categories: Annotated[str, typer.Option(help="Only these products, separated by commas.")] = "",
    size: Annotated[int, typer.Option(min=64, help="Side of a photo in pixels.")] = 320,
    train: Annotated[int, typer.Option(min=1, help="Good photos of a product to learn from.")] = 12,
    test_good: Annotated[int, typer.Option(min=0, help="Good ones to test on.")] = 8,
    test_defective: Annotated[int, typer.Option(min=0, help="Defective ones, spread over the kinds of defects.")] = 12,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw a sample data set: products on a line, several kinds of defects, exact masks. No download."""
    from ..data.drawn import draw_dataset
    from ..output.whole import whole_folder

    with whole_folder(output, overwrite=overwrite) as folder:
        names = [name.strip() for name in categories.split(",") if name.strip()]
        counts = {"train": train, "test_good": test_good, "test_defective": test_defective}
        draw_dataset(folder, categories=names or None, size=size, seed=seed, **counts)
    drawn = sorted(path.name for path in output.iterdir() if path.is_dir())
    tell(as_json, {"output": str(output), "categories": drawn}, f"saved: {output}")


def main() -> None:
    """Entry point: mistakes in the input end with one clear line and exit code 2, not with a traceback."""
    gc.set_threshold(100_000)  # a million objects of the libraries stay; looking through them takes a second
    try:
        app(prog_name="anople")  # also under python -m and the scripts: help and completion name it
    except (ValueError, KeyError, OSError, FloatingPointError, ImportError) as error:  # ImportError: an extra
        if os.environ.get("ANOPLE_DEBUG"):
            traceback.print_exc()
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"anople: {message}", err=True)
        sys.exit(TROUBLE)
    except Exception:  # Python would end with 1, and that means a defective part here
        traceback.print_exc()
        sys.exit(TROUBLE)
    except SystemExit as done:
        if done.code == STOPPED:
            typer.echo("anople: stopped.", err=True)
        raise
    finally:
        gc.freeze()  # nor are they looked through at the end: another second
