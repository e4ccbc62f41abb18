"""What a photo that should not be among the good ones costs, and whether a promised rate holds.

Four good photos are taught as they are; then with a wrong part, an odd one, or copies among them. Each choice is
judged twice: with everything counted (a plain leave-one-out over all that was remembered), and as `teach` does.

    python scripts/measure_teaching.py DATA [DATA ...] --draws 5 --promises 20
    python scripts/measure_teaching.py DATA [DATA ...] --rules --draws 4     # other thresholds from four photos
    python scripts/measure_teaching.py DATA --concurrent 50 --processes 4    # commands at the same time: none lost?
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from seeds import remembering, start, untrained

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.calibration import judge_all
from anople_hf.data import load_inspection_data
from anople_hf.images import image_digest
from anople_hf.memory import BANK_FILE, MemoryBank
from anople_hf.thresholds import Thresholds

RATE = 0.05
RULES: dict[str, Callable[[list[list[float]]], float]] = {
    "the highest view": lambda photos: max(map(max, photos)),
    "their 95 % quantile": lambda photos: float(np.quantile(np.concatenate(photos), 0.95)),
    "the mean of the photos' highest views": lambda photos: statistics.mean(map(max, photos)),
}
"""Thresholds from the scores of each photo's changed views, judged by the other photos; `teach` sets the first."""


class Part:
    """One product: `photos` to teach with, views of `new` good parts and of `defective` ones to judge."""

    def __init__(self, processor: AnoPLeProcessor, splits: dict, rows: Sequence[int], name: str, most: int) -> None:
        self.name = name
        self.processor = processor
        self.photos = [splits["train"][i]["image"].convert("RGB") for i in rows]
        test = splits["test"]
        labels = list(zip(test["category"], test["label"], strict=True))
        found = {bad: [i for i, (c, label) in enumerate(labels) if c == name and bool(label) == bad]
                 for bad in (False, True)}  # fmt: skip
        pick = {bad: [ids[i] for i in np.random.default_rng(0).permutation(len(ids))[:most]]
                for bad, ids in found.items()}  # fmt: skip
        self.new, self.defective = (self.read([test[i]["image"] for i in pick[bad]]) for bad in (False, True))

    def read(self, photos: list[Image.Image]) -> torch.Tensor:
        """(n, 3, H, W) views."""
        return self.processor(images=photos)["pixel_values"]


def odd(photo: Image.Image) -> Image.Image:
    """The same part in another color: red, green and blue change places, and it is a third darker."""
    red, green, blue = photo.split()
    return Image.merge("RGB", (blue, red, green)).point(lambda value: int(value * 0.67))


def copy(photo: Image.Image) -> Image.Image:
    """The same photo, scaled to nine tenths and back, as a mail program does."""
    small = photo.resize((photo.width * 9 // 10, photo.height * 9 // 10))
    return small.resize(photo.size)


@torch.inference_mode()
def look(model: AnoPLeModel, images: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (n,) with the product told, and how unlike the product the photos are, 0 where that is not known."""
    found = [model(part, category=name, branch=model.decision_branch) for part in images.split(8)]
    scores = torch.cat([each.scores for each in found])
    strange = [each.strangeness for each in found if each.strangeness is not None]
    return scores, torch.cat(strange) if strange else torch.zeros_like(scores)


def percent_above(limit: float, scores: torch.Tensor) -> float:
    """Share of scores (n,) above a limit, in percent."""
    return 100 * (scores > limit).float().mean().item()


def count_everything(model: AnoPLeModel, images: torch.Tensor, name: str) -> float:
    """Remember every photo; the threshold of a leave-one-out in which every score counts."""
    for image in images:
        model.memorize(image[None], name)
    judge_all(model, name, {image_digest(image): image for image in images})
    judged = model.memory.product(name).judged.values()
    every = [s for found in judged for s in found.scores]
    return Thresholds.from_normals(every, every, RATE, num_photos=len(judged), exchangeable=False).threshold


def spoiled(part: Part, others: list[Part], draw: int) -> dict[str, list[Image.Image]]:
    """By what is among them, the four good photos of a draw, and what it is behind them."""
    order = np.random.default_rng(draw).permutation(len(part.photos))
    good = [part.photos[i] for i in order[:4]]
    wrong = others[draw % len(others)].photos[0]
    return {
        "clean": good,
        "a wrong part": [*good, wrong],
        "an odd one": [*good, odd(part.photos[order[4]])],
        "copies": [*good, copy(good[0]), copy(good[1])],
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=5, help="choices of four good photos")
    parser.add_argument("--promises", type=int, default=20, help="choices of 4 photos to teach and 19 to calibrate on")
    parser.add_argument("--most", type=int, default=30, help="good and defective test photos a product")
    parser.add_argument("--backbone", default="embedded:tiny-clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rules", action="store_true", help="only compare thresholds from four photos")
    parser.add_argument("--concurrent", type=int, default=0, help="only teach so many products by the command line")
    parser.add_argument("--processes", type=int, default=4, help="so many of them at a time")
    args = parser.parse_args()
    start(args.threads)
    if args.concurrent:
        teach_at_once(args.data[0], args.concurrent, args.processes, args.backbone)
        return
    for root in args.data:
        splits = load_inspection_data(root)
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(splits["train"]["category"]):
            rows.setdefault(name, []).append(i)
        model, processor = untrained(args.backbone, list(rows))
        parts = [Part(processor, splits, own, name, args.most) for name, own in rows.items()]
        empty = model.memory.without([])
        print(f"\n{root.name}: {len(parts)} products, {args.draws} draws of 4 good photos, asked {RATE:.0%}")
        if args.rules:
            compare_rules(model, empty, parts, args.draws)
            continue
        spoil(model, empty, parts, args.draws)
        promises(model, empty, parts, args.promises)


def spoil(model: AnoPLeModel, empty: MemoryBank, parts: list[Part], draws: int) -> None:
    """Print what photos among the good ones cost, and of how many photos `unknown product` is said."""
    table: dict[tuple[str, str], list[tuple[float, float]]] = {}
    named: dict[str, list[bool]] = {}
    unknown: list[list[float]] = []
    for part in parts:
        others = [other for other in parts if other is not part]
        foreign = torch.cat([other.new[:8] for other in others])
        with remembering(model):
            for kind, photos in (each for draw in range(draws) for each in spoiled(part, others, draw).items()):
                images, names = part.read(photos), [str(n) for n in range(len(photos))]
                for way in ("everything counts", "teach"):
                    model.memory = empty.without([])
                    if way == "teach":
                        report = model.teach(images, part.name, names=names, false_alarm_rate=RATE)
                        assert report.after is not None
                        limit = report.after.threshold
                        said = {name for name, _ in [*report.foreign, *report.copies]}
                        said |= {photo.name for photo in report.far}
                        named.setdefault(kind, []).append(bool(said if kind == "clean" else said & set(names[4:])))
                    else:
                        limit = count_everything(model, images, part.name)
                    found = [look(model, views, part.name) for views in (part.new, part.defective)]
                    alarms, hits = (percent_above(limit, scores) for scores, _ in found)
                    table.setdefault((kind, way), []).append((alarms, hits))
                if kind == "clean":
                    found.append(look(model, foreign, part.name))
                    unknown.append([100 * (strange > 1).float().mean().item() for _, strange in found])
    print("| among the good photos | way | false alarms | defects found | named |\n|---|---|---|---|---|")
    for (kind, way), shares in table.items():
        alarms, hits = (statistics.mean(column) for column in zip(*shares, strict=True))
        told = f"{100 * statistics.mean(named[kind]):.0f} %" if way == "teach" else ""
        print(f"| {kind} | {way} | {alarms:.1f} % | {hits:.1f} % | {told} |", flush=True)
    good, bad, other = (statistics.mean(column) for column in zip(*unknown, strict=True))
    print(
        f"unknown product: {good:.1f} % of good parts, {bad:.1f} % of defective ones, {other:.1f} % of other products'"
    )


def compare_rules(model: AnoPLeModel, empty: MemoryBank, parts: list[Part], draws: int) -> None:
    """Print false alarms and defects found with each of `RULES`: means over products and draws, and the worst draw."""
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    for part in parts:
        with remembering(model):
            for draw in range(draws):
                order = np.random.default_rng(draw).permutation(len(part.photos))
                model.memory = empty.without([])
                report = model.teach(part.read([part.photos[i] for i in order[:4]]), part.name, false_alarm_rate=RATE)
                photos = [list(judged.scores) for judged in model.memory.product(part.name).judged.values()]
                assert report.after is not None and (report.far or report.after.threshold == max(map(max, photos)))
                scores = [look(model, views, part.name)[0] for views in (part.new, part.defective)]
                for name, rule in RULES.items():
                    limit = rule(photos)
                    alarms, hits = (percent_above(limit, found) for found in scores)
                    shares[name].append((alarms, hits))
    print("| threshold | false alarms | in the worst draw | defects found |\n|---|---|---|---|")
    for name, found in shares.items():
        alarms, hits = zip(*found, strict=True)
        print(f"| {name} | {statistics.mean(alarms):.1f} % | {max(alarms):.1f} % | {statistics.mean(hits):.1f} % |")


def teach_at_once(root: Path, count: int, processes: int, backbone: str) -> None:
    """Teach each of `count` products one photo, by commands that several processes start, and count what is known."""
    paths = [root / path for path in load_inspection_data(root)["train"]["path"]]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        model, processor = untrained(backbone)
        model.save_pretrained(run)
        processor.save_pretrained(run)

        def teach(number: int) -> int:
            words = ["teach", run, f"product {number}", paths[number % len(paths)], "--quiet"]
            command = [sys.executable, "-m", "anople_hf.cli", *map(str, words)]
            return subprocess.run(command, stdout=subprocess.DEVNULL).returncode

        started = time.perf_counter()
        with ThreadPoolExecutor(processes) as pool:
            codes = list(pool.map(teach, range(count)))
        seconds = time.perf_counter() - started
        known = set(MemoryBank.load(run / BANK_FILE).categories)
    there = len(known & {f"product {number}" for number in range(count)})
    print(
        f"{count} teaches, {processes} at a time: {codes.count(0)} ended well, {there} products are there, "
        f"{seconds:.0f} s"
    )


@torch.inference_mode()
def promises(model: AnoPLeModel, empty: MemoryBank, parts: list[Part], draws: int) -> None:
    """Teach four photos, calibrate on 19 others, judge the rest: the mean share of false alarms."""
    parts = [part for part in parts if len(part.photos) + len(part.new) >= 33]
    if not parts or not draws:
        return
    print(f"\n{RATE:.0%} promised on 19 photos, mean of {draws} draws")
    print("| product | false alarms | defects found |\n|---|---|---|")
    for part in parts:
        every = torch.cat([part.read(part.photos), part.new])
        found = []
        for draw in range(draws):
            order = np.random.default_rng(1000 + draw).permutation(len(every))
            model.memory = empty.without([])
            model.memorize(every[order[:4]], part.name)
            near, _ = look(model, every[order[4:]], part.name)
            limit = Thresholds.from_normals(
                near[:19].tolist(), [1.0], RATE, num_photos=19, exchangeable=True
            ).threshold
            defective, _ = look(model, part.defective, part.name)
            found.append((percent_above(limit, near[19:]), percent_above(limit, defective)))
        alarms, hits = (statistics.mean(column) for column in zip(*found, strict=True))
        print(f"| {part.name} | {alarms:.1f} % | {hits:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
