"""`TrainingConfig`: how a run learns, as plain values that are stored with the model.

Where in the paper: sec. 3.3 and 4.1; the optimizer and its schedule are not published, the values here are ours.
"""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

ShotMode = Literal["seeded", "first_k"]
Alignment = Literal["weighted", "mean", "none"]
AlignChannel = Literal["abnormal", "label"]
LatentNoise = Literal["patches", "middle", "image", "none"]
Precision = Literal["no", "fp16", "bf16"]
Turns = Literal["4", "8", "free", "none"]
Recipe = Literal["auto", "fast", "paper-like"]
COUNTS = (
    "shots", "epochs", "min_steps", "max_steps", "batch_size", "accumulate", "calibration_views", "checkpoint_every",
    "keep_checkpoints",
)  # fmt: skip
"""Fields that are at least 1."""
NORMAL_VIEWS = ("shift", "exposure", "turn")
TRACKERS = ("tensorboard", "trackio", "wandb")
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {"epochs": 10, "min_steps": 100},
    "paper-like": {"epochs": 100, "min_steps": 300},
}
"""What a recipe sets where nothing is given; why these values, see docs/learning.md."""


@dataclass
class TrainingConfig:
    """How a run learns. What the model is stands in `AnoPLeConfig`.

    Attributes:
        shots: k, good photos per category; the paper's tables have 1, 2 and 4.
        shot_mode: `seeded`, or `first_k`: the first photos by name.
        nested_shots: Whether the 1-shot choice of a seed is part of its 2-shot choice.
        seed: Fixes shots, initial prompts, pseudo anomalies and their order.
        recipe: Sets `epochs` and `min_steps` where they are not given: `fast`, for the embedded backbone;
            `paper-like`, for real CLIPs, after related methods; `auto` goes by the backbone. Ours.
        epochs: How often each photo is seen; None: the recipe's, 10 or 100.
        min_steps: Optimizer steps at least, so that a single photo is learned from, too; None: 100 or 300.
        learning_rate: AdamW's peak for prompts and prefix. Ours.
        max_steps: Exactly so many optimizer steps, whatever the epochs; None leaves it to them.
        batch_size: Good photos a step, over all processes; each becomes 2 x 5 views. Ours.
        accumulate: Passes that a step's photos are split into; changes memory and time, not what is learned.
        projection_rate: Rate of the projections between the modalities, as a share of `learning_rate`. Ours: a matrix
            moves its outputs by more than a vector does at the same rate.
        decoder_rate: The same for the decoder's refinement. Ours.
        project_rate: The same for the decoder's projection, which starts as CLIP's own; 0 leaves it as it is. Ours;
            one that starts from noise (`decoder_init=random`) learns as the refinement does.
        weight_decay: AdamW's, on projections and decoder weights. Ours.
        warmup_share: Share of the steps with a rising rate, then cosine to 0. Ours.
        anomaly_source: Texture of the pseudo anomalies, `mixed`, `procedural`, `shots` or a folder of textures.
        anomaly_kinds: `texture` (DRAEM's, the default), `cutpaste`, `scar`; one is drawn for each sample.
        anomalies_on_product: Keep pseudo anomalies off the background. Ours, off.
        normal_views: How good photos are varied before anything else is done to them, out of `shift` (up to a
            sixtieth of the side), `exposure` (brightness and contrast by up to a tenth) and `turn` (by the product's
            `turns`, or else by right angles: only where it may lie in any of them). Ours; related methods vary theirs.
        turns: Positions in which parts lie, as for `anople teach --turns`: 4, 8 or free for all products, or
            PRODUCT=4 for one. Good photos are so remembered; with `turn` among `normal_views` also learned from.
        latent_noise: Where a latent anomaly (eq. 10) is made of the photo's global view: on its `patches` as the
            encoder gets them (eq. 4's z_0), on the tokens in the `middle` of it, or on the `image` vector of every
            view behind it (eq. 9's z_0); `none` leaves the term out. `patches` is ours: what is added to the image
            vector cannot be told from a normal one by two text vectors, see docs/learning.md.
        latent_sigma: Its deviation, in units of the spread of each channel over the patches; for `image`, of the unit
            vector. None: 1, or SimpleNet's 0.015. Ours.
        latent_mean: Its mean, in the same units. Ours.
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
        report_to: Trackers that get the loss terms, out of `tensorboard`, `trackio` and `wandb`.
        false_alarm_rate: Asked share of good parts called defective.
        calibration_views: Views scored per good photo for the thresholds.
        settings: Fields of `AnoPLeConfig` that differ from their defaults.
    """

    shots: int = 4
    shot_mode: ShotMode = "seeded"
    nested_shots: bool = True
    seed: int = 0
    recipe: Recipe = "auto"
    epochs: int | None = None
    min_steps: int | None = None
    learning_rate: float = 1e-3
    max_steps: int | None = None
    batch_size: int = 2
    accumulate: int = 1
    projection_rate: float = 0.1
    decoder_rate: float = 1.0
    project_rate: float = 0.0
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    anomaly_source: str = "mixed"
    anomaly_kinds: list[str] = field(default_factory=lambda: ["texture"])
    anomalies_on_product: bool = False
    normal_views: list[str] = field(default_factory=lambda: ["shift", "exposure"])
    turns: list[str] = field(default_factory=list)
    latent_noise: LatentNoise = "patches"
    latent_sigma: float | None = None
    latent_mean: float = 0.0
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
        for name in COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}; a step's photos are "
                "split into equal parts."
            )
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(kind))}.")
        if unknown := sorted(set(self.normal_views) - set(NORMAL_VIEWS)):
            raise ValueError(f"normal_views={unknown}: expected some of {', '.join(NORMAL_VIEWS)}.")
        for entry in self.turns:
            if entry.rpartition("=")[2] not in get_args(Turns):
                raise ValueError(f"turns={entry}: expected 4, 8, free or none, or one of them as PRODUCT=4.")
        if min(self.projection_rate, self.decoder_rate, self.project_rate) < 0:
            raise ValueError("projection_rate, decoder_rate and project_rate are shares of learning_rate, 0 or more.")
        if unknown := sorted(set(self.report_to) - set(TRACKERS)):
            raise ValueError(f"report_to={unknown}: expected trackers out of {', '.join(TRACKERS)}.")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate={self.false_alarm_rate}: expected a share between 0 and 1.")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share={self.warmup_share}: expected a share from 0 to below 1.")

    def completed(self, backbone: str | None, photos: int) -> "TrainingConfig":
        """With the values of its recipe, and with the number of steps, where they are not given.

        Args:
            backbone: As for `load_backbone`.
            photos: How many are learned from.

        Example:
            >>> plan = TrainingConfig().completed("laion/CLIP-ViT-B-16", photos=60)
            >>> plan.recipe, plan.epochs, plan.max_steps
            ('paper-like', 100, 3000)
        """
        from ..backbones import EMBEDDED, full_name  # brings torch, which the command line does not wait for

        name = self.recipe
        if name == "auto":
            name = "fast" if full_name(backbone or "") == EMBEDDED else "paper-like"
        given = {key: getattr(self, key) for key in RECIPES[name] if getattr(self, key) is not None}
        values = RECIPES[name] | given
        steps = self.max_steps or max(values["min_steps"], math.ceil(values["epochs"] * photos / self.batch_size))
        sigma = self.latent_sigma
        if sigma is None:
            sigma = 0.015 if self.latent_noise == "image" else 1.0
        return replace(self, recipe=name, **values, max_steps=steps, latent_sigma=sigma)

    def turns_of(self, products: Collection[str]) -> dict[str, str]:
        """In which positions the parts of each product lie, of those where they lie in several.

        Args:
            products: Their names.

        Raises:
            ValueError: `turns` names another product.

        Example:
            >>> TrainingConfig(turns=["4", "cloth=none"]).turns_of(["cloth", "nut"])
            {'nut': '4'}
        """
        told = dict(entry.rpartition("=")[::2] for entry in self.turns)  # under "": those of all
        if unknown := sorted(set(told) - {"", *products}):
            raise ValueError(f"turns of {', '.join(unknown)}: no such product; expected {', '.join(products)}.")
        found = {name: told.get(name, told.get("", "none")) for name in products}
        return {name: turns for name, turns in found.items() if turns != "none"}

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is learned; a run is resumed only with the same ones."""
        beside = {
            "accumulate", "gradient_checkpointing", "compile", "num_workers", "checkpoint_every", "keep_checkpoints",
            "report_to", "false_alarm_rate", "calibration_views",
        }  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name not in beside}
