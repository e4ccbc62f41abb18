"""`AnoPLeConfig`: every choice that defines an AnoPLe model. What is known of products stands in its memory bank.

Where in the paper: section 3 (method) and 4.1 (backbone). Values that the paper leaves open are ours; each field
says so.
"""

from typing import Any, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

ATTENTION = {"q_proj", "k_proj", "v_proj", "out_proj"}
"""Projections of a CLIP attention, as transformers names them."""
LOCAL_VIEWS = 4
"""N of sec. 3.2: the crops of a 2 x 2 grid. Rows 0..3 of the scale prefix are theirs, row 4 is the global view's."""

Coupling = Literal["both", "t2v", "v2t", "independent", "text", "visual"]


@strict
class AnoPLeConfig(PreTrainedConfig):
    r"""Configuration of [`AnoPLeModel`].

    The ones you will most likely change: `backbone`, `memory_layers`, `temperature`, `decoder_upsample`.

    Args:
        backbone_config: Configuration of the wrapped `CLIPModel`; a dict or `CLIPConfig`.
        backbone: Id or folder of the frozen CLIP, as taken by `anople_hf.backbones.load_backbone`. None: the weights
            of the backbone travel inside the checkpoint.
        backbone_revision: Revision of `backbone` on the Hub; None takes its newest.
        backbone_fingerprint: Digest of the backbone's weights; another CLIP under the same name is refused.
        input_size: Side of a view in pixels, a multiple of the backbone's patch, such as 448 or 672: its positions
            are interpolated, the grids of memory and decoder follow. None: the side the backbone was trained on.
        num_text_prompts: C_t, learnable textual context vectors a layer (eq. 2); 4 is ours.
        num_visual_prompts: C_v, learnable visual context vectors a layer (eq. 4); 4 is ours.
        prompt_depth: J, how many layers get fresh prompts, the input one included (eq. 3, 5); 9 is ours (MaPLe's).
            Capped at the depth of the shallower tower.
        coupling: Which projections of eq. 6 are used (Table 4a): `both` (T <-> I), `t2v` (T -> I), `v2t` (I -> T),
            `independent` (neither), `text` or `visual` (prompts in one tower only). `both` is the paper's.
        share_projections: One f_{v->t} and one f_{t->v} for all layers instead of one pair a layer; False is ours.
        scale_prefix: Insert the scale-aware prefix c (sec. 3.2, Table 4c); True is the paper's.
        prompt_init_std: Standard deviation of the initial prompts and prefix; 0.02 is ours (CoOp's).
        prompt_type: `class` writes the product's name into the text, `object` the word "object" (Table 4d);
            `class` is the paper's.
        abnormal_word: The unified abnormality token of eq. 1, the paper's.
        text_aggregation: How the vectors of all classes become w+ and w-: `unit_mean` averages them at unit length,
            `mean` as they are, so that longer ones weigh more. `unit_mean` is ours (WinCLIP's).
        temperature: tau of eq. 9 and of the pixel softmax; 0.07 is ours (WinCLIP's re-implementations).
        score_temperature: The same where photos are judged: a softer one lets the text branch weigh less in eq. 15 and
            16. None takes `temperature`, as the paper has one tau.
        decoder_upsample: Bilinear factor from the patch grid to the decoder's map; 2 is ours.
        decoder_init: `clip` starts D as CLIP's own projection of every patch (MaskCLIP's dense features), `random`
            from noise; `clip` is ours.
        decoder_tokens: What D reads of the last block: its `value`s, as in MaskCLIP's formula, or its `last` tokens,
            after attention, which localize worse in a CLIP of usual size. `value` is ours.
        decoder_kernel: Side of D's depthwise filter in cells of the upsampled map, odd; 3 is ours.
        memory_layers: 0-based encoder layers whose patch tokens are remembered (eq. 14); None takes layers at 1/6 and
            2/3 of the depth, which is PromptAD's (2, 7) for a 12-layer tower. Ours. The embedded backbone uses (3,).
        memory_search: What a photo is compared with if its product is not told: the good patches of `all` products,
            or those of the `product` that it is most like on the whole, which is then known, with its own threshold.
            The paper does not say what R in eq. 14 holds; `all` is our reading. `product` is set with the embedded
            backbone: it ranks alike, and each product is decided by its own threshold.
        smoothing_sigma: Gaussian blur of the anomaly map, in pixels of the model's input (240); 2.4 is ours and equals
            PromptAD's 4 pixels at 400; scale it with `input_size` to keep that. The image score is taken before.
        lora_rank: Rank of the low-rank weights that PEFT adds to CLIP's attention and training moves together with the
            prompts; 0, CLIP frozen, is the paper's.
        lora_alpha: Their scale is lora_alpha / lora_rank; 16 is ours (PEFT's usual one).
        lora_towers: `vision`, `text` or `both`. Ours.
        lora_targets: Which of q_proj, k_proj, v_proj, out_proj get them; q and v are ours (LoRA's).
        class_names: The words that the two stored text vectors were made from, by category. They belong to the
            learned prompts: products that come or go later (`MemoryBank`) do not change them.
        prompt_fingerprint: Digest of everything that shapes the remembered features; ties a bank to its model.

    Example:
        >>> from anople_hf import AnoPLeConfig
        >>> config = AnoPLeConfig(prompt_depth=3)
        >>> config.prompt_depth, config.temperature
        (3, 0.07)
    """

    model_type = "anople"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=CLIPConfig)}

    backbone_config: dict | PreTrainedConfig | None = None
    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_fingerprint: str | None = None
    input_size: int | None = None
    num_text_prompts: int = 4
    num_visual_prompts: int = 4
    prompt_depth: int = 9
    coupling: Coupling = "both"
    share_projections: bool = False
    scale_prefix: bool = True
    prompt_init_std: float = 0.02
    prompt_type: Literal["class", "object"] = "class"
    abnormal_word: str = "abnormal"
    text_aggregation: Literal["unit_mean", "mean"] = "unit_mean"
    temperature: float = 0.07
    score_temperature: float | None = None
    decoder_upsample: int = 2
    decoder_init: Literal["clip", "random"] = "clip"
    decoder_tokens: Literal["value", "last"] = "value"
    decoder_kernel: int = 3
    memory_layers: list[int] | tuple[int, ...] | None = None
    memory_search: Literal["all", "product"] = "all"
    smoothing_sigma: float = 2.4
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_towers: Literal["vision", "text", "both"] = "vision"
    lora_targets: list[str] | tuple[str, ...] = ("q_proj", "v_proj")
    class_names: dict[str, str] | None = None
    prompt_fingerprint: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = CLIPConfig()
        elif isinstance(self.backbone_config, dict):
            self.backbone_config = CLIPConfig(**self.backbone_config)
        depth = self.vision_config.num_hidden_layers
        self.prompt_depth = min(self.prompt_depth, depth, self.text_config.num_hidden_layers)
        if self.memory_layers is None:
            self.memory_layers = sorted({depth // 6, (2 * depth) // 3 - 1})
        if not __name__.startswith("transformers_modules"):
            # Installed, we bring our own pipeline; the one in a repository is for those who load its code.
            kwargs.pop("custom_pipelines", None)
        # Thresholds stood here before banks had format 2; a bank of format 1 carries them, too.
        kwargs.pop("calibration", None)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse settings that no model can be built from. Called by `@strict` after construction."""
        depth = self.vision_config.num_hidden_layers
        if self.prompt_depth < 1:
            raise ValueError(
                f"prompt_depth={self.prompt_depth}: expected at least 1; set the prompt counts to 0 instead."
            )
        if min(self.num_text_prompts, self.num_visual_prompts) < 0:
            raise ValueError("num_text_prompts and num_visual_prompts must be 0 or more.")
        layers = list(self.memory_layers or ())
        if not layers or not all(0 <= layer < depth for layer in layers):
            raise ValueError(
                f"memory_layers={layers}: expected one or more 0-based layers of the {depth}-layer "
                f"vision tower, that is 0 to {depth - 1}."
            )
        patch = cast(int, self.vision_config.patch_size)
        if self.input_size is not None and (self.input_size < patch or self.input_size % patch):
            nearest = max(patch, round(self.input_size / patch) * patch)
            raise ValueError(
                f"input_size={self.input_size}: expected a multiple of the backbone's patch of {patch} pixels, for "
                f"example {nearest}."
            )
        for name in ("temperature", "score_temperature"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name}={value}: expected a number above 0, for example 0.07.")
        if self.decoder_upsample < 1 or self.decoder_kernel < 1 or self.decoder_kernel % 2 == 0:
            raise ValueError("decoder_upsample must be 1 or more and decoder_kernel an odd number.")
        if self.lora_rank < 0 or self.lora_alpha <= 0:
            raise ValueError("lora_rank must be 0 (no LoRA) or more, and lora_alpha above 0.")
        if not self.lora_targets or not set(self.lora_targets) <= ATTENTION:
            raise ValueError(f"lora_targets={self.lora_targets}: expected some of {', '.join(sorted(ATTENTION))}.")
        if self.smoothing_sigma < 0:
            raise ValueError(f"smoothing_sigma={self.smoothing_sigma}: expected 0 (no blur) or more.")

    @property
    def vision_config(self) -> CLIPVisionConfig:
        """The vision tower's configuration."""
        return cast(CLIPVisionConfig, cast(CLIPConfig, self.backbone_config).vision_config)

    @property
    def text_config(self) -> CLIPTextConfig:
        """The text tower's configuration."""
        return cast(CLIPTextConfig, cast(CLIPConfig, self.backbone_config).text_config)

    @property
    def image_size(self) -> int:
        """Side of a view in pixels: `input_size`, or else the backbone's own."""
        return self.input_size or cast(int, self.vision_config.image_size)

    @property
    def grid_size(self) -> int:
        """Patches along one side of a view."""
        return self.image_size // cast(int, self.vision_config.patch_size)

    @property
    def text_slots(self) -> int:
        """Prompt tokens a text carries in front of the class name: its own and those projected from vision (eq. 6)."""
        own = self.num_text_prompts if self.coupling != "visual" else 0
        return own + (self.num_visual_prompts if self.coupling in ("both", "v2t") else 0)

    @property
    def scoring(self) -> dict[str, Any]:
        """What turns features into scores: thresholds mean nothing under other settings."""
        names = ("decoder_tokens", "memory_search", "smoothing_sigma")
        judged = self.temperature if self.score_temperature is None else self.score_temperature
        return {name: getattr(self, name) for name in names} | {"temperature": judged}

    @property
    def categories(self) -> list[str]:
        """The known products, in the order they were learned."""
        return list(self.class_names or {})


__all__ = ["AnoPLeConfig"]
