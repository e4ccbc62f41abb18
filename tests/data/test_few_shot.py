"""The choice of shots: fixed, nested, independent per category, written down."""

import json
import logging

import pytest

from anople_hf.data import (
    FEATURES,
    UnreadableImageError,
    choose_shots,
    load_inspection_data,
    make_dataset,
    read_shots,
    write_shots,
)
from anople_hf.data.few_shot import read_index_files


@pytest.fixture
def line(tmp_path, photo):
    for category in ("nut", "gear", "bolt"):
        for index in range(8):
            photo(tmp_path / "line" / category / f"{index}.png")
    return tmp_path / "line"


@pytest.fixture
def many(line):
    return load_inspection_data(line)["train"]


def paths_of(train, category):
    return [path for path, name in zip(train["path"], train["category"], strict=True) if name == category]


def paths(train, chosen):
    return {category: [train[index]["path"] for index in rows] for category, rows in chosen.items()}


def test_each_category_gives_its_own_shots(line):
    train = load_inspection_data(line)["train"]
    chosen = choose_shots(train, 3)
    assert list(chosen) == ["bolt", "gear", "nut"]
    for category, rows in chosen.items():
        assert len(set(rows)) == 3
        assert {train[index]["category"] for index in rows} == {category}
    assert len({tuple(index % 8 for index in rows) for rows in chosen.values()}) > 1  # not one order for all


def test_fewer_shots_are_part_of_more(line):
    train = load_inspection_data(line)["train"]
    four = choose_shots(train, 4, seed=5)
    for shots in (1, 2, 3):
        assert choose_shots(train, shots, seed=5) == {category: rows[:shots] for category, rows in four.items()}


def test_seeds_differ_and_repeat(line):
    train = load_inspection_data(line)["train"]
    choices = [tuple(choose_shots(train, 4, seed=seed)["gear"]) for seed in range(6)]
    assert len(set(choices)) > 3
    assert tuple(choose_shots(train, 4, seed=2)["gear"]) == choices[2]


def test_the_choice_is_the_same_in_every_run(line):
    # written down once: a changed hash or generator would change everybody's shots in silence
    train = load_inspection_data(line)["train"]
    assert paths(train, choose_shots(train, 3, seed=0)) == EXPECTED


EXPECTED = {
    "bolt": ["bolt/4.png", "bolt/6.png", "bolt/2.png"],
    "gear": ["gear/1.png", "gear/2.png", "gear/5.png"],
    "nut": ["nut/5.png", "nut/3.png", "nut/7.png"],
}


def test_other_categories_and_the_order_of_rows_do_not_matter(line):
    train = load_inspection_data(line)["train"]
    alone = load_inspection_data(line, categories=["gear"])["train"]
    assert paths(train, choose_shots(train, 3))["gear"] == paths(alone, choose_shots(alone, 3))["gear"]
    turned = train.select(range(len(train) - 1, -1, -1))
    assert paths(turned, choose_shots(turned, 3)) == paths(train, choose_shots(train, 3))


def test_defective_photos_are_never_shots(mvtec):
    test = load_inspection_data(mvtec)["test"]
    assert paths(test, choose_shots(test, 1)) == {"gear": ["gear/test/good/000.png"]}


def test_too_few_photos_or_shots_are_refused(line):
    train = load_inspection_data(line)["train"]
    with pytest.raises(ValueError, match=r"'bolt' has 8 good photos, 9 shots .* at most 8"):
        choose_shots(train, 9)
    with pytest.raises(ValueError, match="shots=0"):
        choose_shots(train, 0)


def test_an_unreadable_shot_is_refused_or_replaced_by_the_next(line, truncate, caplog):
    train = load_inspection_data(line)["train"]
    order = paths(train, choose_shots(train, 3))["gear"]
    truncate(line / order[0])
    with pytest.raises(UnreadableImageError) as refusal:
        choose_shots(train, 2)
    assert str(line / order[0]) in str(refusal.value)
    with caplog.at_level(logging.WARNING):
        assert paths(train, choose_shots(train, 2, skip_bad=True))["gear"] == order[1:]
    assert "1 unreadable" in caplog.text
    with pytest.raises(ValueError, match="'gear' has only 7 readable"):
        choose_shots(train, 8, skip_bad=True)


def test_an_unreadable_photo_that_is_not_chosen_does_no_harm(line, truncate):
    train = load_inspection_data(line)["train"]
    order = paths(train, choose_shots(train, 8))["gear"]
    truncate(line / order[7])
    assert paths(train, choose_shots(train, 7))["gear"] == order[:7]


def test_listed_photos_are_taken_as_they_are(line):
    train = load_inspection_data(line)["train"]
    listed = {"nut": ["nut/5.png", "nut/1.png"]}
    assert paths(train, choose_shots(train, 4, listed=listed)) == listed


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ({"bolts": ["x.png"]}, "names category 'bolts'; known: bolt, gear, nut"),
        ({"nut": ["nut/9.png"]}, r"nut/9\.png"),
        ({"nut": []}, "no photo"),
        ({"nut": ["nut/1.png", "nut/1.png"]}, "twice"),
    ],
)
def test_wrong_lists_are_refused(line, listed, reason):
    train = load_inspection_data(line)["train"]
    with pytest.raises(ValueError, match=reason):
        choose_shots(train, 1, listed=listed)


def test_listed_photos_are_checked_too(line, truncate):
    train = load_inspection_data(line)["train"]
    truncate(line / "nut" / "5.png")
    with pytest.raises(UnreadableImageError, match=r"5\.png"):
        choose_shots(train, 1, listed={"nut": ["nut/5.png"]})
    chosen = choose_shots(train, 1, listed={"nut": ["nut/5.png", "nut/6.png"]}, skip_bad=True)
    assert paths(train, chosen) == {"nut": ["nut/6.png"]}
    with pytest.raises(ValueError, match="none of the listed"):
        choose_shots(train, 1, listed={"nut": ["nut/5.png"]}, skip_bad=True)


def test_rows_may_carry_the_photo_itself(line):
    content = (line / "nut" / "0.png").read_bytes()
    row = dict.fromkeys(FEATURES) | {"label": 0, "category": "nut", "path": "a"}
    train = make_dataset([row | {"image": {"bytes": content, "path": "not-here.png"}}])
    assert choose_shots(train, 1) == {"nut": [0]}


def test_shots_are_written_whole_and_read_back(tmp_path):
    path, chosen = tmp_path / "shots.json", {"gear": ["gear/ü 1.png"], "nut": ["nut/1.png"]}
    write_shots(path, chosen, shots=1, seed=7)
    assert json.loads(path.read_text()) == {"seed": 7, "shots": 1, "categories": chosen}
    assert read_shots(path) == read_shots(str(path)) == chosen
    assert [entry.name for entry in tmp_path.iterdir()] == ["shots.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"seed": 1}', b'{"categories": ["a"]}', b'{"categories": {"a": 1}}',
                                     b"\xff\xfe"])  # fmt: skip
def test_a_file_that_lists_no_shots_is_named(tmp_path, content):
    path = tmp_path / "shots.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shots\.json lists no shots"):
        read_shots(path)


def test_first_k_is_by_name_whatever_the_seed(many):
    for seed in (0, 1):
        chosen = choose_shots(many, 3, seed=seed, mode="first_k")
        assert all([many[i]["path"] for i in rows] == sorted(paths_of(many, c))[:3] for c, rows in chosen.items())


def test_choices_of_one_seed_are_nested_unless_asked_otherwise(many):
    def chosen(shots, nested, seed):
        return {c: set(rows) for c, rows in choose_shots(many, shots, seed=seed, nested=nested).items()}

    for seed in range(5):
        one, two, four = (chosen(shots, True, seed) for shots in (1, 2, 4))
        assert all(one[c] < two[c] < four[c] for c in one)
    loose = [(chosen(1, False, seed), chosen(2, False, seed)) for seed in range(5)]
    assert any(not one[c] <= two[c] for one, two in loose for c in one)
    assert loose[0][0] == chosen(1, False, 0)


def test_unknown_mode_is_refused(many):
    with pytest.raises(ValueError, match="shot mode 'random': expected one of seeded, first_k"):
        choose_shots(many, 1, mode="random")


def test_index_files_count_the_photos_by_name(many, tmp_path):
    for category in ("bolt", "gear", "nut"):
        (tmp_path / category).mkdir()
        (tmp_path / category / "selected_samples_per_run.txt").write_text("#1: 2\n#2: 5 0\n")
    listed = read_index_files(tmp_path, many, 2)
    assert listed["gear"] == [sorted(paths_of(many, "gear"))[i] for i in (5, 0)]
    chosen = choose_shots(many, 2, listed=listed)
    assert [many[i]["path"] for i in chosen["gear"]] == listed["gear"]
    with pytest.raises(ValueError, match=r"no line '#4: i j ...' for 4 shots"):
        read_index_files(tmp_path, many, 4)
    (tmp_path / "gear" / "selected_samples_per_run.txt").write_text("#1: 99\n")
    with pytest.raises(ValueError, match="index 99 for 8 good photos of 'gear'"):
        read_index_files(tmp_path, many, 1)
    (tmp_path / "nut" / "selected_samples_per_run.txt").unlink()
    with pytest.raises(FileNotFoundError, match="expected one such file for each category"):
        read_index_files(tmp_path, many.filter(lambda row: row["category"] == "nut"), 1)
