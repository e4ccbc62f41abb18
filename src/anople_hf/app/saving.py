"""What a visitor changed, saved: into the run that the detector was loaded from, or as a new run.

A product that the visitor left alone stays in the run as it is there by now: others may have taught it meanwhile.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..memory import MemoryBank
from ..modeling_anople import AnoPLeModel
from ..output.locking import changing, making
from ..output.whole import whole_folder
from ..processing_anople import AnoPLeProcessor

PATIENCE = 30.0
"""Seconds to wait while another process changes the run."""
COMMON = ""
"""No product has this name: the thresholds for an untold product stand under it."""


class ConflictError(ValueError):
    """The same product was changed here and, meanwhile, in the run. `bank` is the run's."""

    def __init__(self, reason: str, bank: MemoryBank) -> None:
        super().__init__(reason)
        self.bank = bank


def state_of(bank: MemoryBank) -> dict[str, Any]:
    """What decides about each product, to be compared; the common thresholds stand under `COMMON`."""
    products = {name: bank.product(name) for name in bank.categories}
    return {COMMON: bank.common} | {
        name: (
            sorted((photo.digest, photo.name) for photo in known.photos),
            known.word,
            known.thresholds,
            sorted(known.held_out),
            json.dumps(dict(known.reading), sort_keys=True),
        )
        for name, known in products.items()
    }


def changed(bank: MemoryBank, origin: Mapping[str, Any]) -> list[str]:
    """Names of what differs from an earlier `state_of`."""
    mine = state_of(bank)
    return [name for name in {**origin, **mine} if mine.get(name) != origin.get(name)]


def save_into(model: AnoPLeModel, run: Path, bank: MemoryBank, origin: Mapping[str, Any]) -> MemoryBank:
    """Take a visitor's changes into a run, under its lock, as the verbs of the command line do.

    Args:
        model: The detector of the run.
        run: Its folder.
        bank: The visitor's.
        origin: `state_of` the bank that the visitor began with.

    Returns:
        What the run holds now.

    Raises:
        ConflictError: A product was changed there, too; nothing was saved.
        OSError: The folder cannot be written to, or another process is writing to it.
    """
    with changing(run, patience=PATIENCE):
        there = model.with_memory_of(run)
        theirs, mine = state_of(there.memory), state_of(bank)
        names = changed(bank, origin)
        both = [name for name in names if theirs.get(name) not in (origin.get(name), mine.get(name))]
        if both:
            called = ", ".join(name or "the common threshold" for name in both)
            raise ConflictError(
                f"{called}: changed here, and meanwhile in {run}, too. Nothing was saved. Save as a new run, or "
                "reload the page to begin with what the run holds now.",
                there.memory.cpu(),
            )
        there.memory = _with_changes(there.memory.cpu(), bank, names)
        there.save_memory(run)
    return there.memory


def save_as(model: AnoPLeModel, processor: AnoPLeProcessor, bank: MemoryBank, folder: Path) -> None:
    """Write the detector with a visitor's products as a new run, whole or not at all.

    Raises:
        FileExistsError: The folder exists and is not empty.
        OSError: It cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already; choose another name for the new run.")
    with making(folder), whole_folder(folder) as work:
        model.with_memory(bank).save_pretrained(work)
        processor.save_pretrained(work)


def _with_changes(theirs: MemoryBank, mine: MemoryBank, names: list[str]) -> MemoryBank:
    """Their bank, with these products as they are in mine."""
    common = mine.common if COMMON in names else theirs.common
    result, taken = theirs.without([]), mine.without([])
    for name in names:
        if name in result.categories:
            result.remove(name)
    for name in taken.categories:
        if name not in names:
            taken.remove(name)
    if len(taken):
        result.merge(taken, thresholds="theirs")
    result.common = common
    return result


__all__ = ["ConflictError", "changed", "save_as", "save_into", "state_of"]
