"""`AnoPLeProcessor`: turns photos into views, class names into prompts with slots, and model outputs into decisions.

Implements the prompts of eq. 1-2 and the 240 x 240 views of sec. 4.1. Decisions come from `decisions.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from .backbones import load_processor_parts
from .configuration_anople import AnoPLeConfig
from .decisions import DEFECTIVE, NORMAL, decide, fit_within, scale_regions
from .framing import Framing, FramingRequest
from .images import measure_reading, read_image
from .modeling_anople import AnoPLeOutput
from .photos import Photo
from .ranges import Ranges
from .scoring import resize_map
from .sight import PAPER_GRID

LABELS = (NORMAL, DEFECTIVE)


class AnoPLeProcessor(ProcessorMixin):
    """Turns a user's files into the model's tensors, and the model's outputs into decisions.

    Args:
        image_processor: Square resize without crop, CLIP's mean and deviation.
        tokenizer: The backbone's.
        text_slots: Prompt tokens to reserve after SOS, `AnoPLeConfig.text_slots`.
        abnormal_word: The abnormality token of eq. 1.
        prompt_type: `class` or `object`, see `AnoPLeConfig.prompt_type`.

    Example:
        >>> import numpy as np
        >>> from anople_hf import AnoPLeConfig, AnoPLeProcessor
        >>> processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", AnoPLeConfig())
        >>> processor(images=np.zeros((480, 640, 3), np.uint8))["pixel_values"].shape
        torch.Size([1, 3, 240, 240])
        >>> processor.class_prompts(["gear", "metal nut"])["input_ids"].shape[:2]  # normal and abnormal, two classes
        torch.Size([2, 2])
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        text_slots: int = 8,
        abnormal_word: str = "abnormal",
        prompt_type: str = "class",
        **kwargs: Any,
    ) -> None:
        self.text_slots = text_slots
        self.abnormal_word = abnormal_word
        self.prompt_type = prompt_type
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_backbone(
        cls, backbone: str, config: AnoPLeConfig, *, revision: str | None = None, **hub: Any
    ) -> "AnoPLeProcessor":
        """Make the processor for a backbone and a model configuration; `hub` as for `load_backbone`."""
        image_processor, tokenizer = load_processor_parts(backbone, revision=revision, side=config.input_size, **hub)
        return cls(
            image_processor,
            tokenizer,
            text_slots=config.text_slots,
            abnormal_word=config.abnormal_word,
            prompt_type=config.prompt_type,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> "AnoPLeProcessor":
        """Load a processor. It resizes with PIL even if torchvision is installed, so that scores are the same.

        `backend="torchvision"` selects torchvision's resizing, which differs by at most one of 255 levels per pixel.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args: Passed on to `ProcessorMixin.from_pretrained`.
            kwargs: As there: `revision`, `subfolder`, `token`, ...
        """
        kwargs.setdefault("backend", "pil")
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def __call__(
        self,
        images: Any = None,
        return_tensors: str = "pt",
        *,
        ranges: Ranges | None = None,
        framing: Framing | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Read and normalize photos.

        Args:
            images: One photo, a list, or a column of a `datasets.Dataset`. A photo is a path, URL, PIL image, numpy
                array, torch tensor, or bytes. A four-dimensional array or tensor is a batch. Grayscale, 16-bit, alpha,
                palette and EXIF rotation are handled, see `anople_hf.images.read_image`.
            return_tensors: Kind of tensors.
            ranges: Which values are black and white in photos deeper than 8 bits: `model.memory.ranges(category)`.
            framing: Region and tiles of their product, `model.memory.framings.get(category)`.
            kwargs: Passed on to the image processor.

        Returns:
            `pixel_values` of shape (B, 3, S, S), or of the canvas that tiles are cut from. Photos are resized to it
            and never cropped, so defects at the border stay in view.

        Raises:
            UnreadableImageError: Names the file.
        """
        listed = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
        many = listed or getattr(images, "ndim", 0) == 4
        batch = list(images) if many else [images]
        if not batch:
            raise ValueError("images is empty: expected at least one photo.")
        if framing is not None and framing.tiled:
            size = framing.canvas(self.side)
            views = [self._picture(read_image(image, ranges), size) for image in batch]
            return BatchFeature({"pixel_values": torch.cat(views)}, tensor_type=return_tensors)
        return self.image_processor(
            [self._squeezed(read_image(image, ranges), kwargs) for image in batch],
            return_tensors=return_tensors,
            **kwargs,
        )

    @property
    def side(self) -> int:
        """Pixels of a side of the model's square view."""
        return int(self.image_processor.size["height"])

    def views(self, photo: Image.Image, sizes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
        """Pictures (1, 3, height, width) of a photo by (height, width), see `MemoryBank.sizes` and `score_views`.

        Args:
            photo: 8-bit RGB.
            sizes: The model's square, or canvases that tiles are cut from.
        """
        square = (self.side, self.side)
        return {
            size: self(images=Photo(photo))["pixel_values"] if size == square else self._picture(photo, size)
            for size in sizes
        }

    def read_good(
        self,
        photos: Iterable[Any],
        known: Mapping[str, Any] | None = None,
        *,
        asked: FramingRequest | None = None,
        grid: int = PAPER_GRID,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Good photos of a product, and how they are read: what `AnoPLeModel.teach` takes.

        Args:
            photos: As for a call.
            known: `model.memory.reading(category)`: how its photos are read already.
            asked: Region and tiles that are asked for; None keeps what is known.
            grid: Cells along a side of the model's view, `model.config.grid_size`, for tiles by the smallest defect.

        Returns:
            (B, 3, H, W) views, and the reading, see `anople_hf.images.measure_reading`; its `framing` is that of
            `Framing.to_dict`.

        Raises:
            UnreadableImageError: Names the photo.
            ValueError: The region or the tiles that are asked for do not fit the photos.
        """
        photos = list(photos)
        reading = measure_reading(photos, known)
        framing = Framing.of(reading)
        if asked:
            framing = asked.complete(framing, tuple(reading["size"]), self.side, grid)
            reading["framing"] = framing.to_dict()
        return self(images=photos, ranges=reading["ranges"], framing=framing)["pixel_values"], reading

    def _picture(self, photo: Image.Image, size: tuple[int, int]) -> Tensor:
        """(1, 3, height, width), resized as the model's square is, and normalized."""
        resample = Image.Resampling(self.image_processor.resample)
        return self.image_processor(photo.resize(size[::-1], resample), return_tensors="pt", do_resize=False)[
            "pixel_values"
        ]

    def _squeezed(self, photo: Image.Image, asked: Mapping[str, Any]) -> Image.Image:
        """What the image processor would make of a photo, before it copies all of its pixels as arrays."""
        size = dict(getattr(self.image_processor, "size", None) or {})
        usual = getattr(self.image_processor, "backend", "") == "pil" and self.image_processor.do_resize and not asked
        if not usual or set(size) != {"height", "width"}:
            return photo
        return photo.resize((size["width"], size["height"]), Image.Resampling(self.image_processor.resample))

    def class_prompts(self, class_names: Sequence[str]) -> BatchFeature:
        """Token ids of `[P][class]`. and `[P][abnormal][class]`. (eq. 1, 2), trimmed to the longest.

        Trimming is exact under the causal mask. The final period is MaPLe's.

        Args:
            class_names: C words, one per category.

        Returns:
            `input_ids` and `attention_mask` of shape (2, C, T): normal, abnormal.

        Raises:
            ValueError: No class, or a name too long for the text tower.
        """
        if not class_names:
            raise ValueError("class_names is empty: expected at least one name.")
        words = ["object" if self.prompt_type == "object" else name.replace("_", " ").strip() for name in class_names]
        texts = [f"{word}." for word in words] + [f"{self.abnormal_word} {word}." for word in words]
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        slot = self.tokenizer("x", add_special_tokens=False)["input_ids"][0]  # overwritten by the hooks
        rows = [
            [bos, *[slot] * self.text_slots, *self.tokenizer(text, add_special_tokens=False)["input_ids"], eos]
            for text in texts
        ]
        longest = max(len(row) for row in rows)
        limit = self.tokenizer.model_max_length
        if longest > limit:
            name = class_names[[len(row) for row in rows].index(longest) % len(class_names)]
            raise ValueError(
                f"the class name {name!r} takes {longest} tokens with its prompts, the text tower reads {limit}: "
                "give it a shorter name."
            )
        ids = torch.tensor([row + [eos] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return BatchFeature({"input_ids": ids.unflatten(0, (2, -1)), "attention_mask": mask.unflatten(0, (2, -1))})

    def post_process(
        self,
        outputs: AnoPLeOutput,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        thresholds: float | Tensor | None = None,
        pixel_thresholds: float | Tensor | None = None,
        min_region: int = 9,
        unknown: bool = True,
        gray_zone: float = 0.0,
        longest: int | None = None,
    ) -> list[dict[str, Any]]:
        """Make decisions, and resize the maps to the photos' own sizes.

        Args:
            outputs: Outputs of the model.
            target_sizes: (height, width) of each photo; None keeps the model's size.
            thresholds: Replace the calibrated ones.
            pixel_thresholds: Replace the calibrated ones.
            min_region: Smallest region to report, in pixels of the model's map.
            unknown: Label a photo `unknown product` if it is unlike everything taught, or unlike the given product
                (`AnoPLeOutput.strangeness` above 1); False judges it all the same.
            gray_zone: Share of the threshold, on either side of it, in which a photo is `uncertain`.
            longest: Most pixels of the longer side of `heat_map` and `mask`, which are then smaller than a large
                photo; boxes and areas stay in the photo's pixels.

        Raises:
            ValueError: A score is not finite, or the number of sizes differs from the number of images.

        Returns:
            One dict a photo: `score` (raw), `threshold`, `pixel_threshold`, `ratio` (score / threshold: 1 is at the
            threshold), `label` ("normal", "defective", "unknown product", "uncertain", or None without a threshold),
            `heat_map` (H, W) float32, `mask` (H, W) bool and `regions` (boxes `(left, top,
            right, bottom)` in pixels, right and bottom exclusive, with `peak` and `area`, strongest first). A normal
            part has an empty mask. A defective part is marked where its map is above `mask_level`, which is the pixel
            threshold, or lower if otherwise nothing would be marked.
        """
        scores = outputs.scores.float().cpu()
        limits = _per_image(thresholds, outputs.thresholds, len(scores))
        pixel_limits = _per_image(pixel_thresholds, outputs.pixel_thresholds, len(scores))
        if target_sizes is not None and len(target_sizes) != len(scores):
            raise ValueError(f"{len(target_sizes)} target sizes for {len(scores)} images: expected one each.")
        strange = [0.0] * len(scores) if outputs.strangeness is None else outputs.strangeness.tolist()
        results = []
        for index, score in enumerate(scores.tolist()):
            anomaly_map = outputs.anomaly_maps[index].detach().float().cpu()
            height, width = anomaly_map.shape if target_sizes is None else target_sizes[index]
            whole = (int(height), int(width))
            size = fit_within(whole, longest) if longest is not None else whole
            heat_map = resize_map(anomaly_map[None], size)[0].numpy()
            limit, pixel_limit = (None if math.isnan(x) else x for x in (limits[index], pixel_limits[index]))
            cell = size[0] * size[1] / anomaly_map.numel()
            result = decide(
                score,
                heat_map,
                threshold=limit,
                pixel_threshold=pixel_limit,
                labels=LABELS,
                min_area=min_region * cell,
                unknown=unknown and strange[index] > 1,
                gray_zone=gray_zone,
            )
            results.append(result | {"regions": scale_regions(result["regions"], size, whole)})
        return results


def _per_image(given: float | Tensor | None, calibrated: Tensor | None, count: int) -> list[float]:
    chosen = calibrated if given is None else given
    if chosen is None:
        return [float("nan")] * count
    return torch.as_tensor(chosen, dtype=torch.float32).expand(count).tolist()


__all__ = ["AnoPLeProcessor"]
