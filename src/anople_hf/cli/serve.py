"""The verb `anople serve`: a detector behind HTTP."""

from typing import Annotated, Any

import typer

from .options import Batch, GrayZone, Quiet, Run, Unknown, find_run, load_run, quieten
from .web import ONLY_HERE


def serve(
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="ANOPLE_TOKEN", show_envvar=True, help="Clients must send it as a bearer token."),
    ] = None,
    batch_size: Batch = 16,
    max_photos: Annotated[int, typer.Option(min=1, help="Photos that a request may bring.")] = 32,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Megabytes that a request may bring.")] = 100,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Million pixels that a photo may have.")] = 50,
    max_waiting: Annotated[int, typer.Option(min=1, help="Photos that may wait; more are refused with 503.")] = 128,
    unknown: Unknown = True,
    gray_zone: GrayZone = 0.0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    grace: Annotated[float, typer.Option(min=1, help="Seconds that running requests get to end.")] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Serve a detector over HTTP: score photos, teach, thresholds, health, metrics; /docs describes it all.

    Scores are those of `anople predict`. What is taught or set is saved into RUN. On SIGTERM, running requests are
    answered before it ends, with exit code 0.
    """
    quieten(quiet)
    where = find_run(run)
    try:
        import torch

        from ..service import Limits, ServedDetector, build
        from ..service.server import listen
        from ..service.server import serve as run_server
    except ImportError as error:
        raise ImportError(f'anople serve needs {error.name or "FastAPI"}: pip install "anople-hf[serve]".') from error
    if token is not None and not token.strip():
        raise typer.BadParameter("--token is empty; give one, or leave it out and unset ANOPLE_TOKEN.")
    with listen(host, port) as listening:
        model, processor = load_run(where)
        model.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))  # type: ignore[arg-type]
        how: dict[str, Any] = {"unknown": unknown, "gray_zone": gray_zone}
        detector = ServedDetector(model, processor, run, **how)
        limits = Limits(max_megabytes, max_photos, max_megapixels)
        application = build(detector, token=token, limits=limits, batch_size=batch_size, waiting=max_waiting)
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if not quiet:
            known = ", ".join(detector.products) or "no product yet"
            typer.echo(f"serving {detector.name} ({known}) on {url}; {url}/docs describes it", err=True)
        if token is None and host not in ONLY_HERE:
            typer.echo(
                "anyone who reaches this address can score and teach; --token or ANOPLE_TOKEN ends that", err=True
            )
        run_server(application, listening, grace=grace, access_log=not quiet)
