"""Measures time and extra memory of exact AUPRO and of the whole table of pixel metrics.

The metrics are those of sec. 4.1; the sizes are a category of MVTec-AD and its whole test set.

    python scripts/benchmark_metrics.py                    # 83 maps of 240 x 240
    python scripts/benchmark_metrics.py --large            # and 1,725 of 400 x 400 (needs 6 GB)
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from anople_hf.evaluation.metrics import aupro
from anople_hf.evaluation.ranking import Ranking

SIZES = ((83, 240), (1725, 400))


def make_maps(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float32 maps with noise, and masks with a few regions on three quarters of them."""
    rng = np.random.default_rng(0)
    maps, masks = np.empty((count, side, side), np.float32), np.zeros((count, side, side), bool)
    for index in range(count):
        maps[index] = rng.random((side, side), np.float32)
        if index % 4:
            for y, x in rng.integers(0, side - side // 6, (3, 2)):
                masks[index, y : y + side // 8, x : x + side // 10] = True
            maps[index] += 0.5 * masks[index]
    return maps, masks


def measure(count: int, side: int) -> None:
    """Print one row; memory is the process's peak above what it held when the maps were made."""
    maps, masks = make_maps(count, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    value = aupro(maps, masks)
    alone = time.perf_counter() - started
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / maps.nbytes
    started = time.perf_counter()
    ranking = Ranking.of_maps(maps, masks)
    for metric in (ranking.auroc, ranking.average_precision, ranking.f1_max, ranking.aupro, ranking.aupro_200):
        metric()
    whole = time.perf_counter() - started
    print(f"| {count:,} x {side} x {side} | {maps.nbytes / 2**20:.0f} | {alone:.2f} | {whole:.2f} | {extra:.1f} | "
          f"{value:.4f} |", flush=True)  # fmt: skip


def main() -> None:
    """One process a size, so that peaks do not mix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, help="measure only this: maps, side")
    args = parser.parse_args()
    if args.size:
        measure(*args.size)
        return
    print("| maps | MB | AUPRO, s | five pixel metrics, s | extra memory, x maps | AUPRO |\n|---|---|---|---|---|---|")
    sys.stdout.flush()
    for count, side in SIZES if args.large else SIZES[:1]:
        subprocess.run([sys.executable, __file__, "--size", str(count), str(side)], check=True)


if __name__ == "__main__":
    main()
