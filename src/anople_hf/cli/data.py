"""The verbs `anople data check`, `data push` and `demo-data`: check a data set, share it, draw one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Overwrite, Quiet, Seed, load_data, quieten, tell

data_app = typer.Typer(help="Check data sets, and share them.", no_args_is_help=True)

Root = Annotated[str, typer.Argument(help="Folder in a known layout, or hub:OWNER/NAME.")]


@data_app.command("check")
def check(
    root: Root,
    as_json: Json = False,
    most: Annotated[int, typer.Option(min=1, help="Maximum number of problems to show; --json has them all.")] = 20,
) -> None:
    """Compare the photo counts of a data set with the published ones, and list every problem by file.

    The exit code is 1 if there are problems.
    """
    quieten(True)
    from datasets import disable_progress_bars

    from ..data.checking import check_data
    from ..sight import PAPER_GRID

    disable_progress_bars()
    report = check_data(root)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        raise typer.Exit(bool(report.problems))
    typer.echo(report.table())
    typer.echo(
        f"cell: photo pixels that one of {PAPER_GRID} x {PAPER_GRID} cells covers; smaller defects may go unseen"
        "\ntiles: the same if photos are cut into so many (--tiles of teach and train)"
    )
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
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of the data set on the Hub. Created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Visible only to you and your organization.")] = False,
    products: Annotated[str, typer.Option(help="Only these products, separated by commas.")] = "",
    message: Annotated[str, typer.Option(help="Commit message.")] = "Photos and masks in one schema",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Push a data set to the Hub as Parquet, photos and masks included. Load it as hub:OWNER/NAME.

    First check that its license permits it: most published data sets may not be redistributed.
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
    products: Annotated[str, typer.Option(help="Only these products, separated by commas.")] = "",
    size: Annotated[int, typer.Option(min=64, help="Side of a photo in pixels.")] = 320,
    train: Annotated[int, typer.Option(min=1, help="Good training photos per product.")] = 12,
    test_good: Annotated[int, typer.Option(min=0, help="Good test photos per product.")] = 8,
    test_defective: Annotated[int, typer.Option(min=0, help="Defective test photos per product.")] = 12,
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
