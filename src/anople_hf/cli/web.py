"""The verb `anople app`: the web app on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from .options import find_run, quieten, start_torch

ONLY_HERE = ("127.0.0.1", "localhost", "::1")


def app(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Trained detectors to choose from: folders or Hub ids."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Create a public link through Gradio's servers.")] = False,
    browse: Annotated[bool, typer.Option("--open", help="Open the app in the browser.")] = False,
) -> None:
    """Start the web app: teach products, check photos and move thresholds in the browser.

    Without RUN it shows the embedded backbone with drawn samples.
    If only this machine can reach the app, you can load any folder and any Hub id in it.
    If others can (--host, --share), only the given detectors can be loaded.
    """
    quieten(True)
    for run in runs or []:
        find_run(Path(run))
    start_torch()
    from ..app import build, launch

    built = build(runs or [], anything=host in ONLY_HERE and not share)
    launch(built, server_name=host, server_port=port or None, share=share, inbrowser=browse)
