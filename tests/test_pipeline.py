"""`pipeline("image-anomaly-detection")`: every kind of input gives what model and processor give by hand."""

import copy
import http.server
import threading
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sizes import SIDE
from transformers import pipeline

from anople_hf import AnomalyDetectionPipeline, AnoPLeModel, AnoPLeProcessor
from anople_hf.images import UnreadableImageError
from anople_hf.teaching import teach
from anople_hf.thresholds import Thresholds, normal_probability

TASK = "image-anomaly-detection"


def draw(seed, size=(64, 40)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


PHOTOS = [draw(seed, (64 + 8 * seed, 40)) for seed in range(5)]  # of different sizes


@pytest.fixture(scope="module")
def original(tiny_clip):
    torch.manual_seed(0)
    model = AnoPLeModel.from_backbone(tiny_clip)
    processor = AnoPLeProcessor.from_backbone(tiny_clip, model.config)
    model.set_class_names({"gear": "gear", "nut": "nut"}, **processor.class_prompts(["gear", "nut"]))
    torch.nn.init.normal_(model.decoder.refine.weight, std=0.1)
    views = {
        "gear": processor(images=PHOTOS[:2])["pixel_values"],
        "nut": processor(images=PHOTOS[2:4])["pixel_values"],
    }
    for category, pixels in views.items():
        model.memorize(pixels, category)
    teach(model, views)
    return model, processor


@pytest.fixture
def detector(original):
    return pipeline(TASK, model=copy.deepcopy(original[0]), processor=original[1])


@pytest.fixture
def by_hand(original):
    model, processor = original

    def judge(photo, category=None):
        with torch.no_grad():
            output = model(processor(images=photo)["pixel_values"], category=category)
        return processor.post_process(output, target_sizes=[photo.size[::-1]])[0]

    return judge


def scores(results):
    return [result["score"] for result in results]


def test_one_photo_in_every_form(detector, by_hand, tmp_path):
    photo = PHOTOS[4]
    photo.save(tmp_path / "photo.png")
    wanted = by_hand(photo)
    array = np.asarray(photo)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [photo, array, array / 255.0, tensor, tmp_path / "photo.png", str(tmp_path / "photo.png")]
    for form in [*forms, (tmp_path / "photo.png").read_bytes(), {"image": photo}]:
        result = detector(form)
        assert result["score"] == pytest.approx(wanted["score"], abs=1e-6), type(form)
        assert result["label"] == wanted["label"] and result["threshold"] == wanted["threshold"]
        assert result["heat_map"].shape == (40, 96) and result["mask"].size == (96, 40)
        np.testing.assert_allclose(result["heat_map"], wanted["heat_map"], atol=1e-6)
        assert result["category"] is None


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_recognized_product_is_named_and_its_own_scores_count(detector, by_hand, batch_size):
    detector.model.config.memory_search = "product"
    bank = detector.model.memory
    bank.update("gear", thresholds=replace(bank.thresholds_of("gear"), threshold=1e-4, pixel_threshold=1e-4))
    bank.update("nut", thresholds=None)  # has to do with the common ones
    found = detector(PHOTOS[:4], batch_size=batch_size)
    assert [result["category"] for result in found] == ["gear", "gear", "nut", "nut"]
    for photo, result in zip(PHOTOS, found, strict=False):
        entry = bank.thresholds_of(result["category"], recognized=True)
        assert result["score"] == pytest.approx(by_hand(photo, result["category"])["score"], abs=1e-6)
        assert result["threshold"] == pytest.approx(entry.threshold)
        assert result["normal_probability"] == normal_probability(result["score"], entry)
    single = detector(PHOTOS[0])
    assert single["category"] == "gear" and single["threshold"] == pytest.approx(1e-4)


def test_a_url(detector, by_hand, tmp_path):
    PHOTOS[1].save(tmp_path / "photo.png")
    quiet = {"log_message": lambda *_: None}
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), quiet)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert detector(f"{url}/photo.png")["score"] == pytest.approx(by_hand(PHOTOS[1])["score"], abs=1e-6)
        with pytest.raises(UnreadableImageError, match="nothing.png cannot be fetched .*404"):
            detector(f"{url}/nothing.png")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_lists_generators_data_sets_and_batches_agree(detector, by_hand, batch_size):
    wanted = [by_hand(photo)["score"] for photo in PHOTOS]
    listed = detector(PHOTOS, batch_size=batch_size)
    assert isinstance(listed, list) and scores(listed) == pytest.approx(wanted, abs=1e-6)
    assert [r["heat_map"].shape for r in listed] == [photo.size[::-1] for photo in PHOTOS]
    assert scores(detector(tuple(PHOTOS), batch_size=batch_size)) == pytest.approx(wanted, abs=1e-6)
    rows = datasets.Dataset.from_dict({"image": PHOTOS}, features=datasets.Features({"image": datasets.Image()}))
    for stream in ((photo for photo in PHOTOS), iter(PHOTOS), rows):
        found = detector(stream, batch_size=batch_size)
        assert not isinstance(found, list)
        assert scores(found) == pytest.approx(wanted, abs=1e-6)
    assert detector([]) == []


def test_a_stream_is_read_as_it_goes(detector):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield PHOTOS[0]

    found = detector(endless())
    stream = iter(found)
    next(stream), next(stream)
    assert len(taken) <= 4


@pytest.mark.parametrize("batch_size", [1, 3])
def test_category_routing(detector, by_hand, batch_size):
    names = ["gear", "nut", "gear", "nut", "gear"]
    wanted = [by_hand(photo, name) for photo, name in zip(PHOTOS, names, strict=True)]
    found = detector(PHOTOS, category=names, batch_size=batch_size)
    assert scores(found) == pytest.approx([w["score"] for w in wanted], abs=1e-6)
    assert [r["category"] for r in found] == names
    assert [r["threshold"] for r in found] == pytest.approx([w["threshold"] for w in wanted])
    pairs = [{"image": photo, "category": name} for photo, name in zip(PHOTOS, names, strict=True)]
    assert scores(detector(pairs, batch_size=batch_size)) == scores(found)
    assert scores(detector(iter(PHOTOS), category=names, batch_size=batch_size)) == scores(found)
    everywhere = detector(PHOTOS, category="nut", batch_size=batch_size)
    assert {r["category"] for r in everywhere} == {"nut"}
    assert everywhere[0]["score"] == pytest.approx(by_hand(PHOTOS[0], "nut")["score"], abs=1e-6)


def test_a_data_set_is_routed_only_if_asked(detector, by_hand):
    names = ["gear", "nut", "gear", "nut", "bolt"]
    features = datasets.Features({"image": datasets.Image(), "category": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": PHOTOS, "category": names}, features=features)
    assert scores(detector(rows)) == pytest.approx([by_hand(photo)["score"] for photo in PHOTOS], abs=1e-6)
    known = rows.select(range(4))
    wanted = [by_hand(photo, name)["score"] for photo, name in zip(PHOTOS[:4], names[:4], strict=True)]
    assert scores(detector(known, category=known["category"], batch_size=2)) == pytest.approx(wanted, abs=1e-6)


def test_category_mistakes(detector):
    with pytest.raises(KeyError, match="unknown product 'bolt'; known: gear, nut"):
        detector(PHOTOS[0], category="bolt")
    with pytest.raises(ValueError, match="1 categories for 2 images"):
        detector(PHOTOS[:2], category=["gear"])
    with pytest.raises(ValueError, match="expected one name"):
        detector(PHOTOS[0], category=["gear", "nut"])
    with pytest.raises(ValueError, match="all or none"):
        detector([{"image": PHOTOS[0], "category": "gear"}, PHOTOS[1]], batch_size=2)
    with pytest.raises(TypeError, match=r"unknown arguments \['categorie'\]"):
        detector(PHOTOS[0], categorie="gear")


def test_teaching_sets_a_threshold(detector, tmp_path):
    PHOTOS[4].save(tmp_path / "cap.png")
    before = detector(PHOTOS[4], category="nut")["score"]
    detector.teach([tmp_path / "cap.png", draw(8)], category="cap", views=4)
    assert detector.model.memory.categories == ["gear", "nut", "cap"]
    assert detector.model.memory.references("cap")[0].name == str(tmp_path / "cap.png")
    result = detector(PHOTOS[4], category="cap")
    assert result["score"] < before and result["label"] == "normal"
    assert result["normal_probability"] > 0.5
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        detector.teach(str(tmp_path / "gone.png"), category="cap")


def test_label_mask_and_boxes_follow_the_thresholds(detector):
    result = detector(PHOTOS[4], threshold=0.0, pixel_threshold=0.0)
    assert result["label"] == "defective" and result["threshold"] == 0.0
    assert np.asarray(result["mask"]).min() == 255  # every pixel is above 0
    box = result["boxes"][0]
    assert box["box"] == {"xmin": 0, "ymin": 0, "xmax": 96, "ymax": 40} and box["area"] == 96 * 40
    assert box["score"] == pytest.approx(float(result["heat_map"].max()))
    good = detector(PHOTOS[4], threshold=1.0)
    assert good["label"] == "normal" and not np.asarray(good["mask"]).any() and good["boxes"] == []


def test_an_untrained_detector_decides_by_its_memory(tiny_clip):
    model = AnoPLeModel.from_backbone(tiny_clip)
    detector = pipeline(TASK, model=model, processor=AnoPLeProcessor.from_backbone(tiny_clip, model.config))
    detector.teach(PHOTOS[:2], category="gear", views=2)
    found = detector(PHOTOS[:1])[0]
    assert found["label"] == "normal" and found["threshold"] is not None and found["normal_probability"] is not None
    with torch.no_grad():
        by_memory = model(detector.processor(images=PHOTOS[0])["pixel_values"], branch="memory")
    assert found["score"] == pytest.approx(by_memory.scores.item())


def test_views_of_a_part_get_one_verdict(detector):
    views = detector(PHOTOS[:3], category="gear")
    seven, eight = detector.decide_parts(views, ["7", "8", "7"])
    assert (seven["part"], seven["category"], seven["views"]) == ("7", "gear", 2)
    assert seven["ratio"] == max(views[0]["ratio"], views[2]["ratio"])
    assert seven["label"] == ("defective" if "defective" in (views[0]["label"], views[2]["label"]) else "normal")
    assert eight["label"] == views[1]["label"]


def test_without_thresholds_nothing_is_claimed(detector):
    for name in detector.model.memory.categories:
        detector.model.memory.update(name, thresholds=None)
    result = detector(PHOTOS[4])
    assert (result["label"], result["threshold"], result["normal_probability"]) == (None, None, None)
    assert not np.asarray(result["mask"]).any()


def test_a_branch_alone_has_no_probability(detector):
    assert detector(PHOTOS[0], branch="memory")["normal_probability"] is None
    assert detector(PHOTOS[0])["normal_probability"] is not None


def test_saved_pipeline_loads_again(detector, tmp_path):
    detector.save_pretrained(tmp_path)
    again = pipeline(TASK, model=str(tmp_path))
    assert type(again) is AnomalyDetectionPipeline and isinstance(again.processor, AnoPLeProcessor)
    assert scores(again(PHOTOS)) == scores(detector(PHOTOS))
    half = pipeline(TASK, model=str(tmp_path), dtype=torch.bfloat16)
    assert scores(half(PHOTOS)) == pytest.approx(scores(detector(PHOTOS)), abs=0.05)


def test_normal_probability_is_the_share_of_good_parts_beyond():
    generator = np.random.default_rng(0)
    known, new = generator.normal(size=400), generator.normal(size=4000)
    found = Thresholds.from_normals(known.tolist(), [1.0], 0.05, num_photos=400, exchangeable=True)
    values = np.array([normal_probability(score, found) for score in new])
    for share in (0.05, 0.25, 0.5, 0.75):  # a p-value of normals is uniform
        assert abs((values <= share).mean() - share) < 0.05
    order = np.argsort(new)
    assert (np.diff(values[order]) <= 0).all()
    assert normal_probability(found.threshold, found) == pytest.approx(0.05, abs=0.01)
    assert normal_probability(100.0, found) == pytest.approx(1 / 401)
    assert normal_probability(-100.0, found) == 1.0
    assert normal_probability(0.0, Thresholds(1.0, 1.0)) is None  # set by hand, nothing was learned


def test_batches_of_arrays(original):
    processor = original[1]
    batch = np.stack([np.asarray(draw(seed, (SIDE, SIDE))) for seed in range(3)])
    expected = processor(images=list(batch))["pixel_values"]
    assert torch.equal(processor(images=batch)["pixel_values"], expected)
    channels_first = torch.from_numpy(batch).permute(0, 3, 1, 2)
    assert torch.equal(processor(images=channels_first)["pixel_values"], expected)
    assert torch.equal(processor(images=channels_first / 255)["pixel_values"], expected)


def test_deep_photos_are_read_by_the_range_that_was_taught(detector, tmp_path, caplog):
    grays = [np.asarray(draw(seed).convert("L")) for seed in range(20, 23)]
    for number, gray in enumerate(grays):
        Image.fromarray(np.rint(gray * (4095 / 255)).astype(np.uint16)).save(tmp_path / f"{number}.png")
    deep = [tmp_path / f"{number}.png" for number in range(3)]
    report = detector.teach(deep[:2], category="deep", views=2, turns=4)
    assert detector.model.memory.references("deep")[0].copies == 4
    assert "deep: its photos are read as 12 bits in uint16, 0 is black and 4095 is white" in str(report)
    assert "deep: photos of 64 x 40 pixels: a cell of the" in str(report)
    assert detector.model.memory.ranges("deep") == {"uint16": [0, 4095]}
    told = detector(deep[2], category="deep")["score"]
    assert not caplog.text
    plain = detector(Image.fromarray(grays[2]), category="deep")["score"]  # the 8 bits that it was made from
    assert told == pytest.approx(plain, rel=1e-3) and "its depth is uint8" in caplog.text
    Image.fromarray(np.full((40, 64), 5000, np.uint16)).save(tmp_path / "bright.png")
    detector(tmp_path / "bright.png", category="deep")
    assert "bright.png: its brightest value is 5000" in caplog.text
    detector.save_pretrained(tmp_path / "saved")
    again = AnoPLeModel.from_pretrained(tmp_path / "saved").memory
    assert again.ranges("deep") == {"uint16": [0, 4095]} and again.product("deep").reading["size"] == [64, 40]
