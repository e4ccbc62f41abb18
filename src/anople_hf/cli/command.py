"""The `anople` command: one verb for each task of a quality engineer, each a thin layer over the package.

Exit codes are like those of grep and diff. 0: done. 1: an anomaly was found, only from `predict --fail-on-anomaly`.
2: an error, which is wrong usage, unusable input (the message says what to do), or a bug. 130: stopped by Ctrl-C.
"""

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from .. import __version__
from .benchmark import compare, figures, reproduce
from .data import data_app, demo_data
from .evaluate import evaluate
from .export import convert, export
from .hub import card, push
from .predict import predict
from .serve import serve
from .teach import calibrate, products, remove, rename, teach, threshold
from .train import preview_anomalies, train
from .web import app as web

TROUBLE, STOPPED = 2, 130
VERBS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("train", train, "train photos/ --shots 4 --output runs/line1"),
    ("predict", predict, "predict runs/line1 'incoming/*.png' --output judged --report"),
    ("teach", teach, "teach runs/line1 gear photos/gear/ 'more/*.png'"),
    ("products", products, "products runs/line1"),
    ("calibrate", calibrate, "calibrate runs/line1 gear more_photos/ --false-alarm-rate 0.01"),
    ("threshold", threshold, "threshold runs/line1 gear 0.0021"),
    ("rename", rename, "rename runs/line1 gear brass_gear"),
    ("remove", remove, "remove runs/line1 gear --photo photos/gear/003.png"),
    ("evaluate", evaluate, "evaluate runs/line1 data/ --json table.json --plots plots/"),
    ("export", export, "export runs/line1 --output line1_onnx --product gear"),
    ("app", web, "app runs/line1"),
    ("serve", serve, "serve runs/line1 --port 8000"),
    ("push", push, "push runs/line1 you/line1 --private"),
    ("card", card, "card runs/line1 you/line1 --evaluation table.json"),
    ("compare", compare, "compare photos/ --output runs/compare --shots 4 --parts"),
    ("reproduce", reproduce, "reproduce table1 data/mvtec --output runs/table1"),
    ("figures", figures, "figures runs/line1 photos/ --output figures/"),
    ("preview-anomalies", preview_anomalies, "preview-anomalies photos/ --output anomalies.png"),
    ("convert", convert, "convert you/some-open-clip --output clip"),
    ("demo-data", demo_data, "demo-data data/"),
)
"""Name, function and example of each verb."""


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anople {__version__}")
        raise typer.Exit


app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
for _name, _verb, _example in VERBS:
    app.command(_name, epilog=f"Example: anople {_example}")(_verb)
app.add_typer(data_app, name="data")


@app.callback()
def anople(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Few-shot multi-class visual anomaly detection: show a few good photos of each product, find defective parts."""


def _is_input(error: Exception) -> bool:
    """Whether a library complains about a setting or a file; asked here, because a start must not wait for them."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return isinstance(error, (StrictDataclassError, SafetensorError))


def _is_network(error: Exception) -> bool:
    """Whether a connection failed; what the Hub itself refuses is an OSError."""
    from huggingface_hub.errors import HTTPError

    return isinstance(error, HTTPError)


def main() -> None:
    """Entry point. Errors in the input end with one clear line and exit code 2, not with a traceback."""
    gc.set_threshold(100_000)  # the libraries' million objects stay alive; scanning them takes a second
    try:
        app(prog_name="anople")  # also under python -m and the scripts, so that help and completion show this name
    except (ValueError, KeyError, OSError, FloatingPointError, ImportError) as error:  # ImportError: an extra
        if os.environ.get("ANOPLE_DEBUG"):
            traceback.print_exc()
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"anople: {message}", err=True)
        sys.exit(TROUBLE)
    except Exception as error:  # Python would end with 1, and that means a defective part here
        if _is_network(error):
            typer.echo(f"anople: the Hub cannot be reached ({error}); check the network, then try again.", err=True)
        elif _is_input(error) and not os.environ.get("ANOPLE_DEBUG"):
            typer.echo(f"anople: {' '.join(str(error).split())}", err=True)
        else:
            traceback.print_exc()
        sys.exit(TROUBLE)
    except SystemExit as done:
        if done.code == STOPPED:
            typer.echo("anople: stopped.", err=True)
        raise
    finally:
        gc.freeze()  # skip the scan at exit, which takes another second
