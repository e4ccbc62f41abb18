"""What a visitor changed goes into the run or into a new one; what others changed there meanwhile stays."""

import gradio as gr
import pytest
from PIL import Image

from anople_hf import AnoPLeModel
from anople_hf.app import saving
from anople_hf.app.desk import Desk
from anople_hf.app.detectors import SAMPLER, SAMPLES, Detectors
from anople_hf.app.products import ANY
from anople_hf.app.saving import changed, state_of
from anople_hf.data.drawn import render
from anople_hf.data.drawn_products import PRODUCTS
from anople_hf.output.locking import changing
from anople_hf.thresholds import Thresholds


@pytest.fixture
def run(make_model, processor, photos, tmp_path):
    model = make_model()
    for name, place in (("gear", 0), ("nut", 1)):
        model.memorize(photos[place : place + 1], name)
        model.memory.update(name, thresholds=Thresholds(0.3, 0.4, num_scores=2, normal_quantiles=(0.1, 0.3)))
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def desk(run):
    return Desk(Detectors([str(run)], anything=True, device="cpu"))


def elsewhere(run, product, threshold):
    """What the command line does while the page is open."""
    model = AnoPLeModel.from_pretrained(run)
    model.memory.update(product, thresholds=Thresholds(threshold, 0.4, method="set by hand"))
    model.save_memory(run)


def thresholds(bank):
    return {name: bank.thresholds_of(name).threshold for name in bank.categories}


def test_changes_go_into_the_run_and_those_of_others_stay(desk, run):
    visitor = desk.arrive()
    with pytest.raises(gr.Error, match="there is nothing to save"):
        desk.save(visitor)
    visitor = desk.move_threshold(visitor, "gear", 0.125)[0]
    elsewhere(run, "nut", 0.75)
    visitor, told, *menus = desk.save(visitor)
    assert told == f"Saved to {run}: it knows nut, gear now." and menus[0].value == ANY
    saved = AnoPLeModel.from_pretrained(run).memory
    assert thresholds(saved) == {"gear": 0.125, "nut": 0.75} and len(saved.views) == 2
    assert thresholds(visitor.products.bank) == thresholds(desk.arrive().products.bank) == thresholds(saved)
    with pytest.raises(gr.Error, match="there is nothing to save"):
        desk.save(visitor)


def test_what_was_taught_and_what_was_removed_is_saved(desk, run, tmp_path):
    files = []
    for index in range(2):
        files.append(str(tmp_path / f"good{index}.png"))
        Image.fromarray(render(PRODUCTS["capsule"], [7, index], 64)).save(files[-1])
    visitor = desk.teach(desk.arrive(), "cup", files)[0]
    visitor = desk.remove(visitor, "nut")[0]
    assert sorted(visitor.products.changed) == ["cup", "nut"]
    expected = visitor.products.thresholds("cup")
    desk.save(visitor)
    saved = AnoPLeModel.from_pretrained(run).memory
    assert saved.categories == ["gear", "cup"] and saved.product("cup").thresholds == expected
    assert [photo.name for photo in saved.references("cup")] == ["good0.png", "good1.png"] and len(saved.views) == 3
    for name in ("gear", "cup"):
        visitor = desk.remove(desk.arrive(), name)[0]
        desk.save(visitor)
    assert AnoPLeModel.from_pretrained(run).memory.categories == []


def test_a_product_that_both_changed_is_not_overwritten(desk, run, tmp_path):
    visitor = desk.move_threshold(desk.arrive(), "gear", 0.125)[0]
    elsewhere(run, "gear", 0.75)
    before = (run / "memory_bank.safetensors").read_bytes()
    with pytest.raises(gr.Error, match="gear: changed here, and meanwhile in .*Nothing was saved"):
        desk.save(visitor)
    assert (run / "memory_bank.safetensors").read_bytes() == before
    assert desk.arrive().products.limits("gear")[0] == 0.75  # the page, reloaded
    told, offered = desk.save_as(visitor, str(tmp_path / "line2"))
    assert (
        f"Saved as {tmp_path / 'line2'}: it knows gear, nut." in told
        and str(tmp_path / "line2") in desk.detectors.names
    )
    assert offered.choices[-1][0] != "" and thresholds(AnoPLeModel.from_pretrained(tmp_path / "line2").memory) == {
        "gear": 0.125,
        "nut": 0.3,
    }
    other = desk.load(visitor, str(tmp_path / "line2"))[0]
    assert other.products.limits("gear")[0] == 0.125 and other.products.changed == []


def test_a_run_begun_in_the_app_holds_what_was_taught_and_no_drawn_sample(detectors, inspector, tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "names", list(detectors.names))
    photos = [Image.fromarray(render(PRODUCTS["circuit_board"], [7, index], 96)) for index in range(2)]
    products = inspector.teach(detectors.begin(SAMPLER), "board", photos)[0]
    assert products.names == [*SAMPLES, "board"]
    folder, known = detectors.save_as(SAMPLER, products, tmp_path / "line1")
    assert known == AnoPLeModel.from_pretrained(folder).memory.categories == ["board"]
    products.bank.update("capsule", thresholds=Thresholds(0.3, 0.4, method="set by hand"))
    folder, _ = detectors.save_as(SAMPLER, products, tmp_path / "line2")
    assert AnoPLeModel.from_pretrained(folder).memory.categories == ["capsule", "board"]


def test_what_cannot_be_saved_says_why(desk, run, tmp_path, monkeypatch):
    visitor = desk.move_threshold(desk.arrive(), "gear", 0.125)[0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(gr.Error, match="full exists already; choose another name"):
        desk.save_as(visitor, str(tmp_path / "full"))
    with pytest.raises(gr.Error, match="Give the folder"):
        desk.save_as(visitor, " ")
    with pytest.raises(ValueError, match="tiny is no folder of this machine; save as a new run"):
        desk.detectors.save(SAMPLER, visitor.products)
    monkeypatch.setattr(saving, "PATIENCE", 0.1)
    with changing(run), pytest.raises(gr.Error, match="still being changed by another process"):
        desk.save(visitor)
    shared = Desk(Detectors([str(run)], device="cpu"))
    with pytest.raises(gr.Error, match="Only the machine that the app runs on"):
        shared.save(visitor)
    assert thresholds(AnoPLeModel.from_pretrained(run).memory) == {"gear": 0.3, "nut": 0.3}


def test_a_change_of_the_common_threshold_is_one(desk):
    visitor = desk.arrive()
    origin = state_of(visitor.products.bank)
    assert changed(visitor.products.bank, origin) == []
    visitor.products.bank.common = Thresholds(0.5, 0.5, method="set by hand")
    assert changed(visitor.products.bank, origin) == [saving.COMMON]
