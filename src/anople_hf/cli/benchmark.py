"""The verbs `anople compare`, `reproduce` and `figures`: methods side by side, the paper's tables and figures.

They reproduce Tables 1 to 5 and Figures 1b, 3, 4 and 5.
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .options import (
    Json,
    Quiet,
    Run,
    SkipBad,
    find_run,
    load_data,
    load_run,
    quieten,
    settings_of,
    start_torch,
    tell,
    with_options,
)
from .train import parse_settings

Data = Annotated[list[str], typer.Argument(help="Data sets with test photos: folders, or NAME=FOLDER.")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Results folder; finished work in it is not repeated.")]
Shots = Annotated[list[int] | None, typer.Option(min=1, help="Good photos per category. Repeatable.")]
Seeds = Annotated[str, typer.Option(help="Seeds of shots and training, separated by commas.")]
Table = Literal["table1", "table2", "table3", "table4", "table5", "figure1b"]
CHOICES = {"method": ("anople", "spade", "patchcore", "winclip", "winclip-zero"), "scope": ("all", "product")}
"""Of repeatable options. The methods are AnoPLe and `baselines.METHODS`, whose import takes torch."""
Method = Annotated[list[str] | None, typer.Option("--method", help=f"{', '.join(CHOICES['method'])}. Repeatable.")]
Backbone = Annotated[str, typer.Option(help="CLIP, as for `anople train`.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Field of AnoPLeConfig as KEY=VALUE. Repeatable.")]
Branches = Annotated[bool, typer.Option("--branches", help="Also measure AnoPLe's two branches alone.")]
Route = Annotated[bool, typer.Option("--route", help="Give each image's category; this is a different protocol.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="Memories that AnoPLe searches: all or product. Repeatable; runs each."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads per process; other numbers round differently.")]


def _common(
    *,
    data: Data,
    output: Folder,
    shots: Shots = None,
    seeds: Seeds = "0,1,2",
    method: Method = None,
    backbone: Backbone = "tiny",
    settings: Settings = None,
    scope: Scopes = None,
    branches: Branches = False,
    threads: Threads = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What both verbs take; `_run` says what it means."""


COMMON = [
    *inspect.signature(_common).parameters.values(),
    *settings_of("max_steps", "mixed_precision", "shot_mode"),
]


@with_options(COMMON)
def compare(*, route: Route = False, **common: Any) -> None:
    """Compare AnoPLe with other methods on your data: same backbone, same shots, same metrics.

    Writes table.md, table.png, images.parquet, categories.parquet and shots.json. Continues where it was interrupted.
    `torchrun` or `accelerate launch` run it on several processes.
    """
    _run("compare", common, route=route)


@with_options(COMMON)
def reproduce(
    *,
    table: Annotated[Table, typer.Argument(help="One of the paper's tables, or figure1b.")],
    held_out: Annotated[list[str] | None, typer.Option(help="Table 2: only this category. Repeatable.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Table 4: only this row. Repeatable.")] = None,
    **common: Any,
) -> None:
    """Reproduce one of the paper's tables on your data, with the paper's figures beside and the differences named.

    Continues where it was interrupted. `torchrun` or `accelerate launch` run it on several processes.
    """
    _run(table, common, **({"held_out": held_out} if held_out else {}), **({"rows": row} if row else {}))


def figures(
    run: Run,
    data: Annotated[Path, typer.Argument(help="Data set with a test split.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    tsne: Annotated[bool, typer.Option(help="Add t-SNE to PCA; needs scikit-learn.")] = True,
    route: Route = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the paper's figures of a detector: heat maps (3), features of one product (4) and of all, attention (5)."""
    quieten(quiet)
    where = find_run(run)
    splits = load_data(data, skip_bad=skip_bad)
    if "test" not in splits:
        raise ValueError(f"{data} has no test split; the figures show test photos.")
    model, processor = load_run(where, quiet=quiet)
    from ..pictures.figures import write_figures
    from ..pictures.sheets import write_sheet

    written = [write_sheet(model, processor, splits["test"], output / "heat_maps.png", route=route)]
    written += write_figures(model, processor, splits["test"], output, methods=("pca", "tsne") if tsne else ("pca",))
    tell(as_json, {"saved": list(map(str, written))}, *(f"saved: {path}" for path in written))


def _run(table: str, given: Mapping[str, Any], **special: Any) -> None:
    """Plan, measure and print. `given` are the options by name, `special` further arguments of `make_plan`."""
    quieten(given["quiet"])
    try:
        numbers = [int(seed) for seed in given["seeds"].split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds {given['seeds']}: expected whole numbers, separated by commas.") from error
    for option, known in CHOICES.items():
        if unknown := sorted(set(given[option] or []) - set(known)):
            raise typer.BadParameter(f"--{option} {', '.join(unknown)}: expected {', '.join(known)}.")
    for root in (place.partition("=")[2] or place for place in given["data"]):
        if not root.startswith("hub:") and not Path(root).is_dir():
            load_data(root)  # says what is wrong
    settings = parse_settings(given["settings"] or [])
    start_torch()
    import torch
    from accelerate import PartialState

    from ..benchmark import make_plan, render, run_plan
    from ..benchmark.cells import BRANCHES
    from ..benchmark.lines import make_lines

    torch.set_num_threads(given["threads"])
    plan = make_plan(
        table,
        given["data"],
        backbone=given["backbone"],
        seeds=numbers,
        shots=given["shots"] or (),
        methods=given["method"] or (),
        training={name: given[name] for name in ("max_steps", "mixed_precision") if given[name] not in (None, "no")},
        settings=settings,
        scopes=tuple(given["scope"] or ()),
        branches=tuple(BRANCHES) if given["branches"] else ("AnoPLe",),
        shot_mode=given["shot_mode"],
        **special,
    )
    output = given["output"]
    results = run_plan(plan, output, progress=not given["quiet"])
    if PartialState().is_main_process:
        text = render(plan, results, output)
        lines = [asdict(line) for line in make_lines(plan, results)]
        tell(given["as_json"], {"table": table, "output": str(output), "lines": lines}, text, f"saved: {output}")
