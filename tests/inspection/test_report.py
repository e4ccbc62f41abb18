"""The page holds all it shows, and says of strange names only their letters."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from anople_hf.inspection.report import write_report
from anople_hf.inspection.tables import COLUMNS


def judged(folder, path, score, label="normal", threshold=0.5, category=""):
    (folder / "heat_maps").mkdir(exist_ok=True)
    name = f"heat_maps/{path.stem}.png"
    noise = np.random.default_rng(int(1000 * score)).integers(0, 255, (400, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / name)
    Image.fromarray(noise).save(path)
    row = {"path": str(path), "category": category, "score": score, "threshold": threshold, "label": label}
    row["ratio"] = score / threshold if threshold else None
    return {**dict.fromkeys(COLUMNS, ""), **row, "regions": [], "heat_map": name}


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


@pytest.fixture
def rows(tmp_path):
    return [
        judged(tmp_path, tmp_path / "a.png", 0.2, category="gear"),
        judged(tmp_path, tmp_path / "<b> & 'c'.png", 0.9, "defective", category="gear"),
        judged(tmp_path, tmp_path / "d.png", 0.6, "defective", category="nut"),
    ]


def test_everything_is_inside(rows, tmp_path):
    path = write_report(rows, tmp_path, title="Line 1 <night>", scale=(0, 1))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == tmp_path / "report.html" and "script" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources) and "http" not in text
    assert page.tags.count("img") == 2 * 3 + 1 and page.tags.count("tr") == 1 + 3
    for source in page.sources:
        kind, content = re.fullmatch(r"data:image/(\w+);base64,(.*)", source).groups()
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format.lower() == kind and min(picture.size) > 100
    words = "".join(page.words)
    assert "Line 1 <night>" in words and "<b> & 'c'.png" in words  # escaped, so they come back as text


def test_worst_first_relative_to_its_threshold_and_no_more_than_asked(rows, tmp_path):
    rows[2] |= {"threshold": 0.1, "ratio": 6.0}  # 0.6 is six times as much as allowed, 0.9 not twice
    text = write_report(rows, tmp_path, title="t", scale=(0, 1), worst=2, most_rows=1).read_text()
    page = Page(text)
    assert page.tags.count("figure") == 2 and page.tags.count("tr") == 1 + 1
    words = "".join(page.words)
    assert words.index("d.png") < words.index("<b>") and "a.png" not in words
    assert "The 2 most suspicious of 3 photos" in words and "first 1 of 3 rows" in words


def test_the_legend_says_what_the_colors_stand_for(rows, tmp_path):
    words = "".join(Page(write_report(rows, tmp_path, title="t", scale=(0, 0.34)).read_text()).words)
    assert "0.34" in words and "marked: pixel threshold" in words and "its product" not in words
    words = "".join(Page(write_report(rows, tmp_path, title="t", scale=None).read_text()).words)
    assert "twice its product's pixel threshold" in words


def test_a_photo_that_is_gone_is_told(rows, tmp_path):
    (tmp_path / "a.png").unlink()
    assert "the photo is gone" in write_report(rows, tmp_path, title="t", scale=(0, 1)).read_text()


def test_without_threshold_and_without_rows(tmp_path):
    bare = judged(tmp_path, tmp_path / "a.png", 0.2, "", None)
    text = write_report([bare], tmp_path, title="t", scale=(0, 1)).read_text()
    assert "no threshold" in text and "pixel threshold" not in text
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path, title="t", scale=(0, 1))
