"""The verbs `anople data check` and `anople data push`: look at a data set before using it, share it with its masks.

Where in the paper: sec. 4.1 names the data sets; what they trip over is in `data/checking.py`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Quiet, quieten, tell

data_app = typer.Typer(help="Look at data sets, and share them.", no_args_is_help=True)

Root = Annotated[str, typer.Argument(help="Folder in a known layout, or hub:OWNER/NAME.")]


@data_app.command("check")
def check(
    root: Root,
    as_json: Json = False,
    most: Annotated[int, typer.Option(min=1, help="Problems shown; JSON has them all.")] = 20,
) -> None:
    """Count what a data set holds, compare it with the published counts, name every problem by its file.

    Exit code 1 if there are problems.
    """
    quieten(True)
    from ..data.checking import check_data

    report = check_data(root)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        raise typer.Exit(bool(report.problems))
    typer.echo(report.table())
    for remark in report.remarks:
        typer.echo(f"note: {remark}")
    for problem in report.problems[:most]:
        typer.echo(f"problem: {problem}")
    if len(report.problems) > most:
        typer.echo(f"... and {len(report.problems) - most} more; see --most and --json")
    typer.echo(f"{report.dataset or 'no published data set'}; {len(report.problems)} problems")
    raise typer.Exit(bool(report.problems))


@data_app.command("push")
def push(
    root: Root,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of the data set on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Only for you and your organisation.")] = False,
    categories: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    message: Annotated[str, typer.Option(help="Commit message.")] = "Photos and masks in one schema",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a data set to the Hub as Parquet, photos and masks inside. Loads back as hub:OWNER/NAME.

    Check first that its licence lets you: most published sets may not be passed on.
    """
    quieten(quiet)
    from ..data import load_inspection_data

    wanted = [name.strip() for name in categories.split(",") if name.strip()]
    source = root if root.startswith("hub:") else Path(root)
    splits = load_inspection_data(source, categories=wanted or None)
    splits.push_to_hub(repo, private=private, commit_message=message)
    counts = {name: len(table) for name, table in splits.items()}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    tell(as_json, {"repo": repo, "photos": counts}, f"pushed: {repo}, {told}")


__all__ = ["data_app"]
