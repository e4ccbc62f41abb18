"""What the verbs of `anople` share: the options that mean the same everywhere, messages, and how runs and photos load.

Where in the paper: nowhere, this is ours.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel
    from .processing_anople import AnoPLeProcessor

Branch = Literal["both", "prompt", "memory"]
Run = Annotated[Path, typer.Argument(help="Folder of a trained detector, as written by `anople train`.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable photos and count them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, only errors.")]
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
Batch = Annotated[int, typer.Option(min=1, help="Photos per pass.")]


def quieten(quiet: bool) -> None:
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


def load_run(run: Path) -> "tuple[AnoPLeModel, AnoPLeProcessor]":
    """Model and processor of a trained detector; a clear error if the folder holds none."""
    from .modeling_anople import AnoPLeModel
    from .processing_anople import AnoPLeProcessor

    if not (run / "config.json").is_file():
        raise FileNotFoundError(
            f"{run} is not a trained detector (no config.json); expected a folder of `anople train`."
        )
    return AnoPLeModel.from_pretrained(run).eval(), AnoPLeProcessor.from_pretrained(run)


def list_photos(sources: list[Path], skip_bad: bool) -> list[Path]:
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
