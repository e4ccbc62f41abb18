"""The words of the review tab: how far one is, the photo on screen, what a change would do."""

from collections.abc import Sequence
from html import escape

from ..decisions import NORMAL
from ..thresholds import Thresholds
from .review import RIGHT, UNSURE, WRONG, Item, Proposal, Review, Verdict

MOST_LISTED = 200
HEADERS = ["file", "product", "verdict", "times threshold", "answer"]
HOW = (
    '<p class="note">Photos are judged in the background while you go through them. Say of each verdict whether it is '
    'right. <span class="keys">Keys: <kbd>R</kbd> right, <kbd>W</kbd> wrong, <kbd>U</kbd> unsure, <kbd>&rarr;</kbd> '
    "or <kbd>J</kbd> next, <kbd>&larr;</kbd> or <kbd>K</kbd> back, <kbd>Z</kbd> undo.</span></p>"
)
LEARN = (
    '<p class="note">What you confirmed to be good teaches its product, or sets its threshold. You see first what '
    "that would have changed; nothing decides before you keep it.</p>"
)
KEYS = """<script>
document.addEventListener("keydown", (event) => {
  const answers = document.getElementById("review-answers");
  if (!answers || answers.offsetParent === null || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = "input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true]";
  const own = "input[type=radio], [role=grid], [role=listbox], .preview";  // arrows mean something there
  const arrow = event.key.startsWith("Arrow");
  if (event.target.closest(typing) || (arrow && event.target.closest(own))) return;
  const button = {ArrowRight: "next", j: "next", ArrowLeft: "back", k: "back", r: "right", w: "wrong", u: "unsure",
                  z: "undo"}[arrow ? event.key : event.key.toLowerCase()];
  if (!button || (event.repeat && button !== "next" && button !== "back")) return;
  event.preventDefault();
  document.getElementById("review-" + button)?.click();
});
</script>"""


def progress_of(review: Review, busy: bool) -> str:
    """Which photo is on screen, how many were reviewed, what is under way, and what went wrong, as HTML."""
    with review.lock:
        judged, shown = review.judged, review.shown
        items = [item for item in review.items if not item.refused]
        refused = [item for item in review.items if item.refused]
        done = [item for item in items if item.answer]
        waiting = sum(item.verdict is None for item in items)
        again = sum(item.stale for item in items)
    answers = [f"{n} {word}" for word in (RIGHT, WRONG, UNSURE) if (n := sum(i.answer == word for i in done))]
    notes = []
    if waiting:
        notes.append(f"{waiting} still to be judged")
    if again and busy:
        notes.append(f"{again} judged again")
    if review.watched is not None:
        notes.append(f"watching {escape(str(review.watched))} for new photos")
    share = 100 * len(done) / len(items) if items else 0
    place = f"photo {judged.index(shown) + 1} of {len(judged)}" if shown is not None else ""
    first = f"{len(done)} of {len(items)} reviewed"
    counts = " &middot; ".join([f"<b>{first}</b>", *answers, *notes])
    text = (
        f'<div role="status"><div class="card-head"><span>{counts}</span><span class="faint">{place}</span></div>'
        f'<div class="bar" aria-hidden="true"><i style="width: {share:.1f}%"></i></div></div>'
    )
    if review.trouble:
        text += f'<div role="alert"><b>Judging stopped:</b> {escape(review.trouble)}</div>'
    left_out = [item.refused for item in refused] + [note for note in review.notes if note.startswith("skipped")]
    if left_out:
        lines = "".join(f"<li>{escape(line)}</li>" for line in left_out)
        count = "One file was" if len(left_out) == 1 else f"{len(left_out)} files were"
        text += f'<details role="alert"><summary>{count} not judged</summary><ul>{lines}</ul></details>'
    return text


def card(item: Item) -> str:
    """The photo on screen: its name, its verdict, and what was answered, as HTML."""
    assert item.verdict is not None
    answer = ""
    if item.answer:
        means = f": a {'good' if item.part == NORMAL else 'defective'} part" if item.part else ""
        answer = f'<p>Your answer: <span class="answer">{item.answer}</span>{means}</p>'
    elif item.stale:
        answer = "<p>It is being judged again.</p>"
    return f'<div class="card-head"><b>{escape(item.name)}</b></div>{item.verdict.told}{answer}'


def listed(judged: Sequence[Item]) -> list[list[object]]:
    """The photos in their order, as rows of `HEADERS`; the first `MOST_LISTED`."""
    return [
        [item.name, found.product, found.label, round(found.ratio, 2), item.answer]
        for item in judged[:MOST_LISTED]
        if (found := item.verdict) is not None
    ]


def describe_threshold(product: str, before: Thresholds | None, after: Thresholds | None, why: str = "") -> str:
    """Old -> new threshold of a product, as HTML."""
    name = f"<b>{escape(product)}</b>"
    if after is None:
        return f"{name}: no threshold"
    new = f"{after.threshold:.4g}"
    if before is None or before.threshold == after.threshold:
        moved = f"threshold {'stays ' if before else ''}<b>{new}</b>"
    else:
        change = f" ({after.threshold / before.threshold - 1:+.0%})" if before.threshold > 0 else ""
        moved = f"threshold <b>{before.threshold:.4g} &rarr; {new}</b>{change}"
    return f"{name}: {moved}, {escape(after.promise)}" + (f"; {escape(why)}" if why else "")


def describe_proposal(review: Review, proposal: Proposal) -> str:
    """What a change would do to the reviewed photos, as HTML: nothing decides by it yet."""
    flips = review.flips(proposal)
    lines = "".join(f"<li>{line}</li>" for line in proposal.lines)
    count = len(proposal.verdicts)
    if not flips:
        table = f"<p>None of the {count} reviewed verdicts would change.</p>"
    else:
        rows = "".join(
            f"<tr><td>{escape(flip.item.name)}</td><td>{_label(flip.before)}</td><td>{_label(flip.after)}</td>"
            f"<td>{_effect(flip.item, flip.after)}</td></tr>"
            for flip in flips
        )
        table = (
            f"<p><b>{len(flips)} of the {count} reviewed verdicts would change:</b></p><table class='flips'><thead>"
            f"<tr><th>photo</th><th>now</th><th>then</th><th>by your answer</th></tr></thead><tbody>{rows}</tbody>"
            "</table>"
        )
    rest = len(review.judged) - count
    open_ = (
        f"<p><b>{rest} more photo{' has' if rest == 1 else 's have'} no answer</b>: judged again when you keep it; "
        "what is near the threshold may change. Look at it then; it can be undone.</p>"
        if rest > 0
        else ""
    )
    return (
        f'<div role="status"><h3>{escape(proposal.title)}</h3><ul>{lines}</ul>{_mistakes(review, proposal)}{table}'
        f'{open_}<p class="note">Photos that were taught are judged by the others. Nothing decides by this yet. '
        "If you keep it, it decides on this page; to have it in the run, too, save it in the tab Detector.</p>"
        "</div>"
    )


def _mistakes(review: Review, proposal: Proposal) -> str:
    old, new = review.mistakes(), review.mistakes(proposal.verdicts)
    if not old[2]:
        return ""
    told = [f"{alarms + missed} ({alarms} false alarms, {missed} missed)" for alarms, missed, _ in (old, new)]
    return f"<p>Mistakes on the {old[2]} parts that you answered for: {told[0]} &rarr; <b>{told[1]}</b></p>"


def _label(found: Verdict) -> str:
    return f'<span class="{found.label.split()[0]}">{found.label}</span> {found.ratio:.2f}&times;'


def _effect(item: Item, after: Verdict) -> str:
    if not item.part:
        return "open"
    return "right then" if after.label == item.part else "wrong then"


__all__ = [
    "HEADERS", "HOW", "KEYS", "LEARN", "card", "describe_proposal", "describe_threshold", "listed", "progress_of",
]  # fmt: skip
