"""The words and the look of the app: decisions, thresholds, limits, said so that nobody needs to know the method."""

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..decisions import DEFECTIVE as CALLED_DEFECTIVE
from ..decisions import UNKNOWN
from ..pictures.palette import DEFECTIVE, DEFECTIVE_TEXT, DETECTED, GOOD, GOOD_TEXT, css, paint
from ..teaching import Report
from .inspector import Finding, Inspector, NotRead
from .products import ANY, MOST_PHOTOS, MOST_TAUGHT, Products

SECONDS_KEPT = 3600
ENOUGH = 3
"""Good photos from which on one can be least like the others."""
MOST_OF_IT = 0.5
"""Share of a photo above the pixel threshold from which the product may be another one."""
TITLE = "# AnoPLe\nTeach a product with a few good photos, then find what is wrong with others."
ABOUT = f"""
**What it does.** It remembers patches of good photos and shows where a new photo differs from all of them.

**What it is not.** No proof that a part is good: a threshold from a few photos promises no error rate, light and
position should be those of the photos it was taught with, and a bad part among the good ones is learned as good.
It does not count parts and does not know what belongs where.

**Your photos.** Nothing you upload is kept beyond {SECONDS_KEPT // 60} minutes, and nobody else sees it.
At most {MOST_PHOTOS} photos at a time, 20 MB each, {MOST_TAUGHT} good ones in all; a memory bank may have 200 MB.

**From programs.** "Use via API" below describes every function; `gradio_client` calls them.
"""
NOTHING_YET = "<p>No photo checked yet: click a sample, or drop a photo and press Check.</p>"
SHADES = ", ".join(css((round(r), round(g), round(b))) for r, g, b in paint(np.linspace(0, 1, 9)))
CSS = f"""
.gradio-container {{max-width: 1100px !important; margin: auto}}
.defective {{color: {DEFECTIVE_TEXT}; font-weight: 700; font-size: 1.4em}}
.normal {{color: {GOOD_TEXT}; font-weight: 700; font-size: 1.4em}}
.unknown {{font-weight: 700; font-size: 1.4em}}
.dark .defective {{color: #ff9d6b}} .dark .normal {{color: #8ac4e6}}
.gauge {{position: relative; height: 14px; margin: 6px 0 20px; border-radius: 7px;
  background: linear-gradient(to right, {GOOD} 33.3%, {DEFECTIVE} 33.3%)}}
.gauge i {{position: absolute; top: -4px; width: 6px; height: 22px; margin-left: -3px; border-radius: 3px;
  background: #111; border: 1px solid #fff}}
.gauge span {{position: absolute; left: 33.3%; top: 16px; font-size: .8em; transform: translateX(-50%)}}
.strip {{position: relative; height: 44px; margin: 10px 0; border-bottom: 2px solid currentColor}}
.strip i {{position: absolute; bottom: 0; width: 2px; height: 44px; margin-left: -1px; background: currentColor}}
.strip b {{position: absolute; bottom: 4px; transform: translateX(-50%); font-size: 20px; line-height: 1}}
.strip .over {{color: {DEFECTIVE_TEXT}; bottom: 20px}} .strip .under {{color: {GOOD_TEXT}}}
.dark .strip .over {{color: #ff9d6b}} .dark .strip .under {{color: #8ac4e6}}
[data-testid="status-tracker"]:has(> .error) {{display: none}}
.legend {{height: 12px; border-radius: 3px; position: relative;
  background: linear-gradient(to right, {SHADES})}}
.legend i {{position: absolute; left: 50%; top: -2px; width: 3px; height: 16px; background: {css(DETECTED)};
  outline: 1px solid #111}}
.legend + div {{display: flex; justify-content: space-between; font-size: .8em}}
"""
LEGEND = (
    '<div class="legend" role="img" aria-label="Colors of the heat map: black for nothing strange, red at the '
    'threshold, pale yellow at twice the threshold and above"><i></i></div>'
    "<div><span>like the good photos</span><span>threshold</span><span>twice the threshold</span></div>"
)


def describe(found: Finding) -> str:
    """Decision, score against threshold, and regions, as HTML."""
    side = "above" if found.score > found.threshold else "not above"
    boxes = "".join(
        f"<li>x {x0}-{x1}, y {y0}-{y1}, strongest {region['peak']:.3f}</li>"
        for region in found.regions[:5]
        for x0, y0, x1, y1 in [region["box"]]
    )
    more = f"<p>Regions (pixels of the picture shown):</p><ol>{boxes}</ol>" if boxes else ""
    more += f"<p>{escape(found.remark)}</p>" if found.remark else ""
    if found.label == UNKNOWN:
        return _unknown(found) + more
    if found.label == CALLED_DEFECTIVE and (found.heat_map > found.pixel_threshold).mean() > MOST_OF_IT:
        more += "<p>Most of this photo is unlike the good ones: is it the right product, in the same light?</p>"
    return (
        f'<p role="status"><span class="{found.label}">{found.label}</span> <b>{_shown_as(found)}</b><br>'
        f"{found.ratio:.2f} times the threshold of {escape(found.product)} (score {found.score:.4f}, "
        f"{side} {found.threshold:.4f})</p>"
        f'<div class="gauge" aria-hidden="true"><i style="left: {100 * min(found.ratio / 3, 1):.1f}%"></i>'
        f"<span>threshold</span></div>{more}"
    )


def _shown_as(found: Finding) -> str:
    if not found.recognized:
        return f"{escape(found.product)}, as chosen"
    common = "" if found.recognized == found.product else ", compared with all products"
    return f"recognized as {escape(found.recognized)}{common}"


def _unknown(found: Finding) -> str:
    """No verdict, and why: the score says nothing about a part that shows another product."""
    if found.recognized:
        why = f"It looks like no product taught here; the nearest is {escape(found.recognized)}."
    else:
        why = f"It does not look like {escape(found.product)}, the chosen product."
    return (
        f'<p role="status"><span class="unknown">{UNKNOWN}</span><br>{why}</p><p>It was judged neither good nor '
        "defective. If it is a known product: is it in the same light and position as when it was taught? If it is a "
        f"new one: teach it first.</p><p>{found.ratio:.2f} times the threshold of {escape(found.product)} "
        f"(score {found.score:.4f})</p>"
    )


def not_read(files: Sequence[NotRead]) -> str:
    """Which files were not judged, why, and what to do, as HTML; "" if there are none."""
    if not files:
        return ""
    count = "One file was not judged" if len(files) == 1 else f"{len(files)} files were not judged"
    return f'<div role="alert"><b>{count}:</b><ul>{"".join(f"<li>{escape(f.reason)}</li>" for f in files)}</ul></div>'


def introduce(name: str, inspector: Inspector, products: Products) -> str:
    """What the chosen detector is, and what it knows."""
    config = inspector.model.config
    if config.class_names:
        what = f"**{name}**, trained on {len(config.class_names)} products, backbone `{config.backbone or 'its own'}`."
    else:
        what = (
            "This is the small embedded backbone, untrained: it compares patches and knows no text. Good for trying "
            "out; for a line, train a detector on a larger backbone and load it here."
        )
    return f"{what} At the start it knows: {', '.join(products.names) or 'no product yet'}."


def taught(products: Products, name: str, report: Report | None = None) -> str:
    """What is known of a product, and what the report of an act says beside."""
    references = products.bank.references(name)
    count = f"{len(references)} good photo{'' if len(references) == 1 else 's'} known"
    known = products.bank.product(name)
    if known.thresholds is None:
        return f"**{name}**: {count}. It has no threshold: teach it, with a few good photos."
    text = f"**{name}**: {count}. Threshold {known.thresholds.threshold:.4f}, {known.thresholds.promise}."
    strangest = products.by_strangeness(name)
    if len(references) >= ENOUGH and strangest:  # fewer cannot say which is unlike the others
        names = {reference.digest: reference.name for reference in references}
        photo = names[strangest[0][0]] or "the first one below"
        text += f" Least like the others: {photo}. Is it really a good part?"
    if report is not None:
        copies = [f"{photo} shows the same photo as {other}, and counts once" for photo, other in report.copies]
        notes = [*copies, *report.suspicious, *report.read]
        text = "\n- ".join([f"{text}\n" if notes else text, *notes])
    return text


def good_photos(products: Products, product: str) -> list[tuple[Image.Image, str]]:
    """(picture, words) of a product's good photos that can be shown, the one least like the others first."""
    if product not in products.names:
        return []
    names = {reference.digest: reference.name for reference in products.bank.references(product)}
    return [
        (products.bank.views[digest].image(), f"{score:.4f} {names[digest]}")
        for digest, score in products.by_strangeness(product)
    ]


def false_alarms(products: Products, product: str, level: float) -> str:
    """What a threshold would do to known good photos, in words and as a strip of their scores; what is promised."""
    old, new = products.scores_of(product)
    scores = old + new
    if not scores:
        return "<p>No scores of good photos are known.</p>"
    kinds = [(old, "views of the taught good photos"), (new, "good photos that the memory does not hold")]
    counted = " and ".join(f"{sum(s > level for s in some)} of {len(some)} {kind}" for some, kind in kinds if some)
    whose = "" if product == ANY else f" of {escape(product)}"
    share = sum(score > level for score in scores) / len(scores)
    known = products.bank.thresholds_of(None if product == ANY else product)
    promise = f" This threshold: {escape(known.promise)}." if known is not None else ""
    more = " New parts vary more than views of the taught ones: expect more than this." if old else ""
    return (
        f"<p>At <strong>{level:.4f}</strong>, {counted}{whose} would be called defective ({share:.0%}).{more}"
        f"{promise}</p>{_strip(scores, level)}"
    )


def _strip(scores: Sequence[float], level: float) -> str:
    """The scores along a line, from 0; a triangle lies above the threshold, a dot does not."""
    end = 1.05 * max(*scores, level, 1e-9)
    marks = "".join(
        f'<b class="{kind}" style="left: {100 * max(score, 0) / end:.1f}%">{mark}</b>'
        for score in sorted(scores)
        for kind, mark in [("over", "&#9650;") if score > level else ("under", "&#9679;")]
    )
    return (
        f'<div class="strip" role="img" aria-label="Scores of the good photos, and the threshold as an upright line">'
        f'{marks}<i style="left: {100 * level / end:.1f}%"></i></div>'
        "<p>&#9679; good photo, called normal &#9650; good photo, called defective &#124; threshold</p>"
    )


__all__ = ["ABOUT", "CSS", "LEGEND", "describe", "false_alarms", "good_photos", "introduce", "not_read", "taught"]
