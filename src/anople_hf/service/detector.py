"""`ServedDetector`: the detector that a service scores with, and what may be changed in it while it does.

A change is made to the run's folder first, under its lock, as the verbs of the command line make it. The next batch of
photos is scored with the changed memory. What other processes had changed there meanwhile is taken in with it.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..framing import FramingRequest
from ..inspection.predict import Prediction, judge, prepare
from ..inspection.results import fingerprint
from ..modeling_anople import AnoPLeModel
from ..output.locking import changing
from ..photos import Photo
from ..pictures.overlays import color_scale, heat_map_overlay
from ..processing_anople import AnoPLeProcessor
from ..teaching import Report, set_threshold

logger = logging.getLogger(__name__)


class ReadOnlyError(Exception):
    """The detector cannot be changed here: it comes from the Hub, or its folder may not be written to."""


class ServedDetector:
    """A detector that scores in one thread while another one teaches it.

    Args:
        model: With its memory; its weights never change.
        processor: Its processor.
        run: The folder or Hub id that it was loaded from.
        how: `unknown` and `gray_zone`, as for `AnoPLeProcessor.post_process`.
    """

    def __init__(self, model: AnoPLeModel, processor: AnoPLeProcessor, run: Path, **how: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.run, self.how = run, how
        self.fingerprint = fingerprint(run)
        self._teaching = threading.Lock()

    @property
    def name(self) -> str:
        """The run's folder, or its Hub id."""
        return self.run.resolve().name if self.run.is_dir() else self.run.as_posix()

    @property
    def products(self) -> list[str]:
        """Known products."""
        return self.model.memory.categories

    def score(self, photos: Sequence[Photo], products: Sequence[str | None]) -> list[Prediction]:
        """Judge photos in one pass each of those whose product is told and those whose product is not.

        Args:
            photos: At least one.
            products: The product of each photo, or None.

        Raises:
            KeyError: Unknown product; lists the known ones.
            ValueError: Nothing was taught yet.
        """
        model = self.model
        found: dict[int, Prediction] = {}
        for told in (True, False):
            places = [place for place, product in enumerate(products) if (product is not None) == told]
            if places:
                batch = [
                    prepare(model, self.processor, Path(photos[place].name), products[place], photo=photos[place])
                    for place in places
                ]
                category = [str(products[place]) for place in places] if told else None
                found |= dict(zip(places, judge(model, self.processor, batch, category, **self.how), strict=True))
        return [found[place] for place in range(len(photos))]

    def draw(self, prediction: Prediction) -> Image.Image:
        """The photo under its heat map, as `anople predict` draws it."""
        model, result = self.model, prediction.result
        recognizes = model.recognizes
        scale = color_scale(model, prediction.category, recognized=recognizes)
        overlay = heat_map_overlay(prediction.photo, result["heat_map"], scale=scale, threshold=result["mask_level"])
        return Image.fromarray(overlay)

    def teach(
        self,
        photos: Sequence[Photo],
        product: str,
        names: Sequence[str],
        framing: FramingRequest | None = None,
        **how: Any,
    ) -> Report:
        """Teach a product and save it into the run, see `AnoPLeModel.teach`; `framing` is what is asked for, if any.

        Raises:
            ReadOnlyError: The run cannot be changed.
            ValueError: No name for a product, or a photo was refused; nothing was changed.
        """

        def change(model: AnoPLeModel) -> Report:
            known, grid = model.memory.reading(product), model.config.grid_size
            pixels, reading = self.processor.read_good(photos, known, asked=framing, grid=grid)
            return model.teach(pixels, product, names=list(names), reading=reading, **how)

        return self._change(change)

    def set_threshold(self, product: str, value: float | None) -> Report:
        """Set a product's threshold, or give back the one that its photos set (None), and save it into the run.

        Raises:
            ReadOnlyError: The run cannot be changed.
            KeyError: Unknown product.
            ValueError: No number for a threshold.
        """
        return self._change(lambda model: set_threshold(model, product, value))

    def _change(self, change: Callable[[AnoPLeModel], Report]) -> Report:
        if not self.run.is_dir():
            raise ReadOnlyError(f"{self.name} is served from the Hub; only a folder can be taught.")
        with self._teaching:
            try:
                with changing(self.run):
                    model = self.model.with_memory_of(self.run)
                    report = change(model)
                    model.save_memory(self.run)
            except PermissionError as error:
                raise ReadOnlyError(f"the folder of {self.name} may not be written to ({error}).") from error
            self.model = model  # what is being scored now ends with the old one
            self.fingerprint = fingerprint(self.run)
        for line in report.lines():
            logger.info("%s", line)
        return report


__all__ = ["ReadOnlyError", "ServedDetector"]
