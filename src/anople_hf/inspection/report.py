"""Writes the report of a run: the worst photos, histograms against the thresholds, and the whole table.

The report is one self-contained HTML file with its pictures inside, without scripts or network access, so it can be
mailed, archived, and opened behind a firewall. `report.html` is its template.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
from PIL import Image

from ..decisions import DEFECTIVE, NORMAL, UNCERTAIN, UNKNOWN
from ..images import UnreadableImageError, read_image
from ..output.whole import write_whole
from ..pictures import palette
from ..pictures.charts import ScoreGroup, draw_histograms
from ..pictures.palette import paint, png
from .tables import Row

SIDE = 280
"""Pixels of the longer side of a picture in the page."""


def write_report(
    rows: Sequence[Row],
    folder: Path,
    *,
    title: str,
    scale: tuple[float, float] | None,
    worst: int = 24,
    most_rows: int = 5000,
) -> Path:
    """Write `report.html` into a folder of results.

    Args:
        rows: At least one row of results, see `anople_hf.inspection.tables`.
        folder: Folder with the rows' heat maps.
        title: Title, such as the detector's name.
        scale: Color scale of the heat maps, with the pixel threshold in the middle. None if each product has its own.
        worst: Number of photos to show: those farthest above (or least below) their threshold.
        most_rows: Number of table rows, highest scores first; the tables beside the page hold all rows.

    Returns:
        The path.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError("a report needs at least one judged photo, got none.")
    ordered = sorted(rows, key=lambda row: -_excess(row))
    steps = paint([step / 16 for step in range(17)]).round()
    page = _template().render(
        title=title,
        palette=palette,
        rows=ordered,
        listed=most_rows,
        counts={name: sum(row["label"] == label for row in rows) for name, label in _COUNTED.items()},
        decided=any(row["label"] for row in rows),
        colors=", ".join(palette.css((int(r), int(g), int(b))) for r, g, b in steps),
        ends=scale and [f"{end:.3g}" for end in scale],
        shown=[(row, _pictures(row, folder)) for row in ordered[:worst]],
        histograms=_histograms(rows),
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


_COUNTED = {DEFECTIVE: DEFECTIVE, UNKNOWN: UNKNOWN, UNCERTAIN: UNCERTAIN, NORMAL: NORMAL, "without a threshold": ""}


def _excess(row: Row) -> float:
    """How far a score lies above its threshold; relative to it, because products differ in what is much."""
    return float(row["score"] if row["ratio"] is None else row["ratio"])


def _template() -> jinja2.Template:
    source = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, keep_trailing_newline=True).from_string(source)


def _pictures(row: Row, folder: Path) -> list[tuple[str, str]]:
    return [("photo", _thumbnail(row["path"])), ("heat map", _thumbnail(folder / row["heat_map"]))]


def _histograms(rows: Sequence[Row]) -> str:
    by_category: dict[str, list[Row]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row)
    groups = [
        ScoreGroup(name or "all photos", [row["score"] for row in found], threshold=found[0]["threshold"])
        for name, found in by_category.items()
    ]
    return _data("png", png(draw_histograms(groups)))


def _thumbnail(path: str | Path) -> str:
    """A small JPEG as a data URI, or "" if the photo no longer exists."""
    try:
        photo = read_image(Path(path))
    except UnreadableImageError:
        return ""
    photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=88)
    return _data("jpeg", buffer.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
