"""A results folder that grows photo by photo, survives an interruption, and can be continued.

While it grows, its name is `OUTPUT.partial`. Each photo's row is written after its pictures, so every row is complete,
even if the run was stopped by Ctrl-C or killed. Tables grow with them, but for Parquet. When the run is finished, the
folder gets what is left to write, and its final name.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..decisions import DEFECTIVE, NORMAL, UNCERTAIN, UNKNOWN
from ..images import printable
from ..output.whole import MARK, check_output, take_place, whole_file, write_whole
from ..pictures.overlays import heat_map_overlay, write_legend
from .parts import Grouping, judge_parts
from .tables import (
    COLUMNS,
    GROWING,
    PART_COLUMNS,
    Format,
    Row,
    append,
    append_row,
    json_line,
    read_lines,
    write_table,
)

if TYPE_CHECKING:
    from .predict import Prediction

ROWS, JOB = ".rows.jsonl", ".job.json"
SPARE = 20
"""A watcher writes the parts anew at most after so many times as long as that takes."""


class Results:
    """The results so far, in memory and on disk. Made by `growing_results`.

    Args:
        folder: Existing folder to write to; its rows are read.
        formats: Tables that are to grow, out of `GROWING`.
        grouping: Which part a photo shows; None: parts are not judged.

    Attributes:
        folder: Current folder of the files.
        rows: All rows, those of earlier runs first.
        taken_over: Number of rows from earlier runs.
    """

    def __init__(self, folder: Path, formats: Iterable[str] = (), grouping: Grouping | None = None) -> None:
        self.folder, self.grouping = folder, grouping
        self.columns = COLUMNS if grouping is None else (*COLUMNS, "part")
        self.rows: list[Row] = read_lines(folder / ROWS) if (folder / ROWS).exists() else []
        self.taken_over = len(self.rows)
        self._names = {Path(row["heat_map"]).name for row in self.rows}
        write_whole(folder / ROWS, "".join(map(json_line, self.rows)))  # without a line that was cut off
        for name in ("heat_maps", "masks"):
            (folder / name).mkdir(exist_ok=True)
        self._growing = [name for name in dict.fromkeys(formats) if name in GROWING]
        for name in self._growing:
            with whole_file(folder / f"scores.{name}") as table:
                write_table(self.rows, table, self.columns)
        self._parts_due = 0.0
        self._views: dict[str, list[Row]] = {}
        for row in self.rows:
            self._note_part(row)

    @property
    def done(self) -> set[str]:
        """Paths of the photos that have a row."""
        return {row["path"] for row in self.rows}

    @property
    def counts(self) -> dict[str, int]:
        """How many photos are `normal`, `defective`, `unknown_product`, `uncertain`, and `without_threshold`."""
        return _count(self.rows)

    @property
    def part_counts(self) -> dict[str, int]:
        """The same of parts."""
        return _count(judge_parts(self.rows))

    def part_of(self, row: Row) -> Row | None:
        """The verdict so far on the part that a row's photo shows; None if it shows none."""
        return judge_parts(self._views[row["part"]])[0] if row.get("part") else None

    def add(self, prediction: "Prediction", scale: tuple[float, float]) -> Row:
        """Write a photo's heat map (an overlay) and mask, then its row.

        Args:
            prediction: The judged photo.
            scale: Lowest and highest map value of the color scale, the same for a whole product, so that good parts
                stay dark.

        Returns:
            The row.
        """
        result, name = prediction.result, self._free_name(prediction.path)
        overlay = heat_map_overlay(prediction.photo, result["heat_map"], scale=scale, threshold=result["mask_level"])
        Image.fromarray(overlay).save(self.folder / "heat_maps" / name)
        mask = Image.fromarray(result["mask"].astype(np.uint8) * 255)
        mask.resize(prediction.size, Image.Resampling.NEAREST).save(self.folder / "masks" / name)
        row: Row = {
            "path": printable(prediction.path),
            "category": prediction.category or "",
            "score": result["score"],
            "threshold": result["threshold"],
            "ratio": result["ratio"],
            "label": result["label"] or "",
            "regions": result["regions"],
            "heat_map": f"heat_maps/{name}",
            "mask": f"masks/{name}",
            "time": _written(prediction.path),
        }
        if self.grouping is not None:
            row["part"] = self.grouping.part_of(prediction.path)
        append(self.folder / ROWS, json_line(row))  # first: after a crash the tables are made anew from it
        for name in self._growing:
            append_row(row, self.folder / f"scores.{name}", self.columns)
        self.rows.append(row)
        self._note_part(row)
        return row

    def _note_part(self, row: Row) -> None:
        if part := row.get("part"):
            self._views.setdefault(part, []).append(row)

    def write_tables(self, formats: Iterable[str], scale: tuple[float, float] | None, threshold: float | None) -> None:
        """Write `scores.<format>` for each format, and `heat_maps.png`, the heat maps' legend (`write_legend`)."""
        earlier = [name for name in Format if (self.folder / f"scores.{name}").exists()]  # they must not fall behind
        for name in dict.fromkeys([*formats, *earlier]):
            if name in self._growing:
                continue
            write_table(self.rows, self.folder / f"scores.{name}", self.columns)
        self.write_parts([*formats, *earlier])
        write_legend(self.folder / "heat_maps.png", scale, threshold)

    def write_parts(self, formats: Iterable[str], *, unless_costly: bool = False) -> None:
        """Write `parts.<format>` for each format, if photos are grouped.

        Args:
            formats: Of `Format`.
            unless_costly: Leave it if it was written lately, so that a watcher spends little on it.
        """
        if self.grouping is None or (unless_costly and time.monotonic() < self._parts_due):
            return
        started, parts = time.monotonic(), judge_parts(self.rows)
        for name in dict.fromkeys(formats):
            with whole_file(self.folder / f"parts.{name}") as table:
                write_table(parts, table, PART_COLUMNS)
        now = time.monotonic()
        self._parts_due = now + SPARE * (now - started)

    def _free_name(self, path: Path) -> str:
        """A free PNG name for a photo, so that photos of the same name from different folders are both kept."""
        stem, parent = printable(path.stem), printable(path.parent.name)
        name, number = f"{stem}.png", 2
        if name in self._names:
            name = f"{parent}_{stem}.png"
        while name in self._names:
            name, number = f"{parent}_{stem}_{number}.png", number + 1
        self._names.add(name)
        return name


_COUNTED = {
    "normal": NORMAL, "defective": DEFECTIVE, "unknown_product": UNKNOWN, "uncertain": UNCERTAIN,
    "without_threshold": "",
}  # fmt: skip


def _count(rows: Iterable[Row]) -> dict[str, int]:
    labels = [row["label"] for row in rows]
    return {name: labels.count(label) for name, label in _COUNTED.items()}


def _written(path: Path) -> str:
    """When a file was written, or "" if it is gone."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return ""


@contextmanager
def growing_results(
    output: Path,
    job: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    formats: Iterable[str] = (),
    grouping: Grouping | None = None,
) -> Iterator[Results]:
    """Provide `OUTPUT.partial` to write to. On success it replaces `output`; otherwise it stays if it holds a row.

    Args:
        output: The final folder.
        job: Everything the rows depend on, as JSON; results of a different job are not continued.
        resume: Continue `OUTPUT.partial` or, if there is none, `output` itself.
        overwrite: Start over, and replace an earlier output when the new one is complete.
        formats: Tables that grow with the rows, as far as their format can.
        grouping: As for `Results`.

    Raises:
        FileExistsError: `output` exists, see `check_output`; or `OUTPUT.partial` exists, and neither `resume` nor
            `overwrite` is set.
        ValueError: With `resume`, the earlier job was a different one.
    """
    output = Path(output)
    work, continued = _prepare(output, job, resume=resume, overwrite=overwrite)
    results = Results(work, formats, grouping)
    try:
        write_whole(work / JOB, json.dumps(job) + "\n")
        yield results
        (work / MARK).touch()
        take_place(work, output)
        results.folder = output
    finally:
        if results.folder == work and not results.rows:
            shutil.rmtree(work, ignore_errors=True)
        elif results.folder == work and continued and len(results.rows) == results.taken_over:
            work.rename(output)  # it was whole, and still is


def partial_of(output: Path) -> Path:
    """The folder of the results until they are complete."""
    return output.with_name(f"{output.name}.partial")


def check_results(output: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse what `growing_results` would refuse, except for a different job, before any work is done."""
    output, work = Path(output), partial_of(Path(output))
    if work.exists() and not (work / JOB).exists():
        raise FileExistsError(f"{work} was not written by anople and is in the way; choose another --output.")
    if work.exists() and not resume and not overwrite:
        raise FileExistsError(f"{work} is an interrupted run; go on with --resume, or start over with --overwrite.")
    if resume and not work.exists() and not overwrite and (output / JOB).exists():
        return  # a whole output, to be gone on with
    check_output(output, overwrite=overwrite)


def fingerprint(run: Path) -> str:
    """SHA-256 of a detector's files, so that scores of different detectors are not mixed.

    Args:
        run: Its folder, or its Hub id once it was loaded.
    """
    digest = hashlib.sha256()
    if not run.is_dir():
        from transformers.utils import cached_file  # a wrong path is told before transformers is imported

        run = Path(str(cached_file(run.as_posix(), "config.json", local_files_only=True))).parent
    for name in ("config.json", "model.safetensors", "memory_bank.safetensors"):
        if (run / name).exists():
            with open(run / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _prepare(output: Path, job: dict[str, Any], *, resume: bool, overwrite: bool) -> tuple[Path, bool]:
    """The folder to write to, and whether it was a complete output before."""
    check_results(output, resume=resume, overwrite=overwrite)
    work = partial_of(output)
    begun = work if work.exists() else output
    if not resume or not (begun / JOB).exists() or (begun == output and overwrite):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return work, False
    known = json.loads((begun / JOB).read_text(encoding="utf-8"))
    if other := sorted(key for key in {*job, *known} if job.get(key) != known.get(key)):
        raise ValueError(
            f"{begun} was judged with another {' and '.join(other)}; give the same, choose another --output, or start "
            "over with --overwrite and without --resume."
        )
    if begun == output:
        output.rename(work)
    return work, begun == output
