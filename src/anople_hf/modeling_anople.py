"""`AnoPLeModel`: prompted CLIP, patch decoder and memory bank in one `PreTrainedModel`.

Where in the paper: Fig. 2; sec. 3.1 (encode), 3.2 (decode), 3.4 (remember, fuse, score).

- `forward` reads as the figure: encode -> decode -> match -> fuse -> score.
- The text tower runs in training, and once when the class names change; scoring uses two stored vectors.
- How a checkpoint is written and read stands in `checkpoint_anople.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbones import HUB_OPTIONS, full_name, load_backbone, recommended_settings
from .checkpoint_anople import AnoPLePreTrainedModel, backbone_digest
from .configuration_anople import LOCAL_VIEWS, AnoPLeConfig
from .decoder import PatchDecoder, value_tokens
from .framed import encode_framed, score_products
from .framing import Framing
from .images import image_digest
from .lora import add_lora
from .matching import is_exporting
from .memory import BANK_FILE, MemoryBank
from .prompts import CoupledPrompts, attach_prompts, first_layers
from .scoring import Seen, abnormal_probability, fuse_maps, image_scores, resize_map, smooth
from .teaching import Report, calibrate, teach
from .tiles import continued, whole
from .turns import COPIES, named_turns, turned_copies
from .views import View

Branch = Literal["both", "prompt", "memory"]


@dataclass
class AnoPLeOutput(ModelOutput):
    """What the model says about a batch of views.

    Attributes:
        scores: (B,) raw anomaly score, eq. 16; higher is more anomalous. Rank with these, decide with `thresholds`.
        anomaly_maps: (B, H, W) M_q of eq. 15 at the view's size, blurred by `config.smoothing_sigma`; None in training
            mode, which learns from `decoder_maps`. Of photos that are cut into tiles, of their canvas.
        image_probabilities: (B,) p-hat of eq. 9, the abnormal channel; of tiles, that of the one with the score.
        decoder_maps: (B, h, w) M-hat of eq. 8, the abnormal channel; (B, T, h, w) of T tiles.
        memory_maps: (B, g, g) M_mem of eq. 14; (B, T, g, g) of T tiles.
        thresholds: (B,) calibrated decision thresholds, NaN where there is none for the product.
        pixel_thresholds: (B,) the same for the maps.
        image_features: (B, d) z_0, unit length; None with branch="memory"; (B, T, d) of T tiles.
        patch_features: (B, d, h, w) D(z); None where products are framed.
        text_features: (2, d) w+ and w-.
        products: (B,) places in the memory's `categories` of the products that the photos were recognized as and
            compared with; None if they were told, or compared with all. Ours.
        strangeness: (B,) how far the photos are from their product, told or nearest, as a multiple of what is usual
            among its good photos and allowed for: above 1, they show no such product. NaN where that is not known;
            None without a memory. Ours.
    """

    scores: Tensor
    anomaly_maps: Tensor = None  # type: ignore[assignment]  # ModelOutput wants a default for all but the first
    image_probabilities: Tensor | None = None
    decoder_maps: Tensor | None = None
    memory_maps: Tensor | None = None
    thresholds: Tensor | None = None
    pixel_thresholds: Tensor | None = None
    image_features: Tensor | None = None
    patch_features: Tensor | None = None
    text_features: Tensor | None = None
    products: Tensor | None = None
    strangeness: Tensor | None = None


class AnoPLeModel(AnoPLePreTrainedModel):
    """Few-shot multi-class anomaly detector around a frozen `CLIPModel`.

    Example:
        >>> import torch
        >>> from anople_hf import AnoPLeModel, AnoPLeProcessor
        >>> model = AnoPLeModel.from_backbone("embedded:tiny-clip")
        >>> processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
        >>> _ = model.set_class_names({"gear": "gear"}, **processor.class_prompts(["gear"]))
        >>> photos = torch.rand(2, 3, 240, 240, generator=torch.Generator().manual_seed(0))
        >>> model.memorize(photos, category="gear")
        >>> outputs = model(photos)
        >>> outputs.scores.shape, outputs.anomaly_maps.shape
        (torch.Size([2]), torch.Size([2, 240, 240]))
    """

    text_features: Tensor

    def __init__(self, config: AnoPLeConfig) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        joint_width = cast(int, cast(CLIPConfig, config.backbone_config).projection_dim)
        self.clip = CLIPModel._from_config(config.backbone_config)
        self._lora = [add_lora(self.clip, config)]
        attach_prompts(self.clip)
        self.prompts = CoupledPrompts(
            config.prompt_depth,
            config.num_text_prompts,
            config.num_visual_prompts,
            text_width=text.hidden_size,
            visual_width=vision.hidden_size,
            coupling=config.coupling,
            share_projections=config.share_projections,
            num_views=LOCAL_VIEWS + 1 if config.scale_prefix else 0,
        )
        self.decoder = PatchDecoder(
            vision.hidden_size, joint_width, upsample=config.decoder_upsample, kernel=config.decoder_kernel
        )
        self.memory = MemoryBank(self.memory_layers)
        self.register_buffer("text_features", torch.zeros(2, joint_width))
        self.post_init()
        self.decoder.reset_parameters()  # post_init passes over modules that own no parameter of their own

    @classmethod
    def from_backbone(cls, backbone: str, *, revision: str | None = None, **settings: Any) -> "AnoPLeModel":
        """A new, untrained AnoPLe around a CLIP.

        Args:
            backbone: Short name, id or folder, see `anople_hf.backbones.load_backbone`.
            revision: Its revision on the Hub.
            settings: Fields of `AnoPLeConfig`; they go before those recommended for the backbone. And how the
                backbone is fetched: `cache_dir`, `token`, `local_files_only`, `force_download`.
        """
        hub = {name: settings.pop(name) for name in HUB_OPTIONS if name in settings}
        backbone = full_name(backbone)
        clip = load_backbone(backbone, revision=revision, **hub)
        settings = recommended_settings(backbone) | settings
        config = AnoPLeConfig(
            backbone=backbone,
            backbone_revision=revision,
            backbone_fingerprint=backbone_digest(clip),
            backbone_config=clip.config.to_dict(),
            **settings,
        )
        model = cls(config)
        add_lora(clip, config)
        model.clip.load_state_dict(clip.state_dict())
        if config.decoder_init == "clip":
            model.decoder.project.weight.data.copy_(clip.visual_projection.weight)
        return model.freeze_backbone().eval()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.text_features)

    # -- encode -------------------------------------------------------------------------------------------------

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """w+ and w-: prompted text vectors, averaged over the classes within each label (eq. 1-3, 7; below eq. 9).

        Args:
            input_ids: (2, C, T) tokens of `[P][class]` and `[P][abnormal][class]` with reserved slots.
            attention_mask: (2, C, T), optional.

        Returns:
            (2, d) unit vectors.
        """
        labels, classes, length = input_ids.shape
        mask = None if attention_mask is None else attention_mask.reshape(-1, length)
        pooled = self.clip.text_model(
            input_ids.reshape(-1, length), attention_mask=mask, prompts=self.prompts.for_text()
        ).pooler_output
        vectors = self.clip.text_projection(pooled).unflatten(0, (labels, classes))
        if self.config.text_aggregation == "unit_mean":
            vectors = F.normalize(vectors, dim=-1)
        return F.normalize(vectors.mean(dim=1), dim=-1)

    def encode_image(
        self,
        pixel_values: Tensor,
        views: Tensor | None = None,
        layers: Sequence[int] = (),
        noise: tuple[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One pass of the prompted vision tower (eq. 4-7).

        Args:
            pixel_values: (B, 3, S, S) normalized views, S as in `config.image_size`.
            views: (B,) rows of the scale prefix; None for the global view.
            layers: 0-based encoder layers whose patch tokens are wanted, too.
            noise: Layer and (K, n, d_v): the last K views are latent anomalies, see `prompts.add_noise`.

        Returns:
            z_0 (B, d) projected and of unit length; what the decoder reads (B, n, d_v), layer-normed: the last
            block's values or tokens of the patches, see `config.decoder_tokens`; the tokens of `layers` as
            (B, L, n, d_v), or None.

        Raises:
            ValueError: Views of another size.
        """
        vision = self.clip.vision_model
        before_last = (
            [self.config.vision_config.num_hidden_layers - 2] if self.config.decoder_tokens == "value" else []
        )
        encoded, kept = self._see(vision, pixel_values, views, [*layers, *before_last], noise)
        image_features = F.normalize(self.clip.visual_projection(encoded.pooler_output), dim=-1)
        if before_last:
            assert kept is not None
            tokens, kept = value_tokens(vision, kept[:, -1]), kept[:, :-1]
        else:
            tokens = vision.post_layernorm(encoded.last_hidden_state[:, 1 : 1 + self.config.grid_size**2])
        return image_features, tokens, kept if layers else None

    def encode_memory(self, pixel_values: Tensor, views: Tensor | None = None) -> Tensor:
        """What the memory compares, (B, L, n, d_v): as from `encode_image`, without the layers behind it."""
        tower = first_layers(self.clip.vision_model, max(self.memory_layers) + 1)
        return cast(Tensor, self._see(tower, pixel_values, views, self.memory_layers)[1])

    def _see(
        self,
        tower: CLIPVisionModel,
        pixel_values: Tensor,
        views: Tensor | None,
        layers: Sequence[int],
        noise: tuple[int, Tensor] | None = None,
    ) -> tuple[Any, Tensor | None]:
        """What a tower gives, and the patch tokens of `layers`, -1 for its input."""
        side = self.config.image_size
        if pixel_values.shape[-2:] != (side, side):
            given = " x ".join(map(str, pixel_values.shape[-2:]))
            raise ValueError(f"views of {given} pixels, expected {side} x {side}: use the processor of this model.")
        if views is None:
            views = pixel_values.new_full((pixel_values.shape[0],), LOCAL_VIEWS, dtype=torch.long)
        encoded = tower(
            pixel_values,
            prompts=self.prompts.for_vision(),
            prefix=self.prompts.prefix(views),
            noise=noise,
            interpolate_pos_encoding=self.config.input_size is not None,
            output_hidden_states=[layer + 1 for layer in layers] if layers else False,  # 0 is the encoder's input
        )
        if not layers:
            return encoded, None
        patches = slice(1, 1 + self.config.grid_size**2)  # the prompts stand behind the patches
        return encoded, torch.stack([encoded.hidden_states[layer + 1][:, patches] for layer in layers], dim=1)

    @torch.no_grad()
    def set_class_names(
        self, class_names: dict[str, str], input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> "AnoPLeModel":
        """Store the products' names and their two text vectors; from now on scoring does not need the text tower.

        Args:
            class_names: Word for each category, in the order of `input_ids`.
            input_ids: (2, C, T), from `AnoPLeProcessor.class_prompts`.
            attention_mask: (2, C, T), optional.
        """
        if input_ids.shape[1] != len(class_names):
            raise ValueError(f"{len(class_names)} class names for {input_ids.shape[1]} pairs of prompts.")
        mask = None if attention_mask is None else attention_mask.to(self.device)
        self.text_features.copy_(self.encode_text(input_ids.to(self.device), mask))
        self.config.class_names = dict(class_names)
        return self

    # -- remember -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def memorize(
        self,
        pixel_values: Tensor,
        category: str,
        *,
        names: Sequence[str] = (),
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        """Teach good parts of a product, without training (sec. 3.4). Photos already known are not added twice.

        Args:
            pixel_values: (B, 3, H, W) views of good parts, from the processor.
            category: The product; a new one is added.
            names: Where each photo came from, optional.
            reading: What is new in how its photos are read and framed, kept with the product: see `Product.reading`.
                Other `turns` than before hold for the photos before, too.

        Raises:
            ValueError: Photos before are not here as views, so that they cannot be turned; or they are framed in
                another way, see `teach`.
        """
        names = list(names) or [""] * len(pixel_values)
        if len(names) != len(pixel_values):
            raise ValueError(f"{len(names)} names for {len(pixel_values)} images: expected one each.")
        known, before = set(), {}
        if category in self.memory.categories:
            known = {reference.digest for reference in self.memory.references(category)}
            before = dict(self.memory.product(category).reading)
        how = {**before, **(reading or {})}
        copies, framing = COPIES[how.get("turns", "none")], Framing.of(how)
        if known and framing != Framing.of(before):
            raise ValueError(f"{category!r} has another region or other tiles: model.teach frames its photos anew.")
        if known and before.get("turns", "none") != how.get("turns", "none"):
            photos = self.memory.references(category)
            if unseen := [photo for photo in photos if photo.digest not in self.memory.views]:
                raise ValueError(
                    f"{len(unseen)} photos of {category!r} cannot be turned ({unseen[0].name or unseen[0].digest[:12]}"
                    "): only their tokens are here, not how they look. Remove the product, and teach it anew."
                )
            seen = [self.memory.views[photo.digest].pixels() for photo in photos]
            self.memory.see_anew(category, [self._remembered(view, how) for view in seen], copies)
        for image, name in zip(pixel_values, names, strict=True):
            digest = image_digest(image)
            if digest in known:
                continue
            known.add(digest)
            features, framed = self._remembered(image, how)
            self.memory.add(
                category, features, names=[name], digests=[digest], copies=copies, framed=framed, framing=framing
            )
            self.memory.views[digest] = View.of(image)
        if reading and category in self.memory.categories:
            self.memory.update(category, reading=how)

    def _remembered(self, image: Tensor, reading: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """What the memory keeps of a photo (3, H, W), in all positions of its product.

        (1, L, copies * n, d) of all of it; and of T tiles (1, T, L, copies * n, d), if the product is framed.
        """
        views, framing = turned_copies(image, reading).to(self.device, self.dtype), Framing.of(reading)
        tiles = None
        if framing is not None:
            turning = turned_copies(continued(framing, image, self.config.image_size), reading)
            tiles = encode_framed(self, turning.to(views), framing).permute(1, 2, 0, 3, 4).flatten(2, 3)[None]
            views = whole(views, self.config.image_size)
        return self.encode_memory(views).transpose(0, 1).flatten(1, 2)[None], tiles

    def with_memory(self, bank: MemoryBank) -> "AnoPLeModel":
        """The model with another memory; weights are shared. What teaches it leaves this one as it is."""
        view = object.__new__(type(self))
        view.__dict__ = {**self.__dict__, "_modules": {**self._modules, "memory": bank}}
        return view

    def with_memory_of(self, run: Path) -> "AnoPLeModel":
        """The same with the memory that the folder `run` holds by now; an empty one if it holds none."""
        view = self.with_memory(MemoryBank(self.memory_layers))
        if (run / BANK_FILE).is_file():
            view.load_memory(run)
        return view

    @property
    def recognizes(self) -> bool:
        """Whether a photo whose product is not told is recognized, and then judged as one of that product."""
        return self.config.memory_search == "product" or bool(self.memory.framings)

    @property
    def decision_branch(self) -> Branch:
        """The branch that decides: both; without class names, that is untrained, the memory alone."""
        return "both" if self.config.class_names else "memory"

    def teach(
        self,
        pixel_values: Tensor,
        category: str,
        *,
        names: Sequence[str] = (),
        word: str = "",
        reading: Mapping[str, Any] | None = None,
        turns: str | int | None = None,
        false_alarm_rate: float | None = None,
        strict: bool = False,
        views: int = 8,
        seed: int = 0,
    ) -> Report:
        """Teach a product, or more photos of a known one: remember them, and set its thresholds. Ours.

        Thresholds come from all photos of the product, each judged by the others; those of other products stay.

        Args:
            pixel_values: (B, 3, H, W) views of good parts, from the processor.
            category: The product; a new one is added.
            names: Where each photo came from, optional.
            word: For the product, as in a text prompt; the category's name if left out.
            reading: How the photos were read, kept with the product for all that come: see `images.measure_reading`.
            turns: Positions in which its parts lie: 4 remembers each photo at right angles, 8 between them, too,
                `free` at 16 angles, `none` as it is; None keeps the product's. For all of its photos, now and later.
            false_alarm_rate: Asked share of good parts called defective; None keeps the product's, 5 % for a new one.
            strict: Refuse photos that are far from the others, or look like another product.
            views: Changed views judged of each photo.
            seed: Fixes them.

        Returns:
            What changed and why; `print` it.

        Raises:
            ValueError: `strict`, and a photo is suspicious; names it. Nothing was changed.
        """
        reading = dict(reading or {}) | ({} if turns is None else {"turns": named_turns(turns)})
        how: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "strict": strict, "views": views, "seed": seed}
        how["readings"] = {category: reading}
        return teach(self, {category: pixel_values}, names={category: names}, words={category: word}, **how)[0]

    def calibrate(
        self,
        pixel_values: Tensor,
        category: str,
        *,
        names: Sequence[str] = (),
        false_alarm_rate: float | None = None,
    ) -> Report:
        """Set a product's thresholds from good photos that are not in the memory: then the rate is a promise. Ours.

        Photos of earlier calls count, too. Those in the memory, and copies, are left out. 5 % takes 19 photos, 1 % 99.

        Args:
            pixel_values: (B, 3, H, W) views of good parts.
            category: A known product.
            names: Where each photo came from, optional.
            false_alarm_rate: Share of new good parts that may be called defective; None keeps the product's, or 5 %.

        Returns:
            What changed and why; `print` it.

        Raises:
            KeyError: Unknown category.
            ValueError: No photo is new.
        """
        return calibrate(self, {category: pixel_values}, names={category: names}, false_alarm_rate=false_alarm_rate)[0]

    # -- score --------------------------------------------------------------------------------------------------

    def forward(
        self,
        pixel_values: Tensor,
        category: str | Sequence[str] | None = None,
        branch: Branch | None = None,
        views: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        memory: MemoryBank | None = None,
        noise: tuple[int, Tensor] | None = None,
        return_dict: bool | None = None,
    ) -> AnoPLeOutput | tuple[Tensor, ...]:
        """Score a batch of views (sec. 3.4), or run the trainable path.

        Args:
            pixel_values: (B, 3, H, W) normalized views; of a product that is cut into tiles, the pictures that the
                processor makes with its `framing`.
            category: Route to one known product, or one per image; None searches the memory as
                `config.memory_search` says, or recognizes the product if any product is framed.
            branch: `both` is the paper's; `prompt` leaves the memory out (training does), `memory` leaves text and
                decoder out. None: the one that decides, see `decision_branch`; with class prompts, both.
            views: (B,) rows of the scale prefix, training only; None for the global view.
            input_ids: (2, C, T) class prompts: encode them now, with gradients, instead of using the stored vectors.
            attention_mask: (2, C, T), optional.
            memory: Match against this bank instead of the model's own.
            noise: Layer and noise that make the last views latent anomalies, training only, see `encode_image`.
            return_dict: False returns a tuple.

        Raises:
            ValueError: No memory where the branch needs one, or no class names where it needs text.
            KeyError: Unknown category.
        """
        bank = self.memory if memory is None else memory
        branch = branch or (self.decision_branch if input_ids is None else "both")
        if branch != "prompt" and not len(bank):
            raise ValueError("no memory bank: call model.memorize(images, category=...), or use branch='prompt'.")
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        if bank.framings and not (self.training or is_exporting()):
            output = AnoPLeOutput(**score_products(self, pixel_values, category, branch, bank, text))
        else:
            output = self.score_plain(pixel_values, category, branch, bank, views=views, noise=noise, **text)
        return output if return_dict is not False else output.to_tuple()

    def look(
        self,
        pixel_values: Tensor,
        branch: Branch = "both",
        *,
        views: Tensor | None = None,
        noise: tuple[int, Tensor] | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Seen:
        """Encode and decode (B, 3, S, S); arguments as for a call."""
        if branch == "memory":
            return Seen(remembered=self.encode_memory(pixel_values, views))
        layers = () if branch == "prompt" else self.memory_layers
        image_features, tokens, remembered = self.encode_image(pixel_values, views, layers, noise)
        text_features = self._text_vectors(input_ids, attention_mask)
        temperature = self.config.temperature if self.training else self.config.scoring["temperature"]
        probability = abnormal_probability(image_features, text_features, temperature)
        patch_features = self.decoder(tokens)
        decoder_map = abnormal_probability(patch_features, text_features, temperature)
        return Seen(probability, decoder_map, remembered, image_features, patch_features, text_features)

    def score_plain(
        self,
        pixel_values: Tensor,
        category: str | Sequence[str] | None,
        branch: Branch,
        bank: MemoryBank,
        **how: Any,
    ) -> AnoPLeOutput:
        """A call's output for photos of products that are not framed; `how` as for `look`."""
        products = memory_map = nearness = strangeness = None
        seen = self.look(pixel_values, branch, **how)
        probability, remembered = seen.probability, seen.remembered
        if remembered is not None:
            grid = self.config.grid_size
            if category is None and self.config.memory_search == "product":
                nearness = bank.distances(remembered)
                products = nearness.argmin(dim=1)
            wanted = category if products is None else products
            memory_map = bank.match(remembered, wanted).unflatten(1, (grid, grid))
            strangeness = self._strangeness(remembered, category, bank, nearness)

        side = pixel_values.shape[-1]
        fused = fuse_maps(seen.decoder_map, memory_map, side)
        scores = image_scores(fused, probability)
        anomaly_maps = cast(Tensor, None)
        if not self.training:
            anomaly_maps = smooth(resize_map(fused, side), self.config.smoothing_sigma)
        thresholds, pixel_thresholds = self.thresholds_for(scores, category, branch, bank, products)
        return AnoPLeOutput(
            scores=scores,
            anomaly_maps=anomaly_maps,
            image_probabilities=probability,
            decoder_maps=seen.decoder_map,
            memory_maps=memory_map,
            thresholds=thresholds,
            pixel_thresholds=pixel_thresholds,
            image_features=seen.image_features,
            patch_features=seen.patch_features,
            text_features=seen.text_features,
            products=products,
            strangeness=strangeness,
        )

    def _strangeness(
        self,
        remembered: Tensor,
        category: str | Sequence[str] | None,
        bank: MemoryBank,
        nearness: Tensor | None,
    ) -> Tensor | None:
        """`AnoPLeOutput.strangeness`."""
        limits = None if self.training else bank.familiar_within(remembered.device)
        if limits is None:
            return None
        nearness = bank.distances(remembered) if nearness is None else nearness
        if isinstance(category, str):
            place = bank.categories.index(category)
            return nearness[:, place] / limits[place]
        if category is None:
            places = nearness.argmin(dim=1)
        else:
            places = torch.tensor([bank.categories.index(name) for name in category], device=remembered.device)
        return nearness.gather(1, places[:, None])[:, 0] / limits[places]

    def _text_vectors(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        if input_ids is not None:
            return self.encode_text(input_ids, attention_mask)
        if self.config.class_names is None:
            raise ValueError(
                "this model knows no class names yet: call model.set_class_names(...), train it, or score with "
                "branch='memory'."
            )
        return self.text_features

    def thresholds_for(
        self,
        scores: Tensor,
        category: str | Sequence[str] | None,
        branch: Branch,
        bank: MemoryBank,
        products: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of `MemoryBank.thresholds_of` for each image, NaN where there are none."""
        if branch != self.decision_branch or not bank.decides:
            return None, None
        names = [category] if category is None or isinstance(category, str) else category
        if products is not None:
            names = bank.categories
        found = [bank.thresholds_of(name, recognized=products is not None) for name in names]
        none = float("nan")
        values = [
            [none if entry is None else entry.threshold for entry in found],
            [none if entry is None else entry.pixel_threshold for entry in found],
        ]
        image, pixel = torch.tensor(values, device=scores.device)
        if products is not None:
            return image[products], pixel[products]
        repeats = scores.shape[0] // len(found)  # not in the list above: a graph serves every batch size
        return image.repeat(repeats), pixel.repeat(repeats)


__all__ = ["AnoPLeModel", "AnoPLeOutput"]
