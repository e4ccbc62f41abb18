"""The verb `anople predict`: judge photos once, go on after an interruption, or wait for a camera's next ones.

Where in the paper: sec. 3.4.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..inspection.tables import Format, check_formats
from .options import (
    Batch,
    Json,
    Output,
    Overwrite,
    Quiet,
    Run,
    SkipBad,
    find_photos,
    find_run,
    keep_photos,
    load_run,
    quieten,
    tell,
)

if TYPE_CHECKING:
    from ..inspection.predict import Prediction

ANOMALY_FOUND = 1
"""Exit code of `--fail-on-anomaly`; like grep's and diff's, trouble is 2."""

OneFormat = Annotated[
    list[Format] | None, typer.Option("--format", help="Of the table; repeat for several. Default: csv.")
]


def predict(
    run: Run,
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos to judge: files, folders (searched recursively), quoted patterns ('line/**/*.png'), "
            "or - for a list of paths on stdin, one a line."
        ),
    ],
    output: Output,
    category: Annotated[str | None, typer.Option("--product", help="If known: better and faster.")] = None,
    batch_size: Batch = 16,
    formats: OneFormat = None,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, too: one page, to be mailed.")] = False,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="End with exit code 1 if any photo is defective.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this output: photos that have a row are not judged again.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for new photos in these folders, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.01, help="--watch: seconds between two looks.")] = 1.0,
    max_photos: Annotated[int | None, typer.Option(min=1, help="--watch: end after so many photos.")] = None,
    stop_after_idle: Annotated[
        float | None, typer.Option(min=0, help="--watch: end after so many seconds without a new photo.")
    ] = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge photos: a table of scores and decisions, heat maps and masks.

    Stopped with Ctrl-C, what was judged stays in OUTPUT.partial; the same command with --resume goes on.
    In --watch mode Ctrl-C is the end: the output is finished. A file that is still being written is not judged yet.

    Exit codes: 0 done, 1 with --fail-on-anomaly if a photo is defective, 2 input that cannot be used, 130 stopped.
    """
    if watch and "-" in photos:
        raise typer.BadParameter("--watch looks into folders and patterns, it cannot wait for stdin.")
    if not watch and (max_photos is not None or stop_after_idle is not None):
        raise typer.BadParameter("--max-photos and --stop-after-idle belong to --watch.")
    quieten(quiet)
    chosen = formats or [Format.CSV]
    check_formats(chosen)
    where = find_run(run)
    paths = find_photos(photos, empty=watch)
    from ..inspection.results import check_results, fingerprint, growing_results, partial_of

    check_results(output, resume=resume, overwrite=overwrite)
    model, processor = load_run(where, quiet=quiet)
    from ..inspection.predict import predict as judge_all
    from ..inspection.report import write_report
    from ..pictures.overlays import color_scale

    if category is not None:
        model.memory.references(category)  # an unknown one ends here, before any work
    recognizes = category is None and model.config.memory_search == "product"
    asked = model.memory.categories if recognizes else [category]
    entries = [model.config.calibration_of(name, recognized=recognizes) for name in asked]
    if fail_on_anomaly and not all("threshold" in entry for entry in entries):
        raise ValueError(f"{run} has no threshold, nothing would ever fail; set one with `anople calibrate`.")
    scale = None if recognizes else color_scale(model, category)
    started, skipped = time.perf_counter(), []

    def note(message: str) -> None:
        typer.echo(message, err=True)
        skipped.extend([message.removeprefix("skipped: ")] if message.startswith("skipped: ") else [])

    job = {"detector": fingerprint(run), "category": category}
    try:
        with growing_results(output, job, resume=resume, overwrite=overwrite) as results:
            if watch:
                if not quiet:
                    typer.echo(f"watching {', '.join(photos)}; Ctrl-C ends and saves.", err=True)
                wait: dict[str, Any] = {"every": every, "most": max_photos, "idle": stop_after_idle}
                wait |= {"known": results.done, "batch_size": batch_size}
                predictions = _watched(model, processor, photos, category, note, **wait)
            else:
                good, skipped = keep_photos([path for path in paths if str(path) not in results.done], skip_bad)
                how: dict[str, Any] = {"category": category, "batch_size": batch_size}
                how |= {"skip": (lambda reason: note(f"skipped: {reason}")) if skip_bad else None}
                predictions = judge_all(model, processor, good, progress=bool(good) and not quiet, **how)
            try:
                for prediction in predictions:
                    row = results.add(prediction, color_scale(model, prediction.category, recognized=recognizes))
                    if watch and not (quiet or as_json):
                        typer.echo(f"{row['label'] or 'no threshold'}  {row['score']:.4g}  {row['path']}")
            except KeyboardInterrupt:
                if not watch or not results.rows:
                    raise
                typer.echo("stopped; saving.", err=True)
            if not results.rows:
                raise ValueError("no photo came." if watch else f"none of the {len(paths)} photos can be read.")
            results.write_tables(chosen, scale, model.config.calibration_of(category).get("pixel_threshold"))
            if report or (results.folder / "report.html").exists():
                title = f"Judged by {run.resolve().name}"
                write_report(results.rows, results.folder, title=title, scale=scale)
    except KeyboardInterrupt:
        work = partial_of(output)
        if work.exists():
            typer.echo(f"kept in {work}; the same command with --resume goes on.", err=True)
        raise
    counts = results.counts
    tell(
        as_json,
        {
            "output": str(output),
            "photos": len(results.rows),
            **counts,
            "judged_before": results.taken_over,
            "skipped": skipped,
            "tables": [str(output / f"scores.{name}") for name in dict.fromkeys(chosen)],
            "report": str(output / "report.html") if report else None,
            "seconds": round(time.perf_counter() - started, 3),
        },
        ", ".join(f"{count} {name.replace('_', ' a ', 1)}" for name, count in counts.items() if count)
        + (f" ({results.taken_over} judged before)" if results.taken_over else ""),
        f"saved: {output}",
    )
    if fail_on_anomaly and counts["defective"]:
        raise typer.Exit(ANOMALY_FOUND)


def _watched(
    model: Any, processor: Any, sources: list[str], category: str | None, note: Callable[[str], None], **options: Any
) -> "Iterator[Prediction]":
    """Predictions of photos as they come; `options` as for `watch`."""
    from ..inspection.predict import judge
    from ..inspection.watching import watch

    for batch in watch(lambda: find_photos(sources, empty=True), report=note, **options):
        yield from judge(model, processor, batch, category)
