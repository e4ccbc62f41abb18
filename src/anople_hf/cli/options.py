"""Shared by the verbs of `anople`: options with one meaning everywhere, messages, and loading of runs and photos."""

import glob
import inspect
import json
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from ..training.configuration import COUNTS, TrainingConfig

if TYPE_CHECKING:
    from datasets import DatasetDict

    from ..modeling_anople import AnoPLeModel
    from ..photos import Photo
    from ..processing_anople import AnoPLeProcessor
    from ..thresholds import Thresholds

Branch = Literal["both", "prompt", "memory"]
Run = Annotated[Path, typer.Argument(help="Trained detector: a folder of `anople train`, or a Hub id.")]
OwnRun = Annotated[Path, typer.Argument(help="Folder of a trained detector, as written by `anople train`.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable photos and count them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only, no progress bars or notes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on stdout.")]
Parts = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Several photos show one part: `folder`, TABLE.csv:COLUMN, or a regular expression for the file name, "
        "such as '(?P<part>.+)_C[0-9]'. Parts get a verdict, too.",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Batch = Annotated[int, typer.Option(min=1, help="Photos per pass.")]
Unknown = Annotated[bool, typer.Option(help="Say `unknown product` of photos unlike everything taught.")]
GrayZone = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the threshold, on either side, that is `uncertain`.")
]


def described(owner: type) -> dict[str, str]:
    """Field name to its description, from the Args or Attributes section of a docstring."""
    found: dict[str, list[str]] = {}
    name = None
    for line in (owner.__doc__ or "").splitlines():
        if start := re.match(r" {8}(\w+): (.*)", line):
            name = start[1]
            found[name] = [start[2]]
        elif name and re.match(r" {12}\S", line):
            found[name].append(line.strip())
        else:
            name = None
    return {name: " ".join(lines) for name, lines in found.items()}


USUAL = TrainingConfig()


def settings_of(*names: str) -> list[inspect.Parameter]:
    """The options that set fields of `TrainingConfig`: type, default and help are the field's. A list is one text.

    Args:
        names: Only these fields; by default all but `settings`, which has an option of its own.
    """
    about, kinds = described(TrainingConfig), get_type_hints(TrainingConfig)
    options = []
    for name in names or [field.name for field in fields(TrainingConfig) if field.name != "settings"]:
        kind, usual, words = kinds[name], getattr(USUAL, name), about[name].replace("`", "")
        if isinstance(usual, list):
            kind, usual, words = str, ",".join(usual), f"{words} Separated by commas."
        option = typer.Option(help=words, min=1 if name in COUNTS else None, rich_help_panel="Training")
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual, annotation=Annotated[kind, option])
        )
    return options


def with_options(options: Iterable[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb options behind its own; they arrive in its `**keywords`. Typer reads signature and annotations."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in inspect.signature(verb).parameters.values() if each.kind is not each.VAR_KEYWORD]
        verb.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        verb.__annotations__ |= {each.name: each.annotation for each in options}
        return verb

    return decorate


def quieten(quiet: bool, verbose: bool = False) -> None:
    """Every working verb starts with this: keep our own messages, silence the libraries. Does not import torch."""
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit")  # Pillow's; our own limit refuses
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("anople_hf").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    for name in ("httpx", "httpx2", "accelerate", "datasets", "PIL", "matplotlib", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)


def start_torch() -> None:
    """Import torch and transformers, silenced. That takes seconds, so look for mistakes in the input before."""
    import transformers

    from .. import register

    register()  # the command itself starts without it
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_data(root: str | Path, **how: Any) -> "DatasetDict":
    """Load a data set as `load_inspection_data` does, without the library's own bars. Does not import torch."""
    import datasets

    from ..data import load_inspection_data

    datasets.disable_progress_bars()
    return load_inspection_data(root, **how)


def tell(as_json: bool, summary: dict[str, Any], *lines: str) -> None:
    """Print the result of a verb, as one JSON object for programs or as lines for people."""
    typer.echo(json.dumps(summary, indent=2) if as_json else "\n".join(lines))


def next_steps(
    run: Path,
    thresholds: "Mapping[str, Thresholds | None]",
    *,
    photos: str = "PHOTOS",
    known: int = 0,
) -> list[str]:
    """What to do with a detector whose products were just taught, as commands for the shell.

    Args:
        run: Its folder.
        thresholds: Of these products.
        photos: Where enough good photos are that it has not seen, if that is known.
        known: Photos that it was calibrated on already.
    """
    from ..thresholds import photos_to_promise

    folder = shlex.quote(str(run))
    aims = {name: t.false_alarm_rate for name, t in thresholds.items() if t and t.method != "set by hand"
            and not t.guaranteed and t.false_alarm_rate}  # fmt: skip
    steps = [f"anople predict {folder} PHOTOS --output judged --report"]
    if aims:
        rate = min(aims.values())
        more = max(1, photos_to_promise(rate) - known)
        product = f"{shlex.quote(next(iter(aims)))} " if len(thresholds) == 1 and photos == "PHOTOS" else ""
        each = "" if len(thresholds) == 1 else " of each product"
        why = f"{more} good photo{'s' * (more > 1)}{each} that it has not seen: then {100 * rate:g}% is promised"
        steps.append(f"anople calibrate {folder} {product}{shlex.quote(photos)}  # {why}")
    return [*steps, f"anople app {folder}"]


def find_run(run: Path, *, own: bool = False, hint: str = "") -> dict[str, Any]:
    """Find a trained detector for `load_run`, or raise a clear error. Does not import torch.

    Args:
        run: Folder of `anople train`, or a Hub id. The Hub is asked once; if it does not answer, the cache is used.
        own: The detector will be changed, so it must be a local folder.
        hint: What else could be done, for the error.

    Returns:
        Arguments of `from_pretrained`, for the model and for the processor.

    Raises:
        FileNotFoundError: There is no such detector.
    """
    if (run / "config.json").is_file():
        return {"pretrained_model_name_or_path": run}
    from ..hub import is_hub_id

    hub_id = run.as_posix()
    if "/" not in hub_id or not is_hub_id(hub_id):
        raise FileNotFoundError(
            f"{run} is not a trained detector (no config.json); expected a folder of `anople train`, or a Hub id."
            + hint
        )
    if own:
        raise FileNotFoundError(
            f"{run} is no folder here, and only a folder can be changed; one that lies on the Hub: "
            f"hf download {hub_id} --local-dir RUN.{hint}"
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    where: dict[str, Any] = {"pretrained_model_name_or_path": hub_id}
    reason: Exception
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, "config.json"))
        return where
    except HfHubHTTPError as error:  # what the Hub says
        reason = error
    except (ConnectionError, HTTPError) as error:  # it must not be asked, or does not answer
        if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
            return where | {"local_files_only": True}
        reason = error
    line = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
    raise FileNotFoundError(f"{run} is neither a folder here nor a detector on the Hub: {line}") from reason


def load_run(where: Mapping[str, Any], *, quiet: bool = True, **how: Any) -> "tuple[AnoPLeModel, AnoPLeProcessor]":
    """Load model and processor of a trained detector.

    Args:
        where: What `find_run` returned.
        quiet: False shows the bars of the steps after loading, which `start_torch` turned off.
        how: More arguments of `AnoPLeModel.from_pretrained`, such as `dtype`.

    Raises:
        ValueError: The detector is damaged.
    """
    start_torch()
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils.logging import enable_progress_bar

    from ..modeling_anople import AnoPLeModel
    from ..processing_anople import AnoPLeProcessor

    try:
        model = AnoPLeModel.from_pretrained(**where, **how).eval()
        processor = AnoPLeProcessor.from_pretrained(**where)
    except (StrictDataclassError, SafetensorError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{where['pretrained_model_name_or_path']} cannot be loaded: config.json was edited, or the weights are "
            f"damaged or another model's ({reason}). Get it again, or train it again."
        ) from error
    if not quiet:
        enable_progress_bar()
    return model, processor


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
    from ..images import IMAGE_SUFFIXES, find_images

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
                    raise ValueError(f"{match} holds no photos; expected {', '.join(IMAGE_SUFFIXES)} files.")
                paths += found
            elif match.exists():
                paths.append(match)
            elif not is_pattern:  # what a pattern found may be gone again
                raise FileNotFoundError(f"no such file or folder: {match}")
    return list(dict.fromkeys(paths))


def keep_photos(paths: Sequence[Path], skip_bad: bool) -> tuple[list[Path], list[str]]:
    """The files whose first bytes are a photo's, and a line for each other one, also printed. Decodes nothing yet."""
    from ..images import check_images

    good, bad = check_images(paths, skip_bad=skip_bad, decode=False)
    for reason in bad:
        typer.echo(f"skipped: {reason}", err=True)
    return good, bad


def read_photos(sources: Sequence[str | Path], skip_bad: bool, *, whole: bool = False) -> dict[str, "Photo"]:
    """Decode all photos under `sources`, see `find_photos`; at least one. Prints a line for each one left out.

    Args:
        sources: Files, folders, patterns.
        skip_bad: Leave out what cannot be read.
        whole: Decode large ones at their own size, not at that of a screen.
    """
    from ..images import SCREEN, UnreadableImageError, printable, read_photo

    paths = find_photos(sources)
    photos: dict[str, Photo] = {}
    for path in keep_photos(paths, skip_bad)[0]:
        try:
            photos[printable(path)] = read_photo(path, least=None if whole else SCREEN)
        except UnreadableImageError as error:
            if not skip_bad:
                raise UnreadableImageError(f"{error}; replace the file, or leave it out with --skip-bad.") from error
            typer.echo(f"skipped: {error}", err=True)
    if not photos:
        raise ValueError(f"none of the {len(paths)} photos can be read.")
    return photos
