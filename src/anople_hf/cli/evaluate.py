"""The verb `anople evaluate`: the table of metrics, contact sheet and plots.

The metrics are those of sec. 4.1.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Batch, Branch, Parts, Quiet, Run, SkipBad, find_run, load_data, load_run, quieten, tell

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult


def evaluate(
    run: Run,
    data: Annotated[Path, typer.Argument(help="Data set in the MVTec-AD layout, with a test split.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this file; - prints only the JSON.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also write a contact sheet to this PNG.")] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Also write histograms, ROC, precision-recall curves and bars to this folder."),
    ] = None,
    branch: Annotated[
        Branch | None,
        typer.Option(help="The full model, or one of its branches alone. Default: the one that decides."),
    ] = None,
    route: Annotated[
        bool, typer.Option("--route", help="Give each image's category; this is a different protocol.")
    ] = False,
    parts: Parts = None,
    more: Annotated[bool, typer.Option("--more", help="Also show F1-max, pixel AUPR and AUPRO variants.")] = False,
    batch_size: Batch = 16,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Measure a detector: image AUROC and AUPR, pixel AUROC, AUPRO, per category and on average.

    Where several photos show one part, parts are measured, too: as --parts says, or as the data do (Real-IAD).
    """
    quieten(quiet)
    from ..inspection.parts import Grouping

    grouping = Grouping(parts) if parts is not None else None
    where = find_run(run)
    splits = load_data(data, skip_bad=skip_bad)
    if "test" not in splits:
        raise ValueError(f"{data} has no test split: expected {data}/<category>/test/<defect or good>/*.png.")
    part_of = None if grouping is None else lambda path: grouping.part_of(data / path)
    if grouping is not None and (apart := grouping.without_part([data / path for path in splits["test"]["path"]])):
        typer.echo(f"{len(apart)} photos show no part, such as {apart[0]}", err=True)
    model, processor = load_run(where, quiet=quiet)
    from ..evaluation.measurement import evaluate as measure
    from ..output.whole import write_whole
    from ..pictures.charts import write_plots
    from ..pictures.sheets import write_sheet

    as_json = json_file == Path("-")
    how: dict[str, Any] = {"branch": branch, "route": route, "part_of": part_of}
    result = measure(model, processor, splits["test"], batch_size=batch_size, progress=not quiet, **how)
    recognized = result.protocol["category_recognized"]
    known = "known" if route else "not given but recognized" if recognized else "not given"
    tell(
        as_json,
        result.to_dict(),
        result.table(),
        *([f"\n{result.table(more=True)}\n"] if more else []),
        *([f"\n{result.part_table()}"] if result.parts else []),
        *([f"\n{result.part_table(more=True)}\n"] if result.parts and more else []),
        f"{len(result.images)} images, category {known}, branch {result.protocol['branch']}, "
        f"{result.images_per_second:.1f} images/s; "
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
            name: model.memory.thresholds_of(name if route or recognized else None, recognized=recognized)
            for name in result.categories
        }
        limits = {name: entry.threshold if entry else None for name, entry in entries.items()}
        written += write_plots(result, plots, limits if result.protocol["branch"] == model.decision_branch else None)
    for path in written:
        typer.echo(f"saved: {path}", err=as_json)


def _said(result: "EvaluationResult") -> list[str]:
    """Lines on recognition and decisions, if there are any."""
    lines = []
    if about := result.protocol.get("parts"):
        lines.append(
            f"{about['count']} parts on {about['images']} images; a part's score is the {about['score']}, it is "
            f"{about['label']}"
        )
    lines += [] if result.recognized is None else [f"product recognized on {result.recognized:.1%} of the images"]
    called = zip(result.errors(), ("good parts called defective", "defective parts called good"), strict=True)
    if errors := [f"{share:.1%} of the {what}" for share, what in called if share is not None]:
        lines.append(f"at the thresholds: {', '.join(errors)}")
    return lines
