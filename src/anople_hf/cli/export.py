"""The verb `anople export`: a detector becomes a folder that ONNX Runtime, OpenVINO or torch alone can run."""

from typing import Annotated, Literal

import typer

from .options import Branch, Json, Output, Overwrite, Quiet, Run, list_photos, load_run, quieten, tell


def export(
    run: Run,
    output: Output,
    kind: Annotated[Literal["onnx", "openvino", "torch"], typer.Option(help="What is to run it.")] = "onnx",
    category: Annotated[
        str | None, typer.Option(help="Product of all photos to come: its memory and thresholds only.")
    ] = None,
    branch: Annotated[Branch, typer.Option(help="The model, or one of its parts alone.")] = "both",
    photos: Annotated[
        list[str] | None,
        typer.Option(help="More photos to check with: a file, folder or pattern; may be repeated."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a detector as ONNX, OpenVINO or torch.export, checked photo by photo against torch.

    The folder holds the graph with the memory inside, thresholds and preprocessing in detector.json, and a reader that
    needs no torch. If the results differ from the detector's, nothing is written.
    """
    quieten(quiet)
    from ..export.graph import export as write

    model, processor = load_run(run, dtype="float32")
    paths = list_photos(photos, skip_bad=False) if photos else []
    found = write(
        model, processor, output, kind=kind, category=category, branch=branch, photos=paths, overwrite=overwrite
    )
    parity = found["parity"]
    errors = ", ".join(
        f"{name} within {parity[name]['largest error']:.1e} ({parity[name]['share of range']:.4%} of their range)"
        for name in ("scores", "maps")
    )
    different = parity.get("decisions")
    decisions = "no threshold" if different is None else f"{different['different']} decisions differ"
    if "products" in parity:
        decisions += f", {parity['products']['different']} photos are taken for another product"
    tell(
        as_json,
        {"output": str(output), **found},
        f"{kind}, {'all products' if category is None else category}: {found['bytes'] / 1e6:.1f} MB, "
        f"{found['seconds']:.0f} s",
        f"{parity['photos']} photos in batches of {', '.join(map(str, sorted(set(parity['batches']))))} beside torch: "
        f"{errors}, {decisions}",
        f"saved: {output}",
    )
