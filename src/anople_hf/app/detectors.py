"""`Detectors`: the models that the app offers, loaded when first asked for, and what a visitor begins with."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from ..backbones import KNOWN
from ..configuration_anople import AnoPLeConfig
from ..data.drawn import draw_dataset
from ..decisions import UNKNOWN
from ..modeling_anople import AnoPLeModel
from ..processing_anople import AnoPLeProcessor
from .inspector import Finding, Inspector
from .products import Products
from .saving import state_of

SAMPLER = "tiny"
"""The embedded backbone, untrained, by its short name."""
SAMPLES = {"capsule": "misprint", "woven_cloth": "hole"}
"""Drawn products, and the defect of each that is shown first."""
SHOTS = 5
"""Good photos of each that are taught at the start: it takes a third of the seconds before the page answers."""
KEPT = 3
"""Models in memory at a time."""


@dataclass(frozen=True)
class Example:
    """A photo with its verdict, for the first screen.

    Attributes:
        path: The photo.
        found: The verdict.
        drawn: It is one of the drawn samples; else a good photo that the detector knows.
    """

    path: str
    found: Finding
    drawn: bool


class Detectors:
    """The detectors to choose from. Visitors share them: their weights never change.

    Args:
        offered: Folders or Hub ids of trained detectors; the first is the one that everybody begins with.
        anything: Let visitors load any folder of this machine, any Hub id and every backbone with a short name,
            untrained; only where nobody else reaches the app.
        device: Where they compute; None takes a GPU if there is one.
    """

    def __init__(
        self, offered: Sequence[str] = (), *, anything: bool = False, device: str | torch.device | None = None
    ) -> None:
        self.names = [*dict.fromkeys([*map(str, offered), *(KNOWN if anything else [SAMPLER])])]
        self.anything = anything
        self.device = device if device is not None else best_device()
        self._loaded: OrderedDict[str, Inspector] = OrderedDict()
        self._begun: dict[str, Products] = {}
        self._lock = threading.RLock()
        self._folder = tempfile.TemporaryDirectory(prefix="anople_samples_")
        self._drawn: list[tuple[str, str]] = []
        self._examples: dict[str, Example | None] = {}

    def get(self, name: str) -> Inspector:
        """A detector by name; loads it if needed, and gives back the one that was not used for longest.

        Raises:
            ValueError: It is not offered, or it cannot be loaded; says why.
        """
        name = name.strip()
        if name not in self.names and not self.anything:
            raise ValueError(f"{name!r} is not offered here; choose one of {', '.join(self.names)}.")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = _load(name)
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name].to(self.device)

    def begin(self, name: str) -> Products:
        """A visitor's first products with this detector; an untrained backbone gets the drawn samples."""
        with self._lock:
            inspector = self.get(name)
            if name not in self._begun:
                products = inspector.products()
                if not products.names and name in KNOWN:
                    self.samples()
                    for sample in SAMPLES:
                        good = sorted((Path(self._folder.name) / sample / "train" / "good").iterdir())
                        products, _ = inspector.teach(products, sample, good)
                    products.origin = state_of(products.bank)
                self._begun[name] = products
            return self._begun[name].branch()

    def save(self, name: str, products: Products) -> Path:
        """Take what a visitor changed into the run of this name; whoever comes next begins with what it holds then.

        Returns:
            Its folder.

        Raises:
            ValueError: It is no folder, or a product was changed there meanwhile, too; says what to do.
            OSError: It cannot be written to.
        """
        run = Path(name)
        if name in KNOWN or not run.is_dir():
            raise ValueError(f"{name} is no folder of this machine; save as a new run instead.")
        inspector = self.get(name)
        try:
            inspector.save_into(products, run)
        finally:
            with self._lock:
                self._begun.pop(name, None)
                self._examples.pop(name, None)
        return run.resolve()

    def save_as(self, name: str, products: Products, folder: Path) -> tuple[Path, list[str]]:
        """Write a detector with a visitor's products as a new run, and offer it.

        The drawn samples that an untrained backbone begins with are left out, unless the visitor changed them.

        Returns:
            Its folder, and the products that it knows.

        Raises:
            OSError: The folder exists already, or cannot be written.
        """
        folder = folder.expanduser().resolve()
        products, changed = products.branch(), products.changed
        for sample in SAMPLES if name in KNOWN else ():
            if sample in products.names and sample not in changed:
                products.bank.remove(sample)
        self.get(name).save_as(products, folder)
        self.names = [*dict.fromkeys([*self.names, str(folder)])]
        return folder, products.names

    def samples(self) -> list[tuple[str, str]]:
        """(photo, product) to try out: good and defective ones, drawn once."""
        with self._lock:
            if not self._drawn:
                root, names = Path(self._folder.name), list(SAMPLES)
                draw_dataset(root, categories=names, train=SHOTS, test_good=1, test_defective=3, size=256, seed=1)
                for sample in names:
                    tests = sorted((root / sample / "test").rglob("*.png"))
                    self._drawn += [(str(path), sample) for path in tests][:4]
            return list(self._drawn)

    def example(self, name: str) -> Example | None:
        """What the first screen shows of a detector, judged once; None if it knows nothing that could be shown.

        A drawn sample with a defect, if the detector knows one of these products; else the good photo that is least
        like the others of its product, judged by them.
        """
        with self._lock:
            if name not in self._examples:
                products, inspector = self.begin(name), self.get(name)
                self._examples[name] = self._sample(products, inspector) or self._known(products, inspector)
            return self._examples[name]

    def _sample(self, products: Products, inspector: Inspector) -> Example | None:
        names = [product for product in SAMPLES if product in products.names]
        if not names:
            return None
        product = names[-1]
        path = next(path for path, sample in self.samples() if sample == product and SAMPLES[product] in path)
        try:
            found = inspector.check(products, path)
        except ValueError:  # no threshold is known
            return None
        return None if found.label == UNKNOWN else Example(path, found, True)  # other products have such names, too

    def _known(self, products: Products, inspector: Inspector) -> Example | None:
        for product in products.names:
            photos = products.by_strangeness(product)
            if not photos or products.bank.thresholds_of() is None:
                continue
            digest = photos[0][0]
            others = replace(products, bank=products.bank.without([digest]))
            path = Path(self._folder.name) / f"known_{digest[:16]}.png"
            products.bank.views[digest].image().save(path)
            return Example(str(path), inspector.check(others if len(photos) > 1 else products, path), False)
        return None


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(name: str) -> Inspector:
    if not name:
        raise ValueError("Give the folder or the Hub id of a detector.")
    try:
        if name in KNOWN:
            model = AnoPLeModel.from_backbone(name)
            return Inspector(model, AnoPLeProcessor.from_backbone(name, model.config))
        found, _ = AnoPLeConfig.get_config_dict(name)
        if found.get("model_type") != AnoPLeConfig.model_type:
            kind = found.get("model_type") or "no config.json"
            raise ValueError(
                f"{name} holds no AnoPLe detector ({kind}); expected the output of `anople train`, or what "
                "`anople push` made of it."
            )
        model = cast(AnoPLeModel, AnoPLeModel.from_pretrained(name, use_safetensors=True))
        return Inspector(model, AnoPLeProcessor.from_pretrained(name))
    except OSError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{name} cannot be loaded: it is no folder, and not on the Hub or not to be reached. {reason}"
        ) from error


__all__ = ["SAMPLER", "Detectors", "Example", "best_device"]
