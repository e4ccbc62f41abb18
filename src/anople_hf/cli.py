"""The `anople` command: verbs for what a quality engineer does, each a thin face on the package.

Where in the paper: `train` is sec. 3.3, `memorize` and `predict` sec. 3.4, `evaluate` sec. 4.1.

Exit codes: 0 done, 1 the input cannot be used (the message says what to do), 2 wrong usage.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel
    from .processing_anople import AnoPLeProcessor

app = typer.Typer(
    help="Few-shot multi-class visual anomaly detection: teach products with a few good photos, find defective parts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Branch = Literal["both", "prompt", "memory"]
Run = Annotated[Path, typer.Argument(help="Folder of a trained detector, as written by `anople train`.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable photos and count them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only errors.")]
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
Batch = Annotated[int, typer.Option(min=1, help="Photos per pass.")]


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="MVTec-AD layout, or one folder of good photos per category.")],
    output: Output,
    shots: Annotated[int, typer.Option(min=1, help="Good photos per category.")] = 4,
    seed: Seed = 0,
    max_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Good photos a step; each becomes ten views.")] = 2,
    backbone: Annotated[
        str, typer.Option(help="CLIP: the embedded one, a folder, or a Hub id.")
    ] = "embedded:tiny-clip",
    categories: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    shots_file: Annotated[Path | None, typer.Option(help="Take the photos listed in this shots.json.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="JSON of words for the prompts, by category.")] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    anomaly_source: Annotated[str, typer.Option(help="mixed, procedural, shots, or a folder of textures.")] = "mixed",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Learn a detector for all categories from a few good photos each, build its memory, set its thresholds."""
    _quieten(quiet)
    from .data import load_inspection_data
    from .data.few_shot import read_shots
    from .outputs import check_output, whole_folder
    from .training import TrainingConfig
    from .training import train as learn

    check_output(output, overwrite=overwrite)
    config = TrainingConfig(
        shots=shots,
        seed=seed,
        max_steps=max_steps,
        batch_size=batch_size,
        false_alarm_rate=false_alarm_rate,
        anomaly_source=anomaly_source,
    )
    wanted = [name.strip() for name in categories.split(",") if name.strip()] or None
    splits = load_inspection_data(data, categories=wanted, skip_bad=skip_bad)
    with whole_folder(output, overwrite=overwrite) as folder:
        run = learn(
            splits["train"],
            config,
            backbone=backbone,
            class_names=json.loads(class_names.read_text()) if class_names else None,
            listed_shots=read_shots(shots_file) if shots_file else None,
            skip_bad=skip_bad,
        )
        run.save(folder)
    calibration = run.model.config.calibration or {}
    for name, entry in calibration.items():
        typer.echo(f"{'any category' if name == '*' else name}: threshold {entry['threshold']:.4f}")
    typer.echo(f"saved: {output}")


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
    _quieten(quiet)
    from .calibration import calibrate

    model, processor = _load(run)
    paths = _photos(photos, skip_bad)
    pixels = processor(images=paths)["pixel_values"]
    before = len(model.memory)
    model.memorize(pixels, category, names=[str(path) for path in paths])
    calibrate(model, {category: pixels}, false_alarm_rate=false_alarm_rate)
    model.save_memory(run)
    typer.echo(f"{category}: {len(model.memory) - before} photos added; known: {', '.join(model.memory.categories)}")


@app.command()
def remove(run: Run, category: Annotated[str, typer.Argument(help="Product to forget.")]) -> None:
    """Take a product out of a detector's memory."""
    _quieten(True)
    model, _ = _load(run)
    model.forget(category)
    model.save_memory(run)
    typer.echo(f"{category} removed; known: {', '.join(model.memory.categories) or 'none'}")


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
    _quieten(quiet)
    from .outputs import check_output, whole_folder
    from .prediction import colour_scale, write_predictions
    from .prediction import predict as judge

    check_output(output, overwrite=overwrite)
    model, processor = _load(run)
    if category is not None:
        model.memory.references(category)  # an unknown one ends here, before any work
    paths = _photos(photos, skip_bad)
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
    batch_size: Batch = 16,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Measure a detector: image AUROC and AUPR, pixel AUROC, AUPRO, per category and mean."""
    _quieten(quiet)
    from .data import load_inspection_data
    from .evaluation import evaluate as measure
    from .sheets import write_sheet

    model, processor = _load(run)
    splits = load_inspection_data(data, skip_bad=skip_bad)
    if "test" not in splits:
        raise ValueError(f"{data} has no test split: expected {data}/<category>/test/<defect or good>/*.png.")
    result = measure(
        model, processor, splits["test"], branch=branch, route=route, batch_size=batch_size, progress=not quiet
    )
    typer.echo(result.table())
    known = "known" if route else "not given"
    typer.echo(
        f"{len(result.images)} images, category {known}, branch {branch}, {result.images_per_second:.1f} images/s"
    )
    if json_file:
        _write_whole(json_file, json.dumps(result.to_dict(), indent=2) + "\n")
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
    _quieten(True)
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


def _quieten(quiet: bool) -> None:
    """Our own messages and bars stay, the libraries' loading chatter goes."""
    import transformers

    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpx2", "accelerate", "datasets", "PIL", "matplotlib", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        import datasets
    except ImportError:  # predict and memorize need no training extras
        return
    datasets.disable_progress_bars()


def _load(run: Path) -> "tuple[AnoPLeModel, AnoPLeProcessor]":
    from .modeling_anople import AnoPLeModel
    from .processing_anople import AnoPLeProcessor

    if not (run / "config.json").is_file():
        raise FileNotFoundError(
            f"{run} is not a trained detector (no config.json); expected a folder of `anople train`."
        )
    return AnoPLeModel.from_pretrained(run).eval(), AnoPLeProcessor.from_pretrained(run)


def _photos(sources: list[Path], skip_bad: bool) -> list[Path]:
    """All photos under files and folders, checked before any work starts."""
    from .images import check_images, find_images

    paths: list[Path] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"no such file or folder: {source}")
        found = find_images(source, recursive=True) if source.is_dir() else [source]
        if not found:
            raise ValueError(f"{source} holds no photos; expected .png, .jpg, .bmp, .tif or .webp files.")
        paths.extend(found)
    good, bad = check_images(paths, skip_bad=skip_bad)
    for reason in bad:
        typer.echo(f"skipped: {reason}", err=True)
    if not good:
        raise ValueError(f"none of the {len(paths)} photos can be read.")
    return good


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
