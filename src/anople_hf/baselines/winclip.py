"""WinCLIP (Jeong et al., CVPR 2023): text prompts against windows of the image, with or without good photos.

A row of Tables 1 and 5. Windows of 2 x 2 and 3 x 3 patches each pass through the tower separately, which is why it is
slow (Figure 1b).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ..backbones import load_processor_parts
from ..data.class_names import class_names_for
from ..scoring import abnormal_probability
from .frozen import Features, FrozenDetector

NORMAL = (
    "{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage",
)  # fmt: skip
ABNORMAL = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = tuple(
    text.format(article)
    for text in (
        "a cropped photo of {} {{}}.", "a close-up photo of {} {{}}.", "a bright photo of {} {{}}.",
        "a dark photo of {} {{}}.", "a jpeg corrupted photo of {} {{}}.", "a blurry photo of {} {{}}.",
        "a photo of {} {{}}.", "a photo of {} small {{}}.", "a photo of {} large {{}}.",
        "a photo of {} {{}} for visual inspection.", "a photo of {} {{}} for anomaly detection.",
    )
    for article in ("a", "the")
)  # fmt: skip
"""Two per line of the list in the method's appendix, 22 in all."""
WINDOWS = (2, 3)
EPSILON = 1e-6


class WinCLIP(FrozenDetector):
    """Language maps over windows. With photos, averaged with the distances of windows and patches to theirs.

    Text vectors are averaged over the ensemble for each label. If the category is not given, the vectors of all known
    products are averaged; if no product is known, the word is "object".

    Args:
        temperature: tau; 0.07 as in the public reimplementations.
        others: As for `FrozenDetector`, except `layers`: WinCLIP uses the penultimate layer.
    """

    title: ClassVar[str] = "WinCLIP"
    needs_photos: ClassVar[bool] = True

    def __init__(self, *args: Any, temperature: float = 0.07, **others: Any) -> None:
        clip = args[0]
        super().__init__(*args, layers=[max(0, clip.config.vision_config.num_hidden_layers - 2)], **others)
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: expected above 0.")
        self.temperature = temperature
        backbone = self.config.backbone
        assert backbone is not None  # from_backbone sets it
        self.tokenizer: PreTrainedTokenizerBase = load_processor_parts(backbone)[1]
        self._texts: dict[str, Tensor] = {}
        self._cells = {side: window_cells(self.config.grid_size, side) for side in WINDOWS}

    # -- text ---------------------------------------------------------------------------------------------------

    def texts_for(self, category: str | None) -> Tensor:
        """Unit vectors (2, d) of normal and abnormal."""
        known = [category] if category else self.memory.categories
        words = class_names_for(known).values() if known else ["object"]
        vectors = torch.stack([self._ensemble(word) for word in words]).mean(dim=0)
        return F.normalize(vectors, dim=-1)

    def _ensemble(self, word: str) -> Tensor:
        if word not in self._texts:
            found = []
            for states in (NORMAL, ABNORMAL):
                texts = [template.format(state.format(word)) for state in states for template in TEMPLATES]
                tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
                vectors = F.normalize(self.clip.get_text_features(**tokens).pooler_output.float(), dim=-1)
                found.append(F.normalize(vectors.mean(dim=0), dim=-1))
            self._texts[word] = torch.stack(found)
        return self._texts[word]

    # -- image --------------------------------------------------------------------------------------------------

    def encode(self, pixel_values: Tensor) -> Features:
        """`image` (B, d), `patches` (B, n, d_v), and a feature (B, W, d) for each window of 2 and 3 patches a side."""
        vision = self.clip.vision_model
        embedded = vision.pre_layrnorm(vision.embeddings(
            pixel_values, interpolate_pos_encoding=self.config.input_size is not None))  # fmt: skip
        features = {"image": self._read(embedded)}
        for side, cells in self._cells.items():
            own = cells.to(embedded.device)
            windows = embedded[:, 1:][:, own]  # (B, W, side^2, d_v)
            first = embedded[:, None, :1].expand(-1, len(own), -1, -1)
            sequences = torch.cat([first, windows], dim=2)
            features[f"window{side}"] = self._read(sequences.flatten(0, 1)).unflatten(0, sequences.shape[:2])
        features["patches"] = F.normalize(self.tokens(pixel_values, self.layers)[0], dim=-1)
        return features

    def _read(self, hidden: Tensor) -> Tensor:
        """Image features (S, d) of unit length, from token sequences (S, t, d_v) that start with CLS."""
        vision = self.clip.vision_model
        for layer in vision.encoder.layers:
            hidden = layer(hidden, None)
        return F.normalize(self.clip.visual_projection(vision.post_layernorm(hidden[:, 0])).float(), dim=-1)

    def compare(self, queries: Features, gallery: Features, category: str | None) -> tuple[Tensor, Tensor]:
        """Scores and maps; few-shot if the gallery holds photos."""
        texts = self.texts_for(category)
        score = abnormal_probability(queries["image"], texts, self.temperature)
        grid = self.config.grid_size
        maps = [score[:, None, None].expand(-1, grid, grid)]
        for side, cells in self._cells.items():
            values = abnormal_probability(queries[f"window{side}"].transpose(1, 2), texts, self.temperature)
            maps.append(spread(values, cells, grid))
        language = harmonic_mean(torch.stack(maps))
        if not gallery:
            return score, language
        seen = [spread(_association(queries[f"window{side}"], gallery[f"window{side}"]), cells, grid)
                for side, cells in self._cells.items()]  # fmt: skip
        seen.append(_association(queries["patches"], gallery["patches"]).unflatten(1, (grid, grid)))
        photos = torch.stack(seen).mean(dim=0)
        return (score + photos.flatten(1).amax(dim=1)) / 2, (language + photos) / 2


class WinCLIPZeroShot(WinCLIP):
    """WinCLIP from text alone: photos only say which products exist."""

    title: ClassVar[str] = "WinCLIP, zero-shot"
    needs_photos: ClassVar[bool] = False

    def memorize(self, pixel_values: Tensor, category: str, *, names: Sequence[str] = ()) -> None:
        """Learn the product's name; its photos are not used."""
        self.memory.add(category, {}, list(names) or [""] * len(pixel_values))


def window_cells(grid: int, side: int) -> Tensor:
    """Patch indices (W, side^2) of all windows of a grid, row by row.

    Example:
        >>> window_cells(3, 2).tolist()
        [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    """
    cells = torch.arange(grid * grid).view(grid, grid)
    return cells.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)


def spread(values: Tensor, cells: Tensor, grid: int) -> Tensor:
    """The value of each patch (B, grid, grid): the harmonic mean over the windows (B, W) that cover it."""
    cells = cells.to(values.device)
    inverse = values.new_zeros(len(values), grid * grid)
    count = values.new_zeros(grid * grid).index_add_(0, cells.flatten(), values.new_ones(cells.numel()))
    inverse.index_add_(1, cells.flatten(), (1 / values.clamp_min(EPSILON)).repeat_interleave(cells.shape[1], dim=1))
    return (count / inverse).unflatten(1, (grid, grid))


def harmonic_mean(values: Tensor) -> Tensor:
    """Harmonic mean over the first axis.

    Example:
        >>> harmonic_mean(torch.tensor([0.5, 0.25])).item()
        0.3333333432674408
    """
    return len(values) / (1 / values.clamp_min(EPSILON)).sum(dim=0)


def _association(queries: Tensor, gallery: Tensor) -> Tensor:
    """(1 - max cosine) / 2 of each query (B, q, d) with the gallery (P, g, d): (B, q)."""
    return (1 - (queries @ gallery.flatten(0, 1).T).amax(dim=2)) / 2


__all__ = ["WinCLIP", "WinCLIPZeroShot", "harmonic_mean", "spread", "window_cells"]
