"""`TrainingConfig`: how a run learns, as plain values that are stored with the model.

Where in the paper: sec. 3.3 and 4.1; the optimizer and its schedule are not published, the values here are ours.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

ShotMode = Literal["seeded", "first_k"]
Alignment = Literal["weighted", "mean", "none"]
AlignChannel = Literal["abnormal", "label"]
Precision = Literal["no", "fp16", "bf16"]
TRACKERS = ("tensorboard", "trackio", "wandb")


@dataclass
class TrainingConfig:
    """How a run learns. What the model is stands in `AnoPLeConfig`.

    Attributes:
        shots: k, good photos per category; the paper's tables have 1, 2 and 4.
        shot_mode: `seeded`, or `first_k`: the first photos by name.
        nested_shots: Whether the 1-shot choice of a seed is part of its 2-shot choice.
        seed: Fixes shots, initial prompts, pseudo anomalies and their order.
        max_steps: Optimizer steps. Ours.
        batch_size: Good photos a step, over all processes; each becomes 2 x 5 views. Ours.
        accumulate: Passes that a step's photos are split into; changes memory and time, not what is learned.
        learning_rate: AdamW's peak. Ours.
        weight_decay: AdamW's, on projections and decoder weights. Ours.
        warmup_share: Share of the steps with a rising rate, then cosine to 0. Ours.
        anomaly_source: Texture of the pseudo anomalies, `mixed`, `procedural`, `shots` or a folder of textures.
        anomaly_kinds: `texture` (DRAEM's, the default), `cutpaste`, `scar`; one is drawn for each sample.
        anomalies_on_product: Keep pseudo anomalies off the background. Ours, off.
        latent_sigma: Deviation of the latent anomalies on the unit sphere (eq. 10); SimpleNet's 0.015.
        multi_scale: Train on global and local views (Table 4c); on is the paper's.
        alignment: L_align with the `weighted` sum (the paper's), the `mean`, or `none` (Table 4b).
        align_channel: What weighs the patches of a normal view in L_align: the `abnormal` probability (eq. 11 to the
            letter), or that of its `label`, the normal one.
        mixed_precision: `fp16` or `bf16`; `no` leaves it to `accelerate launch`. Losses are computed in float32.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, more time.
        compile: Run the two towers through `torch.compile` with this backend (`inductor`); empty does not.
        deterministic: Only algorithms that give the same bits every time; slower on a GPU.
        num_workers: Processes that prepare samples.
        checkpoint_every: Steps between two saved states, if a folder for them is given.
        keep_checkpoints: How many of the newest states are kept.
        report_to: Trackers that get the loss terms, out of `TRACKERS`.
        false_alarm_rate: Asked share of good parts called defective.
        calibration_views: Views scored per good photo for the thresholds.
        settings: Fields of `AnoPLeConfig` that differ from their defaults.
    """

    shots: int = 4
    shot_mode: ShotMode = "seeded"
    nested_shots: bool = True
    seed: int = 0
    max_steps: int = 200
    batch_size: int = 2
    accumulate: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    anomaly_source: str = "mixed"
    anomaly_kinds: list[str] = field(default_factory=lambda: ["texture"])
    anomalies_on_product: bool = False
    latent_sigma: float = 0.015
    multi_scale: bool = True
    alignment: Alignment = "weighted"
    align_channel: AlignChannel = "abnormal"
    mixed_precision: Precision = "no"
    gradient_checkpointing: bool = False
    compile: str = ""
    deterministic: bool = False
    num_workers: int = 0
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    report_to: list[str] = field(default_factory=list)
    false_alarm_rate: float = 0.05
    calibration_views: int = 8
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "shots", "max_steps", "batch_size", "accumulate", "calibration_views", "checkpoint_every",
            "keep_checkpoints",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}; a step's photos are "
                "split into equal parts."
            )
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(kind))}.")
        if unknown := sorted(set(self.report_to) - set(TRACKERS)):
            raise ValueError(f"report_to={unknown}: expected trackers out of {', '.join(TRACKERS)}.")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate={self.false_alarm_rate}: expected a share between 0 and 1.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share={self.warmup_share}: expected a share from 0 to below 1.")

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is learned; a run is resumed only with the same ones."""
        beside = {
            "accumulate", "gradient_checkpointing", "compile", "num_workers", "checkpoint_every", "keep_checkpoints",
            "report_to", "false_alarm_rate", "calibration_views",
        }  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name not in beside}
