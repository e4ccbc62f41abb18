"""`run_plan()`: computes the missing cells of a table, on one process or several, and gathers all of them.

Each finished cell is one complete file. Two Parquet files hold the results of all cells.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers.utils.logging import tqdm

from ..data import choose_shots
from ..output.whole import whole_file, write_whole
from ..training.run import on_cpu
from .cells import CellResult, load, measure
from .plans import Plan

logger = logging.getLogger(__name__)

LISTED_SEEDS = 5
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_plan(plan: Plan, folder: Path, *, progress: bool = True) -> list[CellResult]:
    """Compute the missing cells and gather all. Under `accelerate launch` or `torchrun`, every process calls this.

    The cells are distributed over the processes. Each cell is computed by one process as if it were alone, so the
    numbers depend neither on the number of processes nor on interruptions. They do depend on `torch.set_num_threads`.

    Args:
        plan: The table's cells.
        folder: Output folder for `cells/<key>.json`. The main process also writes `images.parquet`,
            `categories.parquet` and `shots.json`: the photos of each cell, and those of seeds 0-4, run or not.
        progress: Show a bar on the main process.

    Returns:
        The results, in the plan's order, on every process.

    Raises:
        ValueError: A file of an earlier run cannot be read.
    """
    state = PartialState(cpu=on_cpu(), timeout=timedelta(days=7))
    cells = folder / "cells"
    if state.is_main_process:
        cells.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    waiting = [cell for cell in plan.cells if not (cells / f"{cell.key}.json").exists()]
    if done := len(plan.cells) - len(waiting):
        logger.info("%d of %d cells are there already.", done, len(plan.cells))
    own = waiting[state.process_index :: state.num_processes]
    state.wait_for_everyone()  # all have dealt before the first file appears
    for cell in tqdm(own, desc=plan.table, unit="cell", disable=not (progress and state.is_main_process)):
        with alone(state):
            result = measure(cell)
        write_whole(cells / f"{cell.key}.json", json.dumps(asdict(result)))
    found = {}
    for cell in plan.cells:
        if (file := cells / f"{cell.key}.json").exists():
            found[cell.key] = read_result(file)
    if state.num_processes > 1:  # machines need not share a disk
        for key, result in gather_object(list(found.items())):
            found.setdefault(key, result)
    results = [_in_row(found[cell.key], cell.row) for cell in plan.cells]
    if state.is_main_process:
        _write_parquet([row for result in results for row in result.images], folder / "images.parquet")
        _write_parquet([row for result in results for row in result.rows], folder / "categories.parquet")
        shots = {cell.key: result.shots for cell, result in zip(plan.cells, results, strict=True)}
        content = {"cells": shots, f"seeds 0-{LISTED_SEEDS - 1}": list_shots(plan)}
        write_whole(folder / "shots.json", json.dumps(content, indent=1) + "\n")
    state.wait_for_everyone()
    return results


def list_shots(plan: Plan) -> dict[str, dict[str, dict[str, dict[str, list[str]]]]]:
    """List the photos that seeds 0-4 choose, by data set, shots and seed, so that others can use the same ones.

    Args:
        plan: Gives the data sets, the numbers of shots, and how shots are chosen.
    """
    lists: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {}
    for cell in plan.cells:
        own = lists.setdefault(cell.dataset, {})
        if str(cell.shots) in own:
            continue
        table = load(cell.root)["train"]
        paths = table["path"]
        own[str(cell.shots)] = {
            str(seed): {
                category: [paths[row] for row in rows]
                for category, rows in choose_shots(
                    table,
                    cell.shots,
                    seed=seed,
                    mode=cell.shot_mode,  # type: ignore[arg-type]  # checked there
                ).items()
            }
            for seed in range(LISTED_SEEDS)
        }
    return lists


def _in_row(result: CellResult, row: str) -> CellResult:
    """Put a result into its row: one computation may appear in several rows of a table."""
    rows, images = ([{**entry, "row": row} for entry in part] for part in (result.rows, result.images))
    return replace(result, rows=rows, images=images)


def read_result(file: Path) -> CellResult:
    """Read a finished cell.

    Raises:
        ValueError: The file does not hold a cell.
    """
    try:
        return CellResult(**json.loads(file.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file} is no finished cell ({error}); delete it, and it is computed again.") from error


@contextmanager
def alone(state: PartialState) -> Iterator[None]:
    """Let a process train alone, on its own device, while others compute other cells."""
    if not on_cpu() and torch.cuda.is_available():
        torch.cuda.set_device(state.local_process_index)
    shared = dict(PartialState._shared_state)
    hidden = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._shared_state.update(shared)
        os.environ.update(hidden)


def _write_parquet(rows: list[dict[str, Any]], file: Path) -> None:
    with whole_file(file) as temporary:
        Dataset.from_list(rows).to_parquet(temporary)


__all__ = ["alone", "read_result", "run_plan"]
