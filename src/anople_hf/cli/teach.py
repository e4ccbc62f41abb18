"""The verbs `anople teach`, `calibrate`, `products`, `threshold`, `rename` and `remove`: products without training.

What is known of a product is kept in the detector's memory bank (sec. 3.4). A verb that changes it holds the folder's
lock from reading to writing, so verbs that run at the same time lose nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..framing import FramingRequest
from ..training.configuration import Turns
from .options import (
    Json,
    OwnRun,
    Quiet,
    Run,
    SkipBad,
    find_run,
    load_data,
    load_run,
    next_steps,
    quieten,
    read_photos,
    start_torch,
    tell,
)

if TYPE_CHECKING:
    from ..modeling_anople import AnoPLeModel
    from ..photos import Photo
    from ..processing_anople import AnoPLeProcessor
    from ..teaching import Report

Product = Annotated[str, typer.Argument(metavar="PRODUCT", help="Name of the product.")]
Rate = Annotated[
    float | None,
    typer.Option(help="Share of good parts that may be called defective. Default: the product's; 0.05 for a new one."),
]


@contextmanager
def _changed(run: Path) -> "Iterator[tuple[AnoPLeModel, AnoPLeProcessor]]":
    """The detector in a folder, to be changed; its memory is saved at the end. Nobody else changes it meanwhile."""
    from ..output.locking import changing

    where = find_run(run, own=True)
    with changing(run):
        model, processor = load_run(where)
        yield model, processor
        model.save_memory(run)


@contextmanager
def _begun(run: Path, backbone: str) -> "Iterator[tuple[AnoPLeModel, AnoPLeProcessor]]":
    """A new detector that has learned nothing; the folder is written at the end, whole or not at all."""
    from ..output.whole import whole_folder

    with whole_folder(run) as folder:
        start_torch()
        from ..modeling_anople import AnoPLeModel
        from ..processing_anople import AnoPLeProcessor

        model = AnoPLeModel.from_backbone(backbone)
        processor = AnoPLeProcessor.from_backbone(backbone, model.config)
        yield model, processor
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def teach(
    run: OwnRun,
    category: Annotated[str, typer.Argument(metavar="PRODUCT", help="Name of the product, new or known.")],
    photos: Annotated[list[str], typer.Argument(help="Good photos: files, folders, patterns, or - for stdin.")],
    false_alarm_rate: Rate = None,
    turns: Annotated[
        Turns | None,
        typer.Option(
            help="Its parts lie at right angles (4), at those between, too (8), or as they fall (free): remember each "
            "photo in all of these positions. Holds for all of its photos. Default: the product's; none for a new one."
        ),
    ] = None,
    word: Annotated[str, typer.Option(help="For the product, as in a text prompt. Default: its name.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse photos far from the others, or of another product.")
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(
            help="What counts in its photos: x,y,w,h or a polygon 'x,y x,y x,y' in photo pixels, a mask image (white "
            "counts), or whole."
        ),
    ] = None,
    tiles: Annotated[
        str, typer.Option(help="Cut its photos into rows x columns, such as 2x3, or auto; 1x1 cuts no more.")
    ] = "",
    smallest: Annotated[
        str, typer.Option(help="--tiles auto: smallest defect wanted, in photo pixels, or a length such as 0.4mm.")
    ] = "",
    pixel_size: Annotated[str, typer.Option(help="--smallest as a length: what a pixel shows, such as 0.05mm.")] = "",
    backbone: Annotated[
        str,
        typer.Option(help="Begin a new detector in RUN that needs no training, around tiny or any CLIP as for train."),
    ] = "",
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a product, or more photos of a known one, without training.

    The product's threshold comes from all of its photos, each judged by the others. A photo that is unlike the others
    is named and sets no threshold; copies count once; a promised false-alarm rate stays promised. Region and tiles
    stay with the product; another region or other tiles for a known one take its photos once more.
    """
    quieten(quiet)
    asked = FramingRequest(region, tiles, smallest, pixel_size)
    if not backbone:  # a wrong folder ends here, before any photo is read
        find_run(run, own=True, hint=" To begin one that needs no training, add --backbone tiny.")
    elif (run / "config.json").is_file():
        raise FileExistsError(f"{run} is a detector already: leave out --backbone to teach it.")
    good = read_photos(photos, skip_bad, whole=bool(tiles))
    with _begun(run, backbone) if backbone else _changed(run) as (model, processor):
        known, grid = model.memory.reading(category), model.config.grid_size
        good = _large_enough(good, skip_bad, model, category)
        pixels, reading = processor.read_good(good.values(), known, asked=asked, grid=grid)
        how: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "strict": strict, "word": word, "turns": turns}
        report = model.teach(pixels, category, names=list(good), reading=reading, **how)
        names = list(model.memory.categories)
        held_out = len(model.memory.product(category).held_out)
    steps = next_steps(run, {category: report.after}, known=held_out)
    told = [] if quiet else ["next:", *(f"  {step}" for step in steps)]
    summary = report.to_dict() | {"known": names, "odd": report.odd, "next": steps}
    tell(as_json, summary, *report.lines(), f"known: {', '.join(names)}", *told)


def calibrate(
    run: OwnRun,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA | PRODUCT", help="Good photos, laid out as for train; or a product, with photos."
        ),
    ],
    photos: Annotated[
        list[str] | None, typer.Argument(help="Good photos of the product: files, folders, patterns.")
    ] = None,
    false_alarm_rate: Rate = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds from good photos that the detector has not seen: then the false-alarm rate is a promise.

    Photos that are in its memory, and copies, are left out; those of earlier calls count, too. 5 % takes at least 19
    photos a product, 1 % takes 99. Only the thresholds of the products given change.
    """
    quieten(quiet)
    find_run(run, own=True)
    given = {data: read_photos(photos, skip_bad)} if photos else _by_product(data, skip_bad)
    with _changed(run) as (model, processor):
        from ..teaching import calibrate as set_thresholds

        for product, good in given.items():
            model.memory.product(product)  # an unknown one ends here, before any work
            given[product] = _large_enough(good, skip_bad, model, product)
        pixels = {
            product: processor(
                images=list(good.values()),
                ranges=model.memory.ranges(product),
                framing=model.memory.framings.get(product),
            )["pixel_values"]
            for product, good in given.items()
        }
        names = {product: list(good) for product, good in given.items()}
        reports = set_thresholds(model, pixels, names=names, false_alarm_rate=false_alarm_rate)
    lines = [line for report in reports for line in _calibrated(report)]
    tell(as_json, {"products": [report.to_dict() for report in reports]}, *lines)


def _by_product(data: str, skip_bad: bool) -> "dict[str, dict[str, Photo]]":
    root = Path(data)
    split = load_data(root, skip_bad=skip_bad)["train"]
    places: dict[str, list[str | Path]] = {}
    for category, path in zip(split["category"], split["path"], strict=True):
        places.setdefault(category, []).append(root / path)
    return {category: read_photos(paths, skip_bad) for category, paths in places.items()}


def _large_enough(good: "dict[str, Photo]", skip_bad: bool, model: "AnoPLeModel", product: str) -> "dict[str, Photo]":
    """The photos, decoded once more if they were decoded smaller than the product's tiles need."""
    from ..framed import least_side
    from ..images import SCREEN, from_printable

    if least_side(model.memory, product, model.config.image_size) <= SCREEN:
        return good
    return read_photos([from_printable(name) for name in good], skip_bad, whole=True)


def _calibrated(report: "Report") -> list[str]:
    first = f"{report.product}: {len(report.added)} new photos, {len(report.known)} known ones"
    return [first, *report.lines()[1:]]


def products(run: Run, as_json: Json = False) -> None:
    """List the products that a detector knows: photos, threshold, what it promises, when, and the odd photo out."""
    quieten(True)
    model, _ = load_run(find_run(run))
    told = [_known(model, name) for name in model.memory.categories]
    lines = [line for _, own in told for line in own]
    common = model.memory.thresholds_of()
    if common and not model.recognizes:
        lines.append(f"any, if the product is not told: threshold {common.threshold:.4g}, {common.promise}")
    rows = [row for row, _ in told]
    tell(as_json, {"products": rows, "common": common.to_dict() if common else None}, *(lines or ["no product"]))


def _known(model: "AnoPLeModel", name: str) -> tuple[dict[str, Any], list[str]]:
    """What is known of a product, as JSON and for people."""
    product = model.memory.product(name)
    found, odd, framing = product.thresholds, product.by_strangeness, model.memory.framings.get(name)
    size, side, grid = product.reading.get("size"), model.config.image_size, model.config.grid_size
    called = {photo.digest: photo.name or photo.digest[:12] for photo in product.photos}
    row = {
        "product": name,
        "word": product.word,
        "photos": len(product.photos),
        "turns": product.reading.get("turns", "none"),
        "thresholds": found.to_dict() if found else None,
        "promise": found.promise if found else None,
        "framing": framing.describe(size, side, grid) if framing else [],
        "least_typical": called[odd[0][0]] if odd else None,
        "far": [called[digest] for digest in product.far],
    }
    said = f"threshold {found.threshold:.4g}, {found.promise}" if found else "no threshold"
    when = f", {found.date[:10]}" if found and found.date else ""
    turned = f" with turns {turns}" if (turns := row["turns"]) != "none" else ""
    count = f"{len(product.photos)} photo{'' if len(product.photos) == 1 else 's'}"
    lines = [f"{name}: {count}{turned}, {said}{when}", *(f"  {line}" for line in row["framing"])]
    if len(odd) > 1:
        far = " (far from the others, sets no threshold)" if odd[0][0] in product.far else ""
        lines.append(f"  least typical: {called[odd[0][0]]}{far}")
    return row, lines


def threshold(
    run: OwnRun,
    category: Product,
    value: Annotated[
        str | None,
        typer.Argument(
            help="The threshold for scores, or `learned`: what its photos set. Without it, shows what holds."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a product's threshold, set it by hand, or go back to the one that its photos set."""
    quieten(True)
    if value is None:
        model, _ = load_run(find_run(run))
        row, lines = _known(model, category)
        tell(as_json, row, *lines)
        return
    try:
        number = None if value == "learned" else float(value)
    except ValueError as error:
        raise ValueError(f"threshold {value!r}: expected a number, or `learned`.") from error
    with _changed(run) as (model, _):
        from ..teaching import set_threshold

        report = set_threshold(model, category, number)
    tell(as_json, report.to_dict(), report.lines()[-1])


def rename(
    run: OwnRun,
    category: Product,
    name: Annotated[str, typer.Argument(help="The new name.")],
    as_json: Json = False,
) -> None:
    """Give a product another name; its photos and thresholds stay."""
    quieten(True)
    with _changed(run) as (model, _):
        model.memory.rename(category, name)
        known = list(model.memory.categories)
    tell(as_json, {"category": name, "known": known}, f"{category} is {name} now; known: {', '.join(known)}")


def remove(
    run: OwnRun,
    category: Annotated[str, typer.Argument(metavar="PRODUCT", help="Product to take out.")],
    photo: Annotated[str | None, typer.Option(help="Only this photo of it, by its name.")] = None,
    as_json: Json = False,
) -> None:
    """Take a product with all that is known of it, or one of its photos, out of a detector's memory."""
    quieten(True)
    with _changed(run) as (model, _):
        report = model.remove(category, photo)
        known = list(model.memory.categories)
    changed = report.lines()[-1:] if photo else []
    tell(
        as_json,
        {"category": category, "photo": photo, "known": known} | ({"thresholds": report.to_dict()} if photo else {}),
        f"{photo or category} removed; known: {', '.join(known) or 'none'}",
        *changed,
    )
