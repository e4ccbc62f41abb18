"""What the buttons do, without a browser: every action gives the visitor back, what is refused is said."""

import multiprocessing
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from anople_hf.app.desk import Desk
from anople_hf.app.detectors import SAMPLER, Detectors
from anople_hf.app.products import ANY
from anople_hf.app.texts import good_photos
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.thresholds import Thresholds

NOT_GOOD = {"defective", "unknown product"}
"""Of a small photo, where the samples were taught from larger ones: it may be unlike them as a whole."""


@pytest.fixture
def desk(detectors):
    return Desk(detectors)


@pytest.fixture
def files(holed, tmp_path):
    holed[0].save(tmp_path / "hole.png")
    return [str(tmp_path / "hole.png")] * 2


def test_a_threshold_moves_for_one_visitor_alone(desk, files):
    mine, other = desk.arrive(), desk.arrive()
    slider, said = desk.show_threshold(mine, "woven_cloth")
    level = mine.products.limits("woven_cloth")[0]
    assert slider.value == pytest.approx(level, rel=1e-3) and 2 * level < slider.maximum < 4 * level
    assert "of 40 views" in said
    moved, said = desk.move_threshold(mine, "woven_cloth", 0.0)
    assert "40 of 40" in said and desk.check(moved, files[0], "woven_cloth", 0.5)[0].threshold == 0
    assert desk.show_threshold(other, "woven_cloth")[0].value == slider.value
    lowest, _ = desk.show_threshold(moved, "woven_cloth")
    assert lowest.value == 0 and lowest.maximum > level  # from 0 it can be moved back


def test_many_photos_and_their_files(desk, files):
    rows, pictures, table, archive, said = desk.check_batch(desk.arrive(), files * 4, "woven_cloth")
    assert len(rows) == len(pictures) == 8 and rows[0][:2] == ["hole.png", "woven_cloth"]
    assert {row[2] for row in rows} <= NOT_GOOD and all(row[3] > 1 for row in rows)
    assert open(table).read().count("hole.png") == 8 and archive.endswith("overlays.zip") and said == ""  # noqa: SIM115
    with pytest.raises(gr.Error, match="choose 1 to 30"):
        desk.check_batch(desk.arrive(), files * 16, ANY)


def test_a_damaged_file_is_named_and_the_others_are_judged(desk, files, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(open(files[0], "rb").read()[:200])  # noqa: SIM115
    found, told, overlay, evidence = desk.check(desk.arrive(), str(damaged), ANY, 0.5)
    assert found is overlay is evidence is None and "damaged.png is truncated or not an image" in told
    assert "Save it again as JPEG or PNG" in told and str(tmp_path) not in told
    rows, pictures, table, archive, told = desk.check_batch(desk.arrive(), [str(damaged), files[0]], "woven_cloth")
    assert [row[0] for row in rows] == ["damaged.png", "hole.png"] and rows[0][2] == "not judged"
    assert rows[1][2] in NOT_GOOD and len(pictures) == 1 and "One file was not judged" in told
    assert "damaged.png,,not judged,,,," in open(table).read()  # noqa: SIM115
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == ["scores.csv", "001_hole.png"]
    with pytest.raises(gr.Error, match="damaged.png.*Nothing was changed"):
        desk.teach(desk.arrive(), "cloth", [files[0], str(damaged)])


def test_any_product_is_the_choice_and_teaching_leaves_the_choice_alone(desk, files):
    """A photo is judged as a product only if the visitor said so; else the app says which one it recognized."""
    *_, check, batch, queue, known, whose = desk.load(desk.arrive(), SAMPLER)
    assert check.value == batch.value == queue.value == ANY and known.value == whose.value == "capsule"
    visitor, _, check, batch, queue, known, whose = desk.teach(desk.arrive(), "cloth", files[:1])
    assert "cloth" in dict(check.choices) and known.value == whose.value == "cloth"
    assert all("value" not in menu.constructor_args for menu in (check, batch, queue))
    check = desk.remove(visitor, "cloth")[2]
    assert check.value == ANY  # what was chosen may be gone
    path = next(path for path, product in desk.detectors.samples() if product == "woven_cloth")
    found, told, *_ = desk.check(desk.arrive(), path, ANY, 0.5)
    assert found.product == "woven_cloth" and "recognized as woven_cloth" in told


def test_the_strangest_of_many_comes_first(desk, files, tmp_path):
    good = Image.fromarray(render(PRODUCTS["woven_cloth"], [7, 1], 96))
    good.save(tmp_path / "good.png")
    rows, pictures, *_ = desk.check_batch(desk.arrive(), [str(tmp_path / "good.png"), files[0]], "woven_cloth")
    assert [row[0] for row in rows] == ["good.png", "hole.png"] and rows[0][3] < rows[1][3]
    assert [words.split(": ")[1] for _, words in pictures] == ["hole.png", "good.png"]


def test_what_was_taught_waits_while_another_detector_is_tried(
    detectors, files, make_model, processor, photos, tmp_path
):
    model = make_model()
    model.memorize(photos[:2], "gear")
    model.memory.update("gear", thresholds=Thresholds(0.3, 0.4, num_scores=2, normal_quantiles=(0.1, 0.3)))
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    desk = Desk(Detectors([str(tmp_path / "run")], device="cpu"))
    desk.detectors._begun[SAMPLER] = detectors.begin(SAMPLER)  # already taught
    visitor = desk.arrive()
    assert visitor.products.names == ["gear"]
    visitor = desk.teach(visitor, "cloth", files[:1])[0]
    there = desk.load(visitor, SAMPLER)
    assert "untrained" in there[1] and there[2].visible and there[0].products.names == ["capsule", "woven_cloth"]
    back = desk.load(there[0], str(tmp_path / "run"))
    assert back[0].products.names == ["gear", "cloth"] and not back[2].visible and "trained on 2" in back[1]
    key = "k" * 48
    desk.sessions.keep(key, there[0], None)  # the page is loaded again while the other one is tried
    again = desk.come_back(key)
    assert again[1] is there[0] and again[2].value == SAMPLER and "untrained" in again[3]
    assert again[4].visible and "A drawn sample" in again[6] and again[-1] is None
    assert desk.come_back("another")[1].products.names == ["gear"]
    same = desk.load(back[0], str(tmp_path / "run"))
    assert same[0] is back[0]
    with pytest.raises(gr.Error, match="not offered here"):
        desk.load(back[0], "somebody/else")


def test_a_bad_photo_among_the_good_is_shown_and_forgotten(desk, holed, tmp_path):
    """The hole stands out among the good cloths, sets no threshold, and goes."""
    holed[0].save(tmp_path / "hole.png")
    files = [str(tmp_path / "hole.png")]
    for index in range(4):
        good = Image.fromarray(render(PRODUCTS["woven_cloth"], [7, index], 96))
        good.save(tmp_path / f"good{index}.png")
        files.append(str(tmp_path / f"good{index}.png"))
    visitor, told = desk.teach(desk.arrive(), "cloth", files)[:2]
    assert "5 good photos known" in told and "Least like the others: hole.png" in told
    before = visitor.products.limits("cloth")[0]
    album, gallery, chosen, button = desk.show_photos(visitor, "cloth", "")
    assert len(gallery.value) == 5 and album.visible and chosen == "" and not button.interactive
    with pytest.raises(gr.Error, match="Choose one of the photos"):
        desk.remove_photo(visitor, "cloth", chosen)
    chosen, button = desk.choose_photo(visitor, "cloth", SimpleNamespace(index=0))
    assert button.interactive
    _, gallery, still, button = desk.show_photos(visitor, "cloth", chosen)  # coming back to the tab
    assert still == chosen and gallery.selected_index == 0 and button.interactive
    assert desk.show_photos(visitor, "woven_cloth", chosen)[2] == ""
    with pytest.raises(gr.Error, match="Choose one of the photos"):
        desk.remove_photo(visitor, "woven_cloth", chosen)
    visitor, told = desk.remove_photo(visitor, "cloth", chosen)[:2]
    assert "4 good photos known" in told and "hole" not in told
    assert 0.7 * before < visitor.products.limits("cloth")[0] < 1.5 * before  # the hole never set it
    assert desk.check(visitor, files[0], "cloth", 0.5)[0].label == "defective"
    for _ in range(4):
        chosen = desk.choose_photo(visitor, "cloth", SimpleNamespace(index=0))[0]
        visitor, told = desk.remove_photo(visitor, "cloth", chosen)[:2]
    assert told == "**cloth** is forgotten." and "cloth" not in visitor.products.names
    assert not desk.show_photos(visitor, "cloth", "")[0].visible


def test_a_photo_taught_twice_counts_once_and_more_photos_judge_again(desk, tmp_path):
    files = []
    for index in range(5):
        good = Image.fromarray(render(PRODUCTS["woven_cloth"], [7, index], 96))
        good.save(tmp_path / f"good{index}.png")
        files.append(str(tmp_path / f"good{index}.png"))
    visitor = desk.teach(desk.arrive(), "cloth", files[:3])[0]
    again = desk.teach(visitor, "cloth", files[:1])[0]
    assert again.products.scores("cloth") == pytest.approx(visitor.products.scores("cloth"), rel=1e-4)
    more = desk.teach(visitor, "cloth", files[3:])[0].products
    at_once = desk.teach(desk.arrive(), "cloth", files)[0].products
    assert more.scores("cloth") == pytest.approx(at_once.scores("cloth"), rel=1e-4)
    assert more.limits("cloth") == pytest.approx(at_once.limits("cloth"), rel=1e-4)


def test_a_region_is_painted_and_what_lies_outside_does_not_count(desk, files, tmp_path):
    """Painted where the hole is not: then it is not seen, and shown in the dark."""
    good = str(tmp_path / "good.png")
    Image.fromarray(render(PRODUCTS["woven_cloth"], [7, 0], 96)).save(good)
    hole = np.asarray(Image.open(files[0]).convert("L")) < 40
    rows = hole.any(axis=1).nonzero()[0]
    layer = np.zeros((96, 96, 4), np.uint8)
    layer[(slice(None, rows[0] - 12) if rows[0] > 48 else slice(rows[-1] + 12, None)), :, 3] = 150
    assert desk.take_region({"layers": []})[0] is None
    painted, told = desk.take_region({"layers": [Image.fromarray(layer)]})
    assert f"{painted.mean():.0%} of the photo counts" in told and 0.1 < painted.mean() < 0.9
    visitor, told = desk.teach(desk.arrive(), "cloth", [good], painted=painted)[:2]
    assert f"{painted.mean():.0%} of the photo counts, what lies outside of its region is not seen" in told
    found, told, overlay, _ = desk.check(visitor, files[0], "cloth", 0.6)
    assert found.heat_map[hole].max() == 0 < found.heat_map[painted].max() and "does not count" in told
    assert overlay[~painted].mean() < 0.4 * overlay[painted].mean()
    (picture, _), *_ = good_photos(visitor.products, "cloth", 240)
    shown, counts = np.asarray(picture, float), np.asarray(Image.fromarray(painted).resize(picture.size))
    assert shown[~counts].mean() < 0.5 * shown[counts].mean()
    for region, tiles, drawn, reason in (
        ("0,0,50,50", "", painted, "take one of them away"),
        ("0,0,500,50", "", None, "leaves the photo, which is 96 x 96"),
        ("", "two", None, "expected rows x columns"),
    ):
        with pytest.raises(gr.Error, match=reason):
            desk.teach(visitor, "other", [good], region, tiles, painted=drawn)


def test_a_bank_goes_out_and_in(desk, files):
    path = desk.download_bank(desk.move_threshold(desk.arrive(), "capsule", 0.5)[0])
    visitor = desk.arrive()
    for name in ("capsule", "woven_cloth"):
        visitor = desk.remove(visitor, name)[0]
    with pytest.raises(gr.Error, match="No product is known"):
        desk.download_bank(visitor)
    slider, said = desk.show_threshold(visitor, ANY)
    assert "No product is known" in said and not slider.interactive
    visitor, told = desk.load_bank(visitor, path)[:2]
    assert "capsule (5 photos), woven_cloth (5 photos)" in told and visitor.products.limits("capsule")[0] == 0.5
    assert "nothing new" in desk.load_bank(visitor, path)[1]


def test_what_is_refused_is_said(desk, files, tmp_path):
    visitor = desk.arrive()
    (tmp_path / "notes.txt").write_text("no photo")
    for action, given, reason in (
        (desk.check, (None, ANY, 0.5), "Choose a photo"),
        (desk.check, (files[0], "cup", 0.5), "Unknown product 'cup'"),
        (desk.teach, (" ", files), "Give the product a name"),
        (desk.teach, ("cup", [str(tmp_path / "notes.txt")]), "notes.txt is not an image file"),
        (desk.teach, ("cup", None), "Choose one or more"),
        (desk.remove, (ANY,), "Choose one product"),
        (desk.remove, ("cup",), "unknown product 'cup'"),
        (desk.load_bank, (None,), "Choose a memory bank"),
        (desk.load_bank, (str(tmp_path / "notes.txt"),), r"^.?notes.txt is damaged"),
        (desk.move_threshold, ("cup", 0.5), "Unknown product 'cup'"),
    ):
        with pytest.raises(gr.Error, match=reason):
            action(visitor, *given)
    assert desk.repaint(None, 0.5) is None


def forked(function):
    """What ZeroGPU does: a process of its own; copies go in, a copy comes out, nothing else does."""

    def call(*given):
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()

        def work():
            torch.set_num_threads(1)
            there.send(function(*there.recv()))

        process = context.Process(target=work)
        process.start()
        here.send(given)
        answer = here.recv() if here.poll(120) else None
        process.join()
        return answer

    return call


def test_a_lent_process_teaches_and_checks(detectors, files):
    """Teaching must come back as a result: what the lent process changes is lost with it."""
    torch.set_num_threads(1)
    desk = Desk(detectors, lend=forked)
    with ThreadPoolExecutor(1) as worker:  # as Gradio does: not on the main thread
        visitor, told = worker.submit(desk.teach, desk.arrive(), "cloth", files[:1]).result(200)[:2]
        assert "cloth**: 1 good photo known" in told and "cloth" in visitor.products.names
        found = worker.submit(desk.check, visitor, files[0], "woven_cloth", 0.5).result(200)[0]
        assert found.label in NOT_GOOD
        with pytest.raises(gr.Error, match="Unknown product"):
            worker.submit(desk.check, visitor, files[0], "cup", 0.5).result(200)
