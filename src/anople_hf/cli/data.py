"""The verbs `anople data check`, `data push` and `demo-data`: look at a data set, share it with its masks, draw one.

Where in the paper: sec. 4.1 names the data sets; what they trip over is in `data/checking.py`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Overwrite, Quiet, Seed, load_data, quieten, tell

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
    from datasets import disable_progress_bars

    from ..data.checking import check_data

    disable_progress_bars()
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
    private: Annotated[bool, typer.Option("--private", help="Only for you and your organization.")] = False,
    products: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    message: Annotated[str, typer.Option(help="Commit message.")] = "Photos and masks in one schema",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a data set to the Hub as Parquet, photos and masks inside. Loads back as hub:OWNER/NAME.

    Check first that its license lets you: most published sets may not be passed on.
    """
    quieten(quiet)
    wanted = [name.strip() for name in products.split(",") if name.strip()]
    source = root if root.startswith("hub:") else Path(root)
    splits = load_data(source, categories=wanted or None)
    splits.push_to_hub(repo, private=private, commit_message=message)
    counts = {name: len(table) for name, table in splits.items()}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    tell(as_json, {"repo": repo, "photos": counts}, f"pushed: {repo}, {told}")


def demo_data(
    output: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    products: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
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
        names = [name.strip() for name in products.split(",") if name.strip()]
        counts = {"train": train, "test_good": test_good, "test_defective": test_defective}
        draw_dataset(folder, categories=names or None, size=size, seed=seed, **counts)
    drawn = sorted(path.name for path in output.iterdir() if path.is_dir())
    tell(as_json, {"output": str(output), "categories": drawn}, f"saved: {output}")
