"""Teaching: good photos make a product known, and set its thresholds. One way, for the model, the command and the app.

- `teach` remembers photos and sets the product's thresholds from all of them, each judged by the others.
- `calibrate` sets them from photos that the memory does not hold: then the false-alarm rate is a promise.
- `forget` takes a photo out, and sets them anew.

Each gives a report that says which thresholds changed, from what to what, and why. Only the product's own change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .calibration import judge_all
from .framing import Framing
from .images import image_digest
from .matching import Reference
from .memory import MemoryBank
from .products import Product
from .ranges import describe, describe_difference
from .sight import describe_sight
from .thresholds import Thresholds, can_promise, now, photos_to_promise
from .tiles import whole
from .turns import COPIES
from .views import View, are_copies

if TYPE_CHECKING:
    from .modeling_anople import AnoPLeModel

RATE = 0.05
"""Asked share of good parts called defective, where nobody said another."""


@dataclass
class FarPhoto:
    """A photo far from the others of its product.

    Attributes:
        name: Of the photo.
        where: It is far from the others `on the whole`, `in one spot` or `in color`.
        times: How many times as far as the farthest of the others.
        with_it: The threshold that it would set.
        without_it: The threshold without it.
    """

    name: str
    where: str
    times: float
    with_it: float
    without_it: float

    def __str__(self) -> str:
        return (
            f"{self.name}: least like the others, {self.times:.1f} times as far from them {self.where} as the next "
            f"one. Is it a good part? It does not set the threshold: without it that is {self.without_it:.4g}, with "
            f"it it would be {self.with_it:.4g}"
        )


@dataclass
class Report:
    """What an act did to a product.

    Attributes:
        product: Its name.
        added: Photos that are new, by name.
        known: Photos that were known already.
        copies: Photos that are copies of others, with the name of the other; they count once and are left out.
        far: Photos far from the others.
        foreign: Photos that look like another product, with its name.
        before: The product's thresholds before; None if there were none.
        after: And after.
        why: Why they changed, or did not.
        read: How its photos are read, and what can be seen on them, in words; empty if that did not change.
        mixed: Several depths among its photos, or ranges that differ from other products', in words.
    """

    product: str
    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    far: list[FarPhoto] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    before: Thresholds | None = None
    after: Thresholds | None = None
    why: str = ""
    read: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    @property
    def suspicious(self) -> list[str]:
        """A line for each photo that may not be what it was given for."""
        foreign = [f"{name}: looks like {other}, not like {self.product}" for name, other in self.foreign]
        return [*foreign, *map(str, self.far)]

    @property
    def odd(self) -> list[str]:
        """A line for each thing that somebody should look at."""
        copies = [f"copy: {name} shows the same photo as {other}" for name, other in self.copies]
        return [*copies, *(f"look at {line}" for line in self.suspicious), *self.mixed]

    def lines(self) -> list[str]:
        """For people."""
        counts = [f"{len(self.added)} photo{'' if len(self.added) == 1 else 's'} added"]
        counts += [f"{len(self.known)} known already"] if self.known else []
        counts += [f"{len(self.copies)} copies left out"] if self.copies else []
        found = [f"{self.product}: {', '.join(counts)}"]
        found += self.odd
        found += [f"{self.product}: {line}" for line in self.read]
        found.append(f"{self.product}: {describe_change(self.before, self.after)}; {self.why}")
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
            "threshold": self.after.threshold if self.after else None,
        }


def describe_change(before: Thresholds | None, after: Thresholds | None) -> str:
    """Old and new threshold with what is promised, in one line; a promise that stays is said once.

    Example:
        >>> few = Thresholds(0.2, 0.2, 0.05, num_photos=4)
        >>> describe_change(few, Thresholds(0.1, 0.1, 0.05, num_photos=8, method="calibrated"))
        'threshold 0.2 (learned from 4 photos) -> 0.1, 5% false alarms aimed at, not promised (calibrated on 8 photos)'
        >>> describe_change(few, Thresholds(0.3, 0.2, method="set by hand"))
        'threshold 0.2, 5% false alarms aimed at, not promised (learned from 4 photos) -> 0.3, set by hand'
    """
    if after is None:
        return "no threshold"
    new = f"{after.threshold:.4g}, {after.promise}"
    if before is None:
        return f"threshold {new}"
    if (before.threshold, before.promise) == (after.threshold, after.promise):
        return f"threshold stays {new}"
    if before.aim and before.aim == after.aim:
        return f"threshold {before.threshold:.4g} ({before.source}) -> {after.threshold:.4g}, {after.promise}"
    return f"threshold {before.threshold:.4g}, {before.promise} -> {new}"


def teach(
    model: "AnoPLeModel",
    photos: Mapping[str, Tensor],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    words: Mapping[str, str] | None = None,
    readings: Mapping[str, Mapping[str, Any]] | None = None,
    false_alarm_rate: float | None = None,
    strict: bool = False,
    views: int = 8,
    seed: int = 0,
) -> list[Report]:
    """Remember good photos of one or several products, and set the thresholds of each.

    Args:
        model: The detector; its memory changes as a whole, or not at all.
        photos: (k, 3, H, W) views by product, new or known.
        names: Where each photo came from.
        words: For the products, see `Product.word`.
        readings: How their photos were read, see `Product.reading`. Its `framing`, if it is given, is the product's
            from now on; a known product's photos are remembered anew for another one.
        false_alarm_rate: Asked share of good parts called defective; None keeps the product's, 5 % for a new one.
        strict: Refuse photos that are far from the others, or look like another product.
        views: Changed views judged of each photo.
        seed: Fixes them.

    Returns:
        A report for each product.

    Raises:
        ValueError: `strict`, and a photo is suspicious; or photos of a product that is to be framed in another way are
            not here; names them.
    """
    kept = model.memory
    model.memory = kept.without([])
    try:
        reports: list[Report] = []
        pixels: dict[str, Tensor] = {}
        before: dict[str, int] = {}
        for product, images in photos.items():
            named = list((names or {}).get(product, [])) or [f"photo {n}" for n in range(1, len(images) + 1)]
            known = product in model.memory.categories
            old = model.memory.product(product) if known else Product(())
            reading = {**old.reading, **(readings or {}).get(product, {})}
            if known and Framing.of(reading) != Framing.of(old.reading):
                _frame_anew(model, product, reading, images, named)
            report, seen = _remember(model, product, images, named, reading)
            report.before = old.thresholds
            reports.append(report)
            pixels |= seen
            word = (words or {}).get(product) or old.word or product.replace("_", " ")
            model.memory.update(product, word=word)
            report.read, report.mixed = _describe_reading(model, report, old.reading)
            before[product] = COPIES[old.reading.get("turns", "none")]
        for report in reports:
            _set_thresholds(model, report, pixels, before[report.product], false_alarm_rate, views, seed)
        if strict and (lines := [line for report in reports for line in report.suspicious]):
            raise ValueError("refused, nothing was changed: " + "; ".join(lines))
    except BaseException:
        model.memory = kept
        raise
    return reports


def calibrate(
    model: "AnoPLeModel",
    photos: Mapping[str, Tensor],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    false_alarm_rate: float | None = None,
) -> list[Report]:
    """Set thresholds from good photos that the memory does not hold, together with those of earlier calls.

    Photos that are in the memory, and copies of any photo, are left out.

    Args:
        model: With its memory.
        photos: (n, 3, H, W) views by product, which the memory knows.
        names: Where each photo came from.
        false_alarm_rate: Share of new good parts that may be called defective; None keeps the product's, or 5 %.

    Returns:
        A report for each product.

    Raises:
        KeyError: A product that the memory lacks.
        ValueError: There is not one new photo, now or before.
    """
    for product in photos:
        model.memory.product(product)
    kept = model.memory
    model.memory = kept.without([])
    try:
        return [
            _calibrate_one(model, name, images, list((names or {}).get(name, [])), false_alarm_rate)
            for name, images in photos.items()
        ]
    except BaseException:
        model.memory = kept
        raise


def forget(model: "AnoPLeModel", product: str, photo: str | None = None) -> Report:
    """Take out a product, or one of its photos, and set the product's thresholds anew.

    Args:
        model: With its memory.
        product: The product; all that is known of it goes, if no photo is named.
        photo: Name or digest of one photo.

    Raises:
        KeyError: Unknown product or photo.
    """
    before = model.memory.product(product)
    report, seen = Report(product, before=before.thresholds), model.memory.views
    model.memory.remove(product, photo)
    if product not in model.memory.categories:
        report.why = "the product is forgotten"
        return report
    left = model.memory.product(product)
    unseen = [p for p in left.photos if p.digest not in seen]
    held_out = {digest: judged for digest, judged in before.held_out.items() if digest in seen}
    model.memory.views |= {digest: seen[digest] for digest in held_out}
    model.memory.update(product, held_out=held_out)
    if unseen or (before.thresholds is not None and before.thresholds.method == "set by hand"):
        report.after = left.thresholds
        by_hand = "it was set by hand" if not unseen else "the other photos are not here to be judged again"
        report.why = f"{by_hand}; teach or calibrate sets a new one"
        return report
    judge_all(model, product, {}, views=_views_of(left.judged))
    settled = model.memory.product(product).settle(grew=False)
    report.after = model.memory.update(product, thresholds=settled.thresholds).thresholds
    report.why = "each photo judged anew by those that are left"
    promised = before.thresholds is not None and before.thresholds.guaranteed
    if promised and not (report.after is not None and report.after.guaranteed):
        report.why += "; too few photos for the promise are here: anople calibrate renews it"
    return report


def set_threshold(model: "AnoPLeModel", product: str, threshold: float | None) -> Report:
    """Set a product's threshold by hand, or give back the one that its photos set.

    Args:
        model: With its memory.
        product: The product.
        threshold: For scores; the map's stays. None: what its photos set.

    Raises:
        KeyError: Unknown product.
        ValueError: Below 0, or nothing is known that would set a threshold.
    """
    known = model.memory.product(product)
    report = Report(product, before=known.thresholds)
    if threshold is None:
        rate = known.thresholds.false_alarm_rate if known.thresholds else None
        settled = replace(known, thresholds=None).settle(rate)
        if settled.thresholds is None:
            raise ValueError(f"nothing is known that would set a threshold for {product!r}: teach it its photos.")
        report.after, report.why = settled.thresholds, "as its photos set it"
    else:
        report.after = by_hand(known.thresholds, threshold)
        report.why = "`learned` instead of a value gives the photos' own back"
        if highest := max((score for judged in known.judged.values() for score in judged.scores), default=None):
            report.why = f"its good photos score up to {highest:.4g}; {report.why}"
    model.memory.update(product, thresholds=report.after)
    return report


def by_hand(known: Thresholds | None, threshold: float) -> Thresholds:
    """Thresholds with this value, set by hand now; the map's stays.

    Raises:
        ValueError: Below 0, or no number.
    """
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"threshold={threshold}: expected a number of 0 or more.")
    if known is None:
        return Thresholds(threshold, threshold, method="set by hand", date=now())
    return replace(known, threshold=threshold, guaranteed=False, method="set by hand", how="", date=now())


def _remember(
    model: "AnoPLeModel", product: str, images: Tensor, names: list[str], reading: Mapping[str, Any]
) -> tuple[Report, dict[str, Tensor]]:
    """Memorize what is new; the report so far, and the pixels by digest."""
    report = Report(product)
    new, pixels = _sort_out(model.memory, product, images, names, report)
    report.added = [names[i] for i in new]
    model.memorize(images[new], product, names=report.added, reading=reading)
    return report, pixels


def _frame_anew(
    model: "AnoPLeModel", product: str, reading: Mapping[str, Any], images: Tensor, names: Sequence[str]
) -> None:
    """Remember a known product's photos with another region or other tiles; what was learned of them is void.

    Its photos are taken from the views beside the memory if these show enough, else from the photos given now.

    Raises:
        ValueError: Some are neither here nor there.
    """
    bank, side = model.memory, model.config.image_size
    known, old, framing = bank.product(product), bank.framings.get(product), Framing.of(reading)
    wanted = (side, side) if framing is None else framing.canvas(side)
    given = [(name, image, View.of(image).cells()) for name, image in zip(names, images, strict=True)]

    def seen(photo: Reference) -> Tensor | None:
        view = bank.views.get(photo.digest)
        if view is not None:
            pixels = view.pixels()
            if tuple(pixels.shape[-2:]) == wanted:
                return pixels
            if old is not None and wanted == (side, side):
                return whole(pixels[None], side)[0]
        for name, image, cells in given:
            if are_copies(view.cells(), cells) if view is not None else name == photo.name:
                return image
        return None

    found = {photo: seen(photo) for photo in known.photos}
    if missing := [photo.name or photo.digest[:12] for photo, pixels in found.items() if pixels is None]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"{product} is to be cut into other tiles, which takes its photos once more; missing are "
            f"{', '.join(missing[:5])}{more}. Give all of them, or remove those that are gone; nothing was changed."
        )
    held_out = {
        d: j for d, j in known.held_out.items() if d in bank.views and bank.views[d].levels.shape[-2:] == wanted
    }
    views = {digest: bank.views[digest] for digest in held_out}
    bank.remove(product)
    for photo, pixels in found.items():
        assert pixels is not None
        model.memorize(pixels[None], product, names=[photo.name], reading=reading)
    bank.views |= views
    dates = {image_digest(pixels): photo.added for photo, pixels in found.items() if pixels is not None}
    bank.update(
        product,
        photos=tuple(replace(p, added=dates.get(p.digest, p.added)) for p in bank.product(product).photos),
        held_out=held_out,
    )


def _sort_out(
    bank: MemoryBank, product: str, images: Tensor, names: list[str], report: Report
) -> tuple[list[int], dict[str, Tensor]]:
    """Places of the photos that are new, and all pixels by digest; notes known ones and copies in the report."""
    if len(names) != len(images):
        raise ValueError(f"{len(names)} names for {len(images)} images: expected one each.")
    photos = bank.references(product) if product in bank.categories else []
    called = {photo.digest: photo.name or photo.digest[:12] for photo in photos}
    cells = {digest: bank.views[digest].cells() for digest in called if digest in bank.views}
    new: list[int] = []
    pixels: dict[str, Tensor] = {}
    for place, (image, name) in enumerate(zip(images, names, strict=True)):
        digest = image_digest(image)
        pixels[digest] = image
        if digest in called:
            given = digest in {image_digest(images[i]) for i in new}
            (report.copies.append((name, called[digest])) if given else report.known.append(name))
            continue
        mine = View.of(image).cells()
        twin = next((other for other, theirs in cells.items() if are_copies(mine, theirs)), None)
        if twin is not None:
            report.copies.append((name, called[twin]))
            continue
        called[digest], cells[digest] = name, mine
        new.append(place)
    return new, pixels


def _describe_reading(model: "AnoPLeModel", report: Report, before: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is new in how a product's photos are read and remembered, and what is mixed in it, for the report."""
    bank, product = model.memory, report.product
    after = bank.product(product).reading
    old, new = before.get("ranges", {}), after.get("ranges", {})
    deep = [depth for depth in new if depth != "uint8" and list(old.get(depth, ())) != list(new[depth])]
    lines = [f"its photos are read as {describe(depth, new[depth])}" for depth in deep]
    mixed = [f"{product}: its photos have several depths, {' and '.join(new)}"] if deep and len(new) > 1 else []
    if deep:
        mixed += describe_difference({name: bank.ranges(name) for name in bank.categories})
    framing, side, grid = Framing.of(after), model.config.image_size, model.config.grid_size
    anew = framing != Framing.of(before)
    if anew:
        lines += framing.describe(after.get("size"), side, grid) if framing else ["all of its photos counts, uncut"]
    if anew and framing and len(bank.framings) == 1 and model.config.memory_search == "all":
        lines.append("from now on, photos whose product is not told are recognized, for all products of this detector")
    if "size" in after and (anew or after["size"] != before.get("size")) and not (framing and framing.tiled):
        lines += describe_sight(after["size"], grid)
    turns, old_turns = (reading.get("turns", "none") for reading in (after, before))
    if turns != old_turns or (turns != "none" and report.added):
        lines.append(_describe_turns(bank.references(product), turns))
    return lines, mixed


def _describe_turns(photos: Sequence[Reference], turns: str) -> str:
    if turns == "none":
        return "its photos are remembered as they lie, no longer turned"
    held = [tokens for photo in photos for tokens in (photo.features, photo.framed) if tokens is not None]
    count, rows = COPIES[turns], sum(tokens[..., 0].numel() for tokens in held) // len(photos[0].features)
    size = sum(tokens.numel() * tokens.element_size() for tokens in held) / 1e6
    return (
        f"turns {turns}: each photo is remembered at {count} angles, {rows:,} patches a layer and {size:.1f} MB in "
        f"all, {count} times those of the photos as they lie; so many times as much is searched for each photo of it"
    )


def _set_thresholds(
    model: "AnoPLeModel",
    report: Report,
    pixels: Mapping[str, Tensor],
    copies: int,
    rate: float | None,
    views: int,
    seed: int,
) -> None:
    """Those of a product, judged anew; `copies` is in how many positions its photos were remembered before."""
    bank, name, before = model.memory, report.product, report.before
    asked = rate if rate is not None else (before.false_alarm_rate if before else None) or RATE
    now_in = COPIES[bank.product(name).reading.get("turns", "none")]
    kept = bank.product(name).thresholds  # None where the product is framed anew
    unchanged = not report.added and kept is not None and kept.false_alarm_rate in (None, asked)
    if unchanged and copies == now_in:
        report.after, report.why = before, "no new photo, nothing to learn"
        return
    judge_all(model, name, pixels, views=views, seed=seed)
    known = bank.product(name)
    settled = known.settle(asked, grew=now_in >= copies)
    report.after = bank.update(name, thresholds=settled.thresholds).thresholds
    called = {photo.digest: photo.name or photo.digest[:12] for photo in known.photos}
    report.far = _far(known, called, asked)
    report.foreign = [
        (called[digest], judged.taken_for)
        for digest, judged in known.judged.items()
        if judged.taken_for and (called[digest] in report.added)
    ]
    report.why = _why(kept, report.after, known)
    if before is not None and kept is None:
        report.why += "; its photos are framed in another way, so that no earlier score counts"


def _far(known: Product, called: Mapping[str, str], rate: float) -> list[FarPhoto]:
    if not known.apart:
        return []
    everything = Thresholds.from_normals(
        [s for judged in known.judged.values() for s in judged.scores],
        [p for judged in known.judged.values() for p in judged.peaks],
        rate,
        num_photos=len(known.judged),
        exchangeable=False,
    )
    without = known.learn(rate).threshold
    return [FarPhoto(called[d], *how, everything.threshold, without) for d, how in known.apart.items()]


def _why(before: Thresholds | None, after: Thresholds | None, known: Any) -> str:
    if before is None or after is None:
        return "each photo judged by the others" if len(known.photos) > 1 else "changed views of the only photo"
    if before.method == "set by hand":
        return "it was set by hand and stays; `anople threshold RUN PRODUCT learned` gives the photos' own back"
    if after is before:
        return (
            "the promise holds: more photos in the memory make no good part stranger. `anople calibrate` with good "
            "photos that are not in the memory renews it"
        )
    if after.guaranteed:
        return f"the {len(known.held_out)} photos that the promise stands on were judged anew"
    lost = "; the promise was for another rate" if before.guaranteed else ""
    return f"all {len(known.photos)} photos judged anew, each by the others{lost}"


def _calibrate_one(model: "AnoPLeModel", name: str, images: Tensor, names: list[str], rate: float | None) -> Report:
    bank = model.memory
    known = bank.product(name)
    named = names or [f"photo {n}" for n in range(1, len(images) + 1)]
    report = Report(name, before=known.thresholds)
    new, pixels = _sort_out(bank, name, images, named, report)
    report.added = []
    earlier = {digest: bank.views[digest].cells() for digest in known.held_out if digest in bank.views}
    held_out = list(known.held_out)
    for place in new:
        view, digest = View.of(images[place]), image_digest(images[place])
        mine = view.cells()
        if digest in held_out:
            report.known.append(named[place])
            continue
        if any(are_copies(mine, cells) for cells in earlier.values()):
            report.copies.append((named[place], "one that it was calibrated on before"))
            continue
        bank.views[digest] = view
        held_out.append(digest)
        report.added.append(named[place])
    if not held_out:
        raise ValueError(f"only photos of {name!r} that are in the memory, or copies; thresholds need new ones.")
    asked = rate if rate is not None else (known.thresholds.false_alarm_rate if known.thresholds else None) or RATE
    judge_all(model, name, pixels, held_out=held_out, views=_views_of(known.judged))
    found = bank.product(name)
    report.after = found.calibrate(asked)
    bank.update(name, thresholds=report.after)
    needed = "" if can_promise(len(held_out), asked) else f"; a promise takes {photos_to_promise(asked)}"
    report.why = f"{len(held_out)} good photos that the memory does not hold{needed}"
    return report


def _views_of(judged: Mapping[str, Any]) -> int:
    return max((len(found.scores) for found in judged.values()), default=8)


__all__ = ["FarPhoto", "Report", "by_hand", "calibrate", "describe_change", "forget", "set_threshold", "teach"]
