"""Shared by the verbs of `anople`: options with one meaning everywhere, messages, and loading of runs and photos."""

import glob
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ..modeling_anople import AnoPLeModel
    from ..processing_anople import AnoPLeProcessor

Branch = Literal["both", "prompt", "memory"]
Run = Annotated[Path, typer.Argument(help="Trained detector: a folder of `anople train`, or a Hub id.")]
OwnRun = Annotated[Path, typer.Argument(help="Folder of a trained detector, as written by `anople train`.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable photos and count them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only, no progress bars or notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on stdout.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Batch = Annotated[int, typer.Option(min=1, help="Photos per pass.")]


def quieten(quiet: bool) -> None:
    """Every working verb starts with this: keep our own messages and bars, and silence the libraries."""
    import transformers

    from .. import register

    register()  # the command itself starts without it

    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpx2", "accelerate", "datasets", "PIL", "matplotlib", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        import datasets
    except ImportError:  # predict and teach need no training extras
        return
    datasets.disable_progress_bars()


def tell(as_json: bool, summary: dict[str, Any], *lines: str) -> None:
    """Print the result of a verb, as one JSON object for programs or as lines for people."""
    typer.echo(json.dumps(summary, indent=2) if as_json else "\n".join(lines))


def load_run(run: Path, *, quiet: bool = True, own: bool = False, **how: Any) -> "tuple[AnoPLeModel, AnoPLeProcessor]":
    """Load model and processor of a trained detector, or raise a clear error.

    Args:
        run: Folder of `anople train`, or a Hub id.
        quiet: False shows the bars of the steps after loading, which `quieten` turned off.
        own: The detector will be changed, so it must be a local folder.
        how: More arguments of `AnoPLeModel.from_pretrained`, such as `dtype`.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils.logging import enable_progress_bar

    from ..modeling_anople import AnoPLeModel
    from ..processing_anople import AnoPLeProcessor

    if not (run / "config.json").is_file():
        hub_id = run.as_posix()
        if run.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
            raise FileNotFoundError(
                f"{run} is not a trained detector (no config.json); expected a folder of `anople train`, or a Hub id."
            )
        if own:
            raise FileNotFoundError(
                f"{run} is no folder here, and only a folder can be changed; "
                f"first: hf download {hub_id} --local-dir RUN"
            )
        how = {**_found_on_hub(hub_id), **how}
        where: Any = hub_id
    else:
        where = run
    try:
        model = AnoPLeModel.from_pretrained(where, **how).eval()
        processor = AnoPLeProcessor.from_pretrained(where)
    except OSError as error:
        if where is run:
            raise
        reason = next(iter(str(error).strip().splitlines()), "")
        raise FileNotFoundError(f"{run} is neither a folder here nor a detector on the Hub: {reason}") from error
    except (StrictDataclassError, SafetensorError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{run} cannot be loaded: config.json was edited, or the weights are damaged or another model's "
            f"({reason}). Get it again, or train it again."
        ) from error
    if not quiet:
        enable_progress_bar()
    return model, processor


def _found_on_hub(hub_id: str) -> dict[str, Any]:
    """How `from_pretrained` gets a detector: the Hub is asked once; if it does not answer, the cache will do."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    reason: Exception
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, "config.json"))
        return {}
    except HfHubHTTPError as error:  # what the Hub says
        reason = error
    except (ConnectionError, HTTPError) as error:  # it must not be asked, or does not answer
        if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
            return {"local_files_only": True}
        reason = error
    line = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    raise FileNotFoundError(f"{hub_id} is neither a folder here nor a detector on the Hub: {line}") from reason


def find_photos(sources: Sequence[str | Path], *, empty: bool = False) -> list[Path]:
    """List all files in files, folders and patterns, each once; - reads a list of paths from stdin.

    Args:
        sources: A path that exists is taken literally. Otherwise *, ? and [ make it a pattern, and ** matches any
            number of folders.
        empty: A folder or pattern may be empty.

    Raises:
        FileNotFoundError: Nothing matches.
        ValueError: A folder, or stdin, has no photo.
    """
    from ..images import find_images

    paths: list[Path] = []
    for source in map(str, sources):
        if source == "-":
            listed = [line.strip() for line in sys.stdin if line.strip()]
            if not listed:
                raise ValueError("stdin holds no paths; expected one a line, as `find` prints them.")
            paths += find_photos([line for line in listed if line != "-"])
            continue
        is_pattern = not Path(source).exists() and glob.has_magic(source)
        matches = sorted(map(Path, glob.glob(source, recursive=True))) if is_pattern else [Path(source)]
        if not matches and not empty:
            raise FileNotFoundError(f"no file or folder matches the pattern {source!r}")
        for match in matches:
            if match.is_dir():
                found = find_images(match, recursive=True)
                if not found and not empty and not is_pattern:
                    raise ValueError(f"{match} holds no photos; expected .png, .jpg, .bmp, .tif or .webp files.")
                paths += found
            elif match.exists():
                paths.append(match)
            elif not is_pattern:  # what a pattern found may be gone again
                raise FileNotFoundError(f"no such file or folder: {match}")
    return list(dict.fromkeys(paths))


def keep_readable(paths: Sequence[Path], skip_bad: bool) -> tuple[list[Path], list[str]]:
    """Check the photos before any work starts: the readable ones, and a line for each unreadable one, also printed."""
    from ..images import check_images

    good, bad = check_images(paths, skip_bad=skip_bad)
    for reason in bad:
        typer.echo(f"skipped: {reason}", err=True)
    return good, bad


def list_photos(sources: Sequence[str | Path], skip_bad: bool) -> list[Path]:
    """All readable photos under `sources`, see `find_photos`; at least one."""
    paths = find_photos(sources)
    good, _ = keep_readable(paths, skip_bad)
    if not good:
        raise ValueError(f"none of the {len(paths)} photos can be read.")
    return good
