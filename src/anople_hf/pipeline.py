"""`AnomalyDetectionPipeline`: `transformers.pipeline("image-anomaly-detection", model=...)`.

The scores are those of sec. 3.4; label, probability, mask and boxes are ours.
"""

import os
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import CommitInfo
from PIL import Image
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .decisions import decide_parts
from .framed import score_views
from .framing import FramingRequest
from .hub import TASK, ship_code
from .images import read_image
from .modeling_anople import AnoPLeModel, AnoPLeOutput
from .processing_anople import AnoPLeProcessor
from .teaching import Report
from .thresholds import normal_probability

KEPT = ("scores", "anomaly_maps", "thresholds", "pixel_thresholds", "strangeness")
"""Fields of the model's output that a decision is made of."""


class AnomalyDetectionPipeline(Pipeline):
    """Photos in, decisions out.

    Example:
        >>> from anople_hf import AnoPLeModel, AnoPLeProcessor
        >>> from transformers import pipeline
        >>> model = AnoPLeModel.from_backbone("embedded:tiny-clip")
        >>> processor = AnoPLeProcessor.from_backbone("embedded:tiny-clip", model.config)
        >>> _ = model.set_class_names({"gear": "gear"}, **processor.class_prompts(["gear"]))
        >>> detector = pipeline("image-anomaly-detection", model=model, processor=processor)
        >>> photo = Image.new("RGB", (64, 48), "gray")
        >>> report = detector.teach([photo], category="gear")
        >>> report.added, sorted(detector(photo))  # doctest: +NORMALIZE_WHITESPACE
        (['photo 1'], ['boxes', 'category', 'heat_map', 'label', 'mask', 'normal_probability', 'ratio', 'score',
         'threshold'])
    """

    _load_processor = True  # type: ignore[assignment]  # None in the base class
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    decide_parts = staticmethod(decide_parts)

    def __call__(  # type: ignore[override]  # one kind of input, named
        self, images: Any, category: str | Sequence[str] | None = None, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterable[dict[str, Any]]:
        """Judge photos.

        Args:
            images: One photo, a list, a generator or other iterator, or a `datasets.Dataset`, whose `image` column is
                read; `category=dataset["category"]` routes its photos.
                A photo is a path, a URL, a PIL image, an array or tensor (see `anople_hf.images.read_image`), or a
                dict with an `image` and optionally a `category` to route it.
            category: Route all photos to this product, or give one product per photo.
            kwargs: `batch_size`, `num_workers`; `threshold` and `pixel_threshold` instead of the calibrated ones;
                `unknown` and `gray_zone` as for `AnoPLeProcessor.post_process`; `branch` as for the model.

        Returns:
            A dict for one photo, a list for a list, and for anything else an iterable that reads as it goes:

            - `score`: raw, higher is more anomalous.
            - `normal_probability`: share of good parts that would look at least as anomalous (conformal p-value of
                `calibration.normal_probability`), None if not calibrated.
            - `threshold`: the one used; `ratio`: score / threshold, 1 is at the threshold.
            - `label`: "normal", "defective", "unknown product" or "uncertain"; None without a threshold.
            - `heat_map`: (H, W) float32 at the photo's size; `mask`: PIL image of mode "L", 255 on defects.
            - `boxes`: `{"score", "box": {"xmin", "ymin", "xmax", "ymax"}, "area"}`, strongest first, in pixels.
            - `category`: the given or recognized product; None if the photo was compared with all products.

        Raises:
            UnreadableImageError: Names the photo.
            KeyError: Unknown category; lists the known ones.
        """
        if isinstance(images, tuple):
            images = list(images)
        if hasattr(images, "select_columns"):  # a data set's own category column is no wish to be routed
            images = images.select_columns("image")
        several = isinstance(images, (list, types.GeneratorType)) or _streams(images)
        if isinstance(images, list) and not images:
            return []
        if category is not None and not isinstance(category, str):
            if not several:
                raise ValueError(f"category={category!r} for one photo: expected one name.")
            if isinstance(images, list) and len(images) != len(category):
                raise ValueError(f"{len(category)} categories for {len(images)} images: expected one each.")
            images = _pair(images, category)
        elif category is not None:
            kwargs["category"] = category
        if several and not isinstance(images, (list, types.GeneratorType)):
            images = (image for image in images)
        return super().__call__(images, **kwargs)

    def teach(
        self,
        images: Any,
        category: str,
        *,
        names: Sequence[str] = (),
        turns: str | int | None = None,
        framing: FramingRequest | None = None,
        false_alarm_rate: float | None = None,
        strict: bool = False,
        views: int = 8,
        seed: int = 0,
    ) -> Report:
        """Teach a product from good photos, and set its thresholds, see `AnoPLeModel.teach`; nothing is trained.

        Args:
            images: One or a list, as for a call.
            category: The product; a new one is added.
            names: Where each photo came from; paths name themselves.
            turns: Positions in which its parts lie, 4, 8, `free` or `none`, see `AnoPLeModel.teach`.
            framing: Region and tiles, such as `FramingRequest(region="80,40,480,400", tiles="2x3")`; None keeps those
                of a known product.
            false_alarm_rate: Asked share of good parts called defective; None keeps the product's, 5 % for a new one.
            strict: Refuse photos that are far from the others, or look like another product.
            views: Changed views judged of each photo.
            seed: Fixes the views.
        """
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        model = cast(AnoPLeModel, self.model)
        pixels, reading = cast(AnoPLeProcessor, self.processor).read_good(
            images, model.memory.reading(category), asked=framing, grid=model.config.grid_size
        )
        named = [str(image) if hasattr(image, "__fspath__") or isinstance(image, str) else "" for image in images]
        how: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "strict": strict, "views": views, "seed": seed}
        how |= {"reading": reading, "turns": turns}
        return model.teach(pixels, category, names=list(names) or (named if any(named) else ()), **how)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write model, memory and processor, with the code for users without `anople_hf`.

        Args:
            save_directory: The folder.
            kwargs: As for `AnoPLeModel.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)  # type: ignore[union-attr]
        ship_code(Path(save_directory))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Push model, memory, processor, card and code as one commit, see `AnoPLeModel.push_to_hub`."""
        return cast(AnoPLeModel, self.model).push_to_hub(repo_id, processor=self.processor, **kwargs)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        steps: tuple[tuple[str, ...], ...] = (
            ("category",),
            ("branch",),
            ("threshold", "pixel_threshold", "unknown", "gray_zone"),
        )
        if unknown := sorted(set(given) - {name for names in steps for name in names}):
            raise TypeError(f"unknown arguments {unknown} for the {TASK} pipeline.")
        before, during, after = ({name: given[name] for name in names if name in given} for names in steps)
        return before, during, after

    def preprocess(self, input_: Any, category: str | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Turn one photo into the model's input; keep its size and category."""
        if isinstance(input_, dict) and "image" in input_:
            input_, category = input_["image"], input_.get("category", category)
        memory, side = cast(AnoPLeModel, self.model).memory, self.model.config.image_size
        photo = read_image(input_, memory.ranges(category))
        views = cast(AnoPLeProcessor, self.processor).views(photo, memory.sizes(category, side))
        found: dict[str, Any] = {"size": torch.tensor([photo.size[::-1]]), "category": category or ""}
        if not memory.framings:
            return found | {"pixel_values": views[side, side].to(self.dtype)}
        return found | {"views": [views]}  # of several sizes: a list is not stacked

    def _forward(self, input_tensors: dict[str, Any], branch: Any = None) -> dict[str, Any]:  # type: ignore[override]
        categories = input_tensors["category"]
        listed = [categories] if isinstance(categories, str) else list(categories)
        if "" in listed and any(listed):
            raise ValueError("some images of a batch have a category and others have none: give all or none.")
        model, told = cast(AnoPLeModel, self.model), listed if any(listed) else None
        if "views" in input_tensors:
            views = input_tensors["views"]
            photos = [view[0] if isinstance(view, list) else view for view in views]
            return self._framed(model, photos, told, branch) | {"size": input_tensors["size"]}
        output = model(input_tensors["pixel_values"], category=told, branch=branch)
        if output.products is not None:
            names = model.memory.names(output.products)
            categories = names[0] if isinstance(categories, str) else names
        return _kept(output) | {"size": input_tensors["size"], "category": categories}

    def _framed(self, model: AnoPLeModel, photos: list[Any], told: list[str] | None, branch: Any) -> dict[str, Any]:
        """What `_forward` gives where products are framed: lists, for maps of several sizes."""
        found: dict[int, dict[str, Any]] = {}
        for places, output, names in score_views(model, photos, told, branch=branch):
            for index, place in enumerate(places):
                own = {name: value[index] for name, value in _kept(output).items()}
                found[place] = own | {"category": names[index]}
        rows = [found[place] for place in range(len(photos))]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        threshold: float | None = None,
        pixel_threshold: float | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        """The decision on one photo, as the call returns it."""
        if isinstance(model_outputs["scores"], list):  # a single photo of a detector with framed products
            model_outputs = model_outputs | {name: model_outputs[name][0][None] for name in KEPT}
            model_outputs["category"] = model_outputs["category"][0]
        size, category = model_outputs["size"][0].tolist(), model_outputs["category"] or None
        output = AnoPLeOutput(**{name: model_outputs[name] for name in KEPT})
        found = self.processor.post_process(  # type: ignore[union-attr]
            output, target_sizes=[tuple(size)], thresholds=threshold, pixel_thresholds=pixel_threshold, **how
        )[0]
        entry = cast(AnoPLeModel, self.model).memory.thresholds_of(category, recognized=True)
        calibrated = entry is not None and not model_outputs["thresholds"].isnan().any()  # not for a branch alone
        return {name: found[name] for name in ("score", "label", "threshold", "ratio", "heat_map")} | {
            "normal_probability": normal_probability(found["score"], entry) if calibrated and entry else None,
            "mask": Image.fromarray(found["mask"].astype("uint8") * 255),
            "boxes": [
                {
                    "score": region["peak"],
                    "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), region["box"], strict=True)),
                    "area": region["area"],
                }
                for region in found["regions"]
            ],
            "category": category,
        }


def _kept(output: AnoPLeOutput) -> dict[str, torch.Tensor]:
    """Fields of the output that a decision is made of; NaN where there is none."""
    nothing = torch.full_like(output.scores, float("nan"))
    return {name: nothing if getattr(output, name) is None else getattr(output, name) for name in KEPT}


def register_pipeline() -> None:
    """Register the task with `transformers.pipeline`; calling it once is enough."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=AnomalyDetectionPipeline, pt_model=AutoModel, type="image"
        )


def _streams(images: Any) -> bool:
    """Whether this is a stream of photos: a data set or an iterator. An array or a PIL image is one photo."""
    return (
        hasattr(images, "column_names") or hasattr(images, "__next__") or isinstance(images, torch.utils.data.Dataset)
    )


def _pair(images: Iterable[Any], categories: Iterable[str]) -> Any:
    def pairs() -> Iterator[dict[str, Any]]:
        for image, category in zip(images, categories, strict=True):
            photo = image["image"] if isinstance(image, dict) and "image" in image else image
            yield {"image": photo, "category": category}

    return list(pairs()) if isinstance(images, list) else pairs()


__all__ = ["AnomalyDetectionPipeline", "register_pipeline"]
