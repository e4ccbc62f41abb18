"""The verbs that learn: `anople train`, also under `accelerate launch`, and `anople preview-anomalies`.

Where in the paper: sec. 3.3 and Table 4; `scripts/train.py` is a face on the first.
"""

import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..training.configuration import AlignChannel, Alignment, Precision, ShotMode, TrainingConfig
from .options import (
    Json,
    Output,
    Overwrite,
    Quiet,
    Seed,
    SkipBad,
    find_run,
    load_data,
    quieten,
    setting,
    start_torch,
    tell,
)

USUAL = TrainingConfig()
KINDS = ",".join(USUAL.anomaly_kinds)
Source = Annotated[str, setting("anomaly_source")]
Kinds = Annotated[str, setting("anomaly_kinds")]
OnProduct = Annotated[bool, setting("anomalies_on_product")]


def _read_config(context: typer.Context, file: Path | None) -> Path | None:
    """Take the options' defaults from a YAML file, so that the command line has the last word."""
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


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`key=value` into fields of `AnoPLeConfig`; values are JSON, or else words.

    Raises:
        ValueError: No such field.
    """
    from ..configuration_anople import AnoPLeConfig

    known = {field.name for field in fields(AnoPLeConfig)} - {"backbone", "backbone_config", "backbone_revision"}
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


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="MVTec-AD layout, or one folder of good photos per category.")],
    output: Output,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML with any of these options; the command line wins.", callback=_read_config, is_eager=True
        ),
    ] = None,
    shots: Annotated[int, setting("shots", min=1)] = USUAL.shots,
    shot_mode: Annotated[ShotMode, setting("shot_mode")] = USUAL.shot_mode,
    nested_shots: Annotated[bool, setting("nested_shots")] = USUAL.nested_shots,
    seed: Annotated[int, setting("seed")] = USUAL.seed,
    max_steps: Annotated[int, setting("max_steps", min=1)] = USUAL.max_steps,
    batch_size: Annotated[int, setting("batch_size", min=1)] = USUAL.batch_size,
    accumulate: Annotated[int, setting("accumulate", min=1)] = USUAL.accumulate,
    learning_rate: Annotated[float, setting("learning_rate")] = USUAL.learning_rate,
    backbone: Annotated[
        str, typer.Option(help="CLIP: the embedded one; folder or Hub id, also of open_clip; open_clip:MODEL:FILE.")
    ] = "embedded:tiny-clip",
    backbone_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this trained detector, not from anew.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of AnoPLeConfig, such as coupling=t2v. Repeatable.")
    ] = None,
    alignment: Annotated[Alignment, setting("alignment")] = USUAL.alignment,
    align_channel: Annotated[AlignChannel, setting("align_channel")] = USUAL.align_channel,
    multi_scale: Annotated[bool, setting("multi_scale")] = USUAL.multi_scale,
    anomaly_source: Source = USUAL.anomaly_source,
    anomaly_kinds: Kinds = KINDS,
    anomalies_on_product: OnProduct = USUAL.anomalies_on_product,
    latent_sigma: Annotated[float, setting("latent_sigma")] = USUAL.latent_sigma,
    mixed_precision: Annotated[Precision, setting("mixed_precision")] = USUAL.mixed_precision,
    gradient_checkpointing: Annotated[bool, setting("gradient_checkpointing")] = USUAL.gradient_checkpointing,
    compile: Annotated[str, setting("compile")] = USUAL.compile,
    deterministic: Annotated[bool, setting("deterministic", "--deterministic")] = USUAL.deterministic,
    num_workers: Annotated[int, setting("num_workers")] = USUAL.num_workers,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    checkpoint_every: Annotated[int, setting("checkpoint_every", min=1)] = USUAL.checkpoint_every,
    keep_checkpoints: Annotated[int, setting("keep_checkpoints", min=1)] = USUAL.keep_checkpoints,
    report_to: Annotated[str, setting("report_to")] = ",".join(USUAL.report_to),
    products: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    shots_file: Annotated[Path | None, typer.Option(help="shots.json, or a folder of PromptAD's index files.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="JSON of words for the prompts, by category.")] = None,
    false_alarm_rate: Annotated[float, setting("false_alarm_rate")] = USUAL.false_alarm_rate,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a detector for all categories from a few good photos each, build its memory, set its thresholds.

    Until it is done, states to --resume from and logs stand beside the output, in OUTPUT.training; logs stay there.
    Stopped by Ctrl-C or otherwise, the same command with --resume goes on.
    """
    quieten(quiet)
    from ..output.whole import check_output, whole_folder

    check_output(output, overwrite=overwrite)
    given: dict[str, Any] = {
        field.name: context.params[field.name] for field in fields(TrainingConfig) if field.name in context.params
    }
    lists = {"anomaly_kinds": _split(anomaly_kinds), "report_to": _split(report_to)}
    plan = TrainingConfig(**given | lists | {"settings": parse_settings(settings) if settings else {}})
    work = output.with_name(f"{output.name}.training")
    if init_from:
        find_run(init_from)
    splits = load_data(data, categories=_split(products) or None, skip_bad=skip_bad)
    listed = None
    if shots_file:
        from ..data.few_shot import read_index_files, read_shots

        by_index = shots_file.is_dir()
        listed = read_index_files(shots_file, splits["train"], shots) if by_index else read_shots(shots_file)
    words = json.loads(class_names.read_text(encoding="utf-8")) if class_names else None
    start_torch()
    from accelerate import PartialState

    from ..training.run import on_cpu
    from ..training.run import train as learn
    from ..training.states import drop_states

    processes = PartialState(cpu=on_cpu())
    main = processes.is_main_process
    if main and not resume:
        drop_states(work)
    with whole_folder(output, overwrite=overwrite) if main else nullcontext(output) as folder:
        run = learn(
            splits["train"],
            plan,
            backbone=None if init_from else backbone,
            backbone_revision=backbone_revision,
            init_from=init_from,
            class_names=words,
            listed_shots=listed,
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
    entries = run.model.config.calibration or {}
    tell(
        as_json,
        {"output": str(output), "thresholds": entries},
        *(f"{'any category' if name == '*' else name}: threshold {e['threshold']:.4f}" for name, e in entries.items()),
        f"saved: {output}",
    )


def preview_anomalies(
    data: Annotated[Path, typer.Argument(help="Good photos, laid out as for train.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("anomalies.png"),
    count: Annotated[int, typer.Option(min=1, help="Pairs to show.")] = 8,
    shots: Annotated[int, setting("shots", min=1)] = USUAL.shots,
    seed: Seed = 0,
    anomaly_source: Source = USUAL.anomaly_source,
    anomaly_kinds: Kinds = KINDS,
    anomalies_on_product: OnProduct = USUAL.anomalies_on_product,
    backbone: Annotated[str, typer.Option(help="Decides the size of the views.")] = "embedded:tiny-clip",
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Show what training learns from: good photos, their twins with a pseudo anomaly, and the masks."""
    quieten(True)
    from ..data.few_shot import choose_shots

    train_split = load_data(data, skip_bad=skip_bad)["train"]
    chosen = choose_shots(train_split, shots, seed=seed, skip_bad=skip_bad)
    start_torch()
    from ..modeling_anople import AnoPLeModel
    from ..pictures.sheets import write_pairs
    from ..processing_anople import AnoPLeProcessor
    from ..training.pairs import AnomalyPairs
    from ..training.synthesis import AnomalySynthesizer

    photos = train_split.select([index for indices in chosen.values() for index in indices])
    processor = AnoPLeProcessor.from_backbone(backbone, AnoPLeModel.from_backbone(backbone).config)
    synthesizer = AnomalySynthesizer(anomaly_source, kinds=_split(anomaly_kinds), on_product=anomalies_on_product)
    pairs = AnomalyPairs(photos, processor, synthesizer, length=count, seed=seed)
    written = write_pairs(pairs, output)
    tell(as_json, {"output": str(written), "pairs": count, "shots": {c: len(i) for c, i in chosen.items()}},
         f"saved: {written}")  # fmt: skip


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
