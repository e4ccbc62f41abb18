"""The words and the look of the app: decisions, thresholds, limits, said so that nobody needs to know the method."""

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..decisions import DEFECTIVE as CALLED_DEFECTIVE
from ..decisions import UNKNOWN
from ..pictures.palette import DEFECTIVE, DEFECTIVE_TEXT, DETECTED, GOOD, GOOD_TEXT, css, paint
from ..teaching import Report
from .detectors import SAMPLER, Example
from .evidence import show_framing
from .inspector import Finding, Inspector, NotRead
from .products import ANY, MOST_PHOTOS, MOST_TAUGHT, Products

SECONDS_KEPT = 3600
ENOUGH = 3
"""Good photos from which on one can be least like the others."""
MOST_OF_IT = 0.5
"""Share of a photo above the pixel threshold from which the product may be another one."""
TITLE = (
    '<div id="title"><h1>AnoPLe</h1><p>Teach a product with a few good photos, then find what is wrong with others.'
    "</p></div>"
)
ABOUT = f"""
### About

**What it does.** It remembers patches of good photos and shows where a new photo differs from all of them.

**What it is not.** No proof that a part is good: a threshold from a few photos promises no error rate, light and
position should be those of the photos it was taught with, and a bad part among the good ones is learned as good.
It does not count parts and does not know what belongs where.

**Your photos.** They stay on the machine that the app runs on, nobody else sees them, and what you upload is deleted
{SECONDS_KEPT // 60} minutes after you used it last. At most {MOST_PHOTOS} photos at a time (Review: more), 20 MB each,
{MOST_TAUGHT} good ones in all; a memory bank may have 200 MB.

**When the page is loaded again** in the same browser tab, what you taught and set and the whole review are there
again, for {SECONDS_KEPT // 60} minutes. They end with the tab or the app; *Save to the run* and the review's CSV last.

**From programs.** "Use via API" below describes every function; `gradio_client` calls them.
"""
NOTHING_YET = '<div class="empty"><p>Drop a photo to check it.</p></div>'
INVITATION = (
    '<div class="empty"><p><b>No product is known yet.</b></p><p>Open the tab <b>Teach</b>, name the product, and '
    "give 3 to 10 photos of good parts. It takes seconds; there is no training. Then come back with a photo to check."
    "</p></div>"
)
SHADES = ", ".join(css((round(r), round(g), round(b))) for r, g, b in paint(np.linspace(0, 1, 9)))
CSS = f"""
.gradio-container {{max-width: min(1180px, 100vw) !important; margin: auto}}
.gradio-container main, .gradio-container .tabs, .gradio-container .tab-wrapper {{min-width: 0}}
.gradio-container .html-container {{padding: 0}}
@media (max-width: 640px) {{.gradio-container > .main {{padding: 10px 14px}}}}
#title {{display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 14px}}
#title h1 {{font-size: 1.5em; font-weight: 700; margin: 0}}
#title p, .faint, .note, #about p {{opacity: .75; margin: 0}}
.note, .faint, #about p {{font-size: .9em}}
#overlay img, #evidence img, #review-overlay img, #review-photo img, #review-evidence img {{width: 100%; height: 100%;
  object-fit: contain}}
.defective, .normal, .unknown {{display: inline-block; padding: 2px 12px 3px; border-radius: 999px; font-weight: 700;
  font-size: 1.25em; color: #fff; border: 2px solid transparent}}
.defective {{background: {DEFECTIVE_TEXT}}} .normal {{background: {GOOD_TEXT}}}
.unknown {{color: inherit; border: 2px dashed currentColor}}
.defective::before {{content: "\\25b2"}} .normal::before {{content: "\\25cf"}} .unknown::before {{content: "?"}}
.defective::before, .normal::before, .unknown::before {{margin-right: 8px; font-size: .8em}}
.verdict p {{margin: 0 0 6px}} .verdict summary {{cursor: pointer}} .verdict details {{margin: 4px 0}}
.empty {{padding: 22px; text-align: center; border: 1px dashed var(--border-color-primary); border-radius: 8px}}
.empty p {{margin: 0 auto 6px; max-width: 46em}}
.gauge {{position: relative; height: 10px; margin: 8px 0 26px !important; border-radius: 5px; max-width: 640px;
  background: linear-gradient(to right, {GOOD} 33.3%, {DEFECTIVE} 33.3%)}}
.gauge i {{position: absolute; top: -5px; width: 7px; height: 20px; margin-left: -3px; border-radius: 3px;
  background: #111; border: 1px solid #fff}}
.gauge span {{position: absolute; left: 33.3%; top: 12px; font-size: .8em; transform: translateX(-50%)}}
.strip {{position: relative; height: 44px; margin: 10px 0; border-bottom: 2px solid currentColor}}
.strip i {{position: absolute; bottom: 0; width: 2px; height: 44px; margin-left: -1px; background: currentColor}}
.strip b {{position: absolute; bottom: 4px; transform: translateX(-50%); font-size: 20px; line-height: 1}}
.strip .over {{color: {DEFECTIVE_TEXT}; bottom: 20px}} .strip .under {{color: {GOOD_TEXT}}}
.dark .strip .over {{color: #ff9d6b}} .dark .strip .under {{color: #8ac4e6}}
[data-testid="status-tracker"]:has(> .error) {{display: none}}
.legend {{height: 10px; border-radius: 3px; position: relative;
  background: linear-gradient(to right, {SHADES})}}
.legend i {{position: absolute; left: 50%; top: -2px; width: 3px; height: 14px; background: {css(DETECTED)};
  outline: 1px solid #111}}
.legend + div {{display: flex; justify-content: space-between; font-size: .8em}}
.bar {{height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: 6px 0}}
.bar i {{display: block; height: 100%; background: {GOOD_TEXT}}} .dark .bar i {{background: {GOOD}}}
.card-head {{display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; margin-bottom: 6px}}
.card-head b {{overflow-wrap: anywhere}}
.answer {{border: 1px solid currentColor; border-radius: 6px; padding: 0 8px; font-weight: 600}}
.flips {{border-collapse: collapse; width: 100%; font-size: .92em; margin-top: 6px}}
.flips th, .flips td {{text-align: left; padding: 6px 12px 6px 0 !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: anywhere; vertical-align: top}}
.flips .defective, .flips .normal, .flips .unknown {{font-size: .85em; padding: 0 8px}}
#review-answers button {{min-height: 48px; padding: 0 6px; white-space: nowrap}} #review-answers {{gap: 8px}}
@media (max-width: 640px) {{#review-answers {{position: sticky; bottom: 0; z-index: 5; padding: 6px 0;
  background: var(--body-background-fill)}}}}
kbd {{border: 1px solid var(--border-color-primary); border-bottom-width: 2px; border-radius: 4px; padding: 0 5px;
  font-size: .85em; font-family: ui-monospace, monospace}}
@media (hover: none) {{.keys {{display: none}}}}
"""
FRAMING = (
    '<p class="note">All optional, and kept with the product for all of its photos. Paint or type the region that '
    "counts: what lies outside is not seen. Tiles show smaller defects, and take as many times as long. Parts that "
    "lie as they fall are remembered at several angles.</p>"
)
DARK = '<p class="note">What is dark lies outside of the region and does not count.</p>'
PAIR = '<p class="note">Left: the strangest patch. Right: the good patch that it is nearest to.</p>'
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
    count = f"{len(found.regions)} region{'' if len(found.regions) == 1 else 's'} marked"
    more = f"<details><summary>{count}, in pixels</summary><ol>{boxes}</ol></details>" if boxes else ""
    more += f"<p>{escape(found.remark)}</p>" if found.remark else ""
    more += DARK if found.counts is not None else ""
    if found.label == UNKNOWN:
        return f'<div class="verdict">{_unknown(found)}{more}</div>'
    if found.label == CALLED_DEFECTIVE and (found.heat_map > found.pixel_threshold).mean() > MOST_OF_IT:
        more += "<p>Most of this photo is unlike the good ones: is it the right product, in the same light?</p>"
    return (
        f'<div class="verdict"><p role="status"><span class="{found.label}">{found.label}</span> '
        f"<b>{_shown_as(found)}</b></p><p><b>{found.ratio:.2f} times the threshold of {escape(found.product)}</b> "
        f'<span class="faint">(score {found.score:.4f}, {side} {found.threshold:.4f})</span></p>'
        f'<div class="gauge" aria-hidden="true"><i style="left: {100 * min(found.ratio / 3, 1):.1f}%"></i>'
        f"<span>threshold</span></div>{more}</div>"
    )


def introduce_example(example: Example | None, products: Products) -> str:
    """The verdict on the first screen, with what is shown; if nothing can be, an invitation to teach or to check."""
    if example is None:
        return NOTHING_YET if products.names else INVITATION
    what = (
        "A drawn sample, judged when the app started."
        if example.drawn
        else "A good photo that this detector knows, judged by the others of its product."
    )
    return f'{describe(example.found)}<p class="note">{what} Choose or drop another one to check it.</p>'


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
        count = len(config.class_names)
        known = f"{count} product{'' if count == 1 else 's'}"
        what = f"**{name}**, trained on {known}, backbone `{config.backbone or 'its own'}`."
    elif name == SAMPLER:
        what = "The small embedded backbone, untrained: good for trying out; for a line, train a detector and load it."
    else:
        what = f"**{name}**, untrained: it compares patches."
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
        notes = [*copies, *report.suspicious, *report.mixed, *report.read]
        text = "\n- ".join([f"{text}\n" if notes else text, *notes])
    return text


def good_photos(products: Products, product: str, side: int) -> list[tuple[Image.Image, str]]:
    """(picture, words) of a product's good photos that can be shown, the one least like the others first.

    Args:
        products: The visitor's.
        product: Its name; of one that is framed, what does not count is dark, and lines are the borders of tiles.
        side: Of the model's view.
    """
    if product not in products.names:
        return []
    names = {reference.digest: reference.name for reference in products.bank.references(product)}
    framing, size = products.bank.framings.get(product), products.bank.product(product).reading.get("size")
    return [
        (show_framing(products.bank.views[digest].image(), framing, side, size), f"{score:.4f} {names[digest]}")
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


__all__ = [
    "ABOUT", "CSS", "FRAMING", "INVITATION", "LEGEND", "PAIR", "SECONDS_KEPT", "TITLE", "describe", "false_alarms",
    "good_photos", "introduce", "introduce_example", "not_read", "taught",
]  # fmt: skip
