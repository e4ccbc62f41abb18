"""The service under load, and a large report: are answers right, how long do they take, is anything lost?

    python scripts/benchmark_service.py RUN PHOTOS --clients 20 --seconds 120 --report 5000

Starts `anople serve RUN`. Each client sends one photo after the other, every second one with its product told, and
compares each answer with what `predict` says of the photo. At the end the service is told to end while requests run.
`--report` writes a report of so many rows, those of the photos over and over, and opens it in Chromium if it is here.
"""

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean, median, quantiles

import requests
import torch

from anople_hf import AnoPLeModel, AnoPLeProcessor
from anople_hf.images import find_images, read_image
from anople_hf.inspection.predict import Prediction, predict
from anople_hf.inspection.report import write_report
from anople_hf.inspection.results import growing_results
from anople_hf.pictures.overlays import color_scale

CLOSE = 1e-5
"""Largest relative difference of a score that counts as the same: passes of other sizes round differently."""


def ask(url: str, expected: list[tuple[Path, str | None, Prediction]], end: threading.Event, seen: dict) -> None:
    """One client: ask until the end, compare, and note."""
    order, session = random.Random(threading.get_ident()), requests.Session()
    contents = {path: path.read_bytes() for path, _, _ in expected}
    while not end.is_set():
        path, product, wanted = order.choice(expected)
        started = time.perf_counter()
        how = {"files": {"photos": (path.name, contents[path])}, "data": {"product": product} if product else {}}
        try:
            answer = session.post(f"{url}/score", timeout=120, **how)
        except requests.ConnectionError as error:
            seen["lost"].append(str(error))
            return
        seen["seconds"].append(time.perf_counter() - started)
        if answer.status_code != 200:
            seen["lost"].append(answer.text)
            continue
        got, result = answer.json()["results"][0], wanted.result
        seen["differences"].append(abs(got["score"] / result["score"] - 1))
        same = got["label"] == result["label"] and got["product"] == wanted.category and got["name"] == path.name
        seen["wrong"] += [] if same and seen["differences"][-1] < CLOSE else [path.name]


def load(run: Path, expected: list[tuple[Path, str | None, Prediction]], clients: int, seconds: float) -> dict:
    """What so many clients at once see."""
    command = [sys.executable, "-m", "anople_hf.cli", "serve", str(run), "--port", "0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    url = next(found[1] for line in service.stderr if (found := re.search(r"on (http://\S+);", line)))
    threading.Thread(target=service.stderr.read, daemon=True).start()  # or its log would fill the pipe
    seen: dict[str, list] = {name: [] for name in ("seconds", "differences", "wrong", "lost")}
    end = threading.Event()
    threads = [threading.Thread(target=ask, args=(url, expected, end, seen)) for _ in range(clients)]
    requests.get(f"{url}/ready", timeout=60).raise_for_status()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    text = requests.get(f"{url}/metrics", timeout=60).text
    passes, photos = (float(re.search(rf"^anople_batch_photos_{n} (\S+)", text, re.M)[1]) for n in ("count", "sum"))
    end.set()  # nobody asks anew; what was asked has to be answered
    time.sleep(0.2)
    service.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "answers": len(seen["seconds"]),
        "wrong": len(seen["wrong"]),
        "lost": len(seen["lost"]),
        "largest_relative_difference": max(seen["differences"]),
        "photos_a_second": round(len(seen["seconds"]) / took, 1),
        "photos_a_pass": round(photos / passes, 1),
        "median_ms": round(1000 * median(seen["seconds"])),
        "p95_ms": round(1000 * quantiles(seen["seconds"], n=20)[-1]),
        "exit_code": service.wait(60),
    }


def report(model: AnoPLeModel, judged: list[Prediction], count: int) -> dict:
    """How large a report of `count` photos is, how long it takes to write, and to open."""
    with tempfile.TemporaryDirectory() as name, growing_results(Path(name) / "out", {}) as results:
        recognizes = model.config.memory_search == "product"
        found = [results.add(one, color_scale(model, one.category, recognized=recognizes)) for one in judged]
        stamps = (time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(1.8e9 + 5 * n)) for n in range(count))
        rows = [found[number % len(found)] | {"time": stamp} for number, stamp in enumerate(stamps)]
        started = time.perf_counter()
        path = write_report(rows, results.folder, title="Benchmark", scale=None)
        seconds, shown = time.perf_counter() - started, path.read_text(encoding="utf-8").count("<figure ")
        took: dict[str, object] = {"photos": count, "with_pictures": shown, "write_s": round(seconds, 1)}
        took["megabytes"] = round(path.stat().st_size / 1e6, 1)
        chromium = shutil.which("chromium")
        if chromium:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as tool:
                browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
                times = []
                for _ in range(3):
                    page = browser.new_page()
                    started = time.perf_counter()
                    page.goto(path.as_uri())
                    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                    times.append(time.perf_counter() - started)
                    page.close()
                took["open_s"] = round(mean(times), 2)
                browser.close()
    return took


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--report", type=int, metavar="ROWS", help="measure a report, too")
    args = parser.parse_args()
    model, processor = AnoPLeModel.from_pretrained(args.run).eval(), AnoPLeProcessor.from_pretrained(args.run)
    paths = [path for path in find_images(args.photos, recursive=True) if "ground_truth" not in path.parts][:64]
    sizes = {read_image(path).size for path in paths}
    expected: list[tuple[Path, str | None, Prediction]] = []
    for product in (None, model.memory.categories[0]):
        found = predict(model, processor, paths, category=product, progress=False)
        expected += [(one.path, product, one) for one in found]
    measured: dict[str, object] = {"threads": torch.get_num_threads(), "photo_sizes": sorted(sizes)}
    measured["service"] = load(args.run, expected, args.clients, args.seconds)
    if args.report:
        measured["report"] = report(model, [one for _, _, one in expected[: len(paths)]], args.report)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
