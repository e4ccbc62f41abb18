"""The verbs of training: `anople train`, also under `accelerate launch`, and `anople preview-anomalies`.

Training is that of sec. 3.3. `scripts/train.py` runs the first verb.
"""

import ast
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..framing import Framing, FramingRequest
from ..output.locking import making
from ..output.whole import check_output, whole_folder
from ..training.configuration import TrainingConfig
from .options import (
    USUAL,
    Json,
    Output,
    Overwrite,
    Quiet,
    SkipBad,
    find_run,
    load_data,
    next_steps,
    quieten,
    settings_of,
    start_torch,
    tell,
    with_options,
)


def _read_config(context: typer.Context, file: Path | None) -> Path | None:
    """Take the options' defaults from a YAML file, so that the command line overrides it."""
    if file is None:
        return None
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{file} cannot be read as YAML ({error}).") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} holds no settings; expected lines such as `max_steps: 100`.")
    values = {str(key).replace("-", "_"): value for key, value in found.items()}
    values = {k: ",".join(map(str, v)) if isinstance(v, list) and k != "settings" else v for k, v in values.items()}
    if isinstance(values.get("settings"), dict):
        values["settings"] = [f"{key}={json.dumps(value)}" for key, value in values["settings"].items()]
    known = {parameter.name for parameter in context.command.params} - {"config", None}
    if unknown := sorted(set(values) - known):
        raise typer.BadParameter(
            f"{file} has unknown settings {unknown}; known: {', '.join(sorted(map(str, known)))}."
        )
    context.default_map = {**(context.default_map or {}), **values}
    return file


def _read_words(file: Path) -> dict[str, str]:
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); expected words by category.") from error
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise ValueError(f'{file}: expected words by category, such as {{"metal_nut": "metal nut"}}.')
    return words


def _settings() -> set[str]:
    """Fields of `AnoPLeConfig` that `--set` takes, read from its source: importing it takes torch, and seconds."""
    tree = ast.parse((Path(__file__).parents[1] / "configuration_anople.py").read_text(encoding="utf-8"))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AnoPLeConfig")
    found = {
        node.target.id for node in config.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return found - {"backbone", "backbone_config", "backbone_revision"}


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse `key=value` into fields of `AnoPLeConfig`. Values are JSON, or otherwise plain text.

    Raises:
        ValueError: There is no such field.
    """
    known = _settings()
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise ValueError(
                f"--set {pair}: expected KEY=VALUE with a field of AnoPLeConfig, for example coupling=t2v."
            )
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def parse_framings(
    regions: list[str], tiles: list[str], smallest: str = "", pixel_size: str = ""
) -> dict[str, FramingRequest]:
    """What `--region` and `--tiles` ask for, by product; "" where no product is named.

    Raises:
        ValueError: Unknown tiles, or `--smallest` without `--tiles auto`.
    """
    asked: dict[str, dict[str, str]] = {}
    for option, pairs in (("region", regions), ("tiles", tiles)):
        for pair in pairs:
            product, equals, value = pair.partition("=")
            asked.setdefault(product if equals else "", {})[option] = value if equals else pair
    if smallest and not any(wish.get("tiles") == "auto" for wish in asked.values()):
        raise ValueError("the smallest defect (--smallest) belongs to --tiles auto.")
    by_size = {"smallest": smallest, "pixel_size": pixel_size}
    return {
        product: FramingRequest(**wish, **(by_size if wish.get("tiles") == "auto" else {}))
        for product, wish in asked.items()
    }


Regions = Annotated[
    list[str] | None,
    typer.Option(
        help="PRODUCT=REGION: what counts in its photos, as for teach; a single one need not be named. Repeatable."
    ),
]
Tiles = Annotated[
    list[str] | None,
    typer.Option(help="PRODUCT=ROWSxCOLUMNS: tiles that its photos are cut into, as for teach. Repeatable."),
]
Smallest = Annotated[str, typer.Option(help="--tiles auto: smallest defect wanted, as for teach.")]
PixelSize = Annotated[str, typer.Option(help="--smallest as a length: what a pixel shows.")]


@with_options(settings_of())
def train(
    data: Annotated[Path, typer.Argument(help="MVTec-AD layout, or one folder of good photos per category.")],
    output: Output,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with any of these options; the command line overrides it.",
            callback=_read_config,
            is_eager=True,
        ),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="CLIP: tiny, small, base or paper; folder or Hub id, also of open_clip.")
    ] = "tiny",
    backbone_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this trained detector.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="AnoPLeConfig field as KEY=VALUE, such as coupling=t2v. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    products: Annotated[str, typer.Option(help="Only these products, separated by commas.")] = "",
    shots_file: Annotated[Path | None, typer.Option(help="shots.json, or a folder of PromptAD's index files.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="JSON file with the prompts' word for each category.")
    ] = None,
    region: Regions = None,
    tiles: Tiles = None,
    smallest: Smallest = "",
    pixel_size: PixelSize = "",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also tell the loss terms.")] = False,
    **given: Any,
) -> None:
    """Train a detector for all categories on a few good photos each, build its memory, set its thresholds.

    Tells at the end what the thresholds promise, what looked odd, and what to do next.
    During training, OUTPUT.training beside the output holds states and logs; the logs stay there.
    If training is stopped, by Ctrl-C or otherwise, run the same command with --resume to continue.
    """
    quieten(quiet, verbose)
    check_output(output, overwrite=overwrite)
    lists = {name: _split(text) for name, text in given.items() if isinstance(getattr(USUAL, name), list)}
    plan = TrainingConfig(**given | lists | {"settings": parse_settings(settings) if settings else {}})
    work = output.with_name(f"{output.name}.training")
    if init_from:
        find_run(init_from)
    splits = load_data(data, categories=_split(products) or None, skip_bad=skip_bad)
    listed = None
    if shots_file:
        from ..data.few_shot import read_index_files, read_shots

        by_index = shots_file.is_dir()
        listed = read_index_files(shots_file, splits["train"], given["shots"]) if by_index else read_shots(shots_file)
    words = _read_words(class_names) if class_names else None
    framings = parse_framings(region or [], tiles or [], smallest, pixel_size)
    start_torch()
    from accelerate import PartialState

    from ..thresholds import photos_to_promise
    from ..training.run import on_cpu
    from ..training.run import train as learn
    from ..training.states import drop_states

    processes = PartialState(cpu=on_cpu())
    main = processes.is_main_process
    with ExitStack() as stack:
        folder = output
        if main:
            stack.enter_context(making(output))
            if not resume:
                drop_states(work)
            folder = stack.enter_context(whole_folder(output, overwrite=overwrite))
        run = learn(
            splits["train"],
            plan,
            backbone=None if init_from else backbone,
            backbone_revision=backbone_revision,
            init_from=init_from,
            class_names=words,
            listed_shots=listed,
            framings=framings,
            skip_bad=skip_bad,
            work_folder=work,
            resume=resume,
            progress=not quiet,
        )
        if main:
            run.save(folder)
    processes.wait_for_everyone()
    if not main:
        return
    drop_states(work)
    thresholds = {report.product: report.after for report in run.reports}
    categories = list(splits["train"]["category"])
    unseen = min(categories.count(name) - len(shots) for name, shots in run.shots.items())
    all_of_it = data.is_dir() and set(categories) == set(run.shots) and not products
    enough = all_of_it and unseen >= photos_to_promise(plan.false_alarm_rate)
    steps = next_steps(output, thresholds, photos=str(data) if enough else "PHOTOS")
    common = run.model.memory.thresholds_of()
    tell(
        as_json,
        {
            "output": str(output),
            "products": [report.to_dict() for report in run.reports],
            "common": common.to_dict() if common else None,
            "odd": run.odd,
            "next": steps,
        },
        *run.lines(),
        *([] if quiet else ["next:", *(f"  {step}" for step in steps)]),
        f"saved: {output}",
    )


@with_options(
    settings_of("shots", "seed", "anomaly_source", "anomaly_kinds", "anomalies_on_product", "normal_views", "turns")
)
def preview_anomalies(
    data: Annotated[Path, typer.Argument(help="Good photos, in the same layout as for train.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("anomalies.png"),
    count: Annotated[int, typer.Option(min=1, help="Number of pairs to show.")] = 8,
    backbone: Annotated[str, typer.Option(help="Decides the size of the views.")] = "tiny",
    region: Regions = None,
    tiles: Tiles = None,
    smallest: Smallest = "",
    pixel_size: PixelSize = "",
    skip_bad: SkipBad = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Draw what training learns from: good photos, their twins with a pseudo anomaly, and the masks."""
    quieten(True)
    from ..data.few_shot import choose_shots

    plan = TrainingConfig(normal_views=_split(given["normal_views"]), turns=_split(given["turns"]))
    train_split = load_data(data, skip_bad=skip_bad)["train"]
    products = sorted(set(train_split["category"]))
    turns, asked = plan.turns_of(products), parse_framings(region or [], tiles or [], smallest, pixel_size)
    chosen = choose_shots(train_split, given["shots"], seed=given["seed"], skip_bad=skip_bad)
    start_torch()
    from ..modeling_anople import AnoPLeModel
    from ..pictures.sheets import write_pairs
    from ..processing_anople import AnoPLeProcessor
    from ..training.pairs import AnomalyPairs
    from ..training.run import framings_of
    from ..training.synthesis import AnomalySynthesizer

    photos = train_split.select([index for indices in chosen.values() for index in indices])
    config = AnoPLeModel.from_backbone(backbone).config
    processor = AnoPLeProcessor.from_backbone(backbone, config)
    readings = {
        name: processor.read_good(train_split[chosen[name]]["image"], asked=wish, grid=config.grid_size)[1]
        for name, wish in framings_of(asked, products).items()
    }
    synthesizer = AnomalySynthesizer(
        given["anomaly_source"], kinds=_split(given["anomaly_kinds"]), on_product=given["anomalies_on_product"]
    )
    how: dict[str, Any] = {"changes": plan.normal_views, "turns": turns, "seed": given["seed"]}
    how["framings"] = {name: framing for name, reading in readings.items() if (framing := Framing.of(reading))}
    pairs = AnomalyPairs(photos, processor, synthesizer, length=count, **how)
    written = write_pairs(pairs, output)
    tell(as_json, {"output": str(written), "pairs": count, "shots": {c: len(i) for c, i in chosen.items()}},
         f"saved: {written}")  # fmt: skip


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
