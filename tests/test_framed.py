"""Framed products: what lies outside of the region counts in nothing; tiles make one map, one score, photo boxes."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sizes import SIDE
from transformers import pipeline

from anople_hf import AnoPLeModel, AnoPLeProcessor, calibration
from anople_hf.data import load_inspection_data
from anople_hf.evaluation.measurement import evaluate
from anople_hf.framed import score_views
from anople_hf.framing import Framing, FramingRequest
from anople_hf.inspection.predict import judge, prepare
from anople_hf.memory import MemoryBank
from anople_hf.teaching import calibrate, forget
from anople_hf.tiles import mask_of

WIDTH, HEIGHT = 120, 90
LEFT = "0,0,60,90"


def texture(seed, low=100):
    """A good part: a weave that lies a little differently in every photo, and some noise."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:HEIGHT, :WIDTH]
    weave = 60 * np.sin(x / 3 + seed) * np.cos(y / 4 + 2 * seed)
    return (low + weave[..., None] + rng.normal(0, 4, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)


def photo(seed=0, spot=None, **how):
    pixels = texture(seed, **how)
    if spot is not None:
        x, y = spot
        pixels[y : y + 8, x : x + 8] = 255 - pixels[y : y + 8, x : x + 8] // 4
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def processor(tiny_clip):
    return AnoPLeProcessor.from_backbone(tiny_clip, AnoPLeModel.from_backbone(tiny_clip).config)


@pytest.fixture(scope="module")
def make_model(tiny_clip, processor):
    """A model that knows nothing yet; weights are shared."""
    torch.manual_seed(0)
    model = AnoPLeModel.from_backbone(tiny_clip)
    model.set_class_names({"gear": "gear"}, **processor.class_prompts(["gear"]))
    return lambda: model.with_memory(MemoryBank(model.memory_layers))


def taught(make_model, processor, product="gear", *, model=None, low=100, **asked):
    model = model or make_model()
    photos = [photo(seed, low=low) for seed in range(3)]
    known, grid = model.memory.reading(product), model.config.grid_size
    pixels, reading = processor.read_good(photos, known, asked=FramingRequest(**asked), grid=grid)
    return model, model.teach(pixels, product, reading=reading, views=1)


def told(model, processor, image, product="gear", **how):
    views = processor.views(image, model.memory.sizes(product, SIDE))
    with torch.inference_mode():
        ((_, output, _),) = score_views(model, [views], product, **how)
    return output


@pytest.mark.parametrize("asked", [{"region": LEFT}, {"region": LEFT, "tiles": "2x3"}])
def test_pixels_outside_of_the_region_change_nothing(make_model, processor, asked):
    model, _ = taught(make_model, processor, **asked)
    footprint = 3 * WIDTH // SIDE  # what one pixel of the view is resized from reaches so far
    mine = photo(7)
    other = np.asarray(mine).copy()
    other[:, 60 + footprint :] = np.random.default_rng(1).integers(0, 255, other[:, 60 + footprint :].shape)
    for branch in ("both", "prompt", "memory"):
        one, two = (told(model, processor, image, branch=branch) for image in (mine, Image.fromarray(other)))
        for name in ("scores", "anomaly_maps", "image_probabilities", "memory_maps", "decoder_maps", "strangeness"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a is None and b is None) or torch.equal(a, b), name
    inside = mask_of(model.memory.framings["gear"], SIDE)
    assert (one.anomaly_maps[:, ~inside] == 0).all() and one.anomaly_maps[:, inside].min() > 0
    plain, _ = taught(make_model, processor)
    assert told(plain, processor, mine).scores != told(plain, processor, Image.fromarray(other)).scores


@pytest.mark.parametrize("turns", ["none", "4"])
@pytest.mark.parametrize("tiles", ["1x1", "1x2"])
def test_good_photos_that_differ_outside_of_the_region_are_remembered_and_judged_alike(
    make_model, processor, turns, tiles
):
    """Also where views are moved or turned: that brings nothing from outside into the region."""

    def judged(seed):
        model, rng = make_model(), np.random.default_rng(seed)
        pictures = [np.asarray(photo(n)).copy() for n in range(3)]
        for picture in pictures:
            picture[:, 70:] = rng.integers(0, 255, (HEIGHT, 50, 3))
        pixels, reading = processor.read_good([*map(Image.fromarray, pictures)], asked=FramingRequest(LEFT, tiles))
        model.memorize(pixels[:2], "gear", reading=reading | {"turns": turns})
        found = calibration.judge(model, "gear", pixels[2], "0" * 64, views=6)  # how it is changed goes by its digest
        return found, [photo.framed for photo in model.memory.references("gear")]

    (first, mine), (second, theirs) = judged(0), judged(1)
    assert (first.scores, first.peaks, first.distance) == (second.scores, second.peaks, second.distance)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)) and len(set(first.scores)) == 6


def test_tiles_see_a_small_defect_where_it_is(make_model, processor):
    model, report = taught(make_model, processor, tiles="2x3")
    assert any("2 x 3 tiles" in line and "6 x the time" in line for line in report.lines())
    plain, _ = taught(make_model, processor)
    defect, good = photo(9, spot=(96, 70)), photo(9)
    result = processor.post_process(
        told(model, processor, defect), [(HEIGHT, WIDTH)], thresholds=0, pixel_thresholds=9
    )
    left, top, right, bottom = result[0]["regions"][0]["box"]
    assert 80 <= left <= 100 and 60 <= top <= 74 and right <= WIDTH and bottom <= HEIGHT
    assert result[0]["heat_map"].shape == (HEIGHT, WIDTH)
    tiled, whole = (float(told(m, processor, defect).scores / told(m, processor, good).scores) for m in (model, plain))
    assert tiled > whole  # it covers more cells


def test_the_score_of_tiles_is_the_highest_of_theirs(make_model, processor):
    model, _ = taught(make_model, processor, tiles="1x2")
    image = photo(5, spot=(20, 20))
    output = told(model, processor, image)
    canvas = processor.views(image, model.memory.sizes("gear", SIDE))[model.memory.framings["gear"].canvas(SIDE)]
    bank, scores = model.memory.product("gear"), []
    for tile in range(2):  # each tile as a product of its own
        alone = MemoryBank(model.memory.layers)
        alone.add("tile", torch.stack([photo.framed[tile] for photo in bank.photos]))
        left = tile * (canvas.shape[-1] - SIDE)
        scores.append(model(canvas[..., left : left + SIDE], category="tile", memory=alone).scores.detach())
    assert float(output.scores) == pytest.approx(float(max(scores)), rel=1e-5)
    assert output.anomaly_maps.shape[1:] == canvas.shape[2:] and output.memory_maps.shape[:2] == (1, 2)


def test_a_plain_product_is_judged_to_the_bit_as_without_framed_ones(make_model, processor):
    model, _ = taught(make_model, processor, "plain")
    before = told(model, processor, photo(4), "plain")
    taught(make_model, processor, "framed", model=model, low=180, tiles="1x2")
    after = told(model, processor, photo(4), "plain")
    for name in ("scores", "anomaly_maps", "thresholds", "strangeness"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


@pytest.mark.parametrize("search", ["all", "product"])
def test_an_untold_photo_is_recognized_and_judged_in_its_products_framing(make_model, processor, search, monkeypatch):
    model = make_model()
    monkeypatch.setattr(model.config, "memory_search", search)
    taught(make_model, processor, "dark", model=model, low=70)
    _, report = taught(make_model, processor, "tiled", model=model, low=130, tiles="1x2")
    _, more = taught(make_model, processor, "left", model=model, low=190, region=LEFT)
    assert any("are recognized" in line for line in report.read) == (search == "all") and not more.read[0].count(
        "recogn"
    )
    photos = [photo(8, low=low) for low in (130, 70, 190)]
    views = [processor.views(image, model.memory.sizes(None, SIDE)) for image in photos]
    assert len(views[0]) == 2  # the plain square and one canvas
    with torch.inference_mode():
        found = {}
        for places, output, names in score_views(model, views):
            for index, place in enumerate(places):
                found[place] = names[index], output.scores[index], output.thresholds[index]
    assert [found[place][0] for place in range(3)] == ["tiled", "dark", "left"]
    for place, name in enumerate(["tiled", "dark", "left"]):
        alone = told(model, processor, photos[place], name)
        assert found[place][1] == pytest.approx(float(alone.scores), rel=1e-5)
        assert found[place][2] == alone.thresholds


def test_whole_views_of_a_tiled_product_are_refused_not_misjudged(make_model, processor):
    model, _ = taught(make_model, processor, tiles="1x2")
    square = processor(images=photo(1))["pixel_values"]
    for category in ("gear", None):
        with pytest.raises(ValueError, match=r"gear is taught in 1 x 2 tiles.*framing="):
            model(square, category=category)
    assert model(processor(images=photo(1), framing=model.memory.framings["gear"])["pixel_values"], "gear").scores > 0


def test_a_framed_product_is_saved_loaded_merged_and_moved(make_model, processor, tmp_path):
    model, _ = taught(make_model, processor, region="0,0,100,90", tiles="2x3")
    taught(make_model, processor, "plain", model=model, low=180)
    before = told(model, processor, photo(3))
    model.save_memory(tmp_path)
    bank = MemoryBank.load(tmp_path / "memory_bank.safetensors")
    other = make_model()
    other.load_memory(tmp_path)
    again = make_model()
    again.memory.merge(bank)
    for restored in (other, again):
        after = told(restored, processor, photo(3))
        torch.testing.assert_close(after.scores, before.scores)
        torch.testing.assert_close(after.anomaly_maps, before.anomaly_maps)
        assert after.thresholds == before.thresholds
    assert b"anople-memory-bank/3" in (tmp_path / "memory_bank.safetensors").read_bytes()
    half = bank.half()
    assert half.references("gear")[0].framed.dtype == torch.float16
    unlike, _ = taught(make_model, processor)
    with pytest.raises(ValueError, match=r"both banks hold 'gear', with another region"):
        unlike.memory.merge(MemoryBank.load(tmp_path / "memory_bank.safetensors"))
    with pytest.raises(ValueError, match=r"'gear' is framed"):
        other.memory.add("gear", torch.rand(1, len(bank.layers), 9, 32))


def test_banks_without_framed_products_keep_their_format(make_model, processor, tmp_path):
    taught(make_model, processor)[0].save_memory(tmp_path)
    assert b"anople-memory-bank/2" in (tmp_path / "memory_bank.safetensors").read_bytes()


def test_another_region_is_taken_from_the_remembered_views(make_model, processor):
    model, _ = taught(make_model, processor, region=LEFT)
    before, dates = model.memory.product("gear").thresholds, [p.added for p in model.memory.references("gear")]
    direct, _ = taught(make_model, processor, region="60,0,60,90")
    pixels, reading = processor.read_good([photo(0)], model.memory.reading("gear"), asked=FramingRequest("60,0,60,90"))
    report = model.teach(pixels, "gear", reading=reading, views=1)
    assert report.added == [] and len(model.memory.references("gear")) == 3 and report.before == before
    assert "framed in another way" in report.why and [p.added for p in model.memory.references("gear")] == dates
    assert report.after.threshold == pytest.approx(direct.memory.product("gear").thresholds.threshold, rel=1e-4)
    assert told(model, processor, photo(5)).scores == pytest.approx(float(told(direct, processor, photo(5)).scores))


def test_other_tiles_take_all_photos_once_more(make_model, processor):
    model, _ = taught(make_model, processor)
    asked = FramingRequest(tiles="1x2")
    pixels, reading = processor.read_good([photo(0)], model.memory.reading("gear"), asked=asked)
    with pytest.raises(ValueError, match=r"missing are photo 2, photo 3. Give all of them"):
        model.teach(pixels, "gear", reading=reading)
    assert model.memory.framings == {} and len(model.memory.references("gear")) == 3
    _, report = taught(make_model, processor, model=model, tiles="1x2")
    direct, _ = taught(make_model, processor, tiles="1x2")
    assert report.added == [] and report.after.threshold == direct.memory.product("gear").thresholds.threshold
    _, back = taught(make_model, processor, model=model, tiles="1x1")  # the canvases show enough for whole views
    assert model.memory.framings == {} and back.added == [] and len(model.memory.references("gear")) == 3


def test_more_photos_copies_calibration_and_removal_of_a_tiled_product(make_model, processor):
    model, _ = taught(make_model, processor, tiles="1x2")
    framing = model.memory.framings["gear"]
    more = processor(images=[photo(0), photo(11)], framing=framing)["pixel_values"]
    report = model.teach(more, "gear", names=["again", "new"], views=1)
    assert report.known == ["again"] and report.added == ["new"] and report.after.num_photos == 4
    unknown = processor(images=[photo(20), photo(21)], framing=framing)["pixel_values"]
    (calibrated,) = calibrate(model, {"gear": unknown}, names={"gear": ["a", "b"]}, false_alarm_rate=0.4)
    assert calibrated.after.guaranteed and calibrated.after.num_photos == 2
    assert forget(model, "gear", "new").after is not None and len(model.memory.references("gear")) == 3


def test_predict_pipeline_and_batches_agree(make_model, processor, tmp_path):
    model, _ = taught(make_model, processor, tiles="2x3", region="0,0,100,90")
    taught(make_model, processor, "plain", model=model, low=180)
    images = {"gear": photo(5, spot=(96, 70)), "plain": photo(5, low=180)}
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    paths = [tmp_path / "gear.png", tmp_path / "plain.png", tmp_path / "gear.png"]
    found = judge(model, processor, [prepare(model, processor, path) for path in paths])
    assert [one.category for one in found] == ["gear", "plain", "gear"]
    assert found[0].result["heat_map"].shape == (HEIGHT, WIDTH) and not found[0].result["heat_map"][:, 103:].any()
    detector = pipeline("image-anomaly-detection", model=model, processor=processor)
    for batch_size in (1, 3):
        piped = detector([str(path) for path in paths], batch_size=batch_size)
        assert [one["category"] for one in piped] == ["gear", "plain", "gear"]
        for one, other in zip(piped, found, strict=True):
            assert (
                one["score"] == pytest.approx(other.result["score"], rel=1e-5)
                and one["label"] == other.result["label"]
            )
            assert one["heat_map"].shape == (HEIGHT, WIDTH)
    alone = detector(str(paths[0]), category="gear")
    assert alone["score"] == pytest.approx(found[0].result["score"], rel=1e-5) and alone["category"] == "gear"
    prepared = [prepare(model, processor, path, name) for path, name in zip(paths, images, strict=False)]
    told_each = judge(model, processor, prepared, [*images])
    assert [one.result["score"] for one in told_each] == pytest.approx(
        [one.result["score"] for one in found[:2]], rel=1e-5
    )


def test_a_photo_of_another_shape_is_named(make_model, processor, tmp_path):
    model, _ = taught(make_model, processor, region=LEFT)
    photo(1).crop((0, 0, 90, 90)).save(tmp_path / "square.png")
    photo(1).resize((240, 180)).save(tmp_path / "large.png")
    remark = prepare(model, processor, tmp_path / "square.png", "gear").remark
    assert "square.png: 90 x 90 pixels, its product was framed at 120 x 90" in remark
    assert prepare(model, processor, tmp_path / "large.png", "gear").remark == ""


def test_framed_products_are_not_exported(make_model, processor, tmp_path):
    from anople_hf.export.graph import export

    model, _ = taught(make_model, processor, region=LEFT)
    with pytest.raises(ValueError, match=r"gear: taught with a region or tiles, which a graph does not cut"):
        export(model, processor, tmp_path / "out", kind="torch")
    with pytest.raises(ValueError, match=r"gear: taught with"):
        export(model, processor, tmp_path / "out", kind="torch", branch="prompt")
    assert not (tmp_path / "out").exists()


def test_a_framing_is_plain_values():
    framing = Framing("", 2, 3)
    assert (
        framing.to_dict() == dataclasses.asdict(framing) == {"region": "", "rows": 2, "columns": 3, "overlap": 0.125}
    )


def test_turned_copies_of_a_framed_product_are_cut_as_it_is(make_model, processor):
    model, _ = taught(make_model, processor, tiles="1x2")
    pixels, reading = processor.read_good([photo(0)], model.memory.reading("gear"))
    report = model.teach(pixels, "gear", reading=reading, turns=4, views=1)
    (reference, *_), framing = model.memory.references("gear"), model.memory.framings["gear"]
    assert report.added == [] and reference.copies == 4 and framing == Framing("", 1, 2)
    cells = (SIDE // 16) ** 2
    assert reference.framed.shape[:3] == (2, len(model.memory.layers), 4 * cells)
    assert reference.features.shape[1] == 4 * cells
    held = len(model.memory.references("gear")) * (1 + 2) * 4 * cells  # the whole photo, and its tiles
    assert f"at 4 angles, {held:,} patches a layer" in str(report)
    upside_down = photo(0).rotate(180)
    turned = float(told(model, processor, upside_down).memory_maps.max())
    assert (
        turned
        < 1e-3
        < float(told(taught(make_model, processor, tiles="1x2")[0], processor, upside_down).memory_maps.max())
    )


@pytest.mark.parametrize("route", [True, False])
def test_a_framed_product_is_evaluated_as_it_is_judged(make_model, processor, drawn, route):
    splits, model = load_inspection_data(drawn, categories=["capsule", "woven_cloth"]), make_model()
    asked = {"capsule": FramingRequest("10,10,70,70", "1x2"), "woven_cloth": None}
    for name, wish in asked.items():
        rows = [
            image for image, c in zip(splits["train"]["image"], splits["train"]["category"], strict=True) if c == name
        ]
        pixels, reading = processor.read_good(rows[:2], asked=wish)
        model.teach(pixels, name, reading=reading, views=1)
    test = splits["test"].select(range(0, len(splits["test"]), 3))
    result = evaluate(model, processor, test, route=route, batch_size=4, progress=False)
    assert [row["path"] for row in result.images] == list(test["path"]) and (result.recognized is None) == route
    row, photo = result.images[0], test[0]["image"].convert("RGB")
    output = told(model, processor, photo, row["recognized"] or row["category"])
    assert row["score"] == pytest.approx(float(output.scores), rel=1e-4) and row["threshold"] is not None
    assert 0 <= result.categories["capsule"]["pixel_auroc"] <= 1
