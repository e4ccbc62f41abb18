"""The `anople` command: verbs for what a quality engineer does, each a thin face on the package.

Where in the paper: `train` is sec. 3.3, `memorize` and `predict` sec. 3.4, `evaluate` sec. 4.1.

Exit codes: 0 done, 1 the input cannot be used (the message says what to do), 2 wrong usage.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .cli_benchmark import compare, reproduce
from .cli_convert import convert
from .cli_data import data_app
from .cli_hub import card, push
from .cli_options import Batch, Branch, Output, Overwrite, Quiet, Run, Seed, SkipBad, list_photos, load_run, quieten
from .cli_train import preview_anomalies, train

app = typer.Typer(
    help="Few-shot multi-class visual anomaly detection: teach products with a few good photos, find defective parts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

app.command("train")(train)
app.command("convert")(convert)
app.command("preview-anomalies")(preview_anomalies)
app.command("push")(push)
app.command("card")(card)
app.command("compare")(compare)
app.command("reproduce")(reproduce)
app.add_typer(data_app, name="data")


@app.command()
def memorize(
    run: Run,
    category: Annotated[str, typer.Argument(help="Name of the product, new or known.")],
    photos: Annotated[list[Path], typer.Argument(help="Good photos: files or folders.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Teach a product, or more photos of a known one, without training."""
    quieten(quiet)
    from .calibration import calibrate

    model, processor = load_run(run)
    paths = list_photos(photos, skip_bad)
    pixels = processor(images=paths)["pixel_values"]
    before = len(model.memory)
    model.memorize(pixels, category, names=[str(path) for path in paths])
    calibrate(model, {category: pixels}, false_alarm_rate=false_alarm_rate)
    model.save_memory(run)
    typer.echo(f"{category}: {len(model.memory) - before} photos added; known: {', '.join(model.memory.categories)}")


@app.command("calibrate")
def calibrate_verb(
    run: Run,
    data: Annotated[Path, typer.Argument(help="More good photos, laid out as for train.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds from good photos that the detector has not seen: then the false-alarm rate is a promise.

    Photos that are in its memory are left out. 5 % takes at least 19 photos a product, 1 % takes 99.
    """
    quieten(quiet)
    from .calibration import calibrate_on_new
    from .data import load_inspection_data
    from .memory import image_digest
    from .modeling_anople import SHARED

    model, processor = load_run(run)
    split = load_inspection_data(data, skip_bad=skip_bad)["train"]
    photos = {}
    for category in dict.fromkeys(split["category"]):
        known = {reference.digest for reference in model.memory.references(category)}
        rows = split.filter(lambda name, wanted=category: name == wanted, input_columns="category")
        pixels = processor(images=list_photos([data / path for path in rows["path"]], skip_bad))["pixel_values"]
        photos[category] = pixels[[image_digest(image) not in known for image in pixels]]
        typer.echo(f"{category}: {len(photos[category])} new photos, {len(pixels) - len(photos[category])} known ones")
    photos = {category: pixels for category, pixels in photos.items() if len(pixels)}
    if not photos:
        raise ValueError(f"{data} holds only photos that are in the memory; thresholds need new ones.")
    for name, found in calibrate_on_new(model, photos, false_alarm_rate=false_alarm_rate).items():
        whom = "any category" if name == SHARED else name
        promise = "promised" if found.guaranteed else f"not promised by {found.num_photos} photos"
        typer.echo(f"{whom}: threshold {found.threshold:.4f}, {false_alarm_rate:.1%} false alarms {promise}")
    model.save_memory(run)


@app.command()
def remove(
    run: Run,
    category: Annotated[str, typer.Argument(help="Product to forget.")],
    photo: Annotated[str | None, typer.Option(help="Only this photo of it, by its name.")] = None,
) -> None:
    """Take a product, or one of its photos, out of a detector's memory."""
    quieten(True)
    model, _ = load_run(run)
    model.forget(category, photo)
    model.save_memory(run)
    typer.echo(f"{photo or category} removed; known: {', '.join(model.memory.categories) or 'none'}")


@app.command()
def predict(
    run: Run,
    photos: Annotated[list[Path], typer.Argument(help="Photos to judge: files or folders (searched recursively).")],
    output: Output,
    category: Annotated[str | None, typer.Option(help="The product, if known: better and faster.")] = None,
    batch_size: Batch = 16,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Judge photos: scores.csv, heat maps and masks."""
    quieten(quiet)
    from .outputs import check_output, whole_folder
    from .prediction import colour_scale, write_predictions
    from .prediction import predict as judge

    check_output(output, overwrite=overwrite)
    model, processor = load_run(run)
    if category is not None:
        model.memory.references(category)  # an unknown one ends here, before any work
    paths = list_photos(photos, skip_bad)
    with whole_folder(output, overwrite=overwrite) as folder:
        predictions = judge(model, processor, paths, category=category, batch_size=batch_size, progress=not quiet)
        counts = write_predictions(predictions, folder, scale=colour_scale(model, category))
    typer.echo(", ".join(f"{count} {label or 'without a threshold'}" for label, count in sorted(counts.items())))
    typer.echo(f"saved: {output}")


@app.command()
def evaluate(
    run: Run,
    data: Annotated[Path, typer.Argument(help="Data set in the MVTec-AD layout, with a test split.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here, too.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG) here.")] = None,
    branch: Annotated[Branch, typer.Option(help="The model, or one of its parts alone.")] = "both",
    route: Annotated[bool, typer.Option("--route", help="Tell each image's category: another protocol.")] = False,
    more: Annotated[bool, typer.Option("--more", help="Show F1-max, pixel AUPR, AUPRO variants, too.")] = False,
    batch_size: Batch = 16,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Measure a detector: image AUROC and AUPR, pixel AUROC, AUPRO, per category and mean."""
    quieten(quiet)
    from .data import load_inspection_data
    from .evaluation import evaluate as measure
    from .outputs import write_whole
    from .sheets import write_sheet

    model, processor = load_run(run)
    splits = load_inspection_data(data, skip_bad=skip_bad)
    if "test" not in splits:
        raise ValueError(f"{data} has no test split: expected {data}/<category>/test/<defect or good>/*.png.")
    result = measure(
        model, processor, splits["test"], branch=branch, route=route, batch_size=batch_size, progress=not quiet
    )
    typer.echo(result.table())
    if more:
        typer.echo(f"\n{result.table(more=True)}\n")
    known = "known" if route else "not given"
    typer.echo(
        f"{len(result.images)} images, category {known}, branch {branch}, {result.images_per_second:.1f} images/s; "
        f"maps and masks {result.protocol['mask_size']} px (masks {result.protocol['mask_rule']}), AUPRO "
        f"{result.protocol['aupro']}"
    )
    if json_file:
        write_whole(json_file, json.dumps(result.to_dict(), indent=2) + "\n")
        typer.echo(f"saved: {json_file}")
    if sheet:
        typer.echo(f"saved: {write_sheet(model, processor, splits['test'], sheet, route=route)}")


@app.command("demo-data")
def demo_data(
    output: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a sample data set: products on a line, several kinds of defects, exact masks. No download."""
    quieten(True)
    from .data.drawn import draw_dataset
    from .outputs import whole_folder

    with whole_folder(output, overwrite=overwrite) as folder:
        draw_dataset(folder, seed=seed)
    typer.echo(f"saved: {output}")


def main() -> None:
    """Entry point: mistakes in the input end with one clear line and exit code 1, not with a traceback."""
    try:
        app()
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        if os.environ.get("ANOPLE_DEBUG"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"anople: {message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
