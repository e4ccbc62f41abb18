"""The verbs `anople memorize`, `calibrate` and `remove`: products come and go without training.

Where in the paper: sec. 3.4.
"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, OwnRun, Quiet, SkipBad, find_run, load_data, load_run, quieten, read_photos, tell


def memorize(
    run: OwnRun,
    category: Annotated[str, typer.Argument(metavar="PRODUCT", help="Name of the product, new or known.")],
    photos: Annotated[list[str], typer.Argument(help="Good photos: files, folders, patterns, or - for stdin.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a product, or more photos of a known one, without training."""
    quieten(quiet)
    where = find_run(run, own=True)
    good = read_photos(photos, skip_bad)
    model, processor = load_run(where)
    from ..calibration import calibrate as set_thresholds

    pixels = processor(images=list(good.values()))["pixel_values"]
    before = len(model.memory)
    model.memorize(pixels, category, names=[str(path) for path in good])
    found = set_thresholds(model, {category: pixels}, false_alarm_rate=false_alarm_rate)
    model.save_memory(run)
    added, known = len(model.memory) - before, list(model.memory.categories)
    tell(
        as_json,
        {"category": category, "added": added, "threshold": found[category].threshold, "known": known},
        f"{category}: {added} photos added; known: {', '.join(known)}",
    )


def calibrate(
    run: OwnRun,
    data: Annotated[Path, typer.Argument(help="More good photos, laid out as for train.")],
    false_alarm_rate: Annotated[float, typer.Option(help="Share of good parts that may be called defective.")] = 0.05,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds from good photos that the detector has not seen: then the false-alarm rate is a promise.

    Photos that are in its memory are left out. 5 % takes at least 19 photos a product, 1 % takes 99.
    """
    quieten(quiet)
    where = find_run(run, own=True)
    split = load_data(data, skip_bad=skip_bad)["train"]
    model, processor = load_run(where)
    from ..calibration import calibrate_on_new
    from ..configuration_anople import SHARED
    from ..images import image_digest

    photos, lines = {}, []
    for category in dict.fromkeys(split["category"]):
        known = {reference.digest for reference in model.memory.references(category)}
        rows = split.filter(lambda name, wanted=category: name == wanted, input_columns="category")
        good = read_photos([data / path for path in rows["path"]], skip_bad)
        pixels = processor(images=list(good.values()))["pixel_values"]
        photos[category] = pixels[[image_digest(image) not in known for image in pixels]]
        lines.append(
            f"{category}: {len(photos[category])} new photos, {len(pixels) - len(photos[category])} known ones"
        )
    photos = {category: pixels for category, pixels in photos.items() if len(pixels)}
    if not photos:
        raise ValueError(f"{data} holds only photos that are in the memory; thresholds need new ones.")
    thresholds = calibrate_on_new(model, photos, false_alarm_rate=false_alarm_rate)
    for name, found in thresholds.items():
        whom = "any category" if name == SHARED else name
        promise = "promised" if found.guaranteed else f"not promised by {found.num_photos} photos"
        lines.append(f"{whom}: threshold {found.threshold:.4f}, {false_alarm_rate:.1%} false alarms {promise}")
    model.save_memory(run)
    tell(as_json, {"thresholds": {name: found.to_dict() for name, found in thresholds.items()}}, *lines)


def remove(
    run: OwnRun,
    category: Annotated[str, typer.Argument(metavar="PRODUCT", help="Product to take out.")],
    photo: Annotated[str | None, typer.Option(help="Only this photo of it, by its name.")] = None,
    as_json: Json = False,
) -> None:
    """Take a product, or one of its photos, out of a detector's memory."""
    quieten(True)
    model, _ = load_run(find_run(run, own=True))
    model.remove(category, photo)
    model.save_memory(run)
    known = list(model.memory.categories)
    tell(
        as_json,
        {"category": category, "photo": photo, "known": known},
        f"{photo or category} removed; known: {', '.join(known) or 'none'}",
    )
