"""Writes the report of a run: what was judged by what, per product, and every photo that needs a look.

The report is one HTML file with its pictures and its script inside, without network access, so it can be mailed,
archived, printed, and opened behind a firewall. `report.html` is its template, `summary.py` what it counts and draws.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from .. import __version__
from ..decisions import NORMAL, WORST_FIRST
from ..images import UnreadableImageError, from_printable, read_photo
from ..output.whole import write_whole
from ..pictures import palette
from ..pictures.palette import paint
from ..ranges import Ranges
from .summary import DECISIONS, Summary, decision_of, excess
from .tables import Row

NEAR = 0.8
"""A photo that was passed is a near miss from this share of its threshold on. Ours."""
SIDES = ((100, 320), (400, 240), (1000, 176))
"""Pixels of the longer side of a picture, for up to so many photos; fewer for more of them."""
SMALLEST = 128


def write_report(
    rows: Sequence[Row],
    folder: Path,
    *,
    title: str,
    scale: tuple[float, float] | None,
    fingerprint: str = "",
    lot: str = "",
    ranges: Mapping[str, Ranges] | None = None,
    parts: Sequence[Row] | None = None,
    most_shown: int = 2000,
    most_rows: int = 20_000,
) -> Path:
    """Write `report.html` into a folder of results.

    Shown are all photos that are not normal and the near misses; if there are none, those nearest to their threshold.

    Args:
        rows: At least one row of results, see `anople_hf.inspection.tables`.
        folder: Folder with the rows' heat maps.
        title: The detector's name.
        scale: Color scale of the heat maps, with the pixel threshold in the middle. None if each product has its own.
        fingerprint: Of the detector's files.
        lot: What was inspected, for people.
        ranges: By product, and under "" for photos of none, which values are black and white in deep photos.
        parts: Rows of the parts, if photos are grouped, see `anople_hf.inspection.parts`.
        most_shown: Most photos with pictures, those farthest above (or least below) their threshold first.
        most_rows: Most rows of the table, in the same order; the tables beside the page hold all rows.

    Returns:
        The path.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError("a report needs at least one judged photo, got none.")
    ordered = sorted(rows, key=lambda row: -excess(row))
    needed = [row for row in ordered if _needs_a_look(row)]
    wanted = needed or ordered[:12]
    shown = wanted[:most_shown]
    side = next((pixels for count, pixels in SIDES if len(shown) <= count), SMALLEST)
    with ThreadPoolExecutor() as pool:
        photos = pool.map(
            lambda row: _thumbnail(from_printable(row["path"]), side, (ranges or {}).get(row["category"])), shown
        )
        maps = pool.map(lambda row: _thumbnail(folder / row["heat_map"], side), shown)
        cards = list(zip(shown, photos, maps, strict=True))
    steps = paint([step / 16 for step in range(17)]).round()
    products: dict[str, list[Row]] = {}
    for row in rows:
        products.setdefault(row["category"], []).append(row)
    page = _template().render(
        title=title,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        fingerprint=fingerprint,
        lot=lot,
        palette=palette,
        decisions=DECISIONS,
        decision_of=decision_of,
        total=Summary.of("all", rows),
        products=[Summary.of(name or "any product", found) for name, found in sorted(products.items())],
        parts=_parts(parts, most_rows) if parts else None,
        rows=ordered[:most_rows],
        left_out=len(rows) - most_rows,
        cards=cards,
        wanted=len(wanted),
        needed=bool(needed),
        near=NEAR,
        colors=", ".join(palette.css((int(r), int(g), int(b))) for r, g, b in steps),
        ends=scale and [f"{end:.3g}" for end in scale],
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


def _parts(parts: Sequence[Row], most: int) -> dict[str, Any]:
    """Counts of parts, and those that are not clearly normal, the worst first; if all are, the nearest to it."""
    labels = [decision_of(part) for part in parts]
    worst = sorted(parts, key=lambda part: (WORST_FIRST.index(part["label"]), -(part["ratio"] or 0)))
    needed = [part for part in worst if part["label"] != NORMAL or (part["ratio"] or 0) >= NEAR]
    return {
        "total": len(parts),
        "counts": {decision: labels.count(decision) for decision in DECISIONS},
        "needed": len(needed),
        "rows": (needed or worst[:12])[:most],
    }


def _needs_a_look(row: Row) -> bool:
    """Whether it is anything but clearly normal; without a threshold nobody can tell."""
    return bool(row["label"]) and (row["label"] != NORMAL or (row["ratio"] or 0) >= NEAR)


def _template() -> jinja2.Template:
    source = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _thumbnail(path: Path, side: int, ranges: Ranges | None = None) -> str:
    """A small WebP as a data URI, or "" if the photo no longer exists."""
    try:
        photo = read_photo(path, least=side).to_rgb(ranges)
    except UnreadableImageError:
        return ""
    photo.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    photo.save(buffer, format="WEBP", quality=78)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = ["write_report"]
