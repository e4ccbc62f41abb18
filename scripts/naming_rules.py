"""Which rule names a photo that does not belong among the good ones, and how often it names one that does.

A product's photos are judged as `anople teach` judges them, each by the others: as they are; with one of another
product among them; with one in other colors. What was found is kept in a file, so that rules and factors can be
compared again without judging anything. Products are those of data sets, and places in photos of scenes: seen again a
little shifted, turned and zoomed in other light, or, of `dtd`'s textures, somewhere else on the same surface.

    anople demo-data DRAWN --seed 21 --train 12
    python scripts/naming_rules.py DRAWN --draws 2 --judged drawn.jsonl
    python scripts/naming_rules.py --scenes PHOTOS --most 10 --draws 2 --judged scenes.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_teaching import odd
from PIL import Image
from seeds import remembering, start, untrained
from tiny_clip.photos import PhotoPool

from anople_hf import AnoPLeModel, AnoPLeProcessor, products
from anople_hf.calibration import judge, judge_all
from anople_hf.data import load_inspection_data
from anople_hf.images import image_digest
from anople_hf.products import Judged, Product

SHOTS = (4, 8)
SIDE = 240
OFF = 9e9
RULES = {
    "distance on the whole": [(factor, OFF, OFF) for factor in (1.2, 1.3, 1.4, 1.5, 1.75, 2.0)],
    "score, of the strangest spot": [(OFF, factor, OFF) for factor in (1.5, 1.75, 2.0)],
    "color": [(OFF, OFF, factor) for factor in (1.5, 2.0, 3.0)],
    "all three": [(1.5, 1.75, 2.0), (1.75, 1.75, 2.0), (2.0, 1.75, 2.0), (2.0, 2.0, 2.0), (2.0, 1.5, 2.0)],
}
"""Values of `FAR_WHOLE`, `FAR_SPOT` and `FAR_COLOR` to compare, by what they compare."""


def places(folder: Path, most: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Products made of photos that the embedded backbone has not learned from: 9 views of a place in each."""
    paths = PhotoPool(folder, held_back=True).paths
    for path in paths[:: max(1, len(paths) // most)][:most]:
        rng = np.random.default_rng(len(path.name))
        with Image.open(path) as photo:
            whole = photo.convert("RGB")
        yield path.name, [look_again(whole, rng, anywhere=path.parent.name == "dtd") for _ in range(9)]


def look_again(whole: Image.Image, rng: np.random.Generator, *, anywhere: bool) -> Image.Image:
    """A view of seven tenths of a photo: of its middle, up to 3 % shifted, or of any part."""
    side = 0.7 * min(whole.size)
    middle = [rng.uniform(side / 2, length - side / 2) if anywhere else length / 2 + rng.uniform(-0.03, 0.03) * side
              for length in whole.size]  # fmt: skip
    half = side * (1 + rng.uniform(-0.03, 0.03)) / 2
    box = [int(middle[0] - half), int(middle[1] - half), int(middle[0] + half), int(middle[1] + half)]
    turned = whole.rotate(rng.uniform(-3, 3), center=(middle[0], middle[1]), resample=Image.Resampling.BICUBIC)
    values = np.asarray(turned.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    values = values * (1 + rng.uniform(-0.06, 0.06)) + rng.uniform(-8, 8) + rng.normal(0, 3, values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def folders(root: Path) -> Iterator[tuple[str, list[Image.Image]]]:
    """The products of a data set, with up to 12 good photos."""
    train = load_inspection_data(root)["train"]
    for name in dict.fromkeys(train["category"]):
        rows = [i for i, category in enumerate(train["category"]) if category == name][:12]
        yield name, [train[i]["image"].convert("RGB") for i in rows]


def judged(
    model: AnoPLeModel,
    processor: AnoPLeProcessor,
    found: list[tuple[str, list[Image.Image]]],
    known: set[str],
    draws: int,
) -> Iterator[list[dict]]:
    """Of each draw, by product: its kind, the photo that does not belong, how all and a new good one were judged."""
    empty = model.memory.without([])
    for place, (name, photos) in enumerate(found):
        if name in known:
            continue
        rows = []
        pixels = processor(images=photos)["pixel_values"]
        with remembering(model):
            for shots in SHOTS:
                for draw in range(draws):
                    order = np.random.default_rng([shots, draw]).permutation(len(photos))
                    good, last = pixels[order[:shots]], order[shots]
                    strange = found[(place + 1 + draw) % len(found)][1][draw]
                    among = {"clean": None, "wrong": strange, "odd": odd(photos[last])}
                    for kind, photo in among.items():
                        extra = processor(images=photo)["pixel_values"] if photo else good[:0]
                        model.memory = empty.without([])
                        every = torch.cat([good, extra])
                        model.memorize(every, name)
                        judge_all(model, name, {image_digest(image): image for image in every})
                        all_of_them = model.memory.product(name).judged
                        row: dict[str, Any] = {"product": name, "shots": shots, "kind": kind}
                        if photo:
                            row["extra"] = image_digest(extra[0])
                        else:
                            new = judge(model, name, pixels[last], image_digest(pixels[last]), views=1)
                            row["new"] = new.distance
                        row["judged"] = {digest: one.to_dict() for digest, one in all_of_them.items()}
                        rows.append(row)
        yield rows


def main() -> None:
    """Judge what is not kept yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*", help="data sets with at least 9 good photos a product")
    parser.add_argument("--scenes", type=Path, help="folder of photos, as for tiny_clip/distill.py")
    parser.add_argument("--most", type=int, default=24, help="photos of scenes")
    parser.add_argument("--draws", type=int, default=3, help="choices of good photos, for each number of them")
    parser.add_argument("--judged", type=Path, required=True, help="file to keep what was judged in; read if there")
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start(args.threads)
    chosen = products.FAR_WHOLE, products.FAR_SPOT, products.FAR_COLOR
    args.judged.touch()
    rows = [json.loads(line) for line in args.judged.read_text().splitlines()]
    found = [one for root in args.data for one in folders(root)]
    found += list(places(args.scenes, args.most)) if args.scenes else []
    known = {row["product"] for row in rows}
    with args.judged.open("a") as file:
        for more in judged(*untrained(args.backbone), found, known, args.draws):
            rows += more
            file.write("".join(f"{json.dumps(row)}\n" for row in more))
            file.flush()
    for row in rows:
        row["known"] = Product((), judged={d: Judged.from_dict(one) for d, one in row["judged"].items()})
    counts = ", ".join(f"{sum(row['shots'] == shots for row in rows) // 3} of {shots}" for shots in SHOTS)
    print(f"\n{len({row['product'] for row in rows})} products; draws of good photos: {counts}")
    print("\n| compared | factor | clean draws with a photo named (4, 8 shots) | wrong ones named | odd ones named |")
    print("|---|---|---|---|---|")
    for rule, choices in RULES.items():
        for factors in choices:
            tell(rows, rule, factors)
    products.FAR_WHOLE, products.FAR_SPOT, products.FAR_COLOR = chosen
    unknown(rows)


def tell(rows: list[dict], rule: str, factors: tuple[float, float, float]) -> None:
    """A line of the first table."""
    products.FAR_WHOLE, products.FAR_SPOT, products.FAR_COLOR = factors

    def share(kind: str, shots: int | None = None) -> float:
        some = [row for row in rows if row["kind"] == kind and shots in (None, row["shots"])]
        hits = [row["extra"] in row["known"].far if "extra" in row else bool(row["known"].far) for row in some]
        return 100 * sum(hits) / max(1, len(hits))

    used = ", ".join(f"{factor:g}" for factor in factors if factor < OFF)
    each = ", ".join(f"{share('clean', shots):.1f}" for shots in SHOTS)
    print(f"| {rule} | {used} | {share('clean'):.1f} % ({each}) | {share('wrong'):.0f} % | {share('odd'):.0f} % |")


def unknown(rows: list[dict]) -> None:
    """The second table: from which factor on a photo shows an unknown product."""
    print("\n| times as far as the strangest good photo | new good photos called unknown | a wrong one | an odd one |")
    print("|---|---|---|---|")
    clean = [(row["new"], row["known"]) for row in rows if row["kind"] == "clean"]
    others = {"wrong": [], "odd": []}
    for row in rows:
        if "extra" in row:
            rest = {d: one for d, one in row["known"].judged.items() if d != row["extra"]}
            others[row["kind"]].append(
                (row["known"].judged[row["extra"]].distance, replace(row["known"], judged=rest))
            )
    for factor in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5):
        products.STRANGE = factor
        shares = [
            100 * sum(distance > (known.familiar_within or 0) for distance, known in pairs) / max(1, len(pairs))
            for pairs in (clean, others["wrong"], others["odd"])
        ]
        print(f"| {factor:g} | " + " | ".join(f"{share:.1f} %" for share in shares) + " |")


if __name__ == "__main__":
    main()
