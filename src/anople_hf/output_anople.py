"""`AnoPLeOutput`: what the model says about a batch of views, from the raw score down to the features.

Where in the paper: each field names its equation.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class AnoPLeOutput(ModelOutput):
    """What the model says about a batch of views.

    Attributes:
        scores: (B,) raw anomaly score, eq. 16; higher is more anomalous. Rank with these, decide with `thresholds`.
        anomaly_maps: (B, H, W) M_q of eq. 15 at the view's size, blurred by `config.smoothing_sigma`; None in training
            mode, which learns from `decoder_maps`.
        image_probabilities: (B,) p-hat of eq. 9, the abnormal channel.
        decoder_maps: (B, h, w) M-hat of eq. 8, the abnormal channel.
        memory_maps: (B, g, g) M_mem of eq. 14.
        thresholds: (B,) calibrated decision thresholds, NaN where there is none for the product.
        pixel_thresholds: (B,) the same for the maps.
        image_features: (B, d) z_0, unit length; None with branch="memory".
        patch_features: (B, d, h, w) D(z).
        text_features: (2, d) w+ and w-.
        products: (B,) places in the memory's `categories` of the products that the photos were recognised as and
            compared with; None if they were told, or compared with all. Ours.
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


__all__ = ["AnoPLeOutput"]
