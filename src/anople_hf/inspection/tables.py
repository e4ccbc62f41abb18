"""Tables of results: one row per judged photo, and one per part, as CSV, Parquet or JSON lines.

Every format holds the same columns and all digits of the scores.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any


class Format(StrEnum):
    """A file format for tables; its value is the file's suffix."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


Row = dict[str, Any]
"""`path` and `category` (str; told or recognized, "" if neither), `score` (float), `threshold` (float or None),
`ratio` (float or None; score / threshold, 1 is at the threshold), `label` ("normal", "defective", "unknown product",
"uncertain", or "" without a threshold), `regions` (list of `box`, `peak`, `area`), `heat_map` and
`mask` (paths within the output folder), `time` (when the photo's file was written, ISO 8601, UTC; "" if it is gone).
Where photos are grouped, also `part` (str, "" if a photo has none). Rows of parts: see `PART_COLUMNS`.
"""

COLUMNS = ("path", "category", "score", "threshold", "ratio", "label", "regions", "heat_map", "mask", "time")
PART_COLUMNS = ("part", "category", "views", "ratio", "label", "not_normal", "worst", "time")
"""Of a part: its name; the products of its views, separated by commas; how many views; the highest ratio among them
(None if none has a threshold); the worst of their labels; how many of them are not normal; the path of the worst; the
time of the last."""
GROWING = (Format.CSV, Format.JSONL)
"""Formats to which rows can be added."""
NUMBERS = ("score", "threshold", "ratio")
COUNTS = ("views", "not_normal")


def check_formats(formats: Iterable[str]) -> None:
    """Refuse formats that cannot be written, before any work is done.

    Raises:
        ValueError: A format is unknown, or Parquet is wanted without pyarrow.
    """
    for name in formats:
        if name not in list(Format):
            raise ValueError(f"unknown format {name!r}; expected {', '.join(Format)}.")
        if name == Format.PARQUET:
            try:
                import pyarrow.parquet  # noqa: F401
            except ImportError as error:
                raise ValueError(
                    "the format parquet needs pyarrow: pip install 'anople-hf[train]', or choose csv or jsonl."
                ) from error


def write_table(rows: Sequence[Row], path: Path, columns: Sequence[str] = COLUMNS) -> Path:
    """Write rows in the format that the file's suffix names.

    In CSV, missing values are empty and `regions` is JSON text; Parquet and JSON lines keep null and lists.

    Args:
        rows: Rows with all `columns`.
        path: File with suffix .csv, .parquet or .jsonl.
        columns: `COLUMNS`, perhaps with `part`; or `PART_COLUMNS`.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> row = {**dict.fromkeys(COLUMNS, ""), "path": "a.png", "score": 0.1, "regions": []}
        >>> row |= {"threshold": None, "ratio": None}
        >>> print(write_table([row], Path(tempfile.mkdtemp()) / "scores.csv").read_text().splitlines()[1])
        a.png,,0.1,,,,[],,,
    """
    check_formats([path.suffix[1:]])
    if path.suffix == ".parquet":
        _write_parquet(rows, path, columns)
        return path
    with open(path, "w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerow(columns)
        file.writelines(_line(row, path, columns) for row in rows)
    return path


def append_row(row: Row, path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Add a row to a table of `GROWING` that `write_table` began, with these columns. A crash leaves whole rows.

    Args:
        row: With all `columns`.
        path: The table.
        columns: As for `write_table`.
    """
    append(path, _line(row, path, columns))


def append(path: Path, text: str) -> None:
    """Add text to a file in one write, which reaches the file as a whole or not at all."""
    with open(path, "ab", buffering=0) as file:
        file.write(text.encode())


def _line(row: Row, path: Path, columns: Sequence[str]) -> str:
    if path.suffix == ".jsonl":
        return json_line(row)
    cells = {name: "" if row[name] is None else repr(row[name]) for name in NUMBERS if name in columns}
    cells |= {"regions": json.dumps(row["regions"])} if "regions" in columns else {}
    text = io.StringIO()
    csv.DictWriter(text, columns).writerow({name: row[name] for name in columns} | cells)
    return text.getvalue()


def json_line(row: Row) -> str:
    """A row as a line of JSON, of a photo (with its part, if it has one) or of a part."""
    columns = (*COLUMNS, "part") if "path" in row else PART_COLUMNS
    return json.dumps({name: row[name] for name in columns if name in row}) + "\n"


def read_lines(path: Path) -> list[Row]:
    """Read the rows of a JSON-lines file. A last line that was cut off, by a kill or a full disk, is skipped.

    Raises:
        ValueError: A line before the last is broken; names it.
    """
    rows: list[Row] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what stands behind the last line break is not whole
        try:
            rows.append({"time": ""} | json.loads(line))  # of an output from before rows had one
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error}); start over with --overwrite.") from error
    return rows


def _write_parquet(rows: Sequence[Row], path: Path, columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    region = pa.struct([("box", pa.list_(pa.int64())), ("peak", pa.float64()), ("area", pa.int64())])
    known = dict.fromkeys(NUMBERS, pa.float64()) | dict.fromkeys(COUNTS, pa.int64()) | {"regions": pa.list_(region)}
    kinds = {name: known.get(name, pa.string()) for name in columns}
    parquet.write_table(pa.Table.from_pylist(list(rows), pa.schema(list(kinds.items()))), path)
