"""The verb `anople predict`: judge photos once, continue after an interruption, or wait for a camera's next photos.

The scores are those of sec. 3.4.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..inspection.tables import GROWING, Format, check_formats
from ..inspection.webhook import Webhook, check_url
from .options import (
    Batch,
    GrayZone,
    Json,
    Output,
    Overwrite,
    Parts,
    Quiet,
    Run,
    SkipBad,
    Unknown,
    find_photos,
    find_run,
    keep_photos,
    load_run,
    quieten,
    tell,
)

if TYPE_CHECKING:
    from ..inspection.predict import Prediction
    from ..inspection.results import Results

ANOMALY_FOUND = 1
"""Exit code of `--fail-on-anomaly`; as for grep and diff, an error is 2."""

OneFormat = Annotated[
    list[Format] | None, typer.Option("--format", help="Format of the table. Repeatable. Default: csv.")
]


def predict(
    run: Run,
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos to judge: files, folders (searched recursively), quoted patterns ('line/**/*.png'), "
            "or - for a list of paths on stdin, one per line."
        ),
    ],
    output: Output,
    category: Annotated[
        str | None, typer.Option("--product", help="Product, if you know it: results are better and faster.")
    ] = None,
    batch_size: Batch = 16,
    formats: OneFormat = None,
    parts: Parts = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html, a single self-contained page.")
    ] = False,
    lot: Annotated[str, typer.Option(help="--report: what was inspected, for its heading.")] = "",
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with code 1 if any photo is not normal.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue this output; photos that have a row are not judged again.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for new photos in these folders, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.01, help="--watch: seconds between two checks.")] = 1.0,
    max_photos: Annotated[int | None, typer.Option(min=1, help="--watch: stop after this many photos.")] = None,
    stop_after_idle: Annotated[
        float | None, typer.Option(min=0, help="--watch: stop after this many seconds without a new photo.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send each verdict there as JSON, signed with ANOPLE_WEBHOOK_SECRET if set."),
    ] = None,
    unknown: Unknown = True,
    gray_zone: GrayZone = 0.0,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Heat maps of large photos at the photo's size, not at screen size.")
    ] = False,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge photos: write a table of scores and decisions, heat maps and masks.

    After Ctrl-C the results so far stay in OUTPUT.partial; run the same command with --resume to continue.
    With --watch, Ctrl-C finishes the output. A file that is still being written is judged when it is complete.
    Until the end, the table (csv or jsonl) grows in OUTPUT.partial, a whole row at a time.

    Exit codes: 0 done, 1 with --fail-on-anomaly if a photo is not normal, 2 input that cannot be used, 130 stopped.
    """
    if watch and "-" in photos:
        raise typer.BadParameter("--watch looks into folders and patterns, it cannot wait for stdin.")
    if not watch and (max_photos is not None or stop_after_idle is not None):
        raise typer.BadParameter("--max-photos and --stop-after-idle belong to --watch.")
    if lot and not report:
        raise typer.BadParameter("--lot is named in the report; add --report.")
    quieten(quiet)
    chosen = formats or [Format.CSV]
    check_formats(chosen)
    if webhook is not None:
        check_url(webhook)
    where = find_run(run)
    from ..inspection.parts import Grouping, judge_parts

    grouping = Grouping(parts) if parts is not None else None
    paths = find_photos(photos, empty=watch)
    apart = grouping.without_part(paths) if grouping is not None and not watch else []
    for path in apart:
        typer.echo(f"no part: {path}", err=True)
    from ..inspection.results import check_results, fingerprint, growing_results, partial_of

    check_results(output, resume=resume, overwrite=overwrite)
    model, processor = load_run(where, quiet=quiet)
    from ..images import SCREEN, printable
    from ..inspection.predict import predict as judge_all
    from ..inspection.report import write_report
    from ..pictures.overlays import color_scale
    from ..ranges import describe_difference

    if category is not None:
        model.memory.references(category)  # an unknown product ends here, before any work
    recognizes = category is None and model.recognizes
    asked = model.memory.categories if recognizes else [category]
    entries = [model.memory.thresholds_of(name, recognized=recognizes) for name in asked]
    if fail_on_anomaly and not all(entries):
        raise ValueError(f"{run} has no threshold, nothing would ever fail; set one with `anople calibrate`.")
    scale = None if recognizes else color_scale(model, category)
    started, skipped = time.perf_counter(), []

    def note(message: str) -> None:
        typer.echo(message, err=True)
        skipped.extend([message.removeprefix("skipped: ")] if message.startswith("skipped: ") else [])

    remarks: list[str] = []
    ranges = {name: model.memory.ranges(name) for name in model.memory.categories}
    for line in describe_difference(ranges) if category is None else ():
        typer.echo(f"note: {line}", err=True)
    how: dict[str, Any] = {"unknown": unknown, "gray_zone": gray_zone}
    job: dict[str, Any] = {"detector": fingerprint(run), "category": category, **how}
    job |= ({"full_size": True} if full_size else {}) | ({"parts": parts} if parts is not None else {})
    how["longest"] = None if full_size else SCREEN
    try:
        begun: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "formats": chosen, "grouping": grouping}
        with growing_results(output, job, **begun) as results:
            if watch:
                if not quiet:
                    growing = [f"{results.folder / f'scores.{name}'} grows; " for name in chosen if name in GROWING]
                    typer.echo(f"watching {', '.join(photos)}; {''.join(growing)}Ctrl-C ends and saves.", err=True)
                wait: dict[str, Any] = {"every": every, "most": max_photos, "idle": stop_after_idle}
                wait |= {"known": results.done, "batch_size": batch_size}
                predictions = _watched(model, processor, photos, category, note, how, **wait)
            else:
                good, skipped = keep_photos([path for path in paths if printable(path) not in results.done], skip_bad)
                asks: dict[str, Any] = {"category": category, "batch_size": batch_size, **how}
                asks |= {"skip": (lambda reason: note(f"skipped: {reason}")) if skip_bad else None}
                predictions = judge_all(model, processor, good, progress=bool(good) and not quiet, **asks)
            with _webhook(webhook, results, job["detector"], note) as hook:
                try:
                    for prediction in predictions:
                        if prediction.remark:
                            remarks.append(prediction.remark)
                            typer.echo(f"does not fit: {prediction.remark}", err=True)
                        row = results.add(prediction, color_scale(model, prediction.category, recognized=recognizes))
                        if hook is not None:
                            hook.send(row)
                        part = results.part_of(row)
                        if grouping is not None and part is None and row["path"] not in apart:
                            note(f"no part: {row['path']}")
                            apart.append(row["path"])
                        if watch:
                            results.write_parts(chosen, unless_costly=True)
                        if watch and not (quiet or as_json):
                            typer.echo(f"{_said(row)}  {row['path']}{_said_of_part(part)}")
                except KeyboardInterrupt:
                    if not watch or not results.rows:
                        raise
                    typer.echo("stopped; saving.", err=True)
            if not results.rows:
                raise ValueError("no photo came." if watch else f"none of the {len(paths)} photos can be read.")
            shown = model.memory.thresholds_of(category)
            results.write_tables(chosen, scale, shown.pixel_threshold if shown else None)
            if report or (results.folder / "report.html").exists():
                ranges[""] = model.memory.ranges()
                told: dict[str, Any] = {
                    "title": f"Judged by {run.resolve().name}",
                    "fingerprint": job["detector"],
                    "lot": lot,
                }
                told |= {"parts": judge_parts(results.rows)} if grouping is not None else {}
                write_report(results.rows, results.folder, scale=scale, ranges=ranges, **told)
    except KeyboardInterrupt:
        work = partial_of(output)
        if work.exists():
            typer.echo(f"kept in {work}; the same command with --resume goes on.", err=True)
        raise
    counts, part_counts = results.counts, results.part_counts
    by_part = f"{sum(part_counts.values())} parts: {_counted(part_counts)}"
    tell(
        as_json,
        {
            "output": str(output),
            "photos": len(results.rows),
            **counts,
            "judged_before": results.taken_over,
            "skipped": skipped,
            "undelivered": hook.undelivered if hook is not None else 0,
            "not_fitting": remarks,
            **({} if grouping is None else {"parts": part_counts, "without_part": apart}),
            "tables": [str(output / f"scores.{name}") for name in dict.fromkeys(chosen)],
            "report": str(output / "report.html") if report else None,
            "seconds": round(time.perf_counter() - started, 3),
        },
        *([] if grouping is None else [by_part + (f"; without a part: {len(apart)}" if apart else "")]),
        ("" if grouping is None else f"{len(results.rows)} photos: ")
        + _counted(counts)
        + (f" ({results.taken_over} judged before)" if results.taken_over else ""),
        f"saved: {output}",
    )
    if fail_on_anomaly and counts["normal"] < len(results.rows):
        raise typer.Exit(ANOMALY_FOUND)


def _webhook(url: str | None, results: "Results", detector: str, note: Callable[[str], None]) -> Any:
    if url is None:
        return nullcontext()
    secret = os.environ.get("ANOPLE_WEBHOOK_SECRET", "")
    return Webhook(url, results.folder, results.rows, detector=detector, secret=secret, note=note)


def _counted(counts: dict[str, int]) -> str:
    said = {"without_threshold": "without a threshold"}
    return ", ".join(f"{count} {said.get(name, name.replace('_', ' '))}" for name, count in counts.items() if count)


def _said_of_part(part: dict[str, Any] | None) -> str:
    """What is known so far of the part that a photo shows."""
    if part is None:
        return ""
    return (
        f"  part {part['part']}: {part['label'] or 'no threshold'} by {part['views']} view{'s'[: part['views'] > 1]}"
    )


def _said(row: dict[str, Any]) -> str:
    """A photo's decision, and how far its score is from the threshold."""
    if row["ratio"] is None:
        return f"{row['label'] or 'no threshold'}  {row['score']:.4g}"
    return f"{row['label']}  {row['ratio']:.2f} times the threshold"


def _watched(
    model: Any,
    processor: Any,
    sources: list[str],
    category: str | None,
    note: Callable[[str], None],
    how: dict[str, Any],
    **options: Any,
) -> "Iterator[Prediction]":
    """Judge photos as they arrive; `how` as for `judge`, `options` as for `watch`."""
    from ..inspection.predict import judge, prepare
    from ..inspection.watching import watch

    read = partial(prepare, model, processor, category=category, longest=how["longest"])
    for batch in watch(lambda: find_photos(sources, empty=True), read, report=note, **options):
        yield from judge(model, processor, batch, category, **how)
