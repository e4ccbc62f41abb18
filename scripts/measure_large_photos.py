"""Peak memory and time of `anople predict` over the size of a photo: one process a photo, drawn photos.

    python scripts/measure_large_photos.py RUN --sizes 1200x800,6000x4000 --kinds jpg,rgb,16

Prints for each photo the peak resident memory in MB, the processor time in seconds, and the seconds on the clock.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
found = [used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, time.perf_counter() - started]
print(json.dumps([found, done.returncode, done.stderr[-500:]]))
"""


def draw(folder: Path, size: tuple[int, int], kind: str) -> Path:
    """A photo with some structure: 8-bit color as JPEG or PNG, or 12 bits in a 16-bit gray PNG."""
    coarse = np.random.default_rng(0).normal(120, 40, (size[1] // 20 + 1, size[0] // 20 + 1)).clip(0, 255)
    gray = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    path = folder / f"{size[0]}x{size[1]}_{kind}.{'jpg' if kind == 'jpg' else 'png'}"
    if kind == "16":
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 16).save(path, compress_level=1)
    else:
        Image.merge("RGB", [gray, gray, gray]).save(path, **({"quality": 90} if kind == "jpg" else {}))
    return path


def main() -> None:
    """Measure, and print a line a photo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a trained detector")
    parser.add_argument("--sizes", default="1200x800,6000x4000,12000x8333", help="width x height, separated by commas")
    parser.add_argument("--kinds", default="jpg,rgb,16", help="jpg, rgb, 16")
    given = parser.parse_args()
    print(f"{'photo':>24} {'peak MB':>9} {'CPU s':>7} {'s':>7}")
    with tempfile.TemporaryDirectory() as work:
        for number, size in enumerate(given.sizes.split(",")):
            for kind in given.kinds.split(","):
                width, height = map(int, size.split("x"))
                photo, output = draw(Path(work), (width, height), kind), Path(work) / f"out_{number}_{kind}"
                predict = [sys.executable, "-m", "anople_hf.cli", "predict", given.run, str(photo), "--output", output]
                measured = subprocess.run(
                    [sys.executable, "-c", MEASURE, *map(str, predict), "--quiet"], capture_output=True, text=True
                )
                (peak, used, clock), code, said = json.loads(measured.stdout)
                if code:
                    raise SystemExit(f"{photo.name}: {said}")
                print(f"{photo.name:>24} {peak:9.0f} {used:7.1f} {clock:7.1f}", flush=True)


if __name__ == "__main__":
    main()
