"""Charts show the numbers: bars count, curves agree with the metrics, thresholds lie where they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from anople_hf.evaluation.metrics import auroc, average_precision
from anople_hf.pictures.charts import (
    ScoreGroup,
    curve_counts,
    draw_category_bars,
    draw_histograms,
    draw_precision_recall,
    draw_roc,
    write_plots,
)


def groups(count=2):
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        labels = [0] * 12 + [1] * 9
        scores = rng.normal(0.3, 0.1, 21) + 0.15 * np.array(labels)
        made.append(ScoreGroup(f"product {number}", scores.tolist(), labels, threshold=0.4))
    return made


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def vertical_lines(axis):
    return [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]


def test_histograms_count_every_photo_on_one_axis():
    figure = draw_histograms(groups())
    assert len(figure.axes) == 2
    for axis, group in zip(figure.axes, groups(), strict=True):
        assert sum(bar.get_height() for bar in axis.patches) == len(group.scores)
        hatched = sum(bar.get_height() for bar in axis.patches if bar.get_hatch())
        assert hatched == sum(group.labels)
        assert vertical_lines(axis) == [0.4]
        assert axis.get_title("left") == group.name
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_histogram_of_unknown_photos_without_threshold_and_of_equal_scores():
    figure = draw_histograms([ScoreGroup("all photos", [0.2, 0.2, 0.2])])
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3 and not figure.axes[0].lines
    assert {"defective", "threshold"}.isdisjoint(words(figure))


def test_no_group_is_refused():
    with pytest.raises(ValueError, match="at least one group"):
        draw_histograms([])


def longest(axis):
    return max(axis.lines, key=lambda line: len(line.get_xdata())).get_xydata()


def test_roc_is_the_curve_behind_auroc_and_marks_the_threshold():
    for axis, group in zip(draw_roc(groups()).axes, groups(), strict=True):
        area = auroc(group.scores, group.labels)
        false, found = longest(axis).T
        assert np.trapezoid(found, false) == pytest.approx(area)
        assert f"AUROC {100 * area:.1f}" in [text.get_text() for text in axis.texts]
        mark = next(line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o")
        over = np.array(group.scores) > 0.4
        labels = np.array(group.labels)
        assert mark == pytest.approx([over[labels == 0].mean(), over[labels == 1].mean()])


def test_precision_recall_is_the_curve_behind_average_precision():
    for axis, group in zip(draw_precision_recall(groups()).axes, groups(), strict=True):
        recall, precision = longest(axis).T
        steps = np.diff(recall) @ precision[1:]
        assert steps == pytest.approx(average_precision(group.scores, group.labels))
        over = np.array(group.scores) > 0.4
        mark = next(line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o")
        assert mark[1] == pytest.approx(np.array(group.labels)[over].mean())


def test_one_kind_of_photo_has_no_curve_but_a_word():
    lacking = [ScoreGroup("a", [0.1, 0.2], [0, 0]), ScoreGroup("b", [0.1, 0.2], [1, 1])]
    for figure in (draw_roc(lacking), draw_precision_recall(lacking)):
        assert {"no defective photos", "no good photos"} <= set(words(figure))


def test_no_alarm_has_no_precision():
    calm = ScoreGroup("a", [0.1, 0.2], [0, 1], threshold=0.5)
    axis = draw_precision_recall([calm]).axes[0]
    assert not [line for line in axis.lines if line.get_marker() == "o"]


def test_equal_scores_are_one_step():
    hits, alarms = curve_counts([0.5, 0.5, 0.5], [1, 0, 1])
    assert hits.tolist() == [0, 2] and alarms.tolist() == [0, 1]


CATEGORIES = {
    "gear": {"image_auroc": 0.9, "image_aupr": 0.8, "pixel_auroc": 0.7, "aupro": None},
    "a capsule of many words": {"image_auroc": 0.5, "image_aupr": 0.4, "pixel_auroc": 0.3, "aupro": 0.2},
}
MEAN = {"image_auroc": 0.7, "image_aupr": 0.6, "pixel_auroc": 0.5, "aupro": 0.2}


def test_bars_are_as_long_as_the_numbers():
    figure = draw_category_bars(CATEGORIES, MEAN)
    lengths = [[bar.get_width() for bar in axis.patches] for axis in figure.axes]
    assert np.allclose(lengths, [[90, 50], [80, 40], [70, 30], [0, 20]])
    assert [vertical_lines(axis) for axis in figure.axes] == [[pytest.approx(100 * value)] for value in MEAN.values()]
    assert [axis.get_ylim()[0] > axis.get_ylim()[1] for axis in figure.axes] == [True] * 4  # first category on top
    assert "-" in words(figure) and "a capsule of many words" in words(figure)


def test_plots_of_an_evaluation(tmp_path):
    images = [
        {"category": name, "label": label, "score": 0.1 * label + 0.01 * number}
        for name in CATEGORIES
        for label in (0, 1)
        for number in range(4)
    ]
    result = SimpleNamespace(categories=CATEGORIES, mean=MEAN, images=images)
    paths = write_plots(result, tmp_path / "plots", {"gear": 0.1})
    assert [path.name for path in paths] == ["scores.png", "roc.png", "precision_recall.png", "categories.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # not a blank page
