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
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="A public link through Gradio's servers.")] = False,
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Start the web app: teach products, check photos, move thresholds, in the browser.

    Without RUN it shows the embedded backbone with drawn samples. Where only this machine reaches the app, any folder
    and any Hub id can be loaded in it; where others do (--host, --share), only the given ones.
    """
    quieten(True)
    for run in runs or []:
        find_run(Path(run))
    start_torch()
    from ..app import build, launch

    built = build(runs or [], anything=host in ONLY_HERE and not share)
    launch(built, server_name=host, server_port=port or None, share=share, inbrowser=browse)
