"""`Desk`: what the buttons of the app do. Reads what the visitor gave, asks the detector, words what came out.

A visitor is a detector's name and the products taught with it. Every method takes the visitor and gives it back where
it changed. Computation goes through `ask`, as one function of plain arguments: so it can be lent a GPU for a moment
(ZeroGPU runs it in a process of its own, where nothing that is changed comes back but the result).
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..framing import FramingRequest
from .detectors import Detectors, best_device
from .downloads import Downloads, to_csv, to_zip
from .inspector import Finding, NotRead
from .products import ANY, MOST_PHOTOS, Products, checked_photo
from .sessions import Sessions
from .texts import SECONDS_KEPT, describe, false_alarms, good_photos, introduce, introduce_example, not_read, taught

AS_BEFORE = "as before"
"""Nothing is asked for; a new product's parts lie as they are photographed."""
TOGETHER = 6
"""Photos judged in one go."""


@dataclass
class Visitor:
    """One visitor's state.

    Attributes:
        detector: The name of the chosen one.
        products: What it was taught by this visitor, and what it came with.
        elsewhere: The same of the detectors that were chosen before; they are there again when chosen again.
    """

    detector: str
    products: Products
    elsewhere: dict[str, Products] = field(default_factory=dict)


@dataclass
class Refused:
    """An error that a visitor can do something about. A lent process gives it back; exceptions it would hide."""

    reason: str


class Desk:
    """The app's actions.

    Args:
        detectors: To choose from.
        lend: Decorates the function that computes, as `spaces.GPU` does; None computes here.
    """

    def __init__(self, detectors: Detectors, lend: Callable[[Callable], Callable] | None = None) -> None:
        self.detectors = detectors
        self.downloads, self.sessions = Downloads(SECONDS_KEPT), Sessions(SECONDS_KEPT)
        self._lent = lend(self._there) if lend else None

    def _here(self, detector: str, task: str, *given: Any) -> Any:
        try:
            return getattr(self.detectors.get(detector), task)(*given)
        except (ValueError, KeyError) as error:
            return Refused(str(error.args[0] if error.args else error))

    def _there(self, given: bytes) -> bytes:
        self.detectors.device = best_device()  # of the process that has the GPU; the others stay on the CPU
        return pickle.dumps(self._here(*pickle.loads(given)))

    def ask(self, visitor: Visitor, task: str, *given: Any) -> Any:
        """Let the visitor's detector do something; what it refuses is shown to the visitor."""
        asked = (visitor.detector, task, visitor.products, *given)
        # As bytes: tensors would travel as handles that are gone when the lent process ends.
        answer = pickle.loads(self._lent(pickle.dumps(asked))) if self._lent else self._here(*asked)
        if isinstance(answer, Refused):
            raise said(answer.reason)
        return answer

    def arrive(self) -> Visitor:
        """A new visitor, with the first detector and what it knows."""
        name = self.detectors.names[0]
        return Visitor(name, self.detectors.begin(name))

    def come_back(self, key: str | None) -> tuple[Any, ...]:
        """A page was opened: what its browser tab had before it was loaded again, or a new visitor."""
        session = self.sessions.get(key)
        visitor = session.visitor if session is not None else self.arrive()
        first = [gr.skip()] * 6  # as the page was built
        if visitor.detector != self.detectors.names[0]:
            first = list(self.first_look(visitor))
        return (
            key,
            visitor,
            gr.Dropdown(choices=self.detectors.names, value=visitor.detector),
            introduce(visitor.detector, self.detectors.get(visitor.detector), visitor.products),
            *first,
            *_menus(visitor.products),
            session.judging if session is not None else None,
        )

    def load(self, visitor: Visitor, name: str | None) -> tuple[Any, ...]:
        """Choose a detector; what was taught to the one before is kept for coming back."""
        name = (name or "").strip()
        if name == visitor.detector:
            return (visitor, *self._face(visitor))
        try:
            products = visitor.elsewhere.get(name) or self.detectors.begin(name)
        except ValueError as error:
            raise said(str(error)) from error
        visitor = Visitor(name, products, visitor.elsewhere | {visitor.detector: visitor.products})
        return (visitor, *self._face(visitor))

    def _face(self, visitor: Visitor) -> tuple[Any, ...]:
        """What changes with the detector: introduction, samples, the first verdict and its photo, the menus."""
        about = introduce(visitor.detector, self.detectors.get(visitor.detector), visitor.products)
        return about, *self.first_look(visitor), *_menus(visitor.products, ANY)

    def first_look(self, visitor: Visitor) -> tuple[Any, ...]:
        """The samples, and a verdict with its photo, ready before anybody asks."""
        example = self.detectors.example(visitor.detector)
        told = introduce_example(example, visitor.products)
        if example is None:
            return gr.Dataset(visible=False), None, told, None, None, None
        found, drawn = example.found, [[path] for path, _ in self.detectors.samples()] if example.drawn else []
        samples = gr.Dataset(samples=drawn, visible=True) if drawn else gr.Dataset(visible=False)
        return samples, found, told, np.asarray(found.overlay()), found.evidence, example.path

    def sample(self, index: int) -> tuple[str, str]:
        """The drawn sample that was clicked, and what it is judged as."""
        return self.detectors.samples()[index][0], ANY

    def check(self, visitor: Visitor, file: str | None, product: str, opacity: float) -> tuple[Any, ...]:
        """Judge one photo."""
        if not file:
            raise said("Choose a photo first.")
        found = self.ask(visitor, "check_many", [file], product)[0]
        if isinstance(found, NotRead):  # said where the verdict stands; what was found on another photo goes
            return None, not_read([found]), None, None
        return found, describe(found), np.asarray(found.overlay(opacity)), found.evidence

    @staticmethod
    def repaint(found: Finding | None, opacity: float) -> Any:
        """The last photo under its heat map again."""
        return None if found is None else np.asarray(found.overlay(opacity))

    def check_batch(
        self,
        visitor: Visitor,
        files: Sequence[str] | None,
        product: str,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        """Judge many photos; a table in their order, pictures with the strangest first, both to take along.

        Files that cannot be judged are named at the end, and in the table.
        """
        if not files or len(files) > MOST_PHOTOS:
            raise said(f"{len(files or [])} photos; choose 1 to {MOST_PHOTOS}.")
        found: list[Finding | NotRead] = []
        for start in range(0, len(files), TOGETHER):
            progress((start, len(files)), desc="checking", unit="photos")
            found += self.ask(visitor, "check_many", files[start : start + TOGETHER], product)
        bad = [f for f in found if isinstance(f, NotRead)]
        rows = [_row(f) for f in found]
        strangest = sorted([f for f in found if isinstance(f, Finding)], key=lambda f: -f.ratio)
        pictures = [(f.overlay(), f"{f.label}: {f.name}") for f in strangest]
        table, archive = self.downloads.place("scores.csv"), self.downloads.place("overlays.zip")
        table.write_text(to_csv(found), encoding="utf-8")
        archive.write_bytes(to_zip(found))
        return rows, pictures, str(table), str(archive), not_read(bad)

    def teach(
        self,
        visitor: Visitor,
        name: str | None,
        files: Sequence[str] | None,
        region: str = "",
        tiles: str = "",
        turns: str = AS_BEFORE,
        painted: Any = None,
    ) -> tuple[Any, ...]:
        """Add good photos of a product; region, tiles and turns are for all of its photos."""
        name, region, tiles = (name or "").strip(), (region or "").strip(), (tiles or "").strip()
        if region and painted is not None:
            raise said("A region is painted, and another one typed: take one of them away.")
        try:
            asked = FramingRequest(painted if painted is not None else region or None, tiles)
        except ValueError as error:
            raise said(str(error)) from error
        how = (asked or None, None if turns == AS_BEFORE else turns)
        products, report = self.ask(visitor, "teach", name, files or [], *how)
        return replace(visitor, products=products), taught(products, name, report), *_menus(products, shown=name)

    @staticmethod
    def canvas(files: Sequence[str] | None) -> Any:
        """The first good photo, to paint on."""
        if not files:
            raise said("Choose the good photos first; the region is painted on the first of them.")
        try:
            return checked_photo(files[0]).to_rgb()
        except ValueError as error:
            raise said(str(error)) from error

    @staticmethod
    def take_region(drawing: Any) -> tuple[Any, str]:
        """What was painted, as (H, W) booleans, and how much of the photo that is."""
        layers = [np.asarray(layer.convert("RGBA"))[..., 3] > 0 for layer in (drawing or {}).get("layers", [])]
        if not layers or not np.any(layers):
            return None, "Nothing is painted: all of the photo counts."
        painted = np.any(layers, axis=0)
        return painted, f"The painted region is taken: {painted.mean():.0%} of the photo counts. Now press **Teach**."

    def calibrate(self, visitor: Visitor, product: str, files: Sequence[str] | None) -> tuple[Any, ...]:
        """Set a product's threshold by good photos that were not taught."""
        if product == ANY:
            raise said("Choose the product that the photos show.")
        products, report = self.ask(visitor, "calibrate", product, files or [])
        visitor = replace(visitor, products=products)
        first = f"**{product}**: {len(report.added)} new photos, {len(report.known)} known ones."
        return visitor, "\n- ".join([f"{first}\n", *report.lines()[1:]]), *self.show_threshold(visitor, product)

    def show_photos(self, visitor: Visitor, product: str, chosen: str) -> tuple[Any, ...]:
        """A product's good photos, if there are any; one that was chosen stays so, and only it can be forgotten."""
        pictures = good_photos(visitor.products, product, self.detectors.get(visitor.detector).model.config.image_size)
        digests = [digest for digest, _ in visitor.products.by_strangeness(product)]
        known = chosen in digests
        gallery = gr.Gallery(pictures, selected_index=digests.index(chosen) if known else None)
        return gr.Column(visible=bool(pictures)), gallery, chosen if known else "", gr.Button(interactive=known)

    @staticmethod
    def choose_photo(visitor: Visitor, product: str, event: gr.SelectData) -> tuple[str, Any]:
        """The digest of the photo that was clicked, as `show_photos` orders them."""
        photos = visitor.products.by_strangeness(product)
        chosen = photos[event.index][0] if event.index < len(photos) else ""
        return chosen, gr.Button(interactive=bool(chosen))

    def remove_photo(self, visitor: Visitor, product: str, chosen: str) -> tuple[Any, ...]:
        """Remove one of a product's good photos, given by its digest."""
        if chosen not in dict(visitor.products.by_strangeness(product)):
            raise said("Choose one of the photos first: click it.")
        visitor = replace(visitor, products=self.ask(visitor, "remove_photo", product, chosen))
        left = product in visitor.products.names
        told = taught(visitor.products, product) if left else f"**{product}** is forgotten."
        return visitor, told, *_menus(visitor.products, None if left else ANY, product)

    def load_bank(self, visitor: Visitor, file: str | None) -> tuple[Any, ...]:
        """Add the products of a memory bank."""
        if not file:
            raise said("Choose a memory bank first: a .safetensors file that was downloaded here.")
        try:
            more = self.detectors.get(visitor.detector).load_bank(visitor.products, file)
        except (ValueError, KeyError) as error:
            raise said(str(error.args[0]).replace(str(file), Path(file).name)) from error
        gained = more.gained(visitor.products.counts)
        brought = ", ".join(f"{name} ({count} photos)" for name, count in gained.items())
        told = f"The bank brought: {brought or 'nothing new'}."
        return replace(visitor, products=more), told, *_menus(more, shown=next(iter(gained), None))

    def remove(self, visitor: Visitor, product: str) -> tuple[Any, ...]:
        """Remove a product."""
        if product == ANY:
            raise said("Choose one product to remove.")
        products = visitor.products.branch()
        try:
            products.remove(product)
        except KeyError as error:
            raise said(str(error.args[0])) from error
        return replace(visitor, products=products), f"**{product}** is forgotten.", *_menus(products, ANY)

    def download_bank(self, visitor: Visitor) -> str:
        """The visitor's memory bank as a file."""
        if not visitor.products.names:
            raise said("No product is known yet: teach one first.")
        path = self.downloads.place("memory_bank.safetensors")
        self.detectors.get(visitor.detector).save_memory(visitor.products, path)
        return str(path)

    def save(self, visitor: Visitor) -> tuple[Any, ...]:
        """Save what the visitor changed into the run that the detector was loaded from."""
        products = self._unsaved(visitor)
        try:
            run = self.detectors.save(visitor.detector, products)
        except (ValueError, OSError) as error:
            raise said(str(error)) from error
        visitor = replace(visitor, products=self.detectors.begin(visitor.detector))
        told = f"Saved to {run}: it knows {', '.join(visitor.products.names) or 'no product'} now."
        return visitor, told, *_menus(visitor.products, ANY)

    def save_as(self, visitor: Visitor, folder: str | None) -> tuple[Any, ...]:
        """Save the detector and all that the visitor knows as a new run."""
        products = self._unsaved(visitor)
        if not (folder or "").strip():
            raise said("Give the folder of the new run.")
        try:
            run, known = self.detectors.save_as(visitor.detector, products, Path(str(folder).strip()))
        except (ValueError, OSError) as error:
            raise said(str(error)) from error
        told = f"Saved as {run}: it knows {', '.join(known) or 'no product'}. It can be chosen above."
        return told, gr.Dropdown(choices=self.detectors.names)

    def _unsaved(self, visitor: Visitor) -> Products:
        if not self.detectors.anything:
            raise said("Only the machine that the app runs on may save; download the memory bank instead.")
        if not visitor.products.changed:
            raise said("Nothing was taught, calibrated, removed or set here: there is nothing to save.")
        return visitor.products

    def show_threshold(self, visitor: Visitor, product: str) -> tuple[Any, str]:
        """The threshold of a product on its slider."""
        try:
            level = visitor.products.limits(product)[0]
        except ValueError as error:
            return gr.Slider(interactive=False), f"<p>{escape(str(error))}</p>"
        highest = max([level, *visitor.products.scores(product), 1e-6])  # so that 0 can be left again
        end = float(f"{3 * highest:.1g}")
        slider = gr.Slider(minimum=0, maximum=end, step=end / 1000, value=float(f"{level:.4g}"), interactive=True)
        return slider, false_alarms(visitor.products, product, level)

    def move_threshold(self, visitor: Visitor, product: str, level: float) -> tuple[Visitor, str]:
        """Decide by another threshold from now on."""
        if product != ANY and product not in visitor.products.names:
            raise said(f"Unknown product {product!r}; known: {', '.join(visitor.products.names) or 'none'}.")
        products = visitor.products.branch()
        try:
            products.move(product, level)
        except ValueError as error:
            raise said(str(error)) from error
        return replace(visitor, products=products), false_alarms(products, product, level)


def _menus(products: Products, judged_as: str | None = None, shown: str | None = None) -> list[Any]:
    """The five menus of products.

    Args:
        products: The visitor's.
        judged_as: The choice of the three menus for photos to check; None leaves it as the visitor made it.
        shown: That of the two menus for what is known: photos, threshold.
    """
    names, choices = products.names, [ANY, *products.names]
    kept: dict[str, Any] = {} if judged_as is None else {"value": judged_as}
    first = shown if shown in names else next(iter(names), ANY)
    return [gr.Dropdown(choices=choices, **kept) for _ in range(3)] + [
        gr.Dropdown(choices=choices, value=first) for _ in range(2)
    ]


def _row(found: Finding | NotRead) -> list[Any]:
    if isinstance(found, NotRead):
        return [found.name, "", "not judged", None, None, None, None]
    numbers = [round(found.ratio, 2), round(found.score, 4), round(found.threshold, 4), len(found.regions)]
    return [found.name, found.shows, found.label, *numbers]


def said(reason: str) -> gr.Error:
    """What a visitor is told that cannot be done, and why."""
    return gr.Error(reason, duration=20, title="Not done", print_exception=False)


__all__ = ["AS_BEFORE", "Desk", "Visitor", "said"]
