"""The verb `anople app`: the web app on this machine.

Where in the paper: nowhere, this is ours.
"""

from typing import Annotated

import typer

from .cli_options import quieten


def app(
    run: Annotated[
        str | None, typer.Argument(help="Trained detector: folder or Hub id. Without, the embedded one and samples.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="A public link through Gradio's servers.")] = False,
) -> None:
    """Start the web app: teach products, check photos, move thresholds, in the browser."""
    quieten(True)
    from .app import build, launch

    launch(build(run), server_name=host, server_port=port or None, share=share, inbrowser=False)


__all__ = ["app"]
