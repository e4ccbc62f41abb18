"""`EndpointHandler`: what a Hub inference endpoint calls, pushed with the model as `handler.py`.

The endpoint loads this file by its path, outside of any package, so it imports no file beside it; the pipeline does,
from the code in the repository. Photos in, decisions out, with the names that `anople serve` gives them.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

TASK = "image-anomaly-detection"
PARAMETERS = ("product", "threshold", "pixel_threshold", "unknown", "gray_zone", "mask")
BATCH = 8
"""Photos in one pass."""


class EndpointHandler:
    """One detector behind a Hub inference endpoint.

    Args:
        path: Folder of the repository.
    """

    def __init__(self, path: str = "") -> None:
        import torch
        from transformers import pipeline

        device = 0 if torch.cuda.is_available() else -1
        how: dict[str, Any] = {"model": path or ".", "trust_remote_code": True, "device": device}
        self.detector: Any = pipeline(TASK, **how)  # type: ignore[call-overload]  # a task of its own

    def __call__(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Judge photos.

        Args:
            data: `inputs`: a photo or a list; each a PIL image, bytes, or a base64 string. `parameters`, optional:
                `product`, `threshold`, `pixel_threshold`, `unknown`, `gray_zone` as for the pipeline, and `mask`: true
                sends the masks, too.

        Returns:
            For each photo `product`, `label`, `score`, `threshold`, `ratio`, `boxes` in pixels of the photo, and on
            request `mask`, a PNG in base64, white on defects.

        Raises:
            ValueError: No photo, or one that cannot be read, or an unknown parameter or product; the endpoint answers
                with the sentence.
        """
        how = dict(data.get("parameters") or {})
        if unknown := sorted(set(how) - set(PARAMETERS)):
            raise ValueError(f"unknown parameters {unknown}; known: {', '.join(PARAMETERS)}.")
        masks, product = how.pop("mask", False), how.pop("product", None)
        if product is not None and product not in self.detector.model.memory.categories:
            known = ", ".join(self.detector.model.memory.categories)
            raise ValueError(f"unknown product {product!r}; known: {known}.")
        inputs = data.get("inputs")
        listed = inputs if isinstance(inputs, list) else [inputs]
        if not listed or any(photo is None for photo in listed):
            raise ValueError("inputs: expected a photo or a list of photos, as base64 or as the body of the request.")
        photos = [_photo(photo, number) for number, photo in enumerate(listed, start=1)]
        found = self.detector(photos, category=product, batch_size=min(BATCH, len(photos)), **how)
        return [_verdict(one, masks) for one in found]


def _photo(given: Any, number: int) -> Any:
    """What the pipeline reads. A string is never taken as a path or an address: it comes from elsewhere."""
    if isinstance(given, str):
        try:
            given = base64.b64decode(given.split("base64,", 1)[-1], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"photo {number} is no base64; expected the bytes of an image file in it.") from error
    return {"image": {"bytes": given, "path": f"photo {number}"}} if isinstance(given, (bytes, bytearray)) else given


def _verdict(found: Mapping[str, Any], masks: bool) -> dict[str, Any]:
    names = ("label", "score", "threshold", "ratio", "boxes")
    verdict = {"product": found["category"], **{name: found[name] for name in names}}
    if masks:
        buffer = io.BytesIO()
        found["mask"].save(buffer, format="PNG")
        verdict["mask"] = base64.b64encode(buffer.getvalue()).decode()
    return verdict


__all__ = ["EndpointHandler"]
