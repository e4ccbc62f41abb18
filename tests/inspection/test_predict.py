"""Predictions of photos from disk: one batch at a time, the same scores however they are cut."""

import numpy as np
import pytest
import transformers
from PIL import Image

from anople_hf.images import UnreadableImageError, measure_reading
from anople_hf.inspection.predict import judge, predict, prepare
from anople_hf.pictures.overlays import color_scale
from anople_hf.thresholds import Thresholds


@pytest.fixture
def taught(make_model, photos):
    model = make_model()
    model.memorize(photos[:3], "gear")
    model.memory.update("gear", thresholds=Thresholds(1e-6, 1e-6))
    return model


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(made):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return made


def test_batches_do_not_change_the_scores(taught, processor, paths):
    found = list(predict(taught, processor, paths, category="gear", batch_size=3, progress=False))
    assert [p.path for p in found] == paths and {p.category for p in found} == {"gear"}
    alone = [judge(taught, processor, [prepare(taught, processor, path, "gear")], "gear")[0] for path in paths]
    assert [p.result["score"] for p in found] == pytest.approx([p.result["score"] for p in alone], rel=1e-5)
    assert len({p.result["score"] for p in found}) == 4
    for prediction in found:
        assert prediction.photo.size == (60, 40) and prediction.result["heat_map"].shape == (40, 60)


def test_the_bar_counts_photos_and_tells_the_time_left(taught, processor, paths, capsys):
    list(predict(taught, processor, paths, batch_size=3, progress=False))
    assert capsys.readouterr().err == ""
    transformers.utils.logging.enable_progress_bar()  # a command that an earlier test ran in this process took it away
    list(predict(taught, processor, paths, batch_size=3))
    said = capsys.readouterr().err
    assert "4/4" in said and "photo/s" in said and "<" in said  # elapsed < left


def test_a_recognized_product_is_named(taught, processor, paths):
    assert judge(taught, processor, [prepare(taught, processor, paths[0])])[0].category is None
    taught.config.memory_search = "product"
    assert judge(taught, processor, [prepare(taught, processor, paths[0])])[0].category == "gear"


def test_a_photo_is_decoded_once_and_a_bad_one_is_named_or_skipped(taught, processor, paths, decoded):
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=r"2.png is truncated.*--skip-bad"):
        list(predict(taught, processor, paths, progress=False))
    decoded.clear()
    said = []
    found = list(predict(taught, processor, paths, batch_size=2, skip=said.append, progress=False))
    assert [p.path for p in found] == [paths[0], paths[1], paths[3]] and len(said) == 1 and str(paths[2]) in said[0]
    assert decoded == dict.fromkeys(paths, 1)
    said.clear()
    assert not list(predict(taught, processor, paths[2:3], skip=said.append, progress=False)) and len(said) == 1


def test_a_large_photo_has_small_pictures_and_boxes_in_its_own_pixels(taught, processor, paths):
    (whole,) = predict(taught, processor, paths[:1], category="gear", progress=False)
    (small,) = predict(taught, processor, paths[:1], category="gear", longest=30, progress=False)
    assert small.size == whole.size == (60, 40)
    assert small.photo.size == (30, 20) and small.result["heat_map"].shape == small.result["mask"].shape == (20, 30)
    assert small.result["score"] == whole.result["score"] and small.result["regions"]
    for mine, theirs in zip(small.result["regions"], whole.result["regions"], strict=True):
        assert np.abs(np.subtract(mine["box"], theirs["box"])).max() <= 2  # a pixel of the smaller map
        assert mine["area"] == pytest.approx(theirs["area"], rel=0.2)


def test_deep_photos_are_read_by_their_products_range(taught, processor, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "plain.png")
    Image.fromarray(np.rint(gray * (4095 / 255)).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((40, 60), 9000, np.uint16)).save(tmp_path / "bright.png")
    plain, deep, bright = (tmp_path / f"{name}.png" for name in ("plain", "deep", "bright"))
    taught.memory.update("gear", reading=measure_reading([deep]))
    for category in ("gear", None):  # told; or the only product's range
        found = list(predict(taught, processor, [plain, deep, bright], category=category, progress=False))
        assert found[0].result["score"] == pytest.approx(found[1].result["score"], rel=1e-3)
        assert "plain.png: its depth is uint8" in found[0].remark and found[1].remark == ""
        assert "bright.png: its brightest value is 9000" in found[2].remark


def test_unknown_category(taught, processor, paths):
    with pytest.raises(KeyError, match="known: gear"):
        list(predict(taught, processor, paths, category="bolt", progress=False))


def test_colors_do_not_depend_on_the_photo(taught):
    assert color_scale(taught, "gear") == (0.0, 2e-6) and color_scale(taught) == (0.0, 0.5)


def test_only_a_product_that_was_not_told_takes_the_common_thresholds(taught):
    common = taught.memory.common = Thresholds(0.2, 0.7, method="set by hand")
    bank = taught.memory
    assert bank.thresholds_of() == bank.thresholds_of("nut", recognized=True) == common
    assert bank.thresholds_of("nut") is None
    assert bank.thresholds_of("gear") == bank.thresholds_of("gear", recognized=True) != common
    assert color_scale(taught, "nut", recognized=True) == (0.0, 1.4)
