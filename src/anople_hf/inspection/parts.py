"""Several photos of one part, by several cameras or from several sides: one verdict for the part. Ours.

- `Grouping` says which part a photo shows: by its folder, a pattern in its name, or a column of a table.
- A part is defective if any of its views is, see `decisions.decide_parts`.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..decisions import NORMAL, decide_parts
from ..images import printable
from .tables import Row

TABLE = re.compile(r"(?P<file>.+\.csv)(:(?P<column>[^:/\\]+))?", re.IGNORECASE | re.DOTALL)
EXPECTED = (
    "expected folder (each folder holds the views of one part), TABLE.csv:COLUMN, or a regular expression for the "
    "file name with a group for the part, such as '(?P<part>.+)_C[0-9]'"
)


class Grouping:
    """Which part a photo shows.

    Args:
        how: `folder`; or `TABLE.csv:COLUMN`, whose column `path` names the photos, from the table's folder on (without
            a column it is `part`); or a regular expression with a group `part`, or a single one, that is searched in
            the file's name, or in the whole path if there is a / in it.

    Raises:
        ValueError: None of them, or the table lacks a column, names a photo twice, or has no part for it.
        OSError: The table cannot be read.

    Example:
        >>> views = Grouping("(?P<part>.+)_C[0-9]")
        >>> views.part_of("line/nut_0007_C1.png"), views.part_of("line/nut.png")
        ('nut_0007', '')
        >>> Grouping("folder").part_of("line/0007/top.png")
        'line/0007'
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self._pattern: re.Pattern[str] | None = None
        self._listed: dict[Path, str] | None = None
        if how == "folder":
            return
        if table := TABLE.fullmatch(how):
            self._listed = _read(Path(table["file"]), table["column"] or "part")
            return
        try:
            self._pattern = re.compile(how)
        except re.error as error:
            raise ValueError(f"parts={how!r} is no regular expression ({error}); {EXPECTED}.") from error
        if "part" not in self._pattern.groupindex and self._pattern.groups != 1:
            raise ValueError(f"parts={how!r}: {EXPECTED}.")

    def part_of(self, path: str | Path) -> str:
        """The part that a photo shows; "" if nothing says so."""
        path = Path(path)
        if self._listed is not None:
            return self._listed.get(path.resolve(), "")
        if self._pattern is None:
            return printable(path.parent)
        found = self._pattern.search(printable(path.as_posix() if "/" in self.how else path.name))
        return (found["part" if "part" in self._pattern.groupindex else 1] or "") if found else ""

    def without_part(self, paths: Iterable[str | Path]) -> list[str]:
        """The photos that show no part, by name.

        Raises:
            ValueError: None of them shows one.
        """
        paths = list(paths)
        without = [printable(path) for path in paths if not self.part_of(path)]
        if paths and len(without) == len(paths):
            what = "names none of the" if self._listed is not None else "matches none of the"
            raise ValueError(f"parts={self.how!r} {what} {len(paths)} photos, such as {without[0]}; {EXPECTED}.")
        return without


def _read(table: Path, column: str) -> dict[Path, str]:
    """Parts by photo."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            head = list(reader.fieldnames or [])
            if missing := [name for name in ("path", column) if name not in head]:
                raise ValueError(
                    f"{table} has no column {' and no column '.join(missing)}; it has {', '.join(head) or 'none'}. "
                    "Expected path, the photo from the table's folder on, and the part: TABLE.csv:COLUMN."
                )
            found: dict[Path, str] = {}
            for number, row in enumerate(reader, start=2):
                path, part = row["path"], (row[column] or "").strip()
                if not path or not part:
                    raise ValueError(f"{table}, line {number}: no {column if path else 'path'}; expected both.")
                photo = (table.parent / path).resolve()
                if found.setdefault(photo, part) != part:
                    raise ValueError(f"{table}, line {number}: {path} shows {found[photo]} already, and now {part}.")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as CSV in UTF-8 ({error}).") from error
    return found


def judge_parts(rows: Sequence[Row]) -> list[Row]:
    """One row for each part, in the order in which they came: see `tables.PART_COLUMNS`.

    Args:
        rows: Of the photos, with a `part`; those without are left out.

    Example:
        >>> view = {"part": "7", "category": "nut", "time": ""}
        >>> views = [{**view, "path": "a", "ratio": 0.4, "label": "normal"},
        ...          {**view, "path": "b", "ratio": 1.7, "label": "defective"}]
        >>> judge_parts(views)[0]["label"], judge_parts(views)[0]["ratio"], judge_parts(views)[0]["worst"]
        ('defective', 1.7, 'b')
    """
    views: dict[str, list[Row]] = {}
    for row in rows:
        views.setdefault(row.get("part") or "", []).append(row)
    found = []
    for part in decide_parts(rows, [row.get("part") or "" for row in rows]):
        own = views[part["part"]]
        not_normal, last = sum(view["label"] != NORMAL for view in own), max(view["time"] for view in own)
        found.append(part | {"worst": rows[part["worst"]]["path"], "not_normal": not_normal, "time": last})
    return found


__all__ = ["Grouping", "judge_parts"]
