"""`FrozenDetector`: the base of all baselines, with a frozen CLIP, a gallery of good photos per category, and maps.

Without a category, the galleries of all products are searched, as in the multi-class setting of sec. 4.2. With a
category, only its own gallery is searched.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionConfig

from ..backbones import load_backbone, recommended_settings
from ..configuration_anople import AnoPLeConfig
from ..framing import Framing
from ..modeling_anople import AnoPLeOutput
from ..ranges import Ranges
from ..scoring import resize_map, smooth

Features = dict[str, Tensor]
"""Named features of a batch, the first axis counts photos."""


class Gallery:
    """Features of good photos by category.

    Example:
        >>> gallery = Gallery()
        >>> gallery.add("gear", {"image": torch.zeros(2, 4)}, ["a.png", "b.png"])
        >>> gallery.categories, gallery.references("gear"), len(gallery.of(None)["image"])
        (['gear'], ['a.png', 'b.png'], 2)
    """

    def __init__(self) -> None:
        self._features: dict[str, list[Features]] = {}
        self._names: dict[str, list[str]] = {}

    @property
    def categories(self) -> list[str]:
        """Known products, sorted."""
        return sorted(self._names)

    def ranges(self, category: str | None = None) -> Ranges:
        """None: the baselines read deep photos by their container."""
        return {}

    @property
    def framings(self) -> dict[str, Framing]:
        """None: the baselines see whole photos."""
        return {}

    def sizes(self, category: str | None, side: int) -> list[tuple[int, int]]:
        """The model's square, see `MemoryBank.sizes`."""
        return [(side, side)]

    def add(self, category: str, features: Features, names: Sequence[str]) -> None:
        """Add photos of a product."""
        self._features.setdefault(category, []).append(features)
        self._names.setdefault(category, []).extend(names)

    def references(self, category: str) -> list[str]:
        """Names of a product's photos.

        Raises:
            KeyError: Unknown product.
        """
        if category not in self._names:
            raise KeyError(f"unknown product {category!r}; known: {', '.join(self.categories) or 'none'}.")
        return self._names[category]

    def of(self, category: str | None) -> Features:
        """Features of a product's photos, or of all photos in the order of `categories`."""
        for name in [category] if category else []:
            self.references(name)
        parts = [part for name in ([category] if category else self.categories) for part in self._features[name]]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}


class FrozenDetector(nn.Module):
    """A frozen CLIP that compares photos with a gallery.

    Args:
        clip: The backbone.
        config: Sizes, smoothing, and the layers whose tokens are compared.
        layers: 0-based layers to use instead of the configured ones.
    """

    title: ClassVar[str] = ""
    needs_photos: ClassVar[bool] = True

    def __init__(self, clip: CLIPModel, config: AnoPLeConfig, *, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.config = config
        count = cast(CLIPVisionConfig, clip.config.vision_config).num_hidden_layers
        self.layers = tuple(layers if layers is not None else config.memory_layers or ())
        if not self.layers or not all(0 <= layer < count for layer in self.layers):
            raise ValueError(f"layers={list(self.layers)}: expected some of 0..{count - 1}.")
        self.memory = Gallery()
        self.eval()

    @classmethod
    def from_backbone(cls, backbone: str, **arguments: Any) -> "FrozenDetector":
        """Make a detector around a CLIP.

        Args:
            backbone: As for `load_backbone`.
            arguments: Arguments of the method; see its class.
        """
        clip = load_backbone(backbone)
        settings = recommended_settings(backbone)
        config = AnoPLeConfig(backbone=backbone, backbone_config=clip.config.to_dict(), **settings)
        return cls(clip, config, **arguments)

    @property
    def device(self) -> torch.device:
        """The device it runs on."""
        return self.clip.device

    @property
    def dtype(self) -> torch.dtype:
        """The data type it computes in."""
        return self.clip.dtype

    def encode(self, pixel_values: Tensor) -> Features:
        """Features of photos (B, 3, S, S), to be stored and compared."""
        raise NotImplementedError

    def compare(self, queries: Features, gallery: Features, category: str | None) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, g, g) of photos compared with a gallery, which may be empty."""
        raise NotImplementedError

    @torch.inference_mode()
    def memorize(self, pixel_values: Tensor, category: str, *, names: Sequence[str] = ()) -> None:
        """Add good photos of a product.

        Args:
            pixel_values: (B, 3, S, S) views from the processor.
            category: The product.
            names: Optional names of the photos.
        """
        features = self.encode(pixel_values.to(self.device, self.dtype))
        self.memory.add(category, features, list(names) or [""] * len(pixel_values))

    @torch.inference_mode()
    def forward(
        self, pixel_values: Tensor, category: str | Sequence[str] | None = None, branch: str = "both"
    ) -> AnoPLeOutput:
        """Score photos.

        Args:
            pixel_values: (B, 3, S, S) views from the processor.
            category: One product, or one per photo; None searches the gallery of all.
            branch: Only `both`: a baseline has no branches.

        Raises:
            ValueError: The branch is a different one, or the method needs photos and has none.
            KeyError: Unknown product.
        """
        if branch != "both":
            raise ValueError(f"branch={branch!r}: {self.title} has no branches.")
        if self.needs_photos and not self.memory.categories:
            raise ValueError(f"{self.title} knows no good photos: call memorize(images, category=...).")
        queries = self.encode(pixel_values.to(self.device, self.dtype))
        names = [category] * len(pixel_values) if category is None or isinstance(category, str) else list(category)
        scores = pixel_values.new_zeros(len(names), dtype=torch.float32)
        maps = pixel_values.new_zeros(len(names), self.config.grid_size, self.config.grid_size, dtype=torch.float32)
        for name in dict.fromkeys(names):
            own = torch.tensor([index for index, other in enumerate(names) if other == name], device=scores.device)
            part = {key: value[own] for key, value in queries.items()}
            scores[own], maps[own] = self.compare(part, self.memory.of(name), name)
        side = pixel_values.shape[-1]
        blurred = smooth(resize_map(maps, side), self.config.smoothing_sigma)
        return AnoPLeOutput(scores=scores, anomaly_maps=blurred, memory_maps=maps)

    def tokens(self, pixel_values: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Patch tokens (B, n, d) after the given 0-based layers, in float32."""
        hidden = self.clip.vision_model(
            pixel_values, output_hidden_states=True, interpolate_pos_encoding=self.config.input_size is not None
        ).hidden_states
        return [hidden[layer + 1][:, 1:].float() for layer in layers]


__all__ = ["FrozenDetector", "Gallery"]
