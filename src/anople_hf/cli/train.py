"""The verbs of training: `anople train`, also under `accelerate launch`, and `anople preview-anomalies`.

Training is that of sec. 3.3. `scripts/train.py` runs the first verb.
"""

import json
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from .options import Json, Output, Overwrite, Quiet, Seed, SkipBad, quieten, tell

Source = Annotated[
    str, typer.Option(help="Texture of the pseudo anomalies: mixed, procedural, shots, or a folder of textures.")
]
Kinds = Annotated[str, typer.Option(help="Kinds of pseudo anomalies: texture, cutpaste, scar; separated by commas.")]
OnProduct = Annotated[bool, typer.Option(help="Keep pseudo anomalies off the background.")]


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


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse `key=value` into fields of `AnoPLeConfig`. Values are JSON, or otherwise plain text.

    Raises:
        ValueError: There is no such field.
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
            help="YAML file with any of these options; the command line overrides it.",
            callback=_read_config,
            is_eager=True,
        ),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Good photos per category.")] = 4,
    shot_mode: Annotated[str, typer.Option(help="seeded, or first_k: the first photos by name.")] = "seeded",
    nested_shots: Annotated[bool, typer.Option(help="A seed's 1-shot choice is part of its 2-shot choice.")] = True,
    seed: Seed = 0,
    recipe: Annotated[str, typer.Option(help="fast, paper-like, or auto: by the backbone.")] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="How often each photo is seen; else the recipe's.")] = None,
    min_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps at least.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Exactly so many steps, whatever the epochs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Good photos a step; each becomes ten views.")] = 2,
    accumulate: Annotated[int, typer.Option(min=1, help="Split a step's photos into this many passes.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of AdamW; else the recipe's.")] = None,
    projection_rate: Annotated[float, typer.Option(help="Share of it for the prompts' projections.")] = 0.1,
    decoder_rate: Annotated[float, typer.Option(help="Share of it for the decoder's refinement.")] = 1.0,
    project_rate: Annotated[float, typer.Option(help="Share of it for the decoder's projection.")] = 0.0,
    backbone: Annotated[
        str, typer.Option(help="CLIP: tiny, small, base or paper; folder or Hub id, also of open_clip.")
    ] = "tiny",
    backbone_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this trained detector.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="AnoPLeConfig field as KEY=VALUE, such as coupling=t2v. Repeatable."),
    ] = None,
    alignment: Annotated[str, typer.Option(help="Alignment loss: weighted, mean or none (Table 4b).")] = "weighted",
    align_channel: Annotated[
        str, typer.Option(help="Probability that weighs a normal view: abnormal or label.")
    ] = "abnormal",
    multi_scale: Annotated[bool, typer.Option(help="Also train on crops (Table 4c).")] = True,
    anomaly_source: Source = "mixed",
    anomaly_kinds: Kinds = "texture",
    anomalies_on_product: OnProduct = False,
    normal_views: Annotated[str, typer.Option(help="Out of shift, exposure, turn; separated by commas.")] = (
        "shift,exposure"
    ),
    latent_noise: Annotated[str, typer.Option(help="patches, middle, image or none.")] = "patches",
    latent_sigma: Annotated[float | None, typer.Option(help="Deviation of the latent anomalies' noise.")] = None,
    latent_mean: Annotated[float, typer.Option(help="Its mean.")] = 0.0,
    mixed_precision: Annotated[str, typer.Option(help="fp16 or bf16; no leaves it to accelerate.")] = "no",
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    compile: Annotated[
        str, typer.Option(help="Run the towers through torch.compile with this backend, such as inductor.")
    ] = "",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Give the same bits every time; slower.")
    ] = False,
    num_workers: Annotated[int, typer.Option(help="Processes that prepare samples.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 50,
    keep_checkpoints: Annotated[int, typer.Option(min=1, help="Number of saved states to keep.")] = 2,
    report_to: Annotated[str, typer.Option(help="Trackers: tensorboard, trackio, wandb; separated by commas.")] = "",
    products: Annotated[str, typer.Option(help="Only these products, separated by commas.")] = "",
    shots_file: Annotated[Path | None, typer.Option(help="shots.json, or a folder of PromptAD's index files.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="JSON file with the prompts' word for each category.")
    ] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a detector for all categories on a few good photos each, build its memory, set its thresholds.

    During training, OUTPUT.training beside the output holds states and logs; the logs stay there.
    If training is stopped, by Ctrl-C or otherwise, run the same command with --resume to continue.
    """
    quieten(quiet)
    from accelerate import PartialState

    from ..data import load_inspection_data
    from ..data.few_shot import read_index_files, read_shots
    from ..output.locking import making
    from ..output.whole import check_output, whole_folder
    from ..training.configuration import TrainingConfig
    from ..training.run import on_cpu
    from ..training.run import train as learn
    from ..training.states import drop_states

    check_output(output, overwrite=overwrite)
    given: dict[str, Any] = {
        field.name: context.params[field.name] for field in fields(TrainingConfig) if field.name in context.params
    }
    texts = {"anomaly_kinds": anomaly_kinds, "report_to": report_to, "normal_views": normal_views}
    lists = {name: _split(text) for name, text in texts.items()}
    plan = TrainingConfig(**given | lists | {"settings": parse_settings(settings or [])})
    work = output.with_name(f"{output.name}.training")
    splits = load_inspection_data(data, categories=_split(products) or None, skip_bad=skip_bad)
    listed = None
    if shots_file:
        by_index = shots_file.is_dir()
        listed = read_index_files(shots_file, splits["train"], shots) if by_index else read_shots(shots_file)
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
            class_names=json.loads(class_names.read_text()) if class_names else None,
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
    common = run.model.memory.thresholds_of()
    tell(
        as_json,
        {
            "output": str(output),
            "products": [report.to_dict() for report in run.reports],
            "common": common.to_dict() if common else None,
        },
        *(line for report in run.reports for line in report.lines()),
        *([f"any category: threshold {common.threshold:.4g}"] if common else []),
        f"saved: {output}",
    )


def preview_anomalies(
    data: Annotated[Path, typer.Argument(help="Good photos, in the same layout as for train.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("anomalies.png"),
    count: Annotated[int, typer.Option(min=1, help="Number of pairs to show.")] = 8,
    shots: Annotated[int, typer.Option(min=1, help="Good photos per category.")] = 4,
    seed: Seed = 0,
    anomaly_source: Source = "mixed",
    anomaly_kinds: Kinds = "texture",
    anomalies_on_product: OnProduct = False,
    backbone: Annotated[str, typer.Option(help="Decides the size of the views.")] = "tiny",
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Draw what training learns from: good photos, their twins with a pseudo anomaly, and the masks."""
    quieten(True)
    from ..data import load_inspection_data
    from ..data.few_shot import choose_shots
    from ..modeling_anople import AnoPLeModel
    from ..pictures.sheets import write_pairs
    from ..processing_anople import AnoPLeProcessor
    from ..training.configuration import TrainingConfig
    from ..training.pairs import AnomalyPairs
    from ..training.synthesis import AnomalySynthesizer

    train_split = load_inspection_data(data, skip_bad=skip_bad)["train"]
    chosen = choose_shots(train_split, shots, seed=seed, skip_bad=skip_bad)
    photos = train_split.select([index for indices in chosen.values() for index in indices])
    processor = AnoPLeProcessor.from_backbone(backbone, AnoPLeModel.from_backbone(backbone).config)
    synthesizer = AnomalySynthesizer(anomaly_source, kinds=_split(anomaly_kinds), on_product=anomalies_on_product)
    pairs = AnomalyPairs(
        photos, processor, synthesizer, length=count, changes=TrainingConfig().normal_views, seed=seed
    )
    written = write_pairs(pairs, output)
    tell(as_json, {"output": str(written), "pairs": count, "shots": {c: len(i) for c, i in chosen.items()}},
         f"saved: {written}")  # fmt: skip


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
