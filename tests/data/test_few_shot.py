"""Few-shot choice: seeded, nested, independent of other categories, written down."""

import json

import numpy as np
import pytest
from PIL import Image

from anople_hf.data import UnreadableImageError, choose_shots, load_inspection_data, read_shots, write_shots


@pytest.fixture
def root(tmp_path):
    for category in ("cap", "lid"):
        (tmp_path / category).mkdir()
        for index in range(8):
            Image.fromarray(np.full((20, 20), index * 9, np.uint8)).save(tmp_path / category / f"{index}.png")
    return tmp_path


def paths(train, chosen):
    return {c: [train[i]["path"] for i in indices] for c, indices in chosen.items()}


def test_seeded_and_nested(root):
    train = load_inspection_data(root)["train"]
    four, two = choose_shots(train, 4, seed=3), choose_shots(train, 2, seed=3)
    assert four == choose_shots(train, 4, seed=3) != choose_shots(train, 4, seed=4)
    assert {c: i[:2] for c, i in four.items()} == two
    assert all(len(set(indices)) == 4 for indices in four.values())


def test_a_category_alone_gets_the_same_shots(root):
    both, alone = (load_inspection_data(root, categories=c)["train"] for c in (None, ["lid"]))
    assert paths(both, choose_shots(both, 3))["lid"] == paths(alone, choose_shots(alone, 3))["lid"]


def test_list_and_file_round_trip(root, tmp_path):
    train = load_inspection_data(root)["train"]
    listed = {"cap": ["cap/7.png", "cap/0.png"]}
    assert paths(train, choose_shots(train, 1, listed=listed)) == listed
    write_shots(tmp_path / "shots.json", listed, shots=2, seed=0)
    assert read_shots(tmp_path / "shots.json") == listed
    assert json.loads((tmp_path / "shots.json").read_text())["shots"] == 2
    for wrong in ({"pan": ["x"]}, {"cap": ["cap/99.png"]}, {"cap": []}):
        with pytest.raises(ValueError, match="shot list"):
            choose_shots(train, 1, listed=wrong)
    (tmp_path / "shots.json").write_text("[]")
    with pytest.raises(ValueError, match="lists no shots"):
        read_shots(tmp_path / "shots.json")


def test_too_few_photos(root):
    with pytest.raises(ValueError, match="'cap' has 8 good photos, 9 shots.*at most 8"):
        choose_shots(load_inspection_data(root)["train"], 9)


def test_unreadable_shots(root):
    train = load_inspection_data(root)["train"]
    first = paths(train, choose_shots(train, 2))["cap"][0]
    (root / first).write_text("no picture")
    with pytest.raises(UnreadableImageError, match=first):
        choose_shots(train, 2)
    replaced = paths(train, choose_shots(train, 2, skip_bad=True))["cap"]
    assert first not in replaced and len(replaced) == 2
    with pytest.raises(ValueError, match="only 7 readable"):
        choose_shots(train, 8, skip_bad=True)
