"""The page holds all it shows, says of strange names only their letters; its script sorts, filters and enlarges."""

import base64
import io
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from anople_hf import __version__
from anople_hf.images import from_printable, printable
from anople_hf.inspection.parts import judge_parts
from anople_hf.inspection.report import _thumbnail, write_report
from anople_hf.inspection.tables import COLUMNS


def judged(folder, path, score, label="normal", threshold=0.5, category="", time=""):
    (folder / "heat_maps").mkdir(exist_ok=True)
    name = f"heat_maps/{path.stem}.png"
    noise = np.random.default_rng(int(1000 * score)).integers(0, 255, (400, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / name)
    Image.fromarray(noise).save(path)
    row = {"path": str(path), "category": category, "score": score, "threshold": threshold, "label": label}
    row["ratio"] = score / threshold if threshold else None
    return {**dict.fromkeys(COLUMNS, ""), **row, "regions": [], "heat_map": name, "time": time}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def write(rows, folder, title="t", scale=(0, 1), **how):
    text = write_report(rows, folder, title=title, scale=scale, **how).read_text(encoding="utf-8")
    page = Page(text)
    return text, page, "".join(page.words)


@pytest.fixture
def rows(tmp_path):
    return [
        judged(tmp_path, tmp_path / "a.png", 0.2, category="gear", time="2026-03-01T06:00:00+00:00"),
        judged(tmp_path, tmp_path / "<b> & 'c'.png", 0.9, "defective", category="gear", time="2026-03-01T08:30:00Z"),
        judged(tmp_path, tmp_path / "d.png", 0.6, "defective", category="nut"),
        judged(tmp_path, tmp_path / "near.png", 0.45, category="nut"),
    ]  # fmt: skip


def test_everything_is_inside(rows, tmp_path):
    text, page, words = write(rows, tmp_path, title="Line 1 <night>")
    assert all(source.startswith("data:image/") for source in page.sources) and "http" not in text
    assert not re.search(r"<script[^>]*src|<link|@import", text)
    assert page.tags.count("img") == 2 * 3 + 2  # three to look at, and the enlarged pair
    for source in page.sources:
        kind, content = re.fullmatch(r"data:image/(\w+);base64,(.*)", source).groups()
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format.lower() == kind and max(picture.size) == 320
    assert "Line 1 <night>" in words and "<b> & 'c'.png" in words  # escaped, so they come back as text


def test_an_unknown_product_is_to_be_looked_at_though_its_score_is_low(tmp_path):
    normal = judged(tmp_path, tmp_path / "normal.png", 0.3)
    unknown = judged(tmp_path, tmp_path / "unknown.png", 0.1, "unknown product")
    _, page, words = write([normal, unknown], tmp_path)
    assert "To look at: 1 photo" in words and "1 photos" not in words and "Nothing was found" not in words
    assert page.tags.count("figure") == 1


def test_it_says_what_was_judged_by_what(rows, tmp_path):
    text, _, words = write(rows, tmp_path, lot="A-17 & <B>", fingerprint="0123456789abcdef" * 4)
    assert "A-17 & <B>" in words and __version__ in words and "0123456789abcdef" in words
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", words)
    assert "50.0 %" in words
    assert re.search(r"<tr><td>gear<td class=n>2<td class=n>1<td class=n>1<td class=n>50\.0 %", text)
    assert text.count("Histogram of the scores of") == 2 and text.count("over time, as a multiple") == 1  # gear's
    assert "2026-03-01 06:00" in words and "2026-03-01 08:30 UTC" in words
    assert "Lot" not in write(rows, tmp_path)[2]


def test_all_defective_ones_and_near_misses_worst_first_relative_to_the_threshold(rows, tmp_path):
    rows[2] |= {"threshold": 0.1, "ratio": 6.0}  # 0.6 is six times as much as allowed, 0.9 not twice
    text, page, words = write(rows, tmp_path)
    shown = re.findall(r'<figure [^>]*data-path="([^"]*)"', text)
    assert [name.rsplit("/", 1)[1] for name in shown] == ["d.png", "&lt;b&gt; &amp; &#39;c&#39;.png", "near.png"]
    assert page.tags.count("tr") == (1 + 2) + (1 + 4)
    text, page, words = write(rows, tmp_path, most_shown=2, most_rows=1)
    assert page.tags.count("figure") == 2 and page.tags.count("tr") == (1 + 2) + (1 + 1)
    assert "To look at: 3 photos" in words and "The 2 farthest above have pictures" in words
    assert "The first 1 of 4 rows" in words


def test_good_parts_alone_still_show_those_nearest_to_the_threshold(rows, tmp_path):
    _, page, words = write(rows[:1], tmp_path)
    assert "Nothing was found" in words and page.tags.count("figure") == 1


def test_the_legend_says_what_the_colors_stand_for(rows, tmp_path):
    words = write(rows, tmp_path, scale=(0, 0.34))[2]
    assert "0.34" in words and "mark: from here on" in words and "each product's own" not in words
    assert "twice the value at the mark, each product's own" in write(rows, tmp_path, scale=None)[2]


def test_a_photo_that_is_gone_is_told(rows, tmp_path):
    (tmp_path / "d.png").unlink()
    assert "the photo is gone" in write(rows, tmp_path)[2]


def test_without_threshold_and_without_rows(tmp_path):
    bare = judged(tmp_path, tmp_path / "a.png", 0.2, "", None)
    _, _, words = write([bare], tmp_path)
    assert "without a threshold" in words and "mark: from" not in words
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path, title="t", scale=(0, 1))


def test_more_photos_have_smaller_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("anople_hf.inspection.report.SIDES", ((2, 320), (4, 240)))
    one = judged(tmp_path, tmp_path / "a.png", 0.9, "defective")

    def side(count):
        source = write([one] * count, tmp_path)[1].sources[0]
        return max(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size)

    assert [side(count) for count in (2, 3, 5)] == [320, 240, 128]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser_it_sorts_filters_and_enlarges(rows, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    path = write_report(rows, tmp_path, title="t", scale=(0, 1))
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # a phone scrolls one way only
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = [int(part) for part in re.findall(r"\d+", paper)]
        assert max(dark) < 60

        def names():
            figures = page.locator("figure:visible").evaluate_all("found => found.map((one) => one.dataset.path)")
            return [path.rsplit("/", 1)[1] for path in figures]

        assert names() == ["<b> & 'c'.png", "d.png", "near.png"]
        page.select_option("select[name=product]", "nut")
        assert names() == ["d.png", "near.png"] and page.inner_text("output") == "2 of 3 pictures, 2 of 4 rows"
        page.click(".photos th button >> text=score")
        page.click(".photos th button >> text=score")  # again: the other way round
        assert names() == ["near.png", "d.png"]
        page.fill("input[name=path]", "NEAR")
        assert names() == ["near.png"]
        page.fill("input[name=path]", "")
        page.locator("figure:visible button").first.focus()
        page.keyboard.press("Enter")
        assert "near.png" in page.inner_text("dialog")
        page.wait_for_function("document.querySelectorAll('dialog img')[1].src.endsWith('heat_maps/near.png')")
        page.evaluate("document.querySelectorAll('figure').forEach((f) => f.style.contentVisibility = 'hidden')")
        page.keyboard.press("ArrowRight")  # to one that is not drawn yet, as far below as it lies
        assert re.search(r"^defective nut, 1.20 times the threshold, .*/d.png$", page.inner_text("dialog p"))
        page.keyboard.press("Escape")
        assert not page.is_visible("dialog") and not errors
        browser.close()


def test_deep_photos_are_shown_in_their_products_range(tmp_path):
    """12 bits in 16 would be almost black; and a name that is no text is found again."""
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(np.full((40, 60), 2048, np.uint16)).save(path)
    levels = []
    for ranges in (None, {"uint16": [0, 4095]}):
        content = base64.b64decode(_thumbnail(from_printable(printable(path)), 280, ranges).split(",")[1])
        levels.append(float(np.asarray(Image.open(io.BytesIO(content))).mean()))
    assert levels == pytest.approx([8, 128], abs=2)


def test_parts_stand_before_the_photos_the_worst_first(tmp_path):
    views = [(1, 0.9, "defective"), (1, 0.1, "normal"), (2, 0.1, "normal"), (3, 0.45, "normal")]
    rows = [judged(tmp_path, tmp_path / f"{place}.png", score, label, category="nut") | {"part": f"serial {part}"}
            for place, (part, score, label) in enumerate(views)]  # fmt: skip
    _, _, words = write(rows, tmp_path, parts=judge_parts(rows))
    said = "".join(words.split())
    assert "3parts1defective2normal" in said and "Tolookat:2parts" in said
    assert f"serial1nutdefective1.8021{tmp_path / '0.png'}" in said and "serial2" not in said
    assert f"1.80timesthethreshold,partserial1{tmp_path / '0.png'}" in said  # its photo says so, too
    assert said.index("serial1") < said.index("serial3") < said.index("Products")
    assert "Parts" not in write(rows, tmp_path)[2]
    good = judge_parts(rows[2:3])
    assert "Nothing was found; those nearest" in write(rows[2:3], tmp_path, parts=good)[2]
