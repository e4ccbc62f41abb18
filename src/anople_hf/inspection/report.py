"""Writes the report of a run: the worst photos, histograms against the thresholds, and the whole table.

The report is one self-contained HTML file with its pictures inside, without scripts or network access, so it can be
mailed, archived, and opened behind a firewall.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ..decisions import DEFECTIVE, NORMAL, UNCERTAIN, UNKNOWN
from ..images import UnreadableImageError, read_image
from ..output.whole import write_whole
from ..pictures.charts import ScoreGroup, draw_histograms
from ..pictures.palette import DEFECTIVE_TEXT, DETECTED, EDGE, FAINT, GOOD_TEXT, INK, LINES, css, paint, png
from .tables import Row

SIDE = 280
"""Pixels of the longer side of a picture in the page."""

STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: {INK}; background: #fff; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .25rem; }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
p, small, figcaption {{ color: {FAINT}; }}
.counts span {{ display: inline-block; margin-right: 2rem; }} .counts b {{ font-size: 1.6rem; color: {INK}; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; border: 1px solid {LINES}; border-radius: 6px; padding: .6rem; overflow-wrap: anywhere; }}
figure div {{ display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; align-items: center; }}
img {{ max-width: 100%; }}
figcaption {{ font-size: .85rem; margin-top: .4rem; }}
.defective {{ color: {DEFECTIVE_TEXT}; font-weight: 600; }} .normal {{ color: {GOOD_TEXT}; }}
.unknown, .uncertain {{ font-weight: 600; }}
.scale {{ height: .9rem; max-width: 24rem; border-radius: 3px; position: relative; }}
.scale i {{ position: absolute; top: -2px; bottom: -2px; left: calc(50% - 2px); width: 3px;
  background: {css(DETECTED)}; border: 1px solid {css(EDGE)}; }}
.ends {{ display: flex; justify-content: space-between; max-width: 24rem; font-size: .8rem; color: {FAINT}; }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; }}
th {{ text-align: left; color: {FAINT}; font-weight: 500; position: sticky; top: 0; background: #fff; }}
td, th {{ padding: .25rem .6rem .25rem 0; border-bottom: 1px solid {LINES}; overflow-wrap: anywhere; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
@media print {{ figure, tr {{ break-inside: avoid; }} }}
"""


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
    counts = {name: sum(row["label"] == label for row in rows) for name, label in _COUNTED.items()}
    numbers = "".join(f"<span><b>{count}</b> {name}</span>" for name, count in counts.items() if count)
    shown = ordered[:worst]
    head = f"The {len(shown)} most suspicious of {len(rows)} photos" if len(rows) > len(shown) else "All photos"
    left_out = f"<p>The first {most_rows} of {len(rows)} rows.</p>" if len(rows) > most_rows else ""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="counts"><span><b>{len(rows)}</b> photos</span>{numbers}</p>',
        f"<h2>{head}</h2>",
        _legend(scale, decided=any(row["label"] for row in rows)),
        f'<div class="cards">{"".join(_card(row, folder) for row in shown)}</div>',
        "<h2>Scores</h2>",
        f'<img alt="Histograms of the scores, with the thresholds" src="{_histograms(rows)}">',
        f"<h2>Table</h2>{left_out}",
        "<table><thead><tr><th>photo<th>product<th>decision<th class=n>times threshold"
        "<th class=n>score<th class=n>threshold<th class=n>regions"
        f"</tr></thead><tbody>{''.join(map(_table_row, ordered[:most_rows]))}</tbody></table>",
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


_COUNTED = {DEFECTIVE: DEFECTIVE, UNKNOWN: UNKNOWN, UNCERTAIN: UNCERTAIN, NORMAL: NORMAL, "without a threshold": ""}


def _excess(row: Row) -> float:
    """How far a score lies above its threshold; relative to it, because products differ in what is much."""
    return float(row["score"] if row["ratio"] is None else row["ratio"])


def _card(row: Row, folder: Path) -> str:
    pictures = "".join(
        f'<img alt="{what}" src="{source}">' if source else f"<small>the {what} is gone</small>"
        for what, source in (("photo", _thumbnail(row["path"])), ("heat map", _thumbnail(folder / row["heat_map"])))
    )
    limit = "" if row["threshold"] is None else f", threshold {row['threshold']:#.4g}"
    times = "" if row["ratio"] is None else f"{row['ratio']:.2f} times the threshold, "
    return (
        f"<figure><div>{pictures}</div><figcaption>{_decision(row)} {times}score {row['score']:#.4g}{limit}<br>"
        f"{escape(row['path'])}</figcaption></figure>"
    )


def _table_row(row: Row) -> str:
    limit = "" if row["threshold"] is None else f"{row['threshold']:#.4g}"
    times = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return (
        f"<tr><td>{escape(row['path'])}<td>{escape(row['category'])}<td>{_decision(row)}"
        f"<td class=n>{times}<td class=n>{row['score']:#.4g}<td class=n>{limit}"
        f"<td class=n>{len(row['regions'])}</tr>\n"
    )


def _decision(row: Row) -> str:
    return f'<span class="{row["label"].split()[0]}">{row["label"]}</span>' if row["label"] else "no threshold"


def _histograms(rows: Sequence[Row]) -> str:
    by_category: dict[str, list[Row]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row)
    groups = [
        ScoreGroup(name or "all photos", [row["score"] for row in found], threshold=found[0]["threshold"])
        for name, found in by_category.items()
    ]
    return _data("png", png(draw_histograms(groups)))


def _legend(scale: tuple[float, float] | None, *, decided: bool) -> str:
    stops = ", ".join(css((int(r), int(g), int(b))) for r, g, b in paint([step / 16 for step in range(17)]).round())
    mark, words = ("<i></i>", "; marked: pixel threshold") if decided else ("", "")
    low, high = ("0", "twice its product's pixel threshold") if scale is None else (f"{end:.3g}" for end in scale)
    return (
        f'<div class="scale" style="background: linear-gradient(to right, {stops})">{mark}</div>'
        f'<div class="ends"><span>{low}</span><span>anomaly value{words}</span><span>{high}</span>'
        "</div><br>"
    )


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
