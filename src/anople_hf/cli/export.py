"""The verbs that write other formats: `anople export` (ONNX, OpenVINO, torch.export) and `anople convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..output.whole import check_output, whole_folder
from .options import (
    Branch,
    Json,
    Output,
    Overwrite,
    Quiet,
    Run,
    find_run,
    load_run,
    quieten,
    read_photos,
    start_torch,
    tell,
)


def export(
    run: Run,
    output: Output,
    kind: Annotated[
        Literal["onnx", "openvino", "torch"], typer.Option(help="Format, and so the runtime that will run it.")
    ] = "onnx",
    category: Annotated[
        str | None, typer.Option("--product", help="Export only this product's memory and thresholds.")
    ] = None,
    branch: Annotated[
        Branch | None,
        typer.Option(help="The full model, or one of its branches alone. Default: the one that decides."),
    ] = None,
    photos: Annotated[
        list[str] | None,
        typer.Option(help="More photos for the check: a file, folder or pattern. Repeatable."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a detector as ONNX, OpenVINO or torch.export, checked photo by photo against torch.

    The folder holds the graph with the memory inside, detector.json with thresholds and preprocessing, and a reader
    that needs no torch. If the results differ from the detector's, nothing is written.
    """
    quieten(quiet)
    where = find_run(run)
    check_output(output, overwrite=overwrite)
    checked = list(read_photos(photos, skip_bad=False)) if photos else []
    model, processor = load_run(where, dtype="float32")
    from ..export.graph import export as write

    found = write(
        model, processor, output, kind=kind, category=category, branch=branch, photos=checked, overwrite=overwrite
    )
    parity = found["parity"]
    errors = ", ".join(
        f"{name} within {parity[name]['largest error']:.1e} ({parity[name]['share of range']:.4%} of their range)"
        for name in ("scores", "maps")
    )
    decisions = "0 decisions differ" if "decisions" in parity else "no threshold"
    if ties := sum(parity.get(name, {}).get("ties", 0) for name in ("decisions", "unknown")):
        decisions += f", {ties} on their limit, where rounding decides"
    tell(
        as_json,
        {"output": str(output), **found},
        f"{kind}, {'all products' if category is None else category}: {found['bytes'] / 1e6:.1f} MB, "
        f"{found['seconds']:.0f} s",
        f"{parity['photos']} photos in batches of {', '.join(map(str, sorted(set(parity['batches']))))} beside torch: "
        f"{errors}, {decisions}",
        f"saved: {output}",
    )


def convert(
    source: Annotated[str, typer.Argument(help="Hub id, folder with open_clip_config.json, or weights file.")],
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            help="open_clip's name for the model of a bare weights file, such as ViT-B-16-plus-240. For weights of "
            "OpenAI, MetaCLIP and DFN add -quickgelu: ViT-B-32-quickgelu."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, a folder or Hub id, for a checkpoint with its own vocabulary.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Maximum size of a weights file.")] = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert an open_clip checkpoint to a folder that every transformers program can load, and check it.

    The other commands also load open_clip checkpoints directly, but a converted folder loads faster and can be shared.
    """
    quieten(quiet)
    check_output(output, overwrite=overwrite)
    # Of the short names only the paper's backbone is an open_clip checkpoint.
    found = "/" in source or source == "paper" or source.startswith("open_clip:") or Path(source).exists()
    if not found:
        raise FileNotFoundError(
            f"{source} is no file or folder here; expected a Hub id (OWNER/NAME), a folder with "
            "open_clip_config.json, or a weights file with --model."
        )
    start_torch()
    from huggingface_hub.utils import enable_progress_bars

    from ..export.conversion import REPORT_FILE, convert_open_clip

    if not quiet:
        enable_progress_bars()  # a download may take minutes
    name = f"open_clip:{model}:{source}" if model else source
    with whole_folder(output, overwrite=overwrite) as folder:
        report = convert_open_clip(
            name,
            folder,
            tokenizer=tokenizer,
            max_shard_size=max_shard_size,
            progress=not quiet,
            **({"revision": revision} if revision else {}),
        )
    millions, tensors = report["parameters"] / 1e6, report["tensors"]
    compared = report["open_clip"]
    if compared:
        largest = compared["largest difference"]
        parity = f"largest difference to open_clip {compared['version']}: {largest:.1e} (see {REPORT_FILE})"
    else:
        parity = f"not compared with open_clip, open_clip_torch is not installed (see {REPORT_FILE})"
    tell(
        as_json,
        {"output": str(output), **report},
        f"{tensors['read']} tensors of open_clip, {tensors['written']} of transformers, {millions:.1f} M numbers",
        parity,
        f"saved: {output}",
    )
