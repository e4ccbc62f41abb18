"""The verb `anople convert`: an open_clip checkpoint becomes a transformers CLIP folder.

Where in the paper: sec. 4.1, the backbone.
"""

from typing import Annotated

import typer

from .options import Json, Output, Overwrite, Quiet, quieten, tell


def convert(
    source: Annotated[str, typer.Argument(help="Hub id, folder with open_clip_config.json, or weights file.")],
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            help="What a weights file holds, by open_clip's name: ViT-B-16-plus-240. Add -quickgelu for weights of "
            "OpenAI, MetaCLIP and DFN: ViT-B-32-quickgelu."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id, for a checkpoint with a vocabulary of its own.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = "5GB",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert an open_clip checkpoint to a folder that every transformers program can load, and check it.

    The other commands load open_clip checkpoints as they are; a converted folder starts faster and can be shared.
    """
    quieten(quiet)
    from huggingface_hub.utils import enable_progress_bars

    from ..export.conversion import REPORT_FILE, convert_open_clip
    from ..output.whole import whole_folder

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
